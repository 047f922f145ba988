package logical

import (
	"encoding/binary"
	"net/netip"
	"strconv"
)

// Format is how a number was written; the printer writes it the same way.
type Format uint8

// The formats. Value and mask have the same.
const (
	FormatDecimal Format = iota
	FormatHex
	FormatIPv4
	FormatIPv6
	FormatEthernet
)

// formatBits returns how many bits an address of c's format has; 0 for plain numbers.
func (c *Constant) formatBits() int {
	return [...]int{FormatDecimal: 0, FormatHex: 0, FormatIPv4: 32, FormatIPv6: 128, FormatEthernet: 48}[c.Format]
}

// scanNumber scans the number at i and its mask, if it has one.
func (l *lexer) scanNumber(i int) {
	v, f, end := l.number(i)
	if l.err != nil {
		return
	}
	l.tok.kind, l.tok.value, l.tok.format, l.tok.end = tokInt, v, f, end
	if l.at(end) != '/' || l.at(end+1) == '/' || l.at(end+1) == '*' {
		return
	}
	m, mf, mend := l.number(end + 1)
	if l.err != nil {
		return
	}
	if !l.tok.setMask(m, mf) {
		l.fail(end+1, "expected a mask of the value's format, or a prefix length after an IP address")
		return
	}
	l.tok.end = mend
}

// setMask gives t the mask m of format f, and reports whether they fit.
func (t *token) setMask(m Value, f Format) bool {
	switch {
	case f == t.format:
		t.mask = m
	case t.format == FormatIPv4 && f == FormatDecimal && !Value.Less(U64(32), m):
		t.mask = prefixMask(32, int(m.Lo))
	case t.format == FormatIPv6 && f == FormatDecimal && !Value.Less(U64(128), m):
		t.mask = prefixMask(128, int(m.Lo))
	case t.format == FormatDecimal && f == FormatHex && t.value.IsZero():
		t.format, t.mask = FormatHex, m
	default:
		return false
	}
	t.masked, t.value = true, t.value.And(t.mask)
	return true
}

// prefixMask returns the mask of the upper n of width bits.
func prefixMask(width, n int) Value { return Ones(width).AndNot(Ones(width - n)) }

// prefixLen returns the n for which prefixMask(width, n) is m, or -1.
func prefixLen(width int, m Value) int {
	for n := range width + 1 {
		if m == prefixMask(width, n) {
			return n
		}
	}
	return -1
}

// number reads the number at i without a mask, and returns the offset after it.
func (l *lexer) number(i int) (Value, Format, int) {
	end := l.numberEnd(i)
	s := l.text[i:end]
	if s == "" {
		l.fail(i, "expected a number")
		return Value{}, 0, end
	}
	v, f, problem := parseNumber(s)
	if problem != "" {
		l.fail(i, "%s", problem)
	}
	return v, f, end
}

// numberEnd returns where the number at i ends. Letters, digits, colons and
// dots belong to it; not "..", and no colon after a dot, for that is the port
// in 10.0.0.1:80.
func (l *lexer) numberEnd(i int) int {
	dot := false
	for ; i < len(l.text); i++ {
		c := l.text[i]
		switch {
		case c == '.' && l.at(i+1) != '.':
			dot = true
		case c == ':' && !dot:
		case c != '_' && c != '.' && isName(c):
		default:
			return i
		}
	}
	return i
}

// parseNumber reads all of s, which is not empty, in any format. A problem
// that is not "" says what was expected.
func parseNumber(s string) (v Value, f Format, problem string) {
	if v, ok := parseEthernet(s); ok {
		return v, FormatEthernet, ""
	}
	if digits, d := parseDecimal(s); digits {
		return d.value, FormatDecimal, d.problem
	}
	if s[0] == '0' && len(s) > 1 && (s[1] == 'x' || s[1] == 'X') {
		v, problem = parseHex(s[2:])
		return v, FormatHex, problem
	}
	if v, ok := parseIPv4(s); ok {
		return v, FormatIPv4, ""
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Is6() && a.Zone() == "" {
		return AddrValue(a), FormatIPv6, ""
	}
	return Value{}, 0, "expected a number, an IP address or an Ethernet address, found " + clip(s)
}

// decimal is the outcome of parseDecimal.
type decimal struct {
	value   Value
	problem string
}

// parseDecimal reports whether s is made of digits only, and their value.
func parseDecimal(s string) (bool, decimal) {
	n, over := uint64(0), false
	for i := range len(s) {
		if !isDigit(s[i]) {
			return false, decimal{}
		}
		d := uint64(s[i] - '0')
		over = over || n > (^uint64(0)-d)/10
		n = n*10 + d
	}
	if s[0] == '0' && len(s) > 1 {
		return true, decimal{problem: "expected a decimal number without leading zeros"}
	}
	if over {
		return true, decimal{problem: "expected a decimal number below 2^64; larger ones are written in hexadecimal"}
	}
	return true, decimal{value: U64(n)}
}

// hexDigit returns the value of the hexadecimal digit c.
func hexDigit(c byte) (uint64, bool) {
	switch {
	case isDigit(c):
		return uint64(c - '0'), true
	case c >= 'a' && c <= 'f':
		return uint64(c-'a') + 10, true
	case c >= 'A' && c <= 'F':
		return uint64(c-'A') + 10, true
	}
	return 0, false
}

// parseHex reads s, the digits after 0x.
func parseHex(s string) (v Value, problem string) {
	if s == "" {
		return v, "expected hexadecimal digits after 0x"
	}
	for i := range len(s) {
		d, ok := hexDigit(s[i])
		if !ok {
			return v, "expected hexadecimal digits after 0x, found " + clip(s)
		}
		if v.Hi>>60 != 0 {
			return v, "expected a number of at most 128 bits"
		}
		v = v.Shl(4)
		v.Lo |= d
	}
	return v, ""
}

// parseEthernet reads xx:xx:xx:xx:xx:xx, exactly 17 characters.
func parseEthernet(s string) (Value, bool) {
	if len(s) != 17 {
		return Value{}, false
	}
	n := uint64(0)
	for i := range len(s) {
		if i%3 == 2 {
			if s[i] != ':' {
				return Value{}, false
			}
			continue
		}
		d, ok := hexDigit(s[i])
		if !ok {
			return Value{}, false
		}
		n = n<<4 | d
	}
	return U64(n), true
}

// parseIPv4 reads a dotted IPv4 address. Octets have no leading zeros: some would
// read them as octal numbers.
func parseIPv4(s string) (Value, bool) {
	n, octet, digits, dots := uint64(0), uint64(0), 0, 0
	for i := range len(s) {
		switch c := s[i]; {
		case isDigit(c) && digits < 3 && (digits == 0 || octet > 0):
			octet, digits = octet*10+uint64(c-'0'), digits+1
			if octet > 255 {
				return Value{}, false
			}
		case c == '.' && digits > 0:
			n, octet, digits, dots = n<<8|octet, 0, 0, dots+1
		default:
			return Value{}, false
		}
	}
	return U64(n<<8 | octet), dots == 3 && digits > 0
}

// AddrValue returns a as a number.
func AddrValue(a netip.Addr) Value {
	if a.Is4() {
		b := a.As4()
		return U64(uint64(binary.BigEndian.Uint32(b[:])))
	}
	b := a.As16()
	return Value{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// v4 returns v as an IPv4 address.
func (v Value) v4() netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(v.Lo))
	return netip.AddrFrom4(b)
}

// v6 returns v as an IPv6 address.
func (v Value) v6() netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], v.Hi)
	binary.BigEndian.PutUint64(b[8:], v.Lo)
	return netip.AddrFrom16(b)
}

// appendNumber appends v as f writes it.
func appendNumber(b []byte, v Value, f Format) []byte {
	switch f {
	case FormatIPv4:
		return v.v4().AppendTo(b)
	case FormatIPv6:
		return v.v6().AppendTo(b)
	case FormatEthernet:
		const hex = "0123456789abcdef"
		for shift := 40; shift >= 0; shift -= 8 {
			b = append(b, hex[v.Lo>>(shift+4)&15], hex[v.Lo>>shift&15], ':')
		}
		return b[:len(b)-1]
	case FormatDecimal:
		if v.Hi == 0 {
			return strconv.AppendUint(b, v.Lo, 10)
		}
	}
	b = append(b, "0x"...)
	if v.Hi == 0 {
		return strconv.AppendUint(b, v.Lo, 16)
	}
	b = strconv.AppendUint(b, v.Hi, 16)
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, "0123456789abcdef"[v.Lo>>shift&15])
	}
	return b
}
