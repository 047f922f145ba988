package logical

import (
	"fmt"
	"math/bits"
)

// emit adds the clause of the way that the compiler is on, unless its
// predicates contradict it.
func (c *Compiler) emit() {
	n := len(c.trail)
	if c.narrow() {
		c.add()
	}
	c.rewind(n)
}

// add adds what narrow left.
func (c *Compiler) add() {
	if len(c.out) == c.options.MaxClauses {
		c.err = fmt.Errorf("%w: it needs more than %d clauses", ErrTooComplex, c.options.MaxClauses)
		return
	}
	clause := Clause{Matches: c.matches(), Preds: c.keptPreds()}
	if len(clause.Matches)+len(clause.Preds) == 0 {
		c.out, c.done = append(c.out[:0], clause), true
		return
	}
	c.out = append(c.out, clause)
}

// narrow fills final with what is left of the predicates, given the demands
// and each other, and reports whether they can hold together. What it finds to
// be a masked comparison becomes a demand.
func (c *Compiler) narrow() bool {
	c.final = append(c.final[:0], c.preds...)
	for changed := true; changed && c.err == nil; {
		changed = false
		kept := c.final[:0]
		for i := range c.final {
			p := c.final[i]
			before := len(c.trail)
			c.spend((len(kept) + len(p.Values)) / testsPerStep)
			switch c.judge(&p, kept) {
			case never:
				return false
			case open:
				kept = append(kept, p)
			}
			changed = changed || len(c.trail) > before
		}
		changed = changed || len(kept) < len(c.final)
		c.final = kept
	}
	return c.err == nil
}

// verdict is what is known of a predicate.
type verdict uint8

const (
	open   verdict = iota // it must be tested
	always                // it holds, or others say the same
	never                 // it cannot hold
)

// judge simplifies p, which follows the predicates kept.
func (c *Compiler) judge(p *Predicate, kept []Predicate) verdict {
	switch p.Kind {
	case PredRange:
		return c.judgeRange(p, kept)
	case PredIn:
		return c.judgeIn(p, kept)
	}
	for i := range kept {
		if q := &kept[i]; q.Kind == PredResident && q.Port == p.Port {
			return sameOr(q.Not == p.Not)
		}
	}
	return open
}

// sameOr returns always if a predicate says the same as another, else never.
func sameOr(same bool) verdict {
	if same {
		return always
	}
	return never
}

// judgeRange joins range p with one before it, and with the demands.
func (c *Compiler) judgeRange(p *Predicate, kept []Predicate) verdict {
	for i := range kept {
		if q := &kept[i]; q.Kind == PredRange && q.sameBits(p) {
			q.First, q.Last = larger(q.First, p.First), smaller(q.Last, p.Last)
			return sameOr(!q.Last.Less(q.First))
		}
	}
	switch mask := p.mask(); {
	case p.Last.Less(p.First):
		return never
	case p.First.IsZero() && p.Last == Ones(int(p.Bits)):
		return always
	case mask.AndNot(c.mask[p.Field]).IsZero():
		v := p.bits(c.value[p.Field])
		return sameOr(!v.Less(p.First) && !p.Last.Less(v))
	case p.First == p.Last:
		return sameOr(c.demand(p.Field, mask, p.First.Shl(int(p.Low))))
	}
	return open
}

// larger returns the larger of a and b.
func larger(a, b Value) Value {
	if a.Less(b) {
		return b
	}
	return a
}

// smaller returns the smaller of a and b.
func smaller(a, b Value) Value {
	if a.Less(b) {
		return a
	}
	return b
}

// judgeIn drops the values that the demands exclude, and p if it says nothing
// new.
func (c *Compiler) judgeIn(p *Predicate, kept []Predicate) verdict {
	for i := range kept {
		if q := &kept[i]; q.Kind == PredIn && q.sameBits(p) && sameValues(q.Values, p.Values) {
			return sameOr(q.Not == p.Not)
		}
	}
	mask, value := p.bits(c.mask[p.Field]), p.bits(c.value[p.Field])
	possible, certain := 0, false
	for i := range p.Values {
		yes, no := p.Values[i].given(mask, value, int(p.Bits))
		certain = certain || yes
		if !no {
			possible++
		}
	}
	switch {
	case certain:
		return sameOr(!p.Not)
	case possible == 0:
		return sameOr(p.Not)
	case possible < len(p.Values):
		p.Values = remaining(p.Values, mask, value, int(p.Bits), possible)
	}
	if one := &p.Values[0]; len(p.Values) == 1 && !p.Not && one.Kind <= ConstMasked {
		return sameOr(c.demand(p.Field, one.under(int(p.Bits)).Shl(int(p.Low)), one.Value.Shl(int(p.Low))))
	}
	return open
}

// remaining returns the n of values that a field with the bits value in mask
// may still have.
func remaining(values []Constant, mask, value Value, width, n int) []Constant {
	left := make([]Constant, 0, n)
	for i := range values {
		if _, no := values[i].given(mask, value, width); !no {
			left = append(left, values[i])
		}
	}
	return left
}

// under returns the mask under which number c compares with width bits.
func (c *Constant) under(width int) Value {
	if c.Kind == ConstMasked {
		return c.Mask
	}
	return Ones(width)
}

// given says whether a field of this width, known to have the bits value in
// mask, equals c for certain, or cannot.
func (c *Constant) given(mask, value Value, width int) (yes, no bool) {
	if c.Kind > ConstMasked {
		return false, false
	}
	tests := c.under(width)
	if !c.Value.Xor(value).And(mask).And(tests).IsZero() {
		return false, true
	}
	return tests.AndNot(mask).IsZero(), false
}

// sameValues reports whether a and b are the same list.
func sameValues(a, b []Constant) bool {
	if len(a) != len(b) {
		return false
	}
	if &a[0] == &b[0] {
		return true
	}
	for i := range a {
		if a[i].Kind != b[i].Kind || a[i].Text != b[i].Text || a[i].Value != b[i].Value || a[i].Mask != b[i].Mask {
			return false
		}
	}
	return true
}

// matches returns the demands in order of their fields, in memory that later
// clauses share without overlap.
func (c *Compiler) matches() []FieldMatch {
	n := bits.OnesCount64(c.used)
	if n == 0 {
		return nil
	}
	if cap(c.matchPool)-len(c.matchPool) < n {
		c.matchPool = make([]FieldMatch, 0, max(n, 256))
	}
	from := len(c.matchPool)
	for left := c.used; left != 0; left &= left - 1 {
		f := Field(bits.TrailingZeros64(left))
		c.matchPool = append(c.matchPool, FieldMatch{Field: f, Mask: c.mask[f], Value: c.value[f]})
	}
	return c.matchPool[from:len(c.matchPool):len(c.matchPool)]
}

// keptPreds returns a copy of final, in memory like that of matches.
func (c *Compiler) keptPreds() []Predicate {
	n := len(c.final)
	if n == 0 {
		return nil
	}
	if cap(c.predPool)-len(c.predPool) < n {
		c.predPool = make([]Predicate, 0, max(n, 64))
	}
	from := len(c.predPool)
	c.predPool = append(c.predPool, c.final...)
	return c.predPool[from:len(c.predPool):len(c.predPool)]
}
