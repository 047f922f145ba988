package jsonval

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is how deep arrays and objects may nest, as in Open vSwitch.
const maxDepth = 1000

var (
	errEnd   = errors.New("json: unexpected end of input")
	errDepth = fmt.Errorf("json: nested deeper than %d", maxDepth)
	errMany  = errors.New("json: too many values")
)

// A parser reads one value. Its input outlives the result by nothing: strings
// are copied.
type parser struct {
	in    []byte
	pos   int
	depth int
	left  int               // values that may still come
	stack []Value           // elements of what is not closed yet
	short map[string]string // short strings seen: names and tags come again and again
}

// shortLen is the length up to which strings are kept once.
const shortLen = 16

// text returns b as a string.
func (p *parser) text(b []byte) string {
	if len(b) > shortLen {
		return string(b)
	}
	if s, ok := p.short[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(p.short) < 1000 {
		p.short[s] = s
	}
	return s
}

// Parse returns the one value that in holds. Strings must be UTF-8 and hold no
// NUL, as in Open vSwitch.
func Parse(in []byte) (Value, error) { return ParseMax(in, len(in)) }

// ParseMax is Parse for input that may hold at most so many values, names of
// members included. A value takes some 60 bytes of memory, and may take two of
// the input.
func ParseMax(in []byte, values int) (Value, error) {
	p := parser{in: in, left: values, short: map[string]string{}}
	v, err := p.value()
	if err != nil {
		return Value{}, err
	}
	if c, ok := p.next(); ok {
		return Value{}, p.unexpected(c)
	}
	return v, nil
}

// next skips white space and returns the byte after it, without taking it.
func (p *parser) next() (byte, bool) {
	for p.pos < len(p.in) {
		switch c := p.in[p.pos]; c {
		case ' ', '\t', '\n', '\r':
			p.pos++
		default:
			return c, true
		}
	}
	return 0, false
}

func (p *parser) unexpected(c byte) error {
	return fmt.Errorf("json: unexpected %q at byte %d", c, p.pos)
}

func (p *parser) value() (Value, error) {
	c, ok := p.next()
	if p.left--; p.left < 0 {
		return Value{}, errMany
	}
	switch {
	case !ok:
		return Value{}, errEnd
	case c == '{':
		return p.object()
	case c == '[':
		return p.array()
	case c == '"':
		s, err := p.str()
		return Value{Kind: String, Str: s}, err
	case c == 't':
		return Value{Kind: True}, p.word("true")
	case c == 'f':
		return Value{Kind: False}, p.word("false")
	case c == 'n':
		return Value{}, p.word("null")
	case c == '-' || '0' <= c && c <= '9':
		return p.number()
	}
	return Value{}, p.unexpected(c)
}

func (p *parser) word(w string) error {
	if rest := p.in[p.pos:]; len(rest) < len(w) || string(rest[:len(w)]) != w {
		return p.unexpected(rest[0])
	}
	p.pos += len(w)
	return nil
}

// enter takes the opening bracket, and says whether the closing one follows.
func (p *parser) enter(end byte) (empty bool, err error) {
	if p.depth++; p.depth > maxDepth {
		return false, errDepth
	}
	p.pos++
	c, ok := p.next()
	if !ok {
		return false, errEnd
	}
	if c == end {
		p.pos++
		p.depth--
		return true, nil
	}
	return false, nil
}

// more takes the comma or the closing bracket after an element.
func (p *parser) more(end byte) (bool, error) {
	c, ok := p.next()
	switch {
	case !ok:
		return false, errEnd
	case c == ',':
		p.pos++
		return true, nil
	case c == end:
		p.pos++
		p.depth--
		return false, nil
	}
	return false, p.unexpected(c)
}

func (p *parser) array() (Value, error) {
	start := len(p.stack)
	empty, err := p.enter(']')
	for more := !empty; more && err == nil; {
		var e Value
		if e, err = p.value(); err != nil {
			break
		}
		p.stack = append(p.stack, e)
		more, err = p.more(']')
	}
	return p.pop(Array, start), err
}

func (p *parser) object() (Value, error) {
	start := len(p.stack)
	empty, err := p.enter('}')
	for more := !empty; more && err == nil; {
		var name string
		var e Value
		if name, err = p.name(); err != nil {
			break
		}
		p.stack = append(p.stack, Value{Kind: String, Str: name})
		if e, err = p.value(); err != nil {
			break
		}
		p.stack = append(p.stack, e)
		more, err = p.more('}')
	}
	return p.pop(Object, start), err
}

// pop takes the elements from start on off the stack, as an array or object.
func (p *parser) pop(kind Kind, start int) Value {
	v := Value{Kind: kind}
	if n := len(p.stack) - start; n > 0 {
		v.Elems = make([]Value, n)
		copy(v.Elems, p.stack[start:])
		p.stack = p.stack[:start]
	}
	return v
}

// name takes a member's name and the colon after it.
func (p *parser) name() (string, error) {
	c, ok := p.next()
	if !ok {
		return "", errEnd
	}
	if c != '"' {
		return "", p.unexpected(c)
	}
	p.left--
	s, err := p.str()
	if err != nil {
		return "", err
	}
	if c, ok = p.next(); !ok {
		return "", errEnd
	}
	if c != ':' {
		return "", p.unexpected(c)
	}
	p.pos++
	return s, nil
}

// str takes a string. Without escapes it is one copy of the input.
func (p *parser) str() (string, error) {
	p.pos++
	start := p.pos
	for ; p.pos < len(p.in); p.pos++ {
		switch c := p.in[p.pos]; {
		case c == '"':
			return p.copied(start)
		case c == '\\':
			return p.escaped(start)
		case c < 0x20:
			return "", p.unexpected(c)
		}
	}
	return "", errEnd
}

// copied ends a string that started at start and had no escapes.
func (p *parser) copied(start int) (string, error) {
	b := p.in[start:p.pos]
	p.pos++
	if !utf8.Valid(b) {
		return "", fmt.Errorf("json: string at byte %d is not UTF-8", start)
	}
	return p.text(b), nil
}

// escaped takes the rest of a string from its first escape on.
func (p *parser) escaped(start int) (string, error) {
	b := append([]byte(nil), p.in[start:p.pos]...)
	for p.pos < len(p.in) {
		c := p.in[p.pos]
		switch {
		case c == '"':
			p.pos++
			if !utf8.Valid(b) {
				return "", fmt.Errorf("json: string at byte %d is not UTF-8", start)
			}
			return string(b), nil
		case c < 0x20:
			return "", p.unexpected(c)
		case c == '\\':
			r, err := p.escape()
			if err != nil {
				return "", err
			}
			b = utf8.AppendRune(b, r)
		default:
			b = append(b, c)
			p.pos++
		}
	}
	return "", errEnd
}

// escape takes one escape sequence, surrogate pairs together.
func (p *parser) escape() (rune, error) {
	if p.pos+1 >= len(p.in) {
		return 0, errEnd
	}
	c := p.in[p.pos+1]
	p.pos += 2
	switch c {
	case '"', '\\', '/':
		return rune(c), nil
	case 'b':
		return '\b', nil
	case 'f':
		return '\f', nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'u':
		return p.unicode()
	}
	return 0, fmt.Errorf("json: bad escape \\%c at byte %d", c, p.pos-2)
}

// unicode takes the digits after \u, and a second half where one is due.
func (p *parser) unicode() (rune, error) {
	r, err := p.hex4()
	if err != nil || !utf16.IsSurrogate(r) {
		if err == nil && r == 0 {
			err = errors.New("json: NUL in a string")
		}
		return r, err
	}
	if p.pos+1 >= len(p.in) || p.in[p.pos] != '\\' || p.in[p.pos+1] != 'u' {
		return 0, errors.New("json: half a surrogate pair")
	}
	p.pos += 2
	low, err := p.hex4()
	if err != nil {
		return 0, err
	}
	if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
		return 0, errors.New("json: bad surrogate pair")
	}
	return r, nil
}

func (p *parser) hex4() (rune, error) {
	if p.pos+4 > len(p.in) {
		return 0, errEnd
	}
	n, err := strconv.ParseUint(string(p.in[p.pos:p.pos+4]), 16, 16)
	if err != nil {
		return 0, fmt.Errorf("json: bad \\u escape at byte %d", p.pos)
	}
	p.pos += 4
	return rune(n), nil
}

// digits takes as many decimal digits as follow.
func (p *parser) digits() int {
	start := p.pos
	for p.pos < len(p.in) && '0' <= p.in[p.pos] && p.in[p.pos] <= '9' {
		p.pos++
	}
	return p.pos - start
}

// peek reports whether the next byte is one of set.
func (p *parser) peek(a, b byte) bool {
	return p.pos < len(p.in) && (p.in[p.pos] == a || p.in[p.pos] == b)
}

// number takes a number by JSON's grammar (RFC 8259 6).
func (p *parser) number() (Value, error) {
	start := p.pos
	bad := func() (Value, error) { return Value{}, fmt.Errorf("json: bad number at byte %d", start) }
	if p.peek('-', '-') {
		p.pos++
	}
	zero := p.peek('0', '0')
	if n := p.digits(); n == 0 || zero && n > 1 {
		return bad()
	}
	whole := true
	if p.peek('.', '.') {
		p.pos++
		if whole = false; p.digits() == 0 {
			return bad()
		}
	}
	if p.peek('e', 'E') {
		p.pos++
		if p.peek('+', '-') {
			p.pos++
		}
		if whole = false; p.digits() == 0 {
			return bad()
		}
	}
	return numberOf(string(p.in[start:p.pos]), whole)
}

// numberOf converts text, a number by the grammar; whole says that it has
// neither fraction nor exponent.
func numberOf(text string, whole bool) (Value, error) {
	if whole {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return OfInt(n), nil
		}
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return Value{}, fmt.Errorf("json: number %s is out of range", text)
	}
	if f == math.Trunc(f) && f >= -1<<63 && f < 1<<63 {
		return OfInt(int64(f)), nil
	}
	return OfFloat(f), nil
}
