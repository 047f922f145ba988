package logical

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// scanString scans the string that starts at i: between quotes, with JSON's
// escapes (RFC 8259 7). Bytes that are not UTF-8 stay as they are.
func (l *lexer) scanString(i int) {
	end, escaped := i+1, false
	for end < len(l.text) && l.text[end] != '"' {
		if l.text[end] == '\\' {
			escaped = true
			end++
		}
		end++
	}
	if end >= len(l.text) {
		l.fail(i, "expected '\"', the string has no end")
		return
	}
	s := l.text[i+1 : end]
	if escaped {
		var bad int
		if s, bad = unescape(s); bad >= 0 {
			l.fail(i+1+bad, "expected one of the escapes of JSON")
			return
		}
	}
	l.tok.kind, l.tok.text, l.tok.end = tokString, s, end+1
}

// unescape returns s without its JSON escapes, or the offset of a bad one
// (else -1). \u0000 is one: names end there for others.
func unescape(s string) (string, int) {
	var b strings.Builder
	for i := 0; i < len(s); {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			i++
			continue
		}
		if i+1 >= len(s) {
			return "", i
		}
		if at := strings.IndexByte(`"\/bfnrt`, s[i+1]); at >= 0 {
			b.WriteByte("\"\\/\b\f\n\r\t"[at])
			i += 2
			continue
		}
		r, n := escapedRune(s[i:])
		if n == 0 || r == 0 {
			return "", i
		}
		b.WriteRune(r)
		i += n
	}
	return b.String(), -1
}

// escapedRune reads the \uXXXX escape, or pair of them, at the start of s, and
// returns its rune and length; length 0 if it is none.
func escapedRune(s string) (rune, int) {
	hi, ok := hex4(s)
	if !ok {
		return 0, 0
	}
	if !utf16.IsSurrogate(hi) {
		return hi, 6
	}
	lo, ok := hex4(s[6:])
	if r := utf16.DecodeRune(hi, lo); ok && r != utf8.RuneError {
		return r, 12
	}
	return 0, 0
}

// hex4 reads \uXXXX at the start of s.
func hex4(s string) (rune, bool) {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(s[2:6], 16, 16)
	return rune(n), err == nil
}

// appendString appends s to b between quotes, so that scanString gives s back.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < 0x20 && c != 0:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
