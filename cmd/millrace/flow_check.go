package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"millrace/control/flows"
	"millrace/control/ovsdb/flowmodel"
	"millrace/flowtable"
	"millrace/flowtable/flowtext"
)

func (a *app) flowCheckCmd() *cobra.Command {
	var f flowFlags
	var file string
	cmd := &cobra.Command{
		Use:   "check [MATCH ACTIONS | -f FILE]",
		Short: "Compile flows without a switch, and print the rules that they make",
		Long: `Compiles one flow, or those of a file, or of standard input (-f -), and prints the rules
that each is compiled to. It asks neither database nor switch: ports, sets, groups
and meters that flows name are taken to be there. What is not in the language is
told with line and column, with exit code 1.

` + fileHelp,
		Example: `  millrace flow check 'ip4.src == {10.0.0.1, 10.0.0.2} && tcp' 'outport = "vm1"; output;'
  millrace flow check -f br0.flows > /dev/null && millrace flow replace br0 -f br0.flows`,
		Args: between(0, 2, "MATCH", "ACTIONS"),
	}
	f.add(cmd)
	cmd.Flags().StringVarP(&file, "file", "f", "", "file of flows; -: standard input")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		lines, name, err := a.checked(cmd, &f, file, args)
		if err != nil {
			return err
		}
		return a.checkFlows(lines, name)
	}
	return cmd
}

// checked are the flows that are to be checked.
func (a *app) checked(cmd *cobra.Command, f *flowFlags, file string, args []string) ([]flows.Line, string, error) {
	switch {
	case file != "" && len(args) > 0:
		return nil, "", usage(cmd, "-f: contradicts %q", args[0])
	case file != "":
		return a.readFlows(file)
	case len(args) < 2:
		return nil, "", usage(cmd, "say what to check: MATCH and ACTIONS, or -f FILE")
	}
	l := flows.Line{Flow: flowmodel.Flow{Match: args[0], Actions: args[1]}}
	var err error
	l.Flow.Table, l.Flow.Priority, l.Flow.Cookie, err = f.numbers(cmd)
	return []flows.Line{l}, "", err
}

// checkFlows compiles flows, and prints the rules of those that can be.
func (a *app) checkFlows(lines []flows.Line, name string) error {
	c := flows.NewChecker()
	var errs []error
	out := []object{}
	for i := range lines {
		l := &lines[i]
		got, p := c.Check(&l.Flow)
		if p != nil {
			if len(errs) < wrongMax {
				errs = append(errs, located(l, name, p))
			}
			continue
		}
		if a.json {
			out = append(out, checkedJSON(l, c, got))
		} else {
			a.printChecked(l, c, got)
		}
	}
	if a.json {
		if err := a.printJSON(out); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

// located is what is wrong with a flow of a file, or of the command line.
func located(l *flows.Line, name string, p *flows.Problem) error {
	if name == "" {
		return p
	}
	return l.Locate(name, p)
}

// ruleText is a rule in words.
func ruleText(r *flowtable.Rule, c *flows.Checker, got *flows.Checked) (match, actions string) {
	names := &flowtext.Names{
		Port: c.Port, Flood: func(uint32) string { return "_flood" },
		Set:     func(id uint32) string { return got.Sets[flowtable.SetID(id)] },
		Meter:   func(id uint32) string { return got.Meters[flowtable.MeterID(id)] },
		Group:   func(id uint32) string { return got.Groups[flowtable.SelectID(id)] },
		Buckets: func(id uint32) []flowtable.Bucket { return got.Buckets[flowtable.SelectID(id)] },
	}
	return flowtext.Match(r.Match, r.Preds, names), flowtext.Actions(r.Actions, r.Match, names)
}

func (a *app) printChecked(l *flows.Line, c *flows.Checker, got *flows.Checked) {
	fmt.Fprintln(a.out, flowLine(&l.Flow))
	for i := range got.Rules {
		match, actions := ruleText(&got.Rules[i], c, got)
		fmt.Fprintf(a.out, "    %s: %s\n", match, actions)
	}
	if len(got.Rules) == 0 {
		fmt.Fprintln(a.out, "    no frame can match")
	}
}

func checkedJSON(l *flows.Line, c *flows.Checker, got *flows.Checked) object {
	rules := []object{}
	for i := range got.Rules {
		match, actions := ruleText(&got.Rules[i], c, got)
		rules = append(rules, object{{"match", match}, {"actions", actions}})
	}
	return object{
		{"line", l.Number}, {"table", l.Flow.Table}, {"priority", l.Flow.Priority}, {"cookie", uint64(l.Flow.Cookie)},
		{"match", l.Flow.Match}, {"actions", l.Flow.Actions}, {"rules", rules},
	}
}
