package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// writeResults keeps what was measured of a case, and draws the table and the
// plot of its group anew from all cases that there are.
func writeResults(dir string, o outcome) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	b, err := json.MarshalIndent(o, "", "\t")
	if err != nil {
		return err
	}
	group := o.Case.Group
	if err := os.WriteFile(caseFile(dir, o.Case), append(b, '\n'), 0o644); err != nil {
		return err
	}
	done, err := readResults(dir, group)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, group+".md"), []byte(markdown(group, done)), 0o644); err != nil {
		return err
	}
	picture := plot
	switch group {
	case kernelGroup: // its cases have different units
		return nil
	case egressGroup:
		picture = ratioPlot
	}
	return os.WriteFile(filepath.Join(dir, group+".svg"), []byte(picture(done)), 0o644)
}

// caseFile is named for the case, and begins with its group.
func caseFile(dir string, c scenario) string {
	name := c.Name
	if !strings.HasPrefix(name, c.Group+"-") {
		name = c.Group + "-" + name
	}
	return filepath.Join(dir, name+".json")
}

// readResults returns all cases of a group that were ever kept, in the order of
// allCases.
func readResults(dir, group string) ([]outcome, error) {
	var done []outcome
	for _, c := range findCases(group) {
		b, err := os.ReadFile(caseFile(dir, c))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var o outcome
		if err := json.Unmarshal(b, &o); err != nil {
			return nil, fmt.Errorf("%s: %w", caseFile(dir, c), err)
		}
		o.Case = c // what it measures, and how it is shown; what was sent may differ from then
		done = append(done, o)
	}
	return done, nil
}
