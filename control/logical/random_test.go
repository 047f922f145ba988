package logical

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// writer writes random expressions that obey the language.
type writer struct {
	*rand.Rand
	symbols []*Symbol // that can be matched, sorted by name
	not     bool      // an odd number of ! enclose what is written
	noSets  bool      // no named sets and groups
}

// newWriter returns a writer of s's language.
func newWriter(s *Symbols, seed uint64) *writer {
	w := &writer{Rand: rand.New(rand.NewPCG(seed, 7))}
	for _, sym := range s.byName {
		if !sym.noMatch {
			w.symbols = append(w.symbols, sym)
		}
	}
	slices.SortFunc(w.symbols, func(a, b *Symbol) int { return strings.Compare(a.Name, b.Name) })
	return w
}

// expr writes an expression of some depth.
func (w *writer) expr(depth int) string {
	if depth == 0 || w.IntN(4) == 0 {
		return w.leaf()
	}
	op := [...]string{" && ", " || "}[w.IntN(2)]
	terms := make([]string, 2+w.IntN(3))
	for i := range terms {
		terms[i] = w.term(depth - 1)
	}
	return strings.Join(terms, op)
}

// term writes an operand of && and ||.
func (w *writer) term(depth int) string {
	switch w.IntN(4) {
	case 0:
		w.not = !w.not
		s := "!(" + w.expr(depth) + ")"
		w.not = !w.not
		return s
	case 1:
		return "(" + w.expr(depth) + ")"
	}
	return w.leaf()
}

// leaf writes a comparison, or another test without operands.
func (w *writer) leaf() string {
	switch w.IntN(20) {
	case 0:
		return [...]string{"0", "1"}[w.IntN(2)]
	case 1:
		return [...]string{"", "!"}[w.IntN(2)] + `is_chassis_resident("` + w.port() + `")`
	}
	sym := w.symbols[w.IntN(len(w.symbols))]
	switch {
	case sym.Predicate != "":
		return w.predicate(sym)
	case sym.isString():
		return sym.Name + w.equality(sym) + w.ports()
	case sym.Level == Nominal:
		return sym.Name + w.equality(sym) + w.numbers(sym.Width)
	}
	return w.ordinal(sym)
}

// predicate writes a test of a predicate.
func (w *writer) predicate(sym *Symbol) string {
	if sym.Level == Nominal && w.not {
		return w.leaf() // it can't be negated
	}
	if sym.Level == Boolean && w.IntN(2) == 0 {
		return "!" + sym.Name
	}
	return sym.Name
}

// equality writes the operator that a nominal symbol allows here.
func (w *writer) equality(*Symbol) string {
	if w.not {
		return " != "
	}
	return " == "
}

// ordinal writes a test of a symbol that allows all.
func (w *writer) ordinal(sym *Symbol) string {
	name, width := sym.Name, sym.Width
	if w.IntN(3) == 0 {
		low := w.IntN(width)
		high := low + w.IntN(width-low)
		name, width = fmt.Sprintf("%s[%d..%d]", name, low, high), high-low+1
	}
	op := [...]Op{OpEQ, OpEQ, OpEQ, OpNE, OpNE, OpLT, OpLE, OpGT, OpGE}[w.IntN(9)]
	switch {
	case op <= OpNE:
		return name + " " + op.String() + " " + w.numbers(width)
	case w.IntN(3) == 0:
		return w.number(width) + " <= " + name + " < " + w.number(width)
	}
	return name + " " + op.String() + " " + w.number(width)
}

// port writes a port's name; one of them does not exist.
func (w *writer) port() string { return [...]string{"a", "b", "none", "nosuch"}[w.IntN(4)] }

// ports writes constants for a string symbol.
func (w *writer) ports() string {
	if w.noSets {
		return `"` + w.port() + `"`
	}
	switch w.IntN(4) {
	case 0:
		return "@g"
	case 1:
		return `{"` + w.port() + `", @g, "` + w.port() + `"}`
	}
	return `"` + w.port() + `"`
}

// numbers writes constants for a numeric symbol.
func (w *writer) numbers(width int) string {
	switch w.IntN(6) {
	case 0:
		if w.noSets {
			break
		}
		return "$s"
	case 1:
		return w.number(width) + "/" + w.number(width)
	case 2:
		list := make([]string, 1+w.IntN(4))
		for i := range list {
			list[i] = w.number(width)
		}
		if w.IntN(4) == 0 && !w.noSets {
			list = append(list, "$s")
		}
		return "{" + strings.Join(list, ", ") + "}"
	}
	return w.number(width)
}

// number writes a number of at most width bits: a small one often, so that
// tests on one field meet.
func (w *writer) number(width int) string {
	v := Value{w.Uint64(), w.Uint64()}
	if w.IntN(3) > 0 {
		v = U64(uint64(w.IntN(4)))
	}
	return string(appendNumber(nil, v.And(Ones(width)), FormatHex))
}

// parse writes expressions until one parses, and returns it.
func (w *writer) parse(t *testing.T, s *Symbols) Expr {
	t.Helper()
	for range 100 {
		text := w.expr(3)
		e, err := s.ParseMatch(text)
		if err == nil {
			return e
		}
		if !strings.Contains(err.Error(), "can't be negated") && !strings.Contains(err.Error(), "expected 0 or 1") {
			t.Fatalf("%s: %v", text, err)
		}
	}
	t.Fatal("100 random expressions that are not in the language")
	return nil
}

// world is a World and a Resolver with two ports, a set and a group.
type world struct{}

func (world) Port(name string) (uint32, bool) {
	keys := map[string]uint32{"a": 1, "b": 2}
	key, ok := keys[name]
	return key, ok || name == "none"
}
func (world) Resident(name string) bool             { return name == "a" }
func (world) InAddressSet(_ string, v Value) bool   { return v.Lo%3 == 1 }
func (world) InPortGroup(_ string, key uint32) bool { return key == 2 || key == 5 }
func (world) AddressSet(string) bool                { return true }
func (world) PortGroup(string) bool                 { return true }

// packet fills a packet with values that tests of e are near to.
func (w *writer) packet(e Expr) *Packet {
	p := new(Packet)
	for f := range p {
		p[f] = Value{w.Uint64(), w.Uint64()}
		if w.IntN(2) == 0 {
			p[f] = U64(uint64(w.IntN(4)))
		}
		p[f] = p[f].And(Ones(Field(f).Width()))
	}
	p[FieldEthType] = U64([...]uint64{0x800, 0x800, 0x86dd, 0x86dd, 0x806, 0x8035, 5}[w.IntN(7)])
	p[FieldIPProto] = U64([...]uint64{1, 2, 6, 17, 58, 132}[w.IntN(6)])
	p[FieldCTState].Lo |= uint64(w.IntN(2)) << 5
	visit(Annotate(e), func(c *Compare) {
		if w.IntN(4) > 0 {
			w.approach(p, c)
		}
	})
	return p
}

// approach makes the bits that c tests equal to one of its constants, or off
// by one.
func (w *writer) approach(p *Packet, c *Compare) {
	v := c.Values[w.IntN(len(c.Values))]
	if v.isString() || v.Kind == ConstAddressSet {
		return
	}
	n := v.Value
	switch w.IntN(8) {
	case 0:
		n = n.next()
	case 1:
		n = n.prev()
	}
	field := &p[c.Ref.Symbol.Field]
	mask := Ones(c.Ref.Bits)
	if v.Kind == ConstMasked {
		mask = v.Mask
	}
	low := c.Ref.base()
	*field = field.AndNot(mask.Shl(low)).Or(n.And(mask).Shl(low))
}

// holds reports whether one of clauses does.
func holds(clauses []Clause, p *Packet) bool {
	return slices.ContainsFunc(clauses, func(c Clause) bool { return c.Eval(p, world{}) })
}

// compileAll returns what different compilers make of e; nil for those that
// find it too complex.
func compileAll(t *testing.T, e Expr) map[string][]Clause {
	t.Helper()
	out := make(map[string][]Clause)
	for name, o := range map[string]Options{"sets": {}, "split": {SplitSets: 4}} {
		clauses, err := NewCompiler(o).Compile(e)
		if errors.Is(err, ErrTooComplex) {
			continue
		}
		if err != nil {
			t.Fatalf("compile %s: %v", Print(e), err)
		}
		checkClauses(t, e, clauses)
		out[name] = clauses
		resolved, err := Resolve(clauses, world{})
		if err != nil {
			t.Fatalf("resolve %s: %v", Print(e), err)
		}
		checkClauses(t, e, resolved)
		out[name+" resolved"] = resolved
	}
	return out
}

// checkClauses fails unless clauses keep what Clause's comment promises.
func checkClauses(t *testing.T, e Expr, clauses []Clause) {
	t.Helper()
	for _, c := range clauses {
		for i, m := range c.Matches {
			if m.Mask.IsZero() || !m.Value.AndNot(m.Mask).IsZero() || m.Mask.Len() > m.Field.Width() || i > 0 && c.Matches[i-1].Field >= m.Field {
				t.Fatalf("%s: matches %+v", Print(e), c.Matches)
			}
		}
	}
}

// agree fails unless all ways to evaluate e have one outcome for p.
func agree(t *testing.T, s *Symbols, e, annotated, reparsed Expr, compiled map[string][]Clause, p *Packet) bool {
	t.Helper()
	want := s.Eval(e, p, world{})
	if got := s.Eval(reparsed, p, world{}); got != want {
		t.Fatalf("%s is %v, printed and parsed %v", Print(e), want, got)
	}
	if got := s.Eval(annotated, p, world{}); got != want {
		t.Fatalf("%s is %v, annotated %s %v", Print(e), want, Print(annotated), got)
	}
	for name, clauses := range compiled {
		if got := holds(clauses, p); got != want {
			t.Fatalf("%s is %v, compiled with %s %v\nclauses %+v\npacket %+v", Print(e), want, name, got, clauses, *p)
		}
	}
	return want
}

func TestRandomExpressions(t *testing.T) {
	tests := []struct {
		name string
		s    *Symbols
	}{{"usual symbols", NewSymbols()}, {"ACL symbols", NewACLSymbols()}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWriter(tt.s, 11)
			yes, no, complexOnes := 0, 0, 0
			for range 1500 {
				e := w.parse(t, tt.s)
				checkMatchPrint(t, tt.s, e)
				reparsed, err := tt.s.ParseMatch(Print(e))
				if err != nil {
					t.Fatal(err)
				}
				compiled := compileAll(t, e)
				complexOnes += 4 - len(compiled)
				for range 12 {
					if agree(t, tt.s, e, Annotate(e), reparsed, compiled, w.packet(e)) {
						yes++
					} else {
						no++
					}
				}
			}
			// A test that only ever sees one outcome shows nothing.
			if yes < 3000 || no < 3000 || complexOnes > 200 {
				t.Errorf("%d outcomes true, %d false, %d compilations too complex", yes, no, complexOnes)
			}
		})
	}
}

func TestCorpusEvaluates(t *testing.T) {
	s := NewSymbols()
	w := newWriter(s, 3)
	yes := 0
	for _, row := range corpus(t) {
		e, err := s.ParseMatch(row.match)
		if err != nil {
			continue
		}
		compiled := compileAll(t, e)
		if len(compiled) != 4 {
			t.Errorf("%s: too complex", row.match)
		}
		for range 4 {
			if agree(t, s, e, Annotate(e), e, compiled, w.packet(e)) {
				yes++
			}
		}
	}
	if yes < 500 {
		t.Errorf("%d outcomes true, too few to show anything", yes)
	}
}

// list writes actions made of rows of validActions, nested in blocks, and
// returns what their prerequisites must be.
func (w *writer) list(rows []actionCase, depth int) (text string, prereqs []string) {
	add := func(names ...string) {
		for _, name := range names {
			if name != "" && !slices.Contains(prereqs, name) {
				prereqs = append(prereqs, name)
			}
		}
	}
	for range 1 + w.IntN(3) {
		if depth > 0 && w.IntN(2) == 0 {
			inner, needs := w.list(rows, depth-1)
			switch w.IntN(3) {
			case 0:
				text += "clone {" + inner + "};"
				add(needs...)
			case 1:
				text += "reject { " + inner + " } ; "
				add(needs...)
			case 2:
				text += "icmp4 {" + inner + "}; "
				add("ip4")
			}
			continue
		}
		row := rows[w.IntN(len(rows))]
		text += " " + row.in
		add(strings.Split(row.prereq, " && ")...)
	}
	return text, prereqs
}

func TestRandomActions(t *testing.T) {
	s := NewSymbols()
	w := newWriter(s, 9)
	rows := slices.DeleteFunc(validActions(), func(row actionCase) bool { return row.want == "drop;" })
	for range 3000 {
		text, prereqs := w.list(rows, 3)
		a, err := s.ParseActions(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		checkActionsPrint(t, s, a)
		got := ""
		if a.Prereq != nil {
			got = Print(a.Prereq)
		}
		if want := strings.Join(prereqs, " && "); got != want {
			t.Fatalf("%s: prerequisites %s, want %s", text, got, want)
		}
	}
}
