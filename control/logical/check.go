package logical

// compare makes ref op o, which starts at offset start, if the language
// allows it.
func (p *parser) compare(start int, ref Ref, op Op, o operands) Expr {
	if p.err != nil {
		return nil
	}
	p.checkTypes(ref, o)
	if p.err == nil && !p.trusted {
		p.checkLevel(start, ref, op, o)
	}
	if p.err != nil {
		return nil
	}
	return (&Compare{Ref: ref, Op: op, Values: o.values}).settle()
}

// checkTypes fails unless the constants have ref's type and fit its width.
func (p *parser) checkTypes(ref Ref, o operands) {
	name := ref.Symbol.Name
	if o.values[0].isString() != ref.Symbol.isString() {
		want := "a number"
		if ref.Symbol.isString() {
			want = "a string"
		}
		p.fail(o.start, "expected %s for %s", want, name)
		return
	}
	for i := range o.values {
		c := &o.values[i]
		if c.Kind == ConstAddressSet && ref.Symbol.Predicate != "" {
			p.fail(p.startOf(o, i), "expected 0 or 1 for %s", name)
			return
		}
		if n := max(c.Value.Len(), c.Mask.Len()); n > ref.Bits && !c.isString() {
			p.fail(p.startOf(o, i), "expected at most %d bits for %s, found %d", ref.Bits, printRef(ref), n)
			return
		}
		if n := c.formatBits(); n > ref.Symbol.Width && c.Kind == ConstNumber {
			p.fail(p.startOf(o, i), "expected at most %d bits for %s, found an address of %d", ref.Symbol.Width, name, n)
			return
		}
	}
}

// startOf returns the offset of the constant number i of o: it is looked for again, as
// only errors want to know.
func (p *parser) startOf(o operands, i int) int {
	l := lexer{text: p.text}
	for l.scan(o.start); l.tok.kind == tokLBrace || l.tok.kind == tokComma || i > 0; l.next() {
		if l.tok.kind != tokLBrace && l.tok.kind != tokComma {
			i--
		}
	}
	return l.tok.start
}

// checkLevel fails unless the symbol's level allows op.
func (p *parser) checkLevel(start int, ref Ref, op Op, o operands) {
	sym := ref.Symbol
	if op > OpNE {
		switch {
		case o.braces || o.values[0].Kind == ConstAddressSet || o.values[0].Kind == ConstPortGroup:
			p.fail(o.start, "expected one constant: sets go with == and != only")
		case sym.Level != Ordinal:
			p.fail(start, "expected == or !=: %s has no order", sym.Name)
		case o.values[0].Kind == ConstMasked:
			p.fail(o.start, "expected a constant without a mask: masks go with == and != only; bits of a symbol are written %s[low..high]", sym.Name)
		}
		return
	}
	if sym.Level != Nominal {
		return
	}
	if sym.Predicate == "" {
		if (op == OpNE) != p.not {
			p.fail(start, "expected a test for equality: %s is nominal and can't be tested negatively", sym.Name)
		}
		return
	}
	for i := range o.values {
		if o.values[i].Value.Bit(0) == ((op == OpNE) != p.not) {
			p.negatedPredicate(start, sym)
		}
	}
}

// negatedPredicate fails for a nominal predicate that is tested negatively.
func (p *parser) negatedPredicate(start int, sym *Symbol) {
	p.fail(start, "expected a positive test: %s is nominal and can't be negated", sym.Name)
}
