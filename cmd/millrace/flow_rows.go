package main

import (
	"cmp"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"millrace/control/flows"
	"millrace/control/ovsdb/flowmodel"
)

// compareFlows orders flows as they are looked up.
func compareFlows(a, b *flowmodel.Flow) int {
	return cmp.Or(cmp.Compare(a.Bridge, b.Bridge), cmp.Compare(a.Table, b.Table), -cmp.Compare(a.Priority, b.Priority),
		cmp.Compare(a.Match, b.Match), cmp.Compare(a.Actions, b.Actions), cmp.Compare(a.Cookie, b.Cookie))
}

// flowKey is what a flow says; equal keys say the same.
type flowKey struct {
	table, priority, cookie int
	match, actions          string
}

func keyOf(r *flowmodel.Flow) flowKey {
	return flowKey{r.Table, r.Priority, r.Cookie, r.Match, r.Actions}
}

// flowJSON is a row for programs.
func flowJSON(r *flowmodel.Flow) object {
	return object{
		{"uuid", r.UUID}, {"bridge", r.Bridge}, {"table", r.Table}, {"priority", r.Priority}, {"cookie", uint64(r.Cookie)}, {"match", r.Match}, {"actions", r.Actions},
		{"status", value(r.Status)}, {"error", value(r.Error)}, {"n_packets", r.NPackets}, {"n_bytes", r.NBytes},
	}
}

// value is a string, or empty.
func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// flowsJSON is rows for programs.
func flowsJSON(rows []*flowmodel.Flow) []object {
	out := []object{}
	for _, r := range rows {
		out = append(out, flowJSON(r))
	}
	return out
}

// flowFlags are the numbers of a flow.
type flowFlags struct {
	table, priority uint32
	cookie          string
}

func (f *flowFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.Uint32Var(&f.table, "table", 0, "its table, 0 to 255")
	fs.Uint32Var(&f.priority, "priority", 0, "its priority, 0 to 65535: the highest that matches decides")
	fs.StringVar(&f.cookie, "cookie", "0", "its cookie, a number of 64 bits for whoever makes flows")
}

// numbers checks the flags.
func (f *flowFlags) numbers(cmd *cobra.Command) (table, priority, cookie int, err error) {
	switch {
	case f.table > math.MaxUint8:
		return 0, 0, 0, usage(cmd, "--table: %d is not a table from 0 to 255", f.table)
	case f.priority > math.MaxUint16:
		return 0, 0, 0, usage(cmd, "--priority: %d is not a priority from 0 to 65535", f.priority)
	}
	n, err := strconv.ParseUint(f.cookie, 0, 64)
	if err != nil {
		return 0, 0, 0, usage(cmd, "--cookie: %q is not a number of 64 bits", f.cookie)
	}
	return int(f.table), int(f.priority), int(n), nil
}

// flowFilter chooses flows of a bridge.
type flowFilter struct {
	flowFlags
	match, actions string
}

func (f *flowFilter) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.Uint32Var(&f.table, "table", 0, "flows of this table, 0 to 255")
	fs.Uint32Var(&f.priority, "priority", 0, "flows of this priority, 0 to 65535")
	fs.StringVar(&f.cookie, "cookie", "0", "flows of this cookie, a number of 64 bits")
	fs.StringVar(&f.match, "match", "", "flows whose match is this text")
	fs.StringVar(&f.actions, "actions", "", "flows whose actions are this text")
	fs.Lookup("cookie").DefValue = "" // any
}

// given reports whether anything is asked for.
func (f *flowFilter) given(cmd *cobra.Command) bool {
	for _, name := range []string{"table", "priority", "cookie", "match", "actions"} {
		if cmd.Flag(name).Changed {
			return true
		}
	}
	return false
}

// where are the conditions that choose the flows of a bridge; an empty one is all.
func (f *flowFilter) where(cmd *cobra.Command, bridge string) ([]any, error) {
	table, priority, cookie, err := f.numbers(cmd)
	if err != nil {
		return nil, err
	}
	where := []any{}
	if bridge != "" {
		where = append(where, []any{"bridge", "==", bridge})
	}
	for _, c := range []struct {
		name  string
		value any
	}{{"table", table}, {"priority", priority}, {"cookie", cookie}, {"match", f.match}, {"actions", f.actions}} {
		if cmd.Flag(c.name).Changed {
			where = append(where, []any{c.name, "==", c.value})
		}
	}
	return where, nil
}

// refusal says why a row is not in force; it is empty if it is.
func refusal(r *flowmodel.Flow) string {
	status := value(r.Status)
	switch status {
	case flowmodel.FlowStatusActive:
		return ""
	case "":
		status = "not looked at yet: does control run?"
	}
	return strings.TrimSuffix(status+": "+value(r.Error), ": ")
}

// flowLine is a flow as files have it.
func flowLine(r *flowmodel.Flow) string { return string(flows.AppendLine(nil, r)) }
