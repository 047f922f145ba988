package flows

import (
	"errors"
	"fmt"

	"millrace/control/logical"
)

// A Problem says why a flow is not in force.
type Problem struct {
	Missing bool   // what it refers to is not there: it comes into force with that
	Where   string // "match" or "actions", or empty
	Column  int    // of that text, in bytes from 1; 0: of none
	Reason  string
}

// Error is "match: column 5: reason".
func (p *Problem) Error() string {
	switch {
	case p.Where == "":
		return p.Reason
	case p.Column == 0:
		return p.Where + ": " + p.Reason
	}
	return fmt.Sprintf("%s: column %d: %s", p.Where, p.Column, p.Reason)
}

// missing is a problem that goes when something comes.
func missing(format string, args ...any) *Problem {
	return &Problem{Missing: true, Reason: fmt.Sprintf(format, args...)}
}

// wrong is a problem of a text, at a word of it.
func wrong(where, text, word, format string, args ...any) *Problem {
	return &Problem{Where: where, Column: logical.Column(text, word), Reason: fmt.Sprintf(format, args...)}
}

// ofText is what is wrong with a text as package logical says it.
func ofText(where string, err error) *Problem {
	var e *logical.Error
	if errors.As(err, &e) {
		return &Problem{Where: where, Column: e.Column, Reason: e.Reason}
	}
	return &Problem{Where: where, Reason: err.Error()}
}
