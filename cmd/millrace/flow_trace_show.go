package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"millrace/dataplane/api"
	"millrace/dataplane/flowapi"
	"millrace/flowtable"
	"millrace/flowtable/flowtext"
)

// A trace is what became of a frame.
type trace struct {
	*listing
	port   *api.Port
	frame  []byte
	result *api.TraceResponse
	about  []flowtable.Masked // the key: what words are about
}

// trace asks the dataplane what becomes of a frame, and shows it.
func (a *app) trace(ctx context.Context, c *api.Client, q *traceQuery, frame []byte) error {
	l, err := a.lookUp(ctx, c)
	if err != nil {
		return err
	}
	if q.bridge != "" {
		if _, err := l.bridge(q.bridge); err != nil {
			return err
		}
	}
	t := &trace{listing: l, frame: frame}
	if t.port, err = l.port(q.bridge, q.port); err != nil {
		return err
	}
	if t.result, err = c.Flows.Trace(ctx, &api.TraceRequest{Port: q.port, Frame: frame}); err != nil {
		return err
	}
	for w, v := range t.result.GetKey() {
		if w < flowtable.KeyWords {
			t.about = append(t.about, flowtable.Masked{Word: uint8(w), Value: v, Mask: ^uint64(0)})
		}
	}
	if a.json {
		return a.printJSON(t.json())
	}
	t.print(a.out)
	return nil
}

// print prints the trace for people.
func (t *trace) print(w io.Writer) {
	s := t.port.GetSpec()
	fmt.Fprintf(w, "packet into %s of bridge %s, %d bytes\n", s.GetName(), s.GetBridge(), len(t.frame))
	printIndented(w, describe(t.frame))
	if why := t.result.GetEarly(); why != "" {
		fmt.Fprintf(w, "\nresult: dropped before the tables: %s\n", why)
		return
	}
	datapath := uint64(0)
	for _, step := range t.result.GetSteps() {
		indent := strings.Repeat("    ", int(step.GetDepth()))
		if step.GetAction() != nil {
			fmt.Fprintf(w, "%s    %s\n", indent, t.action(step))
			continue
		}
		of := ""
		if step.GetDatapath() != datapath {
			datapath = step.GetDatapath()
			of = " of " + t.whose(datapath)
		}
		fmt.Fprintf(w, "\n%stable %d%s: %s\n", indent, step.GetTable(), of, t.rule(step))
	}
	fmt.Fprintf(w, "\nconsulted: %s\n", joinAnd(t.consulted()))
	fmt.Fprintf(w, "program:   %s\n", t.program())
	t.printResult(w)
}

func printIndented(w io.Writer, lines []string) {
	for _, l := range lines {
		fmt.Fprintln(w, "    "+l)
	}
}

// whose says whose datapath it is.
func (t *trace) whose(datapath uint64) string {
	if name := t.datapathName(datapath); name != "" {
		return "bridge " + name
	}
	if whose, own := t.ownRules(datapath); own {
		return whose
	}
	return fmt.Sprintf("datapath %016x", datapath)
}

// rule writes the rule that a look into a table has found.
func (t *trace) rule(step *api.TraceStep) string {
	if step.GetRule() == nil {
		return "no rule matches"
	}
	r, err := flowapi.FromRule(step.GetRule())
	if err != nil {
		return err.Error()
	}
	text := fmt.Sprintf("priority %d, %s", r.Priority, t.match(&r))
	if r.Cookie != 0 {
		text += fmt.Sprintf(" (cookie %#x)", r.Cookie)
	}
	return text
}

// action writes what a step does, and what came of it, if that does not say so
// itself.
func (t *trace) action(step *api.TraceStep) string {
	a, err := flowapi.FromAction(step.GetAction())
	if err != nil {
		return err.Error()
	}
	text := flowtext.Action(&a, t.about, t.names)
	if changes := t.changes(step); len(changes) > 0 && a.Code != flowtable.ActSet {
		text += "    [" + joinAnd(changes) + "]"
	}
	return text
}

func (t *trace) changes(step *api.TraceStep) []string {
	return flowtext.Changes(masked(step.GetChanged()), t.about, t.names)
}

// consulted are the fields that mattered.
func (t *trace) consulted() []string {
	m := masked(t.result.GetConsulted())
	return flowtext.Consulted(m, t.names)
}

func (t *trace) program() string {
	if len(t.result.GetOps()) == 0 {
		return "drop;"
	}
	return flowtext.Program(ops(t.result.GetOps()), t.about, t.names)
}

// printResult prints what leaves.
func (t *trace) printResult(w io.Writer) {
	out := t.result.GetOutputs()
	if len(out) == 0 {
		fmt.Fprintf(w, "result:    dropped: %s\n", cmpName(t.result.GetDropReason(), "there is no port that it could leave by"))
		return
	}
	left := 0
	for _, o := range out {
		if o.GetDropReason() == "" {
			left++
		}
	}
	fmt.Fprintf(w, "result:    %s\n", map[bool]string{true: "1 frame leaves", false: fmt.Sprintf("%d frames leave", left)}[left == 1])
	for _, o := range out {
		switch name := o.GetPort(); {
		case o.GetDropReason() != "":
			fmt.Fprintf(w, "  %s: dropped: %s\n", cmpName(name, "no port"), o.GetDropReason())
		case string(o.GetFrame()) == string(t.frame):
			fmt.Fprintf(w, "  %s: as it came\n", name)
		default:
			fmt.Fprintf(w, "  %s: %d bytes\n", name, len(o.GetFrame()))
			printIndented(w, describe(o.GetFrame()))
		}
	}
}

// json is the trace for programs.
func (t *trace) json() object {
	steps, outputs := []object{}, []object{}
	for _, s := range t.result.GetSteps() {
		steps = append(steps, t.stepJSON(s))
	}
	for _, o := range t.result.GetOutputs() {
		outputs = append(outputs, object{{"port", o.GetPort()}, {"frame", hex.EncodeToString(o.GetFrame())}, {"packet", describe(o.GetFrame())}, {"drop_reason", o.GetDropReason()}})
	}
	return object{
		{"port", t.port.GetSpec().GetName()}, {"bridge", t.port.GetSpec().GetBridge()}, {"frame", hex.EncodeToString(t.frame)}, {"packet", describe(t.frame)},
		{"early_drop_reason", t.result.GetEarly()}, {"steps", steps}, {"consulted", t.consulted()}, {"program", t.program()},
		{"outputs", outputs}, {"drop_reason", t.result.GetDropReason()},
	}
}

func (t *trace) stepJSON(s *api.TraceStep) object {
	o := object{{"depth", s.GetDepth()}, {"datapath", hex64(s.GetDatapath())}}
	if s.GetAction() != nil {
		a, err := flowapi.FromAction(s.GetAction())
		if err != nil {
			return append(o, field{"error", err.Error()})
		}
		return append(o, field{"action", flowtext.Action(&a, t.about, t.names)}, field{"changed", t.changes(s)})
	}
	o = append(o, field{"table", s.GetTable()}, field{"rule", nil})
	if s.GetRule() == nil {
		return o
	}
	r, err := flowapi.FromRule(s.GetRule())
	if err != nil {
		return append(o, field{"error", err.Error()})
	}
	o[len(o)-1].value = t.ruleJSON(&r)
	return o
}
