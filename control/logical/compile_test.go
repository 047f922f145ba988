package logical

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// describe writes clauses as text: a line for each, "field=value/mask" for
// matches and predicates with their sets.
func describe(clauses []Clause) string {
	var lines []string
	for _, c := range clauses {
		var parts []string
		for _, m := range c.Matches {
			part := fmt.Sprintf("%s=%s", m.Field, appendNumber(nil, m.Value, FormatHex))
			if m.Mask != Ones(m.Field.Width()) {
				part += "/" + string(appendNumber(nil, m.Mask, FormatHex))
			}
			parts = append(parts, part)
		}
		for i := range c.Preds {
			parts = append(parts, describePredicate(&c.Preds[i]))
		}
		lines = append(lines, "["+strings.Join(parts, " ")+"]")
	}
	return strings.Join(lines, " ")
}

// describePredicate writes one predicate.
func describePredicate(p *Predicate) string {
	not := ""
	if p.Not {
		not = "not "
	}
	where := p.Field.String()
	if int(p.Bits) != p.Field.Width() {
		where += fmt.Sprintf("[%d+%d]", p.Low, p.Bits)
	}
	switch p.Kind {
	case PredResident:
		return not + "resident(" + p.Port + ")"
	case PredRange:
		return fmt.Sprintf("%s%s in %s..%s", not, where, appendNumber(nil, p.First, FormatDecimal), appendNumber(nil, p.Last, FormatDecimal))
	}
	var values []string
	for i := range p.Values {
		values = append(values, string(p.Values[i].appendTo(nil)))
	}
	return fmt.Sprintf("%s%s in {%s}", not, where, strings.Join(values, " "))
}

func TestCompile(t *testing.T) {
	const as = "ip4.src == $as"
	tests := []struct {
		name, in, want string
		options        Options
	}{
		{"always", "1", "[]", Options{}},
		{"never", "0", "", Options{}},
		{"always hides the rest", "tcp || 1 || udp", "[]", Options{}},
		{"contradiction", "tcp && udp", "", Options{}},
		{"contradiction with a set", "ip4 && eth.type == {0x806, 0x86dd}", "", Options{}},
		{"set decided by a match", "ip && ip4", "[eth.type=0x800]", Options{}},
		{"set reduced by a match", "reg0[0] && reg0[0..3] == {1, 2, 3}", "[xxreg0=0x1000000000000000000000000/0x1000000000000000000000000 xxreg0[96+4] in {1 3}]", Options{}},
		{"set reduced to one", "reg0[1] && reg0[0..1] == {0, 1, 3}", "[xxreg0=0x3000000000000000000000000/0x3000000000000000000000000]", Options{}},
		{"masks of overlays join", "reg0 == 1 && xreg0[0..31] == 2", "[xxreg0=0x1000000020000000000000000/0xffffffffffffffff0000000000000000]", Options{}},
		{"prerequisites", "tcp.dst == 80", "[ip.proto=0x6 tcp.dst=0x50 eth.type in {0x800 0x86dd}]", Options{}},
		{"small sets split", "tcp.dst == 80", "[eth.type=0x800 ip.proto=0x6 tcp.dst=0x50] [eth.type=0x86dd ip.proto=0x6 tcp.dst=0x50]", Options{SplitSets: 2}},
		{"large sets do not", "ip4 && tcp.dst == {1, 2, 3}", "[eth.type=0x800 ip.proto=0x6 tcp.dst in {1 2 3}]", Options{SplitSets: 2}},
		{"no cross product of sets", "ip4.src == {1.1.1.1, 2.2.2.2} && ip4.dst == {3.3.3.3, $b}",
			"[eth.type=0x800 ip4.src in {1.1.1.1 2.2.2.2} ip4.dst in {3.3.3.3 $b}]", Options{}},
		{"alternatives of one field are a set", "ip4.src == 1.1.1.1 || ip4.src == {2.2.2.2, $b}", "[eth.type=0x800 ip4.src in {1.1.1.1 2.2.2.2 $b}]", Options{}},
		{"negated set", as + " && ip4.src != {1.1.1.1, $b}", "[eth.type=0x800 ip4.src in {$as} not ip4.src in {1.1.1.1 $b}]", Options{}},
		{"one set twice", as + " && " + as, "[eth.type=0x800 ip4.src in {$as}]", Options{}},
		{"a set and its opposite", as + " && ip4.src != $as", "", Options{}},
		{"range", "ip4 && 80 <= udp.dst < 90", "[eth.type=0x800 ip.proto=0x11 udp.dst in 80..89]", Options{}},
		{"ranges meet", "ip4 && 80 <= udp.dst <= 90 && udp.dst > 88", "[eth.type=0x800 ip.proto=0x11 udp.dst in 89..90]", Options{}},
		{"ranges meet in one", "ip4 && 80 <= udp.dst < 90 && udp.dst >= 89", "[eth.type=0x800 ip.proto=0x11 udp.dst=0x59]", Options{}},
		{"ranges apart", "udp.dst < 80 && udp.dst > 80", "", Options{}},
		{"range of all", "reg0 >= 0 && reg0 <= 4294967295", "[]", Options{}},
		{"range of none", "reg0 < 0 || reg0 > 4294967295", "", Options{}},
		{"empty mask", "ip4.src == 0.0.0.0/0", "[eth.type=0x800]", Options{}},
		{"not the empty mask", "ip4.src != 0.0.0.0/0", "", Options{}},
		{"not of one bit", "!ct.est", "[ct_state=0x20/0x22]", Options{}},
		{"negated predicate", "!ip.later_frag", "[ip.frag=0x0/0x2] [not eth.type in {0x800 0x86dd}]", Options{}},
		{"ports", `inport == "a" && outport == {"b", @g}`, `[inport in {"a"} outport in {"b" @g}]`, Options{}},
		{"residence", `is_chassis_resident("a") && !is_chassis_resident("b")`, "[resident(a) not resident(b)]", Options{}},
		{"residence and its opposite", `is_chassis_resident("a") && !is_chassis_resident("a")`, "", Options{}},
		{"first alternatives last", "(tcp || udp) && ip4", "[eth.type=0x800 ip.proto=0x6] [eth.type=0x800 ip.proto=0x11]", Options{}},
	}
	s := NewSymbols()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, err := s.ParseMatch(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			clauses, err := NewCompiler(tt.options).Compile(e)
			if got := describe(clauses); err != nil || got != tt.want {
				t.Errorf("%s: %v\n got %s\nwant %s", tt.in, err, got, tt.want)
			}
		})
	}
}

func TestCompileWithPrerequisites(t *testing.T) {
	s := NewSymbols()
	e, err := s.ParseMatch("reg0[0]")
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.ParseActions("ip.ttl--; ip6.dst = xxreg1; next;")
	if err != nil {
		t.Fatal(err)
	}
	clauses, err := NewCompiler(Options{}).Compile(e, a.Prereq, nil)
	const want = "[xxreg0=0x1000000000000000000000000/0x1000000000000000000000000 eth.type=0x86dd]"
	if got := describe(clauses); err != nil || got != want {
		t.Errorf("%v\n got %s\nwant %s", err, got, want)
	}
}

func TestACLSymbols(t *testing.T) {
	s := NewACLSymbols()
	e, err := s.ParseMatch("tcp.dst == 80 && ip4")
	if err != nil {
		t.Fatal(err)
	}
	const want = "tcp.dst == 80 && ct.trk && !ct.inv && ct.trk && ct_proto == 6 && ct.trk && eth.type == 0x800"
	if got := Print(Annotate(e)); got != want {
		t.Errorf("annotated\n got %s\nwant %s", got, want)
	}
	clauses, err := NewCompiler(Options{}).Compile(e)
	const compiled = "[ct_state=0x20/0x30 ct_proto=0x6 ct_tp_dst=0x50 eth.type=0x800]"
	if got := describe(clauses); err != nil || got != compiled {
		t.Errorf("%v\n got %s\nwant %s", err, got, compiled)
	}
}

// product returns a conjunction of n disjunctions of two terms.
func product(n int) string {
	terms := make([]string, n)
	for i := range terms {
		terms[i] = fmt.Sprintf("(reg%d[%d] || eth.src[%d])", i%8, i%32, i%48)
	}
	return strings.Join(terms, " && ")
}

func TestCompileIsBounded(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"too many clauses", product(60), "match too complex: it needs more than 1000 clauses"},
		{"too much work for nothing", product(60) + " && (reg9 == 1 || reg9[0..15] == 2) && (reg9 == 3 || reg9[0..15] == 4)",
			"match too complex: its alternatives and lists need too much work"},
		{"many predicates in many clauses", product(9) + strings.Repeat(" && eth.src[3..5] != {1, 2, 3} && eth.src[4..9] != {1, 2}", 3000),
			"match too complex: its alternatives and lists need too much work"},
		{"long lists in many clauses", product(9) + " && (" + strings.Repeat("reg8 == 1 || ", 9000) + "reg8 == 2)",
			"match too complex: its alternatives and lists need too much work"},
	}
	s := NewSymbols()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, err := s.ParseMatch(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			c := NewCompiler(Options{MaxClauses: 1000})
			if _, err := c.Compile(e); !errors.Is(err, ErrTooComplex) || err.Error() != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
			// The compiler must be as good as new.
			if again, err := c.Compile(s.Lookup("tcp").test); describe(again) != "[ip.proto=0x6 eth.type in {0x800 0x86dd}]" || err != nil {
				t.Errorf("afterwards tcp is %s, %v", describe(again), err)
			}
		})
	}
}

func TestResolve(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"port", `inport == "b"`, "[inport=0x2]"},
		{"no such port", `inport == "nosuch"`, ""},
		{"none", `inport == "none"`, "[inport=0x0]"},
		{"ports", `inport == {"a", "b", "nosuch"}`, "[inport in {1 2}]"},
		{"two ports for one", `inport == "a" && inport == "b"`, ""},
		{"group", `inport == {"a", @g}`, "[inport in {1 @g}]"},
		{"group only", `inport == @g`, "[inport in {@g}]"},
		{"port in a register", `remote_outport == "b" && reg2 == 7 && reg1[0..3] == 2`,
			"[xxreg0=0x20000000700000000/0xffffffffffffffff00000000]"},
		{"port against a register", `remote_outport == "b" && reg1[0..3] == 3`, ""},
		{"resident", `is_chassis_resident("a") && !is_chassis_resident("b") && reg8 == 1`, "[xreg4=0x100000000/0xffffffff00000000]"},
		{"not resident", `is_chassis_resident("b")`, ""},
		{"set", "ip4.src == {$s, 1.1.1.1}", "[eth.type=0x800 ip4.src in {$s 1.1.1.1}]"},
	}
	s := NewSymbols()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, err := s.ParseMatch(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			clauses, err := NewCompiler(Options{}).Compile(e)
			if err != nil {
				t.Fatal(err)
			}
			before := describe(clauses)
			got, err := Resolve(clauses, world{})
			if err != nil || describe(got) != tt.want {
				t.Errorf("%s: %v\n got %s\nwant %s", tt.in, err, describe(got), tt.want)
			}
			if describe(clauses) != before {
				t.Errorf("%s: the clauses given changed from %s to %s", tt.in, before, describe(clauses))
			}
		})
	}
}

// empty is a world without sets.
type empty struct{ world }

func (empty) AddressSet(string) bool { return false }
func (empty) PortGroup(string) bool  { return false }

func TestResolveUnknownSet(t *testing.T) {
	s := NewSymbols()
	for in, want := range map[string]string{
		"ip4.src == $s":                    "address set $s: unknown set",
		"inport == @g && reg0 == 1":        "port group @g: unknown set",
		`inport == {"a", @g}`:              "port group @g: unknown set",
		"ip4.src == $s || inport == \"a\"": "address set $s: unknown set",
	} {
		e, err := s.ParseMatch(in)
		if err != nil {
			t.Fatal(err)
		}
		clauses, err := NewCompiler(Options{}).Compile(e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Resolve(clauses, empty{}); !errors.Is(err, ErrUnknownSet) || err.Error() != want {
			t.Errorf("%s: %v, want %s", in, err, want)
		}
	}
}

func TestRefer(t *testing.T) {
	s := NewSymbols()
	e, err := s.ParseMatch(`(inport == {"b", "a", @g} || ip4.src == {$z, $y}) && outport == "a" && !is_chassis_resident("r") && ip4.dst != $y`)
	if err != nil {
		t.Fatal(err)
	}
	const want = "{[a b] [] [r] [y z] [g] [] []}"
	if got := fmt.Sprint(Refer(e, nil)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestActionsRefer(t *testing.T) {
	s := NewSymbols()
	a, err := s.ParseActions(`clone { outport = "z"; output; }; reg0 = 5; ct_lb_mark_local(backends="l":10.0.0.1); mirror("m"); bind_vport("v", inport); ` +
		`fwd_group(childports="f", "z"); ip.ttl--; clone { meter("m"); }; group("h"); group("g");`)
	if err != nil {
		t.Fatal(err)
	}
	const want = "{[f m v z] [l] [] [] [] [m] [g h]}"
	if got := fmt.Sprint(a.Refer()); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
