package logical

import "fmt"

// maxParens is how deeply parentheses may nest (OVN lib/expr.c).
const maxParens = 100

// ParseMatch parses a match expression.
func (s *Symbols) ParseMatch(text string) (Expr, error) {
	p := parser{lexer: lexer{text: text}, symbols: s}
	p.next()
	e := p.expression()
	if p.err == nil && p.tok.kind != tokEnd {
		p.want("'&&', '||' or the end")
	}
	if p.err != nil {
		return nil, p.err
	}
	return e, nil
}

// parser reads expressions and actions. Its methods return anything once err
// is set.
type parser struct {
	lexer
	symbols *Symbols
	not     bool // an odd number of ! enclose the token at hand
	trusted bool // the text is the symbol table's own: no level checks
	parens  int  // parentheses that are open

	// For actions.
	scope   scope
	blocks  int    // blocks that are open
	prereqs []Expr // of the list at hand, each once
}

// expression parses operands joined by && or by ||.
func (p *parser) expression() Expr {
	first := p.operand()
	op := p.tok.kind
	if op != tokAnd && op != tokOr {
		return first
	}
	var few [8]Expr
	terms := append(few[:0], first)
	for p.match(op) {
		terms = append(terms, p.operand())
	}
	if p.err != nil {
		return nil
	}
	if p.tok.kind == tokAnd || p.tok.kind == tokOr {
		p.fail(p.tok.start, "expected parentheses: && and || may not be mixed without them")
		return nil
	}
	return flatten(op == tokAnd, terms)
}

// operand parses one operand, with its !.
func (p *parser) operand() Expr {
	if p.tok.kind != tokNot {
		e, _ := p.primary()
		return e
	}
	p.next()
	start := p.tok.start
	p.not = !p.not
	e, atomic := p.primary()
	p.not = !p.not
	if p.err != nil {
		return nil
	}
	if !atomic {
		p.fail(start, "expected '(' or a symbol alone after '!'")
		return nil
	}
	return invert(e)
}

// primary parses what may follow a !, and reports whether it may: a comparison
// without parentheses may not.
func (p *parser) primary() (e Expr, atomic bool) {
	switch p.tok.kind {
	case tokLParen:
		return p.parenthesis(), true
	case tokID:
		if p.tok.text == "is_chassis_resident" {
			return p.resident(), true
		}
		return p.fieldFirst()
	case tokTemplate:
		p.unexpanded()
		return nil, false
	case tokString, tokInt, tokSet, tokGroup, tokLBrace:
		return p.constantFirst()
	}
	p.want("a symbol, a constant or '('")
	return nil, false
}

// unexpanded fails for a template variable.
func (p *parser) unexpanded() {
	p.fail(p.tok.start, "expected no template variable, ^%s has not been expanded", p.tok.text)
}

// parenthesis parses ( expression ).
func (p *parser) parenthesis() Expr {
	if p.parens == maxParens {
		p.fail(p.tok.start, "expected at most %d nested parentheses", maxParens)
		return nil
	}
	p.parens++
	p.next()
	e := p.expression()
	p.parens--
	p.force(tokRParen)
	return e
}

// resident parses is_chassis_resident("port").
func (p *parser) resident() Expr {
	p.next()
	p.force(tokLParen)
	r := &Resident{Port: p.tok.text}
	p.force(tokString)
	p.force(tokRParen)
	return r
}

// fieldFirst parses a bare symbol, or symbol relop constants.
func (p *parser) fieldFirst() (e Expr, atomic bool) {
	start := p.tok.start
	ref := p.ref()
	if p.err != nil {
		return nil, false
	}
	if ref.Symbol.noMatch {
		p.fail(start, "expected a symbol that can be matched, %s is only for actions", ref.Symbol.Name)
		return nil, false
	}
	if p.tok.kind == tokAssign { // is == meant?
		p.want("a relational operator")
		return nil, false
	}
	op, ok := relop(p.tok.kind)
	if !ok {
		return p.bare(start, ref), true
	}
	p.next()
	return p.compare(start, ref, op, p.constants()), false
}

// bare makes "symbol" of ref: it is not zero. Fields of several bits must say
// so, unless ! asks for zero.
func (p *parser) bare(start int, ref Ref) Expr {
	if ref.Symbol.isString() || ref.Bits > 1 && !p.not {
		p.want("a relational operator")
		return nil
	}
	if p.not && ref.Symbol.Predicate != "" && ref.Symbol.Level == Nominal && !p.trusted {
		p.negatedPredicate(start, ref.Symbol)
	}
	return (&Compare{Ref: ref, Op: OpNE, Values: []Constant{{}}}).settle()
}

// settle gives c the form that Compare's comment promises, and returns it.
func (c *Compare) settle() *Compare {
	if c.isFlag() {
		v := &c.Values[0]
		v.Value.Lo ^= uint64(c.Op) // 1 for OpNE
		v.Format, c.Op = FormatDecimal, OpEQ
	}
	return c
}

// relop returns the relational operator that a token of kind k is.
func relop(k kind) (Op, bool) {
	switch k {
	case tokEQ:
		return OpEQ, true
	case tokNE:
		return OpNE, true
	case tokLT:
		return OpLT, true
	case tokLE:
		return OpLE, true
	case tokGT:
		return OpGT, true
	case tokGE:
		return OpGE, true
	}
	return 0, false
}

// constantFirst parses 0, 1, constants relop field, and ranges.
func (p *parser) constantFirst() (e Expr, atomic bool) {
	start, number := p.tok.start, p.tok
	left := p.constants()
	if p.err != nil {
		return nil, false
	}
	op, ok := relop(p.tok.kind)
	if !ok && number.kind == tokInt && number.format == FormatDecimal && !number.masked && !Value.Less(U64(1), number.value) {
		return Literal(number.value.Lo == 1), true
	}
	if !ok {
		p.want("a relational operator")
		return nil, false
	}
	p.next()
	if p.tok.kind != tokID {
		p.want("a symbol")
		return nil, false
	}
	field := p.tok.start
	ref := p.ref()
	if p.err == nil && ref.Symbol.noMatch {
		p.fail(field, "expected a symbol that can be matched, %s is only for actions", ref.Symbol.Name)
	}
	second, ok := relop(p.tok.kind)
	if p.err != nil || !ok {
		return p.compare(start, ref, op.turned(), left), false
	}
	if !sameWay(op, second) {
		p.fail(p.tok.start, "expected a range: both operators < or <=, or both > or >=")
		return nil, false
	}
	p.next()
	right := p.constants()
	a, b := p.compare(start, ref, op.turned(), left), p.compare(start, ref, second, right)
	if p.err != nil {
		return nil, false
	}
	return &And{Terms: []Expr{a, b}}, false
}

// sameWay reports whether a and b are the operators of a range.
func sameWay(a, b Op) bool {
	up := func(o Op) bool { return o == OpLT || o == OpLE }
	down := func(o Op) bool { return o == OpGT || o == OpGE }
	return up(a) && up(b) || down(a) && down(b)
}

// operands are parsed constants, and how they were written.
type operands struct {
	values []Constant
	braces bool
	start  int // offset of the first byte
}

// constants parses a constant, or several in braces.
func (p *parser) constants() operands {
	o := operands{start: p.tok.start}
	if !p.match(tokLBrace) {
		o.values = make([]Constant, 1)
		p.constant(&o.values[0])
		return o
	}
	o.braces = true
	for {
		o.values = append(o.values, Constant{})
		pos := p.tok.start
		p.constant(&o.values[len(o.values)-1])
		if p.err != nil {
			return o
		}
		if o.values[0].isString() != o.values[len(o.values)-1].isString() {
			p.fail(pos, "expected constants of one type, strings or numbers")
			return o
		}
		p.match(tokComma)
		if p.match(tokRBrace) {
			return o
		}
	}
}

// constant parses one constant into c.
func (p *parser) constant(c *Constant) {
	switch p.tok.kind {
	case tokString:
		c.Kind, c.Text = ConstString, p.tok.text
	case tokSet:
		c.Kind, c.Text = ConstAddressSet, p.tok.text
	case tokGroup:
		c.Kind, c.Text = ConstPortGroup, p.tok.text
	case tokInt:
		c.Format, c.Value = p.tok.format, p.tok.value
		if p.tok.masked {
			c.Kind, c.Mask = ConstMasked, p.tok.mask
		}
	case tokTemplate:
		p.unexpanded()
	default:
		p.want("a constant")
	}
	p.next()
}

// ref parses a symbol and its bits.
func (p *parser) ref() Ref {
	if p.tok.kind != tokID {
		p.want("a symbol")
		return Ref{}
	}
	sym := p.symbols.byName[p.tok.text]
	if sym == nil {
		p.want("a symbol")
		return Ref{}
	}
	start := p.tok.start
	p.next()
	if p.tok.kind != tokLSquare {
		return sym.ref()
	}
	return p.subfield(sym, start)
}

// subfield parses [low..high] after sym, which stands at offset start.
func (p *parser) subfield(sym *Symbol, start int) Ref {
	if sym.isString() {
		p.fail(p.tok.start, "expected no '[': %s is a string", sym.Name)
		return Ref{}
	}
	p.next()
	low := p.integer(127, "a bit number")
	high := low
	if p.match(tokEllipsis) {
		high = p.integer(127, "a bit number")
	}
	p.force(tokRSquare)
	switch {
	case p.err != nil:
		return Ref{}
	case low > high:
		p.fail(start, "expected the lower bit first in %s[%d..%d]", sym.Name, low, high)
	case high >= sym.Width:
		p.fail(start, "expected bits below %d, the width of %s", sym.Width, sym.Name)
	case sym.Level == Nominal && high-low+1 != sym.Width && !p.trusted:
		p.fail(start, "expected all of %s: single bits of nominal fields cannot be selected", sym.Name)
	}
	return Ref{Symbol: sym, Low: low, Bits: high - low + 1}
}

// integer parses a decimal number of at most limit.
func (p *parser) integer(limit uint64, what string) int {
	if p.tok.kind != tokInt || p.tok.format != FormatDecimal || p.tok.masked || p.tok.value.Hi != 0 || p.tok.value.Lo > limit {
		p.want(fmt.Sprintf("%s of at most %d", what, limit))
		return 0
	}
	n := int(p.tok.value.Lo)
	p.next()
	return n
}
