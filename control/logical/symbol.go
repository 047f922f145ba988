package logical

import "fmt"

// Level says which tests a symbol allows.
type Level uint8

// The levels of OVN's language.
const (
	// Nominal symbols are tested for equality only, and not bit by bit. A
	// nominal predicate is tested positively only.
	Nominal Level = iota
	// Boolean predicates have == and != (so also !).
	Boolean
	// Ordinal symbols have all relations, subfields and masks.
	Ordinal
)

// scope is a set of the places in which actions may write a symbol.
type scope uint8

const (
	writeDefault  scope = 1 << iota // anywhere but in ct_commit blocks
	writeCTCommit                   // in ct_commit { }
	writeICMP                       // in blocks that make ICMP messages
)

// Symbol is a name of the language. Nobody changes one after NewSymbols.
type Symbol struct {
	Name      string
	Width     int    // in bits; 0 for strings
	Level     Level  // what it may be tested for
	Field     Field  // where it is kept, unless a predicate
	Low       int    // its lowest bit there
	Predicate string // if not "": it stands for this expression
	Prereq    string // if not "": it means something only where this holds

	write   scope // where actions may write it; 0 is read-only
	noMatch bool  // it can be written only

	// Annotated, so free of predicates and prerequisites; shared, not changed.
	prereq   Expr // nil if there is none
	positive Expr // of a predicate: what it stands for
	negative Expr // of a predicate: the opposite
	test     Expr // the bare symbol, for prerequisites of actions
}

// isString reports whether s holds a port name.
func (s *Symbol) isString() bool { return s.Width == 0 }

// Symbols is a symbol table. It is immutable and may be shared.
type Symbols struct {
	byName map[string]*Symbol
}

// NewSymbols returns the symbol table of OVN 25.03, with what earlier and later
// versions add to it where that is unambiguous.
func NewSymbols() *Symbols { return build(symbolRows()) }

// NewACLSymbols returns the table for flows whose tags hold
// acl_ct_translation=true: transport protocols and ports are those of the
// connection's original direction, which later fragments have too.
func NewACLSymbols() *Symbols {
	rows := symbolRows()
	for i := range rows {
		for _, alt := range aclRows() {
			if rows[i].Name == alt.Name {
				rows[i] = alt
			}
		}
	}
	ctProto := Symbol{Name: "ct_proto", Width: 8, Level: Nominal, Field: FieldCTProto, Prereq: "ct.trk"}
	return build(append([]Symbol{ctProto}, rows...))
}

// Lookup returns the symbol called name, or nil.
func (s *Symbols) Lookup(name string) *Symbol { return s.byName[name] }

// build makes a table of rows. They are our own, so that a bad one panics.
// Predicates and prerequisites use only symbols of earlier rows, or of ct.trk.
func build(rows []Symbol) *Symbols {
	s := &Symbols{byName: make(map[string]*Symbol, len(rows))}
	for i := range rows {
		s.byName[rows[i].Name] = &rows[i]
		if rows[i].Predicate != "" {
			rows[i].Width = 1
		}
	}
	done := make(map[string]bool, len(rows))
	for i := range rows {
		s.finish(&rows[i], done)
	}
	return s
}

// finish derives what build's rows do not say, for sym and what it refers to.
func (s *Symbols) finish(sym *Symbol, done map[string]bool) {
	if done[sym.Name] {
		return
	}
	done[sym.Name] = true
	sym.test = &Compare{Ref: sym.ref(), Op: OpEQ, Values: []Constant{{Kind: ConstNumber, Value: U64(1)}}}
	if sym.Prereq != "" {
		sym.prereq = s.derive(sym.Prereq, done)
	}
	if sym.Predicate == "" {
		return
	}
	tree := s.parseOwn(sym.Predicate)
	sym.Level = Boolean
	visit(tree, func(c *Compare) {
		s.finish(c.Ref.Symbol, done)
		if c.Ref.Symbol.Level == Nominal {
			sym.Level = Nominal
		}
	})
	sym.positive = joinSets(Annotate(tree))
	sym.negative = invert(sym.positive)
}

// derive returns the annotated form of text.
func (s *Symbols) derive(text string, done map[string]bool) Expr {
	tree := s.parseOwn(text)
	visit(tree, func(c *Compare) { s.finish(c.Ref.Symbol, done) })
	return joinSets(Annotate(tree))
}

// parseOwn parses an expression of the table itself, without regard to levels:
// those of predicates may not be known yet.
func (s *Symbols) parseOwn(text string) Expr {
	p := parser{lexer: lexer{text: text}, symbols: s, trusted: true}
	p.next()
	e := p.expression()
	if p.err != nil {
		panic(fmt.Sprintf("symbol table: %q: %v", text, p.err))
	}
	return e
}
