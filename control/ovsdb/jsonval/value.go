// Package jsonval holds JSON as a tree of values, as OVSDB's notation wants it:
// integers keep 64 bits, and the order of members stays.
//
// encoding/json would either lose integers over 2^53 or scan every level of a
// nested raw message again; a transaction is five levels deep. Parse is tested
// against encoding/json.
package jsonval

import "math"

// A Kind says what a Value holds.
type Kind uint8

// The kinds of JSON values. A number whose value is a whole number that fits
// in 64 bits is an Integer, however it is written.
const (
	Null Kind = iota
	False
	True
	Integer
	Real
	String
	Array
	Object
)

// A Value is one JSON value. The zero Value is null.
type Value struct {
	Kind  Kind
	num   uint64  // Integer: two's complement; Real: its bits
	Str   string  // String
	Elems []Value // Array: its elements; Object: names (Strings) and values in turn
}

// Int returns the number that an Integer holds.
func (v Value) Int() int64 { return int64(v.num) }

// Float returns the number that an Integer or a Real holds.
func (v Value) Float() float64 {
	if v.Kind == Integer {
		return float64(int64(v.num))
	}
	return math.Float64frombits(v.num)
}

// IsBool reports whether v is true or false.
func (v Value) IsBool() bool { return v.Kind == True || v.Kind == False }

// Get returns member name of an object, the last one if there are several.
func (v Value) Get(name string) (Value, bool) {
	if v.Kind != Object {
		return Value{}, false
	}
	for i := len(v.Elems) - 2; i >= 0; i -= 2 {
		if v.Elems[i].Str == name {
			return v.Elems[i+1], true
		}
	}
	return Value{}, false
}

// Members calls f for each member of an object in order until f returns false.
func (v Value) Members(f func(name string, val Value) bool) {
	if v.Kind != Object {
		return
	}
	for i := 0; i+1 < len(v.Elems); i += 2 {
		if !f(v.Elems[i].Str, v.Elems[i+1]) {
			return
		}
	}
}

// OfString returns s as a Value.
func OfString(s string) Value { return Value{Kind: String, Str: s} }

// OfInt returns n as a Value.
func OfInt(n int64) Value { return Value{Kind: Integer, num: uint64(n)} }

// OfFloat returns f, which must be finite, as a Value.
func OfFloat(f float64) Value { return Value{Kind: Real, num: math.Float64bits(f)} }

// OfBool returns b as a Value.
func OfBool(b bool) Value {
	if b {
		return Value{Kind: True}
	}
	return Value{Kind: False}
}

// OfArray returns an array of elems.
func OfArray(elems ...Value) Value { return Value{Kind: Array, Elems: elems} }

// OfObject returns an object of names and values in turn.
func OfObject(members ...Value) Value { return Value{Kind: Object, Elems: members} }
