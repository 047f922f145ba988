package jsonval

import "errors"

// ErrFrame means that a stream holds something other than objects one after
// another. Nothing after it can be trusted.
var ErrFrame = errors.New("json: stream holds something that is no object")

// A Framer finds where objects end in a stream that holds nothing else, byte
// by byte: it may be fed any pieces. It only counts brackets; Parse judges.
type Framer struct {
	depth    int
	inString bool
	escape   bool // the byte before was a backslash in a string
}

// Feed reads b and returns how many bytes of it belong to the object that is
// being read; done says that the object is complete.
func (f *Framer) Feed(b []byte) (n int, done bool, err error) {
	for i, c := range b {
		switch {
		case f.inString:
			f.feedString(c)
		case c == '"':
			f.inString = true
		case c == '{' || c == '[':
			f.depth++
			continue
		case c == '}' || c == ']':
			if f.depth--; f.depth == 0 {
				return i + 1, true, nil
			}
		}
		if f.depth <= 0 && !isSpace(c) {
			return i, false, ErrFrame
		}
	}
	return len(b), false, nil
}

// feedString reads one byte of a string.
func (f *Framer) feedString(c byte) {
	switch {
	case f.escape:
		f.escape = false
	case c == '\\':
		f.escape = true
	case c == '"':
		f.inString = false
	}
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }
