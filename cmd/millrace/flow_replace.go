package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"millrace/control/flows"
	"millrace/control/ovsdb/flowmodel"
)

// fileHelp describes files of flows.
const fileHelp = `A file has one flow a line:

  # comments and empty lines are not looked at
  table=0 priority=100 cookie=0x5 match="ip4 && tcp" actions="next;"
  priority=10 match='inport == "vm1"' actions='outport = "vm2"; output;'

Keys come in any order; what is left out is 0, and of match, 1. In double quotes,
\", \\ and \n are escapes; in single quotes, nothing is.`

func (a *app) flowReplaceCmd() *cobra.Command {
	var db dbFlags
	var wait waitFlags
	var file string
	cmd := &cobra.Command{
		Use:   "replace BRIDGE -f FILE",
		Short: "Make the flows of a bridge those of a file",
		Long: `Makes the rows of Flow of a bridge exactly those of a file, or of standard input (-f -),
in one transaction: no frame sees half of it. Rows that are as they should be stay, with
their counters.

` + fileHelp + `

Lines that are not in the language are told with line and column, and nothing is
written. Flows that do not come into force are an error with exit code 1; their rows
stay.`,
		Example: `  millrace flow replace br0 -f br0.flows
  millrace flow list br0 --file | sed s/vm1/vm7/ | millrace flow replace br0 -f -`,
		Args: exactly("BRIDGE"),
	}
	db.add(cmd)
	wait.add(cmd)
	wait.longer(cmd, time.Minute)
	cmd.Flags().StringVarP(&file, "file", "f", "", "file of flows; -: standard input")
	cmd.ValidArgsFunction = byPosition(a.rowBridges(&db))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if file == "" {
			return usage(cmd, "-f: name the file of flows, or - for standard input")
		}
		lines, name, err := a.readFlows(file)
		if err != nil {
			return err
		}
		return a.onFlows(&db, func() time.Duration { return wait.timeout + longFlows }, func(ctx context.Context, d *flowDB, _ []string) error {
			return a.flowReplace(ctx, d, &wait, args[0], lines, name)
		})(cmd, args)
	}
	return cmd
}

// longer gives the timeout of a command another default.
func (f *waitFlags) longer(cmd *cobra.Command, d time.Duration) {
	f.timeout = d
	cmd.Flag("timeout").DefValue = d.String()
}

// readFlows reads a file of flows, and says what it is called.
func (a *app) readFlows(file string) (lines []flows.Line, name string, err error) {
	in, name := a.in, "<stdin>"
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, "", err
		}
		defer f.Close()
		in, name = io.Reader(f), file
	}
	lines, err = flows.ReadFile(in, name)
	return lines, name, err
}

// wrongMax is how many wrong lines are told.
const wrongMax = 100

// checkLines says which lines are not in the language.
func checkLines(lines []*flows.Line, name string) error {
	c := flows.NewChecker()
	var errs []error
	for _, l := range lines {
		if _, p := c.Check(&l.Flow); p != nil {
			if errs = append(errs, l.Locate(name, p)); len(errs) == wrongMax {
				break
			}
		}
	}
	return errors.Join(errs...)
}

// flowReplace makes the difference between a bridge's rows and a file.
func (a *app) flowReplace(ctx context.Context, d *flowDB, wait *waitFlags, bridge string, lines []flows.Line, name string) error {
	have, err := d.flowRows(ctx, is("bridge", bridge))
	if err != nil {
		return err
	}
	e, added, deleted := replacement(bridge, have, lines)
	if err := checkLines(added, name); err != nil {
		return err // what is there has been checked by control
	}
	if e.n > 0 {
		next, _, err := d.commit(ctx, e)
		if err == nil {
			err = d.inForce(ctx, wait, next)
		}
		if err != nil {
			return err
		}
	}
	if a.json {
		if err := a.printJSON(object{{"added", len(added)}, {"deleted", deleted}, {"flows", len(lines)}}); err != nil {
			return err
		}
	}
	if wait.noWait {
		return nil
	}
	return d.notActive(ctx, bridge, lines, name)
}

// replacement is the transaction that makes the rows of a bridge those of a file,
// and the lines of which it makes rows.
func replacement(bridge string, have []*flowmodel.Flow, lines []flows.Line) (e *flowEdit, added []*flows.Line, deleted int) {
	e = &flowEdit{}
	there := make(map[flowKey][]string, len(have))
	for _, r := range have {
		there[keyOf(r)] = append(there[keyOf(r)], r.UUID)
	}
	for i := range lines {
		r := &lines[i].Flow
		if ids := there[keyOf(r)]; len(ids) > 0 {
			there[keyOf(r)] = ids[1:]
			continue
		}
		r.Bridge = bridge
		e.insertFlow(r)
		added = append(added, &lines[i])
	}
	for _, r := range have { // in order
		k := keyOf(r)
		if ids := there[k]; len(ids) > 0 {
			there[k] = ids[1:]
			e.remove(flowmodel.FlowTable, ids[0])
			deleted++
		}
	}
	return e, added, deleted
}

// notActive tells which flows of a file are not in force.
func (d *flowDB) notActive(ctx context.Context, bridge string, lines []flows.Line, name string) error {
	rows, err := d.flowRows(ctx, []any{[]any{"bridge", "==", bridge}, []any{"status", "!=", flowmodel.FlowStatusActive}})
	if err != nil || len(rows) == 0 {
		return err
	}
	list, n := shortfalls(rows, lines), 0
	var told []string
	for i, s := range list {
		n += len(s.lines)
		switch {
		case i < wrongMax:
			told = append(told, s.at(name))
		case i == wrongMax:
			told = append(told, fmt.Sprintf("and for %s", plural(len(list)-wrongMax, "more reason")))
		}
	}
	if n == 0 { // somebody else has made these rows since
		return nil
	}
	return fmt.Errorf("%s of %d not in force (their rows stay, and come into force when what they lack is there):\n%s", plural(n, "flow"), len(lines), strings.Join(told, "\n"))
}

// A shortfall is why some lines of a file are not in force.
type shortfall struct {
	text  string
	lines []int // in order
}

// shortfalls says why rows that lines were made of are not in force: each reason once, in
// the order of the first line that has it.
func shortfalls(rows []*flowmodel.Flow, lines []flows.Line) []*shortfall {
	texts := map[flowKey][]string{} // one for each row: lines may say the same
	for _, r := range rows {
		texts[keyOf(r)] = append(texts[keyOf(r)], refusal(r))
	}
	var out []*shortfall
	byText := map[string]*shortfall{}
	for i := range lines {
		k := keyOf(&lines[i].Flow)
		if len(texts[k]) == 0 {
			continue
		}
		text := texts[k][0]
		texts[k] = texts[k][1:]
		s := byText[text]
		if s == nil {
			s = &shortfall{text: text}
			byText[text], out = s, append(out, s)
		}
		s.lines = append(s.lines, lines[i].Number)
	}
	return out
}

// at is the reason as an error of a file, with some of its lines.
func (s *shortfall) at(name string) string {
	first := fmt.Sprintf("%s:%d: %s", name, s.lines[0], s.text)
	const some = 5
	n := len(s.lines)
	if n == 1 {
		return first
	}
	list := make([]string, min(n, some))
	for i := range list {
		list[i] = strconv.Itoa(s.lines[i])
	}
	more := ""
	if n > some {
		more = fmt.Sprintf(" and %d more", n-some)
	}
	return fmt.Sprintf("%s (%s: lines %s%s)", first, plural(n, "flow"), strings.Join(list, ", "), more)
}
