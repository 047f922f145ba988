package attach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A note is a file in the run directory that says of an attachment that its pod
// has gone while there was no agent. The agent carries it out when it is back.

// notesDir is the directory of notes in the run directory.
const notesDir = "detached"

func notePath(runDir string, k Key) string {
	return filepath.Join(runDir, notesDir, k.Port()+".json")
}

// Note leaves a note, also where there is no run directory.
func Note(runDir string, k Key) error {
	path := notePath(runDir, k)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("leave a note for the switch: %w", err)
	}
	text, err := json.Marshal(k)
	if err == nil {
		err = os.WriteFile(path+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("leave a note for the switch: %w", err)
	}
	return nil
}

// Forget removes the note about a key, if there is one.
func Forget(runDir string, k Key) error {
	err := os.Remove(notePath(runDir, k))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Notes returns what there are notes about. The error is about those that make no
// sense, which are removed.
func Notes(runDir string) ([]Key, error) {
	names, err := filepath.Glob(filepath.Join(runDir, notesDir, "*.json"))
	var keys []Key
	for _, name := range names {
		k, bad := readNote(name)
		if bad != nil {
			err = errors.Join(err, fmt.Errorf("note %s: %w", name, bad), os.Remove(name))
			continue
		}
		keys = append(keys, k)
	}
	return keys, err
}

func readNote(name string) (k Key, err error) {
	text, err := os.ReadFile(name)
	if err == nil {
		err = Decode(text, &k)
	}
	if err == nil {
		err = k.Check()
	}
	if err == nil && k.Port() != strings.TrimSuffix(filepath.Base(name), ".json") {
		err = errors.New("it is about another attachment than its name")
	}
	return k, err
}
