package jsonval

import (
	"bytes"
	"errors"
)

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
	for i := 0; i < len(b); i++ {
		if f.inString && !f.escape {
			i += Plain(b[i:])
			if i == len(b) {
				break
			}
		}
		c := b[i]
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

// plainMax is how far Plain looks: a string of escapes costs each of them as much.
const plainMax = 128

// Plain returns a number of bytes in front of b, which is in a string, that neither
// end it nor begin an escape: all that there are, if they are not very many.
func Plain(b []byte) int {
	b = b[:min(len(b), plainMax)]
	if n := bytes.IndexByte(b, '"'); n >= 0 {
		b = b[:n]
	}
	if n := bytes.IndexByte(b, '\\'); n >= 0 {
		return n
	}
	return len(b)
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
