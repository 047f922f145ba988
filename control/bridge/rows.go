package bridge

import (
	"errors"
	"fmt"

	"millrace/control/ovsdb/model"
)

// Rows are the rows that matter, by UUID. They are read only.
type Rows struct {
	Root       *model.OpenvSwitch // nil before `ovs-vsctl init`
	Bridges    map[string]*model.Bridge
	Ports      map[string]*model.Port
	Interfaces map[string]*model.Interface
	QoS        map[string]*model.QoS
}

// Errors that a RowError wraps, for who counts them.
var (
	// ErrNotYet says that a later release will be able to do it.
	ErrNotYet = errors.New("not supported yet")
	// ErrUnknown says that nobody knows what is meant.
	ErrUnknown = errors.New("unknown")
	// ErrValue says that a value is not one that the column may have.
	ErrValue = errors.New("bad value")
	// ErrConflict says that rows contradict each other.
	ErrConflict = errors.New("conflict")
)

// A RowError says what is wrong with a row.
type RowError struct {
	Table, Row, Column string // Row is its name
	Err                error
}

// Error implements error.
func (e *RowError) Error() string {
	return fmt.Sprintf("%s %s: %s: %v", e.Table, short(e.Row), e.Column, e.Err)
}

// Unwrap lends Err to errors.Is.
func (e *RowError) Unwrap() error { return e.Err }

// shortMax is how much of a text from a row is repeated in an error.
const shortMax = 60

// short is s, or its beginning if it is long.
func short(s string) string {
	if len(s) <= shortMax {
		return s
	}
	cut := shortMax
	for cut > 0 && s[cut]&0xc0 == 0x80 { // not in the middle of a character
		cut--
	}
	return fmt.Sprintf("%s... (%d bytes)", s[:cut], len(s))
}

// bad, notYet, unknown and conflict make errors that say why.
func bad(format string, args ...any) error { return problem(ErrValue, format, args...) }

func notYet(format string, args ...any) error { return problem(ErrNotYet, ": "+format, args...) }

func unknown(format string, args ...any) error { return problem(ErrUnknown, " "+format, args...) }

func conflict(format string, args ...any) error { return problem(ErrConflict, format, args...) }

// A fault is a kind and a text.
type fault struct {
	kind error
	text string
}

func problem(kind error, format string, args ...any) error {
	return &fault{kind, fmt.Sprintf(format, args...)}
}

// Error is the text, for the two kinds that it does not speak of after them.
func (f *fault) Error() string {
	if errors.Is(f.kind, ErrNotYet) || errors.Is(f.kind, ErrUnknown) {
		return f.kind.Error() + f.text
	}
	return f.text
}

// Unwrap lends the kind to errors.Is.
func (f *fault) Unwrap() error { return f.kind }
