package logical

import (
	"fmt"
	"strings"
)

// kind is the type of a token.
type kind uint8

const (
	tokEnd      kind = iota
	tokBad           // not a token; the lexer's error says why
	tokID            // name, with its dots
	tokString        // "text"
	tokInt           // number, also with a mask
	tokSet           // $name
	tokGroup         // @name
	tokTemplate      // ^name
	tokLParen
	tokRParen
	tokLBrace
	tokRBrace
	tokLSquare
	tokRSquare
	tokEQ
	tokNE
	tokLT
	tokLE
	tokGT
	tokGE
	tokNot
	tokAnd
	tokOr
	tokEllipsis
	tokComma
	tokSemicolon
	tokAssign
	tokExchange
	tokDecrement
	tokColon
	tokHyphen
)

// spelling returns how a token of kind k is written, for error messages.
func (k kind) spelling() string {
	names := [...]string{"the end", "a token", "a name", "a string", "a number", "an address set", "a port group", "a template variable",
		"'('", "')'", "'{'", "'}'", "'['", "']'", "'=='", "'!='", "'<'", "'<='", "'>'", "'>='", "'!'", "'&&'", "'||'", "'..'",
		"','", "';'", "'='", "'<->'", "'--'", "':'", "'-'"}
	return names[k]
}

// token is one word of the input.
type token struct {
	kind   kind
	format Format // of a number
	masked bool   // the number has a mask
	start  int    // offset of the first byte
	end    int    // offset after the last byte
	text   string // name without its sigil, or the string's value
	value  Value  // bits outside mask are clear
	mask   Value  // if masked
}

// lexer cuts text into tokens: tok is the one at hand. After an error it gives
// tokBad for ever, so parsers need not look at err until they end.
type lexer struct {
	text string
	tok  token
	prev int // end of the token before tok
	err  *Error
}

// isNameStart, isName, isDigit and isHex are the byte classes of the language.
func isNameStart(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '.'
}

// IsName reports whether the language can name something so behind $, @ or ^: by
// [a-zA-Z_.][a-zA-Z_.0-9]*, as in OVN (lex_is_id1 and lex_is_idn of lib/lex.c).
func IsName(s string) bool {
	for i := range len(s) {
		if !isName(s[i]) {
			return false
		}
	}
	return s != "" && isNameStart(s[0])
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isName(c byte) bool  { return isNameStart(c) || isDigit(c) }
func isHex(c byte) bool   { return isDigit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' }

// at returns the byte at offset i, or 0 beyond the end.
func (l *lexer) at(i int) byte {
	if i < len(l.text) {
		return l.text[i]
	}
	return 0
}

// fail records the first error, at offset pos, and ends the input.
func (l *lexer) fail(pos int, format string, args ...any) {
	if l.err == nil {
		l.err = &Error{Column: pos + 1, Reason: fmt.Sprintf(format, args...)}
	}
	l.tok = token{kind: tokBad, start: pos, end: pos}
}

// want fails at the token at hand, naming what should stand there.
func (l *lexer) want(what string) {
	l.fail(l.tok.start, "expected %s%s", what, l.context())
}

// context says what the token at hand is and what it follows.
func (l *lexer) context() string {
	found := "the end"
	if l.tok.kind != tokEnd {
		found = clip(l.text[l.tok.start:l.tok.end])
	}
	before := strings.TrimSpace(l.text[:l.prev])
	if before == "" {
		return ", found " + found
	}
	if i := strings.LastIndexAny(before, " \t\n"); i >= 0 {
		before = before[i+1:]
	}
	if len(before) > 24 {
		before = "..." + before[len(before)-24:]
	}
	return fmt.Sprintf(" after %q, found %s", before, found)
}

// clip quotes s, shortened to what a message can carry.
func clip(s string) string {
	if len(s) > 40 {
		s = s[:40] + "..."
	}
	return fmt.Sprintf("%q", s)
}

// next moves to the next token.
func (l *lexer) next() {
	if l.err != nil {
		return
	}
	l.prev = l.tok.end
	l.scan(l.tok.end)
}

// peek returns the kind of the token after the one at hand.
func (l *lexer) peek() kind {
	ahead := lexer{text: l.text}
	ahead.scan(l.tok.end)
	return ahead.tok.kind
}

// match moves on if the token at hand is of kind k, and reports whether it was.
func (l *lexer) match(k kind) bool {
	if l.tok.kind != k {
		return false
	}
	l.next()
	return true
}

// matchName is match for the name s.
func (l *lexer) matchName(s string) bool {
	if l.tok.kind != tokID || l.tok.text != s {
		return false
	}
	l.next()
	return true
}

// force is match that fails if the token is of another kind.
func (l *lexer) force(k kind) {
	if !l.match(k) {
		l.want(k.spelling())
	}
}

// skip returns the offset of the first byte from i that is neither white space
// nor comment, or -1 after an error.
func (l *lexer) skip(i int) int {
	for {
		switch l.at(i) {
		case ' ', '\t', '\n', '\r', '\v', '\f':
			i++
		case '/':
			if i = l.skipComment(i); i < 0 {
				return i
			}
		default:
			return i
		}
	}
}

// skipComment returns the offset after the comment that starts at i.
func (l *lexer) skipComment(i int) int {
	rest := l.text[i:]
	switch l.at(i + 1) {
	case '/':
		if n := strings.IndexByte(rest, '\n'); n >= 0 {
			return i + n
		}
		return len(l.text)
	case '*':
		n := strings.Index(rest[2:], "*/")
		if n < 0 || strings.IndexByte(rest[2:2+n], '\n') >= 0 {
			l.fail(i, "expected '*/' on the same line, the comment has no end")
			return -1
		}
		return i + n + 4
	}
	l.fail(i, "expected a token, '/' stands only in comments and masks")
	return -1
}

// scan makes the token that starts at or after offset i the one at hand.
func (l *lexer) scan(i int) {
	if i = l.skip(i); i < 0 {
		return
	}
	l.tok = token{start: i, end: i}
	if i >= len(l.text) {
		l.tok.kind = tokEnd
		return
	}
	switch c := l.text[i]; {
	case isDigit(c), c == ':' && l.at(i+1) == ':':
		l.scanNumber(i)
	case isHex(c) && l.hexThenColon(i):
		l.scanNumber(i)
	case c == '.' && l.at(i+1) == '.':
		l.punct(tokEllipsis, 2)
	case c == '.':
		l.fail(i, "expected a token, '.' stands only in names, numbers and '..'")
	case isNameStart(c):
		l.scanName(tokID, i)
	case c == '"':
		l.scanString(i)
	case c == '$':
		l.scanSigil(tokSet, i)
	case c == '@':
		l.scanSigil(tokGroup, i)
	case c == '^':
		l.scanSigil(tokTemplate, i)
	default:
		l.scanPunct(c, l.at(i+1))
	}
}

// hexThenColon reports whether the run of hex digits at i ends in a colon: it
// is an Ethernet or IPv6 address then, else a name.
func (l *lexer) hexThenColon(i int) bool {
	for isHex(l.at(i)) {
		i++
	}
	return l.at(i) == ':'
}

// punct makes the next n bytes a token of kind k.
func (l *lexer) punct(k kind, n int) { l.tok.kind, l.tok.end = k, l.tok.start+n }

// scanPunct scans the token that begins with byte c and may go on with d.
func (l *lexer) scanPunct(c, d byte) {
	switch c {
	case '(':
		l.punct(tokLParen, 1)
	case ')':
		l.punct(tokRParen, 1)
	case '{':
		l.punct(tokLBrace, 1)
	case '}':
		l.punct(tokRBrace, 1)
	case '[':
		l.punct(tokLSquare, 1)
	case ']':
		l.punct(tokRSquare, 1)
	case ',':
		l.punct(tokComma, 1)
	case ';':
		l.punct(tokSemicolon, 1)
	case ':':
		l.punct(tokColon, 1)
	case '=':
		l.pair(d, '=', tokEQ, tokAssign)
	case '!':
		l.pair(d, '=', tokNE, tokNot)
	case '>':
		l.pair(d, '=', tokGE, tokGT)
	case '-':
		l.pair(d, '-', tokDecrement, tokHyphen)
	case '<':
		if d == '-' && l.at(l.tok.start+2) == '>' {
			l.punct(tokExchange, 3)
			return
		}
		l.pair(d, '=', tokLE, tokLT)
	case '&':
		l.pair(d, '&', tokAnd, tokBad)
	case '|':
		l.pair(d, '|', tokOr, tokBad)
	default:
		l.fail(l.tok.start, "expected a token, found %q", l.text[l.tok.start:l.tok.start+1])
	}
}

// pair makes a token of kind two if d is the second byte, else of kind one.
func (l *lexer) pair(d, second byte, two, one kind) {
	switch {
	case d == second:
		l.punct(two, 2)
	case one == tokBad:
		l.fail(l.tok.start, "expected %s", two.spelling())
	default:
		l.punct(one, 1)
	}
}

// scanName scans the name at i.
func (l *lexer) scanName(k kind, i int) {
	from := i
	for isName(l.at(i)) {
		i++
	}
	l.tok.kind, l.tok.text, l.tok.end = k, l.text[from:i], i
}

// scanSigil scans a name that a sigil announces.
func (l *lexer) scanSigil(k kind, i int) {
	if !isNameStart(l.at(i + 1)) {
		l.fail(i, "expected a name after '%c'", l.text[i])
		return
	}
	l.scanName(k, i+1)
}
