package logical

import "slices"

// maxBlocks is how deeply blocks may nest (OVN lib/actions.c).
const maxBlocks = 32

// maxTable is the highest table number that is accepted; OVN has fewer.
const maxTable = 255

// ParseActions parses a list of actions. Prerequisites of their fields and
// verbs are collected, also from clone and reject blocks; those inside other
// blocks concern the packet that the block makes, and are dropped.
func (s *Symbols) ParseActions(text string) (Actions, error) {
	p := parser{lexer: lexer{text: text}, symbols: s, scope: writeDefault}
	p.next()
	list := p.actions(tokEnd)
	if p.err != nil {
		return Actions{}, p.err
	}
	a := Actions{List: list}
	if len(p.prereqs) > 0 {
		a.Prereq = flatten(true, p.prereqs)
	}
	return a, nil
}

// actions parses actions up to and with the token end: "drop;", or any number.
func (p *parser) actions(end kind) []Action {
	if p.tok.kind == tokID && p.tok.text == "drop" {
		p.next()
		p.force(tokSemicolon)
		if p.tok.kind != end {
			p.want(end.spelling() + " (drop goes with no other action)")
		}
		p.next()
		return nil
	}
	var list []Action
	for p.err == nil && p.tok.kind != end {
		a := p.action()
		p.force(tokSemicolon)
		list = append(list, a)
	}
	p.next()
	return list
}

// action parses one action, up to its semicolon.
func (p *parser) action() Action {
	switch p.tok.kind {
	case tokID:
	case tokTemplate:
		p.unexpanded()
		return nil
	default:
		p.want("an action")
		return nil
	}
	switch p.peek() {
	case tokAssign, tokExchange, tokLSquare:
		return p.assignment()
	}
	return p.verb()
}

// need adds the prerequisite that symbol name, which the table has, holds.
func (p *parser) need(name string) {
	if name == "" {
		return
	}
	test := p.symbols.byName[name].test
	if !slices.Contains(p.prereqs, test) {
		p.prereqs = append(p.prereqs, test)
	}
}

// field parses a reference that is used at an offset of its own: width bits
// (0: a string), and writable if write says so.
func (p *parser) field(width int, write bool) Ref {
	start := p.tok.start
	r := p.actionRef()
	p.checkField(start, r, width, write)
	return r
}

// actionRef parses a reference and collects its prerequisite.
func (p *parser) actionRef() Ref {
	r := p.ref()
	if p.err == nil {
		p.need(r.Symbol.Prereq)
	}
	return r
}

// checkField fails unless r, at offset start, has this width and can be
// written if asked.
func (p *parser) checkField(start int, r Ref, width int, write bool) {
	if p.err != nil {
		return
	}
	switch {
	case width == 0 && r.Bits != 0:
		p.fail(start, "expected a string field, %s is numeric", printRef(r))
	case width != 0 && r.Bits == 0:
		p.fail(start, "expected a numeric field, %s is a string", printRef(r))
	case width != r.Bits:
		p.fail(start, "expected a %d-bit field, %s has %d bits", width, printRef(r), r.Bits)
	case write:
		p.checkWritable(start, r)
	}
}

// checkWritable fails unless r can be written here.
func (p *parser) checkWritable(start int, r Ref) {
	if p.err == nil && r.Symbol.write&p.scope == 0 {
		p.fail(start, "expected a field that can be written here, %s can't", r.Symbol.Name)
	}
}

// assignment parses field = something, or field <-> field.
func (p *parser) assignment() Action {
	start := p.tok.start
	to := p.actionRef()
	if p.err != nil {
		return nil
	}
	if p.match(tokExchange) {
		from := p.tok.start
		other := p.actionRef()
		p.checkPair(start, to, from, other, true)
		return &Exchange{A: to, B: other}
	}
	if !p.match(tokAssign) {
		p.want("'=' or '<->'")
		return nil
	}
	if p.tok.kind != tokID {
		return p.load(start, to)
	}
	if p.peek() == tokLParen {
		return p.function(start, to)
	}
	from := p.tok.start
	other := p.actionRef()
	p.checkPair(start, to, from, other, false)
	return &Move{To: to, From: other}
}

// checkPair fails unless to can get from's value, and the other way round if
// both.
func (p *parser) checkPair(start int, to Ref, fromStart int, from Ref, both bool) {
	p.checkField(fromStart, from, to.Bits, both)
	if p.err == nil {
		p.checkWritable(start, to)
	}
}

// load parses the constant that to gets.
func (p *parser) load(start int, to Ref) Action {
	l := &Load{To: to}
	o := operands{start: p.tok.start, values: make([]Constant, 1)}
	p.constant(&o.values[0])
	l.Value = o.values[0]
	if p.err != nil {
		return nil
	}
	if k := l.Value.Kind; k == ConstAddressSet || k == ConstPortGroup {
		p.fail(o.start, "expected one constant, not a set")
		return nil
	}
	p.checkTypes(to, o)
	if p.err == nil {
		p.checkWritable(start, to)
	}
	return l
}

// block parses { actions } of verb, which may write what scope says. Its
// prerequisites are dropped for need, if that is not "".
func (p *parser) block(v Verb, need string, in scope) Action {
	if p.tok.kind != tokLBrace {
		p.want("'{'")
		return nil
	}
	if p.blocks+1 == maxBlocks {
		p.fail(p.tok.start, "expected blocks nested less than %d deep", maxBlocks)
		return nil
	}
	p.next()
	outer, outerScope := p.prereqs, p.scope
	if need != "" {
		p.prereqs = nil
	}
	p.scope = in
	p.blocks++
	list := p.actions(tokRBrace)
	p.blocks--
	p.scope = outerScope
	if need != "" {
		p.prereqs = outer
		p.need(need)
	}
	return &Block{Verb: v, List: list}
}
