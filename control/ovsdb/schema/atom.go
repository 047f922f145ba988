package schema

import (
	"cmp"
	"math"
	"strings"
	"unicode/utf8"

	"millrace/control/ovsdb/jsonval"
)

// Atomic is an <atomic-type>.
type Atomic uint8

// The atomic types.
const (
	Integer Atomic = iota
	Real
	Boolean
	String
	UUIDType
)

// atomicNames are the types as a schema writes them.
var atomicNames = [...]string{"integer", "real", "boolean", "string", "uuid"}

func (t Atomic) String() string { return atomicNames[t] }

// An Atom is one value of an atomic type, which it does not know. Two atoms of
// a type are equal when == says so.
type Atom struct {
	n uint64 // Integer, Boolean: the value; Real: its bits, and never -0
	s string // String: the value; UUIDType: the 16 bytes
}

// IntAtom returns n as an Atom.
func IntAtom(n int64) Atom { return Atom{n: uint64(n)} }

// RealAtom returns f as an Atom.
func RealAtom(f float64) Atom {
	if f == 0 {
		f = 0 // -0 is 0, so that equal values have equal bits
	}
	return Atom{n: math.Float64bits(f)}
}

// BoolAtom returns b as an Atom.
func BoolAtom(b bool) Atom {
	if b {
		return Atom{n: 1}
	}
	return Atom{}
}

// StringAtom returns s as an Atom.
func StringAtom(s string) Atom { return Atom{s: s} }

// UUIDAtom returns u as an Atom.
func UUIDAtom(u UUID) Atom { return Atom{s: string(u)} }

// Int returns the value of an Integer.
func (a Atom) Int() int64 { return int64(a.n) }

// Real returns the value of a Real.
func (a Atom) Real() float64 { return math.Float64frombits(a.n) }

// Str returns the value of a String.
func (a Atom) Str() string { return a.s }

// UUID returns the value of a UUIDType.
func (a Atom) UUID() UUID { return UUID(a.s) }

// compare orders two atoms of type t.
func (t Atomic) compare(a, b Atom) int {
	switch t {
	case Integer:
		return cmp.Compare(a.Int(), b.Int())
	case Real:
		return cmp.Compare(a.Real(), b.Real())
	case Boolean:
		return cmp.Compare(a.n, b.n)
	}
	return strings.Compare(a.s, b.s)
}

// Compare orders two atoms of type t.
func (t Atomic) Compare(a, b Atom) int { return t.compare(a, b) }

// zero returns t's default value.
func (t Atomic) zero() Atom {
	if t == UUIDType {
		return UUIDAtom(ZeroUUID)
	}
	return Atom{}
}

// appendAtom adds a, of type t, as JSON.
func (t Atomic) appendAtom(b []byte, a Atom) []byte {
	switch t {
	case Integer:
		return jsonval.OfInt(a.Int()).Append(b)
	case Real:
		return jsonval.AppendFloat(b, a.Real())
	case Boolean:
		return jsonval.OfBool(a.n != 0).Append(b)
	case UUIDType:
		b = append(b, `["uuid","`...)
		return append(a.UUID().Append(b), `"]`...)
	}
	return jsonval.AppendString(b, a.s)
}

// Symbols turns the name of a ["named-uuid", name] into the UUID of its row.
type Symbols func(name string) UUID

// parse reads one atom of type t. Without symbols it takes no named UUIDs.
func (t Atomic) parse(v jsonval.Value, symbols Symbols) (Atom, *Error) {
	switch t {
	case Integer:
		if v.Kind == jsonval.Integer {
			return IntAtom(v.Int()), nil
		}
	case Real:
		if v.Kind == jsonval.Integer || v.Kind == jsonval.Real {
			return RealAtom(v.Float()), nil
		}
	case Boolean:
		if v.IsBool() {
			return BoolAtom(v.Kind == jsonval.True), nil
		}
	case String:
		if v.Kind == jsonval.String {
			return StringAtom(v.Str), nil
		}
	case UUIDType:
		if u, ok := parseTaggedUUID(v, symbols); ok {
			return UUIDAtom(u), nil
		}
	}
	return Atom{}, Errorf(Syntax, "expected %s, found %s", t, clip(v))
}

// parseTaggedUUID reads ["uuid", text] or ["named-uuid", name].
func parseTaggedUUID(v jsonval.Value, symbols Symbols) (UUID, bool) {
	if v.Kind != jsonval.Array || len(v.Elems) != 2 || v.Elems[1].Kind != jsonval.String {
		return "", false
	}
	switch text := v.Elems[1].Str; v.Elems[0].Str {
	case "uuid":
		return ParseUUID(text)
	case "named-uuid":
		if symbols != nil && IsID(text) {
			return symbols(text), true
		}
	}
	return "", false
}

// IsID reports whether s is an <id>: a letter or _, then letters, digits and _.
func IsID(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// clip returns v's text, shortened for a message.
func clip(v jsonval.Value) string {
	s := v.String()
	if len(s) <= 60 {
		return s
	}
	n := 57
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}
