package flowtable

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

// newTables returns empty tables, and a walker.
func newTables(t *testing.T, o Options) (*Tables, *Walker) {
	t.Helper()
	tab, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	w := tab.NewWalker(SideTables{})
	t.Cleanup(func() {
		w.Close()
		if err := tab.Close(); err != nil {
			t.Error(err)
		}
	})
	return tab, w
}

// nestedClones returns n clones, each in the one before.
func nestedClones(n int) []Action {
	var acts []Action
	for range n {
		acts = []Action{{Code: ActClone, Nested: acts}}
	}
	return acts
}

func TestRefusals(t *testing.T) {
	with := func(f func(*Rule)) *Rule {
		r := ruleAt(7, 0, 1, 1, []Masked{{WordIn, 0x800, 0xffff}}, nil, outTo(1))
		f(r)
		return r
	}
	acts := func(a ...Action) *Rule { return with(func(r *Rule) { r.Actions = a }) }
	preds := func(p ...Pred) *Rule { return with(func(r *Rule) { r.Preds = p }) }
	for _, c := range []struct {
		name string
		rule *Rule
		want string // in the error; empty: accepted
	}{
		{"good", with(func(*Rule) {}), ""},
		{"no id", with(func(r *Rule) { r.ID = 0 }), "rule id is 0"},
		{"value outside mask", with(func(r *Rule) { r.Match[0].Value = 1 << 20 }), "outside its mask"},
		{"empty mask", with(func(r *Rule) { r.Match[0] = Masked{} }), "empty mask"},
		{"no such word", with(func(r *Rule) { r.Match[0].Word = ContextWords }), "no word 32"},
		{"word twice", with(func(r *Rule) { r.Match = append(r.Match, r.Match[0]) }), "out of order or twice"},
		{"unknown group", with(func(r *Rule) { r.Group = 9 }), "group 9: is not there"},
		{"unknown set", preds(Pred{Kind: InSet, Field: field("ip4.src"), Set: 9}), "set 9: is not there"},
		{"set of another width", preds(Pred{Kind: InSet, Field: field("eth.src"), Set: 1}), "set 1 is of 32 bits"},
		{"range upside down", preds(Pred{Kind: InRange, Field: field("tp.src"), Low: 2, High: 1}), "range 2..1"},
		{"range too wide", preds(Pred{Kind: InRange, Field: field("tp.src"), High: 1 << 16}), "of a field of 16 bits"},
		{"empty compare", preds(Pred{Kind: NotEqual, Field: field("tp.src")}), "does not fit"},
		{"unknown predicate", preds(Pred{Kind: 99, Field: field("tp.src")}), "unknown kind 99"},
		{"too many predicates", preds(make([]Pred, 33)...), "33 predicates"},
		{"field outside", preds(Pred{Kind: InRange, Field: Field{Word: 99, Width: 8}}), "word 99"},
		{"value too wide", acts(setTo("tp.src", 1<<16)), "does not fit 16 bits"},
		{"read-only", acts(setTo("eth.type", 1)), "cannot be written"},
		{"in port", acts(setTo("in_port", 1)), "cannot be written"},
		{"widths", acts(Action{Code: ActMove, Dst: field("reg0"), Src: field("tp.src")}), "widths differ"},
		{"unknown select", acts(Action{Code: ActSelect, Arg: 5}), "select 5: is not there"},
		{"unknown meter", acts(Action{Code: ActClone, Nested: []Action{{Code: ActMeter, Arg: 5}}}), "meter 5: is not there"},
		{"unknown flood list", acts(Action{Code: ActFlood, Arg: 5}), "flood list 5: is not there"},
		{"unknown action", acts(Action{Code: 200}), "unknown code 200"},
		{"flags of conntrack", acts(Action{Code: ActCT, Arg: 1 << 9}), "unknown flags"},
		{"force without commit", acts(Action{Code: ActCT, Arg: CTForce}), "only a commit"},
		{"translation alone", acts(Action{Code: ActNAT, Table: NATSource}), "unknown code"},
		{"translation of nothing", acts(Action{Code: ActCT, Arg: CTCommit, Nested: []Action{{Code: ActNAT}}}), "flags 0x0"},
		{"range backwards", acts(Action{Code: ActCT, Arg: CTCommit, Nested: []Action{{Code: ActNAT, Table: NATSource, ValueLow: 7}, {Code: ActNAT, Table: NATSource | NATLast, ValueLow: 6}}}), "ends before"},
		{"commit of a register", acts(Action{Code: ActCT, Arg: CTCommit, Nested: []Action{setTo("reg0", 1)}}), "mark and label"},
		{"own destination and an address", acts(Action{Code: ActCT, Arg: CTCommit, Nested: []Action{{Code: ActNAT, Table: NATSource | NATOriginal, ValueLow: 7}}}), "connection's own"},
		{"reply without a meter", acts(Action{Code: ActReply}), "no meter"},
		{"reply of no kind", acts(Action{Code: ActReply, Table: 7, Arg: 5}), "unknown kind 7"},
		{"reply with a wide MTU", acts(Action{Code: ActReply, Arg: 5, Value: 1 << 32}), "MTU"},
		{"reply with an unknown meter", acts(Action{Code: ActReply, Arg: 5}), "meter 5: is not there"},
		{"reply with what is wrong inside", acts(Action{Code: ActReply, Arg: 5, Nested: []Action{{Code: 200}}}), "unknown code 200"},
		{"affinity without a backend", acts(Action{Code: ActStick, Value: 9, Nested: []Action{{Code: ActEndpoint}}}), "takes a VIP"},
		{"affinity without a time", acts(Action{Code: ActStick, Nested: []Action{{Code: ActEndpoint}, {Code: ActEndpoint}}}), "takes a VIP"},
		{"affinity of two families", acts(Action{Code: ActStick, Value: 9, Nested: []Action{{Code: ActEndpoint}, {Code: ActEndpoint, Table: NATSix}}}), "one family"},
		{"endpoint alone", acts(Action{Code: ActEndpoint}), "unknown code"},
		{"affinity into a read-only field", acts(Action{Code: ActAffinity, Dst: field("eth.type")}), "cannot be written"},
		{"nested in a set", acts(Action{Code: ActDrop, Nested: []Action{outTo(1)}}), "no nested actions"},
		{"too deep", acts(nestedClones(DepthMax + 1)...), "deeper than 64"},
		{"too long", acts(make([]Action, 5000)...), "unknown code 0"},
		{"too many actions", acts(manyOutputs(5000)...), "of at most 4096"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tab, _ := newTables(t, Options{Reserve: 16 << 20})
			x := tab.Begin()
			x.must(t, x.SetSet(Set{1, 32, true}, nil))
			x.must(t, x.Add(ruleAt(8, 0, 1, 1, nil, nil)))
			err := x.Add(c.rule)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want %q", err, c.want)
			}
			r, err := x.Commit(true)
			if err != nil {
				t.Fatal(err)
			}
			want := 1
			if c.want == "" {
				want = 2
			} else if len(r.Refused) != 1 || r.Refused[0].Rule != c.rule.ID {
				t.Errorf("refused %v", r.Refused)
			}
			if r.Added != want || tab.Rules() != want {
				t.Errorf("%d added, %d in force, want %d", r.Added, tab.Rules(), want)
			}
		})
	}
}

func manyOutputs(n int) []Action {
	out := make([]Action, n)
	for i := range out {
		out[i] = outTo(1)
	}
	return out
}

// TestTransactions holds transactions to what they promise about what is there
// already, in use, or refused.
func TestTransactions(t *testing.T) {
	tab, w := newTables(t, Options{Reserve: 32 << 20})
	rule := ruleAt(1, 0, 0, 1, nil, []Pred{{Kind: InSet, Field: field("in_port"), Set: 1}}, outTo(1))
	x := tab.Begin()
	x.must(t, x.SetSet(Set{1, 32, true}, []Member{{Low: 1, MaskLow: 0xffffffff}}))
	x.must(t, x.SetEntry(&Entry{Port: 1, Datapath: 1}))
	x.must(t, x.Add(rule))
	x.commit(t)

	check := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", what, err, want)
		}
	}
	x = tab.Begin()
	check("add twice", x.Add(rule), ErrExists)
	check("remove what is not there", x.Remove(5), ErrUnknown)
	check("remove a set in use", x.RemoveSet(1), ErrInUse)
	check("remove an unknown set", x.RemoveSet(2), ErrUnknown)
	check("remove an unknown meter", x.RemoveMeter(2), ErrUnknown)
	x.must(t, x.Remove(1))
	x.must(t, x.RemoveSet(1))
	x.must(t, x.RemoveEntry(1))
	r, err := x.Commit(false)
	check("commit", err, ErrRefused)
	if r.NRefused != 5 || tab.Rules() != 1 {
		t.Errorf("%d refused, %d rules, want 5 and 1", r.NRefused, tab.Rules())
	}
	if p := w.Walk(&Key{WordIn: 1 << 32}, 60, 0); len(p.Ops) != 1 {
		t.Errorf("after a refused transaction: %+v, drop %d", p.Ops, p.Drop)
	}

	x = tab.Begin()
	x.must(t, x.Remove(1))
	x.must(t, x.RemoveSet(1))
	x.must(t, x.SetSet(Set{1, 32, true}, nil)) // the same number, another set
	x.must(t, x.Add(rule))
	r = x.commit(t)
	if r.Added != 1 || r.Removed != 1 || r.Version != tab.Version() {
		t.Errorf("got %+v", r)
	}
	if p := w.Walk(&Key{WordIn: 1 << 32}, 60, 0); p.Drop != DropNoRule {
		t.Errorf("a member of a removed set counts: %+v", p.Ops)
	}
}

// TestFull fills tables that are small: what finds no room is refused, and what
// is there stays right.
func TestFull(t *testing.T) {
	tab, w := newTables(t, Options{Reserve: 4 << 20})
	x := tab.Begin()
	x.must(t, x.SetEntry(&Entry{Port: 1, Datapath: 1}))
	n := uint64(0)
	for ; ; n++ {
		if err := x.Add(ruleAt(RuleID(n+1), 0, 0, 1, []Masked{{WordIP4, n, 0xffffffff}}, nil, outTo(1))); err != nil {
			if !errors.Is(err, ErrFull) {
				t.Fatal(err)
			}
			break
		}
	}
	if _, err := x.Commit(true); err != nil {
		t.Fatal(err)
	}
	if n < 5000 {
		t.Errorf("%d rules fill 4 MiB", n)
	}
	for i := range n {
		if p := w.Walk(&Key{WordIn: 1 << 32, WordIP4: i}, 60, 0); len(p.Ops) != 1 {
			t.Fatalf("rule %d of %d is not found", i, n)
		}
	}
	w.Quiet()
	x = tab.Begin()
	x.must(t, x.Remove(1))
	x.commit(t)
}

// TestDump reads rules back as they were given.
func TestDump(t *testing.T) {
	tab, _ := newTables(t, Options{Reserve: 16 << 20})
	x := tab.Begin()
	x.must(t, x.SetSet(Set{1, 32, true}, []Member{{Low: 3, MaskLow: 0xffffffff}}))
	x.must(t, x.SetGroup(4, []uint64{9, 1, 9}))
	want := &Rule{ID: 0xfeed, Table: 3, Priority: 77, Group: 4, Cookie: 5,
		Match: []Masked{{WordIn, 0x800, 0xffff}, {WordReg4, 1, 3}},
		Preds: []Pred{{Kind: InSet, Field: field("outport"), Set: 1}, {Kind: NotEqual, Field: field("ip6.src"), Low: 1, LowLow: 2, Mask: 3, MaskLow: 6}, {Kind: InRange, Field: field("tp.src"), Low: 3, High: 9}},
		Actions: []Action{{Code: ActSet, Dst: field("ip6.src"), Value: 1, ValueLow: 2}, {Code: ActClone, Nested: []Action{{Code: ActMove, Dst: field("eth.src"), Src: field("eth.dst")}, outTo(3)}},
			{Code: ActLookupFDB, Arg: 8, Dst: field("flags"), Src: field("eth.src"), Src2: field("inport")}, goTo(9)}}
	x.must(t, x.Add(want))
	x.commit(t)
	got, ok := tab.Rule(0xfeed)
	if !ok || !reflect.DeepEqual(&got.Rule, want) {
		t.Errorf("got  %+v\nwant %+v", got.Rule, *want)
	}
	n := 0
	tab.EachRule(func(r Listed) bool { n++; return r.Handle == got.Handle })
	if n != 1 {
		t.Errorf("%d rules listed, want 1", n)
	}
	if s, m, ok := tab.Members(1); !ok || s != (Set{1, 32, true}) || len(m) != 1 || m[0].Low != 3 {
		t.Errorf("set %v %v %v", s, m, ok)
	}
	if dps, ok := tab.Group(4); !ok || !reflect.DeepEqual(dps, []uint64{1, 9}) {
		t.Errorf("group %v %v", dps, ok)
	}
}

// TestLargeSet finds each of 100,000 members, and no other value.
func TestLargeSet(t *testing.T) {
	tab, w := newTables(t, Options{})
	x := tab.Begin()
	x.must(t, x.SetEntry(&Entry{Port: 1, Datapath: 1}))
	members := make([]Member, 100_000)
	for i := range members {
		members[i] = Member{Low: uint64(i) * 2, MaskLow: 0xffffffff}
	}
	x.must(t, x.SetSet(Set{1, 32, false}, members))
	x.must(t, x.Add(ruleAt(1, 0, 0, 1, nil, []Pred{{Kind: InSet, Field: field("ip4.dst"), Set: 1}}, outTo(1))))
	x.commit(t)
	for i := range uint64(len(members)) {
		for odd := range uint64(2) {
			if p := w.Walk(&Key{WordIn: 1 << 32, WordIP4: 2*i + odd}, 60, 0); (len(p.Ops) == 1) != (odd == 0) {
				t.Fatalf("value %d: %+v", 2*i+odd, p.Ops)
			}
		}
	}
}

// TestAbortedGroup: a group that an aborted transaction made is not there
// afterwards, for lists or for rules.
func TestAbortedGroup(t *testing.T) {
	tb, err := New(Options{Reserve: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer tb.Close()
	for range 3 {
		x := tb.Begin()
		if err := errors.Join(x.SetGroup(5, []uint64{1, 2}), x.Add(&Rule{ID: 1, Group: 5})); err != nil {
			t.Fatal(err)
		}
		x.Abort()
		if got := tb.Groups(); len(got) != 0 {
			t.Fatalf("groups %v", got)
		}
	}
	x := tb.Begin()
	if err := x.Add(&Rule{ID: 1, Group: 5}); !errors.Is(err, ErrUnknown) {
		t.Errorf("got %v, want %v", err, ErrUnknown)
	}
	x.Abort()
	x = tb.Begin()
	if err := errors.Join(x.SetGroup(5, []uint64{1, 2}), x.Add(&Rule{ID: 1, Group: 5})); err != nil {
		t.Fatal(err)
	}
	if r, err := x.Commit(false); err != nil || r.Added != 1 {
		t.Fatal(r, err)
	}
	if got, ok := tb.Group(5); !ok || len(got) != 2 {
		t.Errorf("group %v", got)
	}
}
