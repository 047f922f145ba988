package schema

import (
	"fmt"

	"millrace/control/ovsdb/jsonval"
)

// An Error is an <error> of RFC 7047 3.1. Its names are the RFC's and those of
// the stock server, because clients branch on them.
type Error struct {
	Name    string // for example "constraint violation"
	Details string
}

// The names of errors that more than one place makes.
const (
	Syntax     = "syntax error"
	Constraint = "constraint violation"
	Domain     = "domain error"
	Range      = "range error"
	Duplicate  = "ovsdb error" // a set or map with an element twice; the stock server has no better name
	Integrity  = "referential integrity violation"
)

// Errorf returns the error of the given name.
func Errorf(name, format string, args ...any) *Error {
	return &Error{name, fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string {
	if e.Details == "" {
		return e.Name
	}
	return e.Name + ": " + e.Details
}

// JSON returns e as it goes to a client.
func (e *Error) JSON() jsonval.Value {
	v := jsonval.OfObject(jsonval.OfString("error"), jsonval.OfString(e.Name))
	if e.Details != "" {
		v.Elems = append(v.Elems, jsonval.OfString("details"), jsonval.OfString(e.Details))
	}
	return v
}
