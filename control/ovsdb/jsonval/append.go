package jsonval

import (
	"strconv"
	"unicode/utf8"
)

// Append adds v's text, without white space, to b.
func (v Value) Append(b []byte) []byte {
	switch v.Kind {
	case False:
		return append(b, "false"...)
	case True:
		return append(b, "true"...)
	case Integer:
		return strconv.AppendInt(b, v.Int(), 10)
	case Real:
		return AppendFloat(b, v.Float())
	case String:
		return AppendString(b, v.Str)
	case Array:
		return v.appendElems(append(b, '['), ']', 1)
	case Object:
		return v.appendElems(append(b, '{'), '}', 2)
	}
	return append(b, "null"...)
}

// appendElems adds the elements and end; stride is how many belong together.
func (v Value) appendElems(b []byte, end byte, stride int) []byte {
	for i, e := range v.Elems {
		switch {
		case i%stride == 1:
			b = append(b, ':')
		case i > 0:
			b = append(b, ',')
		}
		b = e.Append(b)
	}
	return append(b, end)
}

// AppendFloat adds the shortest text that reads back as f.
func AppendFloat(b []byte, f float64) []byte { return strconv.AppendFloat(b, f, 'g', -1, 64) }

// AppendString adds s as a JSON string. What is not UTF-8 in s becomes U+FFFD.
func AppendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(append(b, s[start:i]...), "\ufffd"...)
				start = i + 1
			}
			i += n
			continue
		}
		b = appendEscape(append(b, s[start:i]...), c)
		i++
		start = i
	}
	return append(append(b, s[start:]...), '"')
}

// appendEscape adds c, a control character, quote or backslash, as an escape.
func appendEscape(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\n':
		return append(b, '\\', 'n')
	case '\r':
		return append(b, '\\', 'r')
	case '\t':
		return append(b, '\\', 't')
	}
	const hex = "0123456789abcdef"
	return append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
}

// String returns v's text.
func (v Value) String() string { return string(v.Append(nil)) }
