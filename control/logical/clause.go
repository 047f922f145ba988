package logical

// Clause is a conjunction: it holds if all matches and all predicates do. A
// clause with neither holds always.
type Clause struct {
	Matches []FieldMatch // at most one for each field, in order of Field
	Preds   []Predicate
}

// FieldMatch holds where the bits of Field in Mask have the value Value.
type FieldMatch struct {
	Field Field
	Mask  Value // not zero
	Value Value // no bits outside Mask
}

// PredKind is the type of a Predicate.
type PredKind uint8

// The kinds.
const (
	PredIn       PredKind = iota // the bits equal one of Values
	PredRange                    // the bits are at least First and at most Last
	PredResident                 // Port is resident on this chassis
)

// Predicate is a test that is not a masked comparison. It looks at Bits bits
// of Field from Low on. Values, whose masks and numbers begin at bit Low, may
// name address sets (numeric fields), ports and port groups (ports' keys); they
// are shared with the expression.
type Predicate struct {
	Kind   PredKind
	Not    bool // the opposite of what Kind says
	Field  Field
	Low    uint8
	Bits   uint8
	Values []Constant // PredIn: at least one
	First  Value      // PredRange
	Last   Value      // PredRange
	Port   string     // PredResident
}

// bits returns the part of v, a value of the predicate's field, that p tests.
func (p *Predicate) bits(v Value) Value { return v.Shr(int(p.Low)).And(Ones(int(p.Bits))) }

// mask returns the bits of the field that p tests.
func (p *Predicate) mask() Value { return Ones(int(p.Bits)).Shl(int(p.Low)) }

// sameBits reports whether p and q test the same bits.
func (p *Predicate) sameBits(q *Predicate) bool {
	return p.Field == q.Field && p.Low == q.Low && p.Bits == q.Bits
}

// plain reports whether p is a PredIn whose values are all numbers.
func (p *Predicate) plain() bool {
	for i := range p.Values {
		if p.Values[i].Kind > ConstMasked {
			return false
		}
	}
	return p.Kind == PredIn
}
