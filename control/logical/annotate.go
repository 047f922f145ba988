package logical

// Annotate returns what e means: each comparison joined with the prerequisites
// of its symbol, each predicate replaced by what it stands for. The result has
// neither, shares nodes with e and the symbol table, and may test nominal
// symbols negatively, so that its text need not parse.
//
// A prerequisite is never negated with its comparison: ip4.src != 10.0.0.1 is
// false for packets that are not IPv4. A predicate is negated as a whole:
// !ip.later_frag is true for them.
func Annotate(e Expr) Expr {
	switch e := e.(type) {
	case *And:
		return flatten(true, annotateAll(e.Terms))
	case *Or:
		return flatten(false, annotateAll(e.Terms))
	case *Compare:
		return annotateCompare(e)
	}
	return e
}

// annotateAll annotates each of terms.
func annotateAll(terms []Expr) []Expr {
	out := make([]Expr, len(terms))
	for i, t := range terms {
		out[i] = Annotate(t)
	}
	return out
}

// annotateCompare annotates one comparison.
func annotateCompare(c *Compare) Expr {
	sym := c.Ref.Symbol
	if sym.Predicate != "" {
		return c.expansion()
	}
	if sym.prereq == nil {
		return c
	}
	return flatten(true, []Expr{c, sym.prereq})
}

// expansion returns what c, whose symbol is a predicate, means.
func (c *Compare) expansion() Expr {
	yes, no := c.truth(1), c.truth(0)
	switch {
	case yes && no:
		return Literal(true)
	case yes:
		return c.Ref.Symbol.positive
	case no:
		return c.Ref.Symbol.negative
	}
	return Literal(false)
}

// truth returns whether c holds where its symbol, a predicate, is v.
func (c *Compare) truth(v uint64) bool {
	return compareNumbers(c.Op, U64(v), c.Values)
}

// compareNumbers returns v op values for values without named sets.
func compareNumbers(op Op, v Value, values []Constant) bool {
	switch op {
	case OpLT:
		return v.Less(values[0].Value)
	case OpLE:
		return !values[0].Value.Less(v)
	case OpGT:
		return values[0].Value.Less(v)
	case OpGE:
		return !v.Less(values[0].Value)
	}
	for i := range values {
		if values[i].covers(v) {
			return op == OpEQ
		}
	}
	return op == OpNE
}

// joinSets returns e with each disjunction of == on one reference made a single
// comparison. Only for annotated trees and others without predicates.
func joinSets(e Expr) Expr {
	switch e := e.(type) {
	case *And:
		out := make([]Expr, len(e.Terms))
		for i, t := range e.Terms {
			out[i] = joinSets(t)
		}
		return flatten(true, out)
	case *Or:
		if c := e.asSet(); c != nil {
			return c
		}
		out := make([]Expr, len(e.Terms))
		for i, t := range e.Terms {
			out[i] = joinSets(t)
		}
		return flatten(false, out)
	}
	return e
}

// asSet returns the comparison with a set that o is, or nil: all its terms must
// be == on the same reference.
func (o *Or) asSet() *Compare {
	first, ok := o.Terms[0].(*Compare)
	if !ok || first.Op != OpEQ || first.Ref.Symbol.Predicate != "" {
		return nil
	}
	n := 0
	for _, t := range o.Terms {
		c, ok := t.(*Compare)
		if !ok || c.Op != OpEQ || c.Ref != first.Ref {
			return nil
		}
		n += len(c.Values)
	}
	values := make([]Constant, 0, n)
	for _, t := range o.Terms {
		values = append(values, t.(*Compare).Values...)
	}
	return &Compare{Ref: first.Ref, Op: OpEQ, Values: values}
}
