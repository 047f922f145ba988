package logical

import (
	"errors"
	"fmt"
)

// Error is a text that is not in the language.
type Error struct {
	Column int    // of the first byte that does not fit, counted in bytes from 1
	Reason string // what was expected there, or what is wrong
}

// Error returns "column N: reason".
func (e *Error) Error() string { return fmt.Sprintf("column %d: %s", e.Column, e.Reason) }

var (
	// ErrTooComplex is wrapped by Compile's error when a match needs more
	// clauses, or more work to find them, than Options allow.
	ErrTooComplex = errors.New("match too complex")

	// ErrUnknownSet is wrapped by Resolve's error when a match names an
	// address set or port group that does not exist (yet): the rule must wait.
	ErrUnknownSet = errors.New("unknown set")

	// ErrUndefinedVariable is wrapped by Expand's error when a template
	// variable has no value.
	ErrUndefinedVariable = errors.New("undefined template variable")
)
