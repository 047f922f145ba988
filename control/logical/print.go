package logical

import "strconv"

// Print returns the canonical text of e. It parses back to the same tree,
// unless the tree is Annotate's.
func Print(e Expr) string { return string(e.appendTo(nil, false)) }

func (l Literal) appendTo(b []byte, _ bool) []byte {
	if l {
		return append(b, '1')
	}
	return append(b, '0')
}

func (a *And) appendTo(b []byte, operand bool) []byte {
	return appendTerms(b, a.Terms, " && ", operand)
}

func (o *Or) appendTo(b []byte, operand bool) []byte {
	return appendTerms(b, o.Terms, " || ", operand)
}

// appendTerms appends terms with op between them, in parentheses if asked.
func appendTerms(b []byte, terms []Expr, op string, parens bool) []byte {
	if parens {
		b = append(b, '(')
	}
	for i, t := range terms {
		if i > 0 {
			b = append(b, op...)
		}
		b = t.appendTo(b, true)
	}
	if parens {
		b = append(b, ')')
	}
	return b
}

func (r *Resident) appendTo(b []byte, _ bool) []byte {
	if r.Not {
		b = append(b, '!')
	}
	b = append(b, "is_chassis_resident("...)
	return append(appendString(b, r.Port), ')')
}

func (c *Compare) appendTo(b []byte, _ bool) []byte {
	if c.isFlag() && c.Op == OpEQ {
		if c.Values[0].Value.IsZero() {
			b = append(b, '!')
		}
		return c.Ref.appendTo(b)
	}
	b = c.Ref.appendTo(b)
	b = append(b, ' ')
	b = append(b, c.Op.String()...)
	b = append(b, ' ')
	if len(c.Values) == 1 {
		return c.Values[0].appendTo(b)
	}
	b = append(b, '{')
	for i := range c.Values {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = c.Values[i].appendTo(b)
	}
	return append(b, '}')
}

// appendTo appends r's text.
func (r Ref) appendTo(b []byte) []byte {
	b = append(b, r.Symbol.Name...)
	if r.Bits == r.Symbol.Width {
		return b
	}
	b = append(b, '[')
	b = strconv.AppendInt(b, int64(r.Low), 10)
	if r.Bits > 1 {
		b = append(b, ".."...)
		b = strconv.AppendInt(b, int64(r.Low+r.Bits-1), 10)
	}
	return append(b, ']')
}

// printRef returns r's text.
func printRef(r Ref) string { return string(r.appendTo(nil)) }

// appendTo appends c's text.
func (c *Constant) appendTo(b []byte) []byte {
	switch c.Kind {
	case ConstString:
		return appendString(b, c.Text)
	case ConstAddressSet:
		return append(append(b, '$'), c.Text...)
	case ConstPortGroup:
		return append(append(b, '@'), c.Text...)
	case ConstNumber:
		return appendNumber(b, c.Value, c.Format)
	}
	b = append(appendNumber(b, c.Value, c.Format), '/')
	if n := c.prefix(); n >= 0 {
		return strconv.AppendInt(b, int64(n), 10)
	}
	return appendNumber(b, c.Mask, c.Format)
}

// prefix returns the prefix length that is c's mask, or -1.
func (c *Constant) prefix() int {
	switch c.Format {
	case FormatIPv4:
		return prefixLen(32, c.Mask)
	case FormatIPv6:
		return prefixLen(128, c.Mask)
	}
	return -1
}
