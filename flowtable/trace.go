package flowtable

// A Trace is what a walk did, step by step.
type Trace struct {
	Steps []TraceStep
}

// A TraceStep is a look into a table, or one action.
type TraceStep struct {
	Depth    int    // copies and lists that it is in
	Datapath uint64 // logical datapath
	// Table and Rule say what was looked up, and what was found: nil if
	// nothing. Action is nil then.
	Table uint8
	Rule  *Rule
	// Action is what is done next.
	Action *Action
	// Before is the context as it was when the step began. What the step
	// changed is the difference from the next one's.
	Before Context
}

// Trace walks as Walk does, by the same code, and tells of each step. It
// allocates.
func (w *Walker) Trace(key *Key, length uint32, now uint64) (*Composed, *Trace) {
	w.trace = new(Trace)
	defer func() { w.trace = nil }()
	return w.Walk(key, length, now), w.trace
}

// table notes a look into a table.
func (tr *Trace) table(w *Walker, table uint8, rule uint32) {
	s := TraceStep{Depth: w.depth, Datapath: w.ctx[WordDatapath], Table: table, Before: w.ctx}
	if rule != 0 {
		r := w.t.decodeRule(rule)
		s.Rule = &r
	}
	tr.Steps = append(tr.Steps, s)
}

// action notes an action that is about to be done.
func (tr *Trace) action(w *Walker, s *step) {
	a := s.action()
	tr.Steps = append(tr.Steps, TraceStep{Depth: w.depth, Datapath: w.ctx[WordDatapath], Action: &a, Before: w.ctx})
}
