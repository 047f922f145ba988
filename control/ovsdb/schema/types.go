package schema

import (
	"math"
	"slices"
	"unicode/utf8"

	"millrace/control/ovsdb/jsonval"
)

// Unlimited is a Type's Max when the schema says "unlimited".
const Unlimited = math.MaxInt

// A Base is a <base-type>: an atomic type and what its values must keep to.
type Base struct {
	Atomic           Atomic
	Enum             []Atom // sorted; nil allows all
	MinInt, MaxInt   int64
	MinReal, MaxReal float64
	MinLen, MaxLen   int    // in characters
	RefTable         string // UUIDs name rows of this table
	Weak             bool   // a reference that goes away with its row
}

// A Type is the <type> of a column: a set of keys, or a map if Value is set.
type Type struct {
	Key      Base
	Value    *Base
	Min, Max int // number of elements; Min is 0 or 1
}

// IsScalar reports whether t holds exactly one atom.
func (t *Type) IsScalar() bool { return t.Min == 1 && t.Max == 1 && t.Value == nil }

// IsOptional reports whether t holds one atom or none.
func (t *Type) IsOptional() bool { return t.Min == 0 && t.Max == 1 && t.Value == nil }

// stride is how many atoms an element has.
func (t *Type) stride() int {
	if t.Value != nil {
		return 2
	}
	return 1
}

// Default returns the value of a column that nobody has set.
func (t *Type) Default() Datum {
	if t.Min == 0 {
		return nil
	}
	if t.Value != nil {
		return Datum{t.Key.Atomic.zero(), t.Value.Atomic.zero()}
	}
	return Datum{t.Key.Atomic.zero()}
}

// plainBase returns the base type that allows every value of a.
func plainBase(a Atomic) Base {
	return Base{Atomic: a, MinInt: math.MinInt64, MaxInt: math.MaxInt64,
		MinReal: -math.MaxFloat64, MaxReal: math.MaxFloat64, MaxLen: math.MaxInt}
}

// Check returns an error if a breaks b's constraints.
func (b *Base) Check(a Atom) *Error {
	if b.Enum != nil {
		if _, ok := slices.BinarySearchFunc(b.Enum, a, b.Atomic.compare); !ok {
			return Errorf(Constraint, "%s is not one of the allowed values", b.Atomic.appendAtom(nil, a))
		}
		return nil
	}
	switch b.Atomic {
	case Integer:
		if n := a.Int(); n < b.MinInt || n > b.MaxInt {
			return Errorf(Constraint, "%d is not in the range %d to %d", n, b.MinInt, b.MaxInt)
		}
	case Real:
		if f := a.Real(); f < b.MinReal || f > b.MaxReal {
			return Errorf(Constraint, "%g is not in the range %g to %g", f, b.MinReal, b.MaxReal)
		}
	case String:
		if b.MinLen == 0 && len(a.s) <= b.MaxLen {
			return nil
		}
		if n := utf8.RuneCountInString(a.s); n < b.MinLen || n > b.MaxLen {
			return Errorf(Constraint, "string of %d characters; allowed are %d to %d", n, b.MinLen, b.MaxLen)
		}
	}
	return nil
}

// parse reads an atom and checks it.
func (b *Base) parse(v jsonval.Value, symbols Symbols) (Atom, *Error) {
	a, err := b.Atomic.parse(v, symbols)
	if err == nil {
		err = b.Check(a)
	}
	return a, err
}

// CheckDatum returns an error if an atom of d breaks t's constraints.
func (t *Type) CheckDatum(d Datum) *Error {
	for i, a := range d {
		b := &t.Key
		if t.Value != nil && i%2 == 1 {
			b = t.Value
		}
		if err := b.Check(a); err != nil {
			return err
		}
	}
	return nil
}
