package logical

import "fmt"

// Options bound what Compile may make of a match.
type Options struct {
	// MaxClauses is the most clauses that a match may need; 0 is 4096. The
	// work is bounded by it too.
	MaxClauses int
	// SplitSets is the size up to which a set of numbers becomes a clause for
	// each member instead of a predicate; 0 keeps all sets. With 2, the two
	// Ethernet types of "ip" become two masked matches.
	SplitSets int
}

// stepsPerClause relates the bound of work to MaxClauses.
const stepsPerClause = 64

// Compiler turns expressions into clauses. It keeps its scratch memory between
// calls. One goroutine uses it at a time.
//
// The search walks down one way through the alternatives at a time: todo holds
// what is still to be satisfied, mask and value what the way so far demands,
// trail what to put back on the way up. A way that contradicts itself ends at
// once, so that the product of alternatives is never built, only its
// consistent members are.
type Compiler struct {
	options Options
	todo    []task
	mask    [NumFields]Value
	value   [NumFields]Value
	trail   []undo
	used    uint64 // fields whose mask is not zero
	preds   []Predicate
	steps   int // left
	out     []Clause
	done    bool // out is the clause that always holds
	err     error
	final   []Predicate // scratch of emit
	width   [NumFields]uint8

	matchPool []FieldMatch // room for clauses to come
	predPool  []Predicate
}

// task is an expression to be satisfied; annotated, so without prerequisites
// and predicates, or as parsed.
type task struct {
	expr      Expr
	annotated bool
}

// undo puts back one field.
type undo struct {
	field       Field
	mask, value Value
}

// NewCompiler returns a compiler with these options.
func NewCompiler(o Options) *Compiler {
	if o.MaxClauses <= 0 {
		o.MaxClauses = 4096
	}
	return &Compiler{options: o, width: fieldWidths()}
}

// Compile returns clauses of which at least one holds exactly where all of
// exprs do (nil ones hold always): none if they never do, the empty clause
// alone if they always do. Clauses may overlap. Sets stay predicates.
//
// Its error is ErrTooComplex.
func (c *Compiler) Compile(exprs ...Expr) ([]Clause, error) {
	c.todo, c.trail, c.preds = c.todo[:0], c.trail[:0], c.preds[:0]
	c.out, c.err, c.done, c.steps = nil, nil, false, c.options.MaxClauses*stepsPerClause
	c.pushAll(exprs, false)
	c.walk()
	if c.err != nil {
		return nil, c.err
	}
	return c.out, nil
}

// pushAll makes terms things to be satisfied. Those with alternatives are
// pushed first, so that they are looked at last and the others can rule
// alternatives out.
func (c *Compiler) pushAll(terms []Expr, annotated bool) {
	for i := len(terms) - 1; i >= 0; i-- {
		if hasAlternatives(terms[i]) {
			c.todo = append(c.todo, task{terms[i], annotated})
		}
	}
	for i := len(terms) - 1; i >= 0; i-- {
		if terms[i] != nil && !hasAlternatives(terms[i]) {
			c.todo = append(c.todo, task{terms[i], annotated})
		}
	}
}

// hasAlternatives reports whether e may be satisfied in several ways.
func hasAlternatives(e Expr) bool {
	switch e := e.(type) {
	case *Or:
		return true
	case *Compare:
		return e.Ref.Symbol.Predicate != ""
	}
	return false
}

// walk emits a clause for each consistent way to satisfy todo, and leaves all
// but out as it was.
func (c *Compiler) walk() {
	if c.spend(1); c.err != nil || c.done {
		return
	}
	n := len(c.todo)
	if n == 0 {
		c.emit()
		return
	}
	t := c.todo[n-1]
	c.todo = c.todo[:n-1]
	c.satisfy(t)
	c.todo = append(c.todo[:n-1], t)
}

// spend takes n steps off those that are left, and fails when there are none.
func (c *Compiler) spend(n int) {
	if c.steps -= n; c.steps < 0 && c.err == nil {
		c.err = fmt.Errorf("%w: its alternatives and lists need too much work", ErrTooComplex)
	}
}

// termsPerStep and testsPerStep relate looking at terms, and at predicates and
// their values, to steps, so that long lists cannot be had for nothing.
const (
	termsPerStep = 16
	testsPerStep = 64
)

// satisfy goes on with each way to satisfy t.
func (c *Compiler) satisfy(t task) {
	switch e := t.expr.(type) {
	case Literal:
		if e {
			c.walk()
		}
	case *And:
		c.spend(len(e.Terms) / termsPerStep)
		n := len(c.todo)
		c.pushAll(e.Terms, t.annotated)
		c.walk()
		c.todo = c.todo[:n]
	case *Or:
		c.spend(len(e.Terms) / termsPerStep)
		if set := e.asSet(); set != nil {
			c.compare(set, t.annotated)
			return
		}
		for _, term := range e.Terms {
			c.with(task{term, t.annotated})
		}
	case *Resident:
		c.assume(Predicate{Kind: PredResident, Port: e.Port, Not: e.Not})
	case *Compare:
		c.compare(e, t.annotated)
	}
}

// with walks on with t to be satisfied first.
func (c *Compiler) with(t task) {
	n := len(c.todo)
	c.todo = append(c.todo, t)
	c.walk()
	c.todo = c.todo[:n]
}

// compare satisfies one comparison, and its prerequisites unless annotated.
func (c *Compiler) compare(e *Compare, annotated bool) {
	sym := e.Ref.Symbol
	if annotated || sym.Predicate == "" && sym.prereq == nil {
		c.raw(e)
		return
	}
	if sym.Predicate != "" {
		c.with(task{e.expansion(), true})
		return
	}
	n := len(c.todo)
	if hasAlternatives(sym.prereq) {
		c.todo = append(c.todo, task{sym.prereq, true}, task{e, true})
	} else {
		c.todo = append(c.todo, task{e, true}, task{sym.prereq, true})
	}
	c.walk()
	c.todo = c.todo[:n]
}

// raw satisfies the comparison e itself.
func (c *Compiler) raw(e *Compare) {
	one := &e.Values[0]
	switch {
	case e.Ref.Symbol.isString():
		c.assume(e.predicate())
	case e.Op > OpNE:
		c.between(e)
	case len(e.Values) == 1 && e.Op == OpEQ && one.Kind <= ConstMasked:
		c.demandConstant(e.Ref, one)
	case len(e.Values) == 1 && one.Kind == ConstMasked && one.Mask.IsZero():
		// != with an empty mask never holds.
	case e.Op == OpEQ && len(e.Values) <= c.options.SplitSets && e.isPlain():
		for i := range e.Values {
			c.demandConstant(e.Ref, &e.Values[i])
		}
	default:
		c.assume(e.predicate())
	}
}

// predicate returns c, with OpEQ or OpNE, as a predicate.
func (c *Compare) predicate() Predicate {
	n := c.Ref.Bits
	if c.Ref.Symbol.isString() {
		n = 32
	}
	return Predicate{Kind: PredIn, Not: c.Op == OpNE, Field: c.Ref.Symbol.Field, Low: uint8(c.Ref.base()), Bits: uint8(n), Values: c.Values}
}

// isPlain reports whether c's values are all numbers.
func (c *Compare) isPlain() bool {
	p := c.predicate()
	return p.plain()
}

// between satisfies a comparison of order.
func (c *Compiler) between(e *Compare) {
	v, top := e.Values[0].Value, Ones(e.Ref.Bits)
	p := e.predicate()
	p.Kind, p.Not, p.Values = PredRange, false, nil
	p.First, p.Last = Value{}, top
	switch e.Op {
	case OpLT:
		if v.IsZero() {
			return
		}
		p.Last = v.prev()
	case OpLE:
		p.Last = v
	case OpGT:
		if v == top {
			return
		}
		p.First = v.next()
	case OpGE:
		p.First = v
	}
	c.assume(p)
}

// assume walks on with p.
func (c *Compiler) assume(p Predicate) {
	n := len(c.preds)
	c.preds = append(c.preds, p)
	c.walk()
	c.preds = c.preds[:n]
}

// demandConstant walks on with ref equal to v.
func (c *Compiler) demandConstant(ref Ref, v *Constant) {
	mask, n := Ones(ref.Bits), len(c.trail)
	if v.Kind == ConstMasked {
		mask = v.Mask
	}
	if c.demand(ref.Symbol.Field, mask.Shl(ref.base()), v.Value.Shl(ref.base())) {
		c.walk()
	}
	c.rewind(n)
}

// demand adds a masked comparison to the way so far, and reports whether that
// is consistent.
func (c *Compiler) demand(f Field, mask, value Value) bool {
	if !c.value[f].Xor(value).And(mask).And(c.mask[f]).IsZero() {
		return false
	}
	if mask.AndNot(c.mask[f]).IsZero() {
		return true
	}
	c.trail = append(c.trail, undo{f, c.mask[f], c.value[f]})
	c.mask[f], c.value[f] = c.mask[f].Or(mask), c.value[f].Or(value)
	c.used |= 1 << f
	return true
}

// rewind takes back all but the first n entries of the trail.
func (c *Compiler) rewind(n int) {
	for len(c.trail) > n {
		u := c.trail[len(c.trail)-1]
		c.trail = c.trail[:len(c.trail)-1]
		c.mask[u.field], c.value[u.field] = u.mask, u.value
		if u.mask.IsZero() {
			c.used &^= 1 << u.field
		}
	}
}
