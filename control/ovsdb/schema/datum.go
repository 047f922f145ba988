package schema

import (
	"slices"

	"millrace/control/ovsdb/jsonval"
)

// A Datum is the value of a column: the atoms of a set in order, or keys and
// values of a map in turn, by key. It is never changed once made. Its type is
// the column's.
type Datum []Atom

// Len returns how many elements d, of type t, has.
func (t *Type) Len(d Datum) int { return len(d) / t.stride() }

// Parse reads a <value> of type t (RFC 7047 5.1) and checks it.
func (t *Type) Parse(v jsonval.Value, symbols Symbols) (Datum, *Error) {
	elems, tagged := taggedElems(v, t)
	if !tagged {
		if t.Value != nil {
			return nil, Errorf(Syntax, "expected a map, found %s", clip(v))
		}
		a, err := t.Key.parse(v, symbols)
		if err != nil {
			return nil, err
		}
		return Datum{a}, nil
	}
	if n := len(elems); n < t.Min || n > t.Max {
		return nil, Errorf(Syntax, "%d elements; allowed are %d to %d", n, t.Min, t.Max)
	}
	d := make(Datum, 0, len(elems)*t.stride())
	for _, e := range elems {
		var err *Error
		if d, err = t.parseElem(d, e, symbols); err != nil {
			return nil, err
		}
	}
	return t.sorted(d)
}

// taggedElems returns the elements of ["set", [...]] or ["map", [...]],
// whichever t wants.
func taggedElems(v jsonval.Value, t *Type) ([]jsonval.Value, bool) {
	tag := "set"
	if t.Value != nil {
		tag = "map"
	}
	if v.Kind != jsonval.Array || len(v.Elems) != 2 || v.Elems[0].Kind != jsonval.String ||
		v.Elems[0].Str != tag || v.Elems[1].Kind != jsonval.Array {
		return nil, false
	}
	return v.Elems[1].Elems, true
}

// parseElem adds one element to d.
func (t *Type) parseElem(d Datum, v jsonval.Value, symbols Symbols) (Datum, *Error) {
	if t.Value == nil {
		a, err := t.Key.parse(v, symbols)
		return append(d, a), err
	}
	if v.Kind != jsonval.Array || len(v.Elems) != 2 {
		return nil, Errorf(Syntax, "expected a pair, found %s", clip(v))
	}
	key, err := t.Key.parse(v.Elems[0], symbols)
	if err != nil {
		return nil, err
	}
	val, err := t.Value.parse(v.Elems[1], symbols)
	return append(d, key, val), err
}

// ParseInsert reads what the mutator insert takes, or the function includes: as
// many elements as the column may hold, or none.
func (t *Type) ParseInsert(v jsonval.Value, symbols Symbols) (Datum, *Error) {
	return (&Type{Key: t.Key, Value: t.Value, Max: t.Max}).Parse(v, symbols)
}

// ParseDelete reads what the mutator delete takes: any number of elements, or
// for a map of its keys alone.
func (t *Type) ParseDelete(v jsonval.Value, symbols Symbols) (d Datum, onlyKeys bool, err *Error) {
	d, err = (&Type{Key: t.Key, Value: t.Value, Max: Unlimited}).Parse(v, symbols)
	if err != nil && t.Value != nil {
		d, err = (&Type{Key: t.Key, Max: Unlimited}).Parse(v, symbols)
		return d, true, err
	}
	return d, false, err
}

// ParseDiff reads what Diff returned.
func (t *Type) ParseDiff(v jsonval.Value) (Datum, *Error) {
	if t.Max == 1 {
		return t.Parse(v, nil)
	}
	return (&Type{Key: t.Key, Value: t.Value, Max: Unlimited}).Parse(v, nil)
}

// ParseOperand reads what an arithmetic mutator takes: any one number.
func (t *Type) ParseOperand(v jsonval.Value) (Datum, *Error) {
	return (&Type{Key: plainBase(t.Key.Atomic), Min: 1, Max: 1}).Parse(v, nil)
}

// pair is an element of a map while it is sorted.
type pair [2]Atom

// sorted returns d in order, or an error if a key is there twice.
func (t *Type) sorted(d Datum) (Datum, *Error) {
	s := t.stride()
	inOrder := true
	for i := s; i < len(d) && inOrder; i += s {
		inOrder = t.Key.Atomic.compare(d[i-s], d[i]) < 0
	}
	if inOrder {
		return d, nil
	}
	if s == 1 {
		slices.SortFunc(d, t.Key.Atomic.compare)
	} else {
		d = t.sortedPairs(d)
	}
	for i := s; i < len(d); i += s {
		if d[i-s] == d[i] {
			return nil, Errorf(Duplicate, "%s is there twice", t.Key.Atomic.appendAtom(nil, d[i]))
		}
	}
	return d, nil
}

// sortedPairs returns map d by key.
func (t *Type) sortedPairs(d Datum) Datum {
	pairs := make([]pair, 0, len(d)/2)
	for i := 0; i < len(d); i += 2 {
		pairs = append(pairs, pair{d[i], d[i+1]})
	}
	slices.SortStableFunc(pairs, func(a, b pair) int { return t.Key.Atomic.compare(a[0], b[0]) })
	d = d[:0]
	for _, p := range pairs {
		d = append(d, p[0], p[1])
	}
	return d
}

// Sorted returns d, which may be in any order and is used up, as a Datum.
func (t *Type) Sorted(d Datum) (Datum, *Error) { return t.sorted(d) }

// Append adds d as JSON: a set of one is a bare atom.
func (t *Type) Append(b []byte, d Datum) []byte {
	switch {
	case t.Value != nil:
		b = append(b, `["map",[`...)
		for i := 0; i < len(d); i += 2 {
			b = t.Key.Atomic.appendAtom(append(comma(b, i), '['), d[i])
			b = append(t.Value.Atomic.appendAtom(append(b, ','), d[i+1]), ']')
		}
	case len(d) == 1:
		return t.Key.Atomic.appendAtom(b, d[0])
	default:
		b = append(b, `["set",[`...)
		for i := range d {
			b = t.Key.Atomic.appendAtom(comma(b, i), d[i])
		}
	}
	return append(b, "]]"...)
}

// comma adds a comma before every element but the first.
func comma(b []byte, i int) []byte {
	if i > 0 {
		b = append(b, ',')
	}
	return b
}

// find returns where the element with the given key is in d, or would be.
func (t *Type) find(d Datum, key Atom) (int, bool) {
	s := t.stride()
	low, high := 0, len(d)/s
	for low < high {
		mid := int(uint(low+high) / 2)
		switch c := t.Key.Atomic.compare(d[mid*s], key); {
		case c == 0:
			return mid * s, true
		case c < 0:
			low = mid + 1
		default:
			high = mid
		}
	}
	return low * s, false
}

// Includes reports whether all elements of sub are in d.
func (t *Type) Includes(d, sub Datum) bool {
	for i := 0; i < len(sub); i += t.stride() {
		if !t.has(d, sub, i) {
			return false
		}
	}
	return true
}

// Excludes reports whether no element of sub is in d.
func (t *Type) Excludes(d, sub Datum) bool {
	for i := 0; i < len(sub); i += t.stride() {
		if t.has(d, sub, i) {
			return false
		}
	}
	return true
}

// has reports whether element i of sub is in d, with the same value in a map.
func (t *Type) has(d, sub Datum, i int) bool {
	at, ok := t.find(d, sub[i])
	return ok && (t.Value == nil || d[at+1] == sub[i+1])
}

// Compare orders two values: shorter ones first, then by elements.
func (t *Type) Compare(a, b Datum) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	for i := range a {
		atomic := t.Key.Atomic
		if t.Value != nil && i%2 == 1 {
			atomic = t.Value.Atomic
		}
		if c := atomic.compare(a[i], b[i]); c != 0 {
			return c
		}
	}
	return 0
}

// Equal reports whether a and b, of one type, are the same value.
func Equal(a, b Datum) bool { return slices.Equal(a, b) }
