package ovsdb

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"millrace/control/ovsdb/jsonval"
)

// A scanner reads JSON from the front of its text. After the first error it reads
// nothing more, so whoever uses it looks at err when he is done.
type scanner struct {
	text  []byte
	pos   int
	err   error
	known *strs // may be nil
}

// strs has strings that were read lately: values of rows come again and again.
type strs struct {
	seed maphash.Seed
	last [1 << 10]string
}

// knownMax is the length in bytes up to which strings are looked for in strs.
const knownMax = 128

// of returns b as a string.
func (s *strs) of(b []byte) string {
	if s == nil || len(b) > knownMax {
		return string(b)
	}
	at := &s.last[maphash.Bytes(s.seed, b)%uint64(len(s.last))]
	if *at != string(b) {
		*at = string(b)
	}
	return *at
}

// fail notes an error where the scanner is.
func (s *scanner) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("at byte %d: %s", s.pos, fmt.Sprintf(format, args...))
	}
	s.pos = len(s.text)
}

// peek skips white space and returns the next byte, without taking it; 0 at the end.
func (s *scanner) peek() byte {
	for ; s.pos < len(s.text); s.pos++ {
		switch c := s.text[s.pos]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// take takes c, and reports whether it was next.
func (s *scanner) take(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.pos++
	return true
}

// want takes c, or fails.
func (s *scanner) want(c byte) {
	if !s.take(c) {
		s.fail("expected %q", c)
	}
}

// each calls f for each element up to the closing byte end. The opening one is
// taken.
func (s *scanner) each(end byte, f func()) {
	if s.take(end) {
		return
	}
	for s.err == nil {
		f()
		if !s.take(',') {
			s.want(end)
			return
		}
	}
}

// array calls f for each element of an array.
func (s *scanner) array(f func()) {
	s.want('[')
	s.each(']', f)
}

// object calls f for each name of an object; f reads the value. The name holds until
// then.
func (s *scanner) object(f func(name []byte)) {
	s.want('{')
	s.each('}', func() {
		name := s.bytes()
		s.want(':')
		if s.err == nil {
			f(name)
		}
	})
}

// bytes reads a string. What it returns may be a part of the text.
func (s *scanner) bytes() []byte {
	if s.peek() != '"' {
		s.fail("expected a string")
		return nil
	}
	rest := s.text[s.pos+1:]
	n := bytes.IndexByte(rest, '"')
	if n < 0 {
		s.fail("string without an end")
		return nil
	}
	if bytes.IndexByte(rest[:n], '\\') >= 0 {
		return s.escaped()
	}
	s.pos += n + 2
	return rest[:n]
}

// escaped reads a string that has escapes.
func (s *scanner) escaped() []byte {
	start := s.pos
	s.pass()
	if s.err != nil {
		return nil
	}
	text := s.text[start:s.pos]
	if out, ok := unescape(text[1 : len(text)-1]); ok {
		return out
	}
	var out string
	if err := json.Unmarshal(text, &out); err != nil {
		s.pos = start
		s.fail("string: %v", err)
		return nil
	}
	return []byte(out)
}

// unescape returns what a string says that has no other escapes than quotes and
// backslashes, as most texts of rows have: ten times as fast as the library.
func unescape(b []byte) (out []byte, ok bool) {
	out = make([]byte, 0, len(b))
	for len(b) > 0 {
		n := jsonval.Plain(b)
		if out, b = append(out, b[:n]...), b[n:]; len(b) == 0 || b[0] != '\\' {
			continue
		}
		if b[1] != '"' && b[1] != '\\' { // pass has seen that something follows
			return nil, false
		}
		out, b = append(out, b[1]), b[2:]
	}
	return out, true
}

// str reads a string. What is not UTF-8 in it becomes U+FFFD.
func (s *scanner) str() string {
	b := s.bytes()
	if !utf8.Valid(b) {
		return strings.ToValidUTF8(string(b), "\ufffd")
	}
	return s.known.of(b)
}

// number returns the text of a number.
func (s *scanner) number() string {
	s.peek()
	start := s.pos
	for s.pos < len(s.text) && (s.text[s.pos] >= '0' && s.text[s.pos] <= '9' || bytes.IndexByte([]byte("+-.eE"), s.text[s.pos]) >= 0) {
		s.pos++
	}
	if s.pos == start {
		s.fail("expected a number")
	}
	return string(s.text[start:s.pos])
}

// integer reads a whole number.
func (s *scanner) integer() int {
	text := s.number()
	if s.err != nil {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err == nil {
		return n
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) >= 1<<63 {
		s.fail("%.40s is no integer", text)
		return 0
	}
	return int(f)
}

// real reads a number.
func (s *scanner) real() float64 {
	text := s.number()
	if s.err != nil {
		return 0
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		s.fail("%.40s is no number", text)
	}
	return f
}

// boolean reads true or false.
func (s *scanner) boolean() bool {
	switch {
	case s.word("true"):
		return true
	case s.word("false"):
		return false
	}
	s.fail("expected true or false")
	return false
}

// word takes a literal, and reports whether it was next.
func (s *scanner) word(w string) bool {
	s.peek()
	if !bytes.HasPrefix(s.text[s.pos:], []byte(w)) {
		return false
	}
	s.pos += len(w)
	return true
}

// skip reads a value of any kind and returns its text. It looks for its end only.
func (s *scanner) skip() []byte {
	s.peek()
	start := s.pos
	depth := 0
	for s.err == nil {
		switch c := s.peek(); {
		case c == '"':
			s.pass()
		case c == '{' || c == '[':
			s.pos++
			depth++
			continue
		case (c == '}' || c == ']') && depth > 0:
			s.pos++
			depth--
		case (c == ',' || c == ':') && depth > 0:
			s.pos++
			continue
		default:
			s.literal()
		}
		if depth == 0 {
			break
		}
	}
	if s.err != nil {
		return nil
	}
	return s.text[start:s.pos]
}

// pass passes over a string.
func (s *scanner) pass() {
	for i := s.pos + 1; i < len(s.text); i++ {
		if i += jsonval.Plain(s.text[i:]); i == len(s.text) {
			break
		}
		switch s.text[i] {
		case '\\':
			i++
		case '"':
			s.pos = i + 1
			return
		}
	}
	s.fail("string without an end")
}

// literal passes over a number, true, false or null.
func (s *scanner) literal() {
	start := s.pos
	for s.pos < len(s.text) {
		c := s.text[s.pos]
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && bytes.IndexByte([]byte("+-.E"), c) < 0 {
			break
		}
		s.pos++
	}
	if s.pos == start {
		s.fail("expected a value")
	}
}
