package flowtable

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// pipeline returns tables of datapath 1, entered by port 1, with rules.
func pipeline(t *testing.T, rules ...*Rule) (*Tables, *Walker) {
	t.Helper()
	tab, w := newTables(t, Options{Reserve: 32 << 20})
	x := tab.Begin()
	x.must(t, x.SetEntry(&Entry{Port: 1, Datapath: 1}))
	x.must(t, x.SetMeter(&Meter{ID: 1, Rate: 5, Burst: 6, Packets: true}))
	x.must(t, x.SetFlood(2, []uint32{4, 5}))
	x.must(t, x.SetFlood(FloodPort|2, []uint32{4, 5}))
	for _, r := range rules {
		x.must(t, x.Add(r))
	}
	x.commit(t)
	return tab, w
}

func TestOps(t *testing.T) {
	clone := func(acts ...Action) Action { return Action{Code: ActClone, Nested: acts} }
	setSrc := Op{Code: OpSet, Word: WordIP4, Value: 5 << 32, Mask: 0xffffffff << 32}
	out := func(p uint32) Op { return Op{Code: OpOutput, Arg: p} }
	save, restore := Op{Code: OpSave}, Op{Code: OpRestore}
	for _, c := range []struct {
		name string
		acts []Action
		want []Op
		drop uint32
	}{
		{"nothing is written before an output", []Action{outTo(2), setTo("ip4.src", 5)}, []Op{out(2)}, 0},
		{"written once for two outputs", []Action{setTo("ip4.src", 5), outTo(2), outTo(3)}, []Op{setSrc, out(2), out(3)}, 0},
		{"written twice before an output", []Action{setTo("ip4.src", 6), setTo("ip4.src", 5), outTo(2)}, []Op{setSrc, out(2)}, 0},
		{"a clone at the end needs no copy", []Action{outTo(2), clone(setTo("ip4.src", 5), outTo(3))}, []Op{out(2), setSrc, out(3)}, 0},
		{"a clone that changes needs one", []Action{clone(setTo("ip4.src", 5), outTo(3)), outTo(2)}, []Op{save, setSrc, out(3), restore, out(2)}, 0},
		{"a clone that only outputs needs none", []Action{clone(outTo(3)), outTo(2)}, []Op{out(3), out(2)}, 0},
		{"a meter ends its copy only", []Action{clone(Action{Code: ActMeter, Arg: 1}, outTo(3)), outTo(2)}, []Op{save, {Code: OpMeter, Arg: 1}, out(3), restore, out(2)}, 0},
		{"flood", []Action{{Code: ActFlood, Arg: 2}}, []Op{{Code: OpFlood, Arg: 2}}, 0},
		{"out port all", []Action{setTo("outport", FloodPort|2), {Code: ActOutput, Dst: field("outport")}}, []Op{{Code: OpFlood, Arg: FloodPort | 2}}, 0},
		{"out port all of nothing", []Action{setTo("outport", FloodPort|3), {Code: ActOutput, Dst: field("outport")}}, nil, DropNoPort},
		{"push", []Action{{Code: ActPushVLAN, Arg: 0x8100}, setTo("vlan.tci", 7), outTo(2)},
			[]Op{{Code: OpPushVLAN, Arg: 0x8100}, {Code: OpSet, Word: WordIn, Value: 7 << 16, Mask: 0xff << 16}, out(2)}, 0},
		{"drop", []Action{setTo("ip4.src", 5), {Code: ActDrop, Arg: 77}}, nil, 77},
		{"no output", []Action{setTo("ip4.src", 5)}, nil, DropNoOutput},
		{"out port 0", []Action{{Code: ActOutput, Dst: field("outport")}}, nil, DropNoPort},
		{"ttl", []Action{{Code: ActDecTTL}, outTo(1)}, nil, DropTTL},
		{"no rule", []Action{goTo(9)}, nil, DropNoRule},
		{"round and round", []Action{goTo(0)}, nil, DropSteps},
		{"deeper and deeper", []Action{clone(goTo(0)), outTo(1)}, nil, DropDepth},
		{"learn without output", []Action{setTo("ip4.src", 5), {Code: ActPutFDB, Arg: 3, Src: field("eth.src"), Src2: field("in_port")}}, []Op{{Code: OpLearn, Arg: 3, Value: 1, Mask: 9}}, DropNoOutput},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, w := pipeline(t, ruleAt(1, 0, 0, 1, nil, nil, c.acts...))
			p := w.Walk(&Key{WordIn: 1 << 32, WordSrc: 9 << 16}, 60, 0)
			if len(p.Ops)+len(c.want) > 0 && !reflect.DeepEqual(p.Ops, c.want) || p.Drop != c.drop {
				t.Errorf("got  %+v drop %d\nwant %+v drop %d", p.Ops, p.Drop, c.want, c.drop)
			}
		})
	}
}

// TestConsulted holds walks to the least that they depend on.
func TestConsulted(t *testing.T) {
	udp := []Masked{{WordIn, 0x800, 0xffff}, {WordSrc, 17 << 8, 0xff00}, {WordIP4, 7, 0xffffffff}}
	tcp := []Masked{{WordIn, 0x800, 0xffff}, {WordSrc, 6 << 8, 0xff00}, {WordL4, 80 << 32, 0xffff << 32}}
	for _, c := range []struct {
		name string
		rule []*Rule
		key  Key
		want Key
	}{
		{"the port always", nil, Key{}, Key{WordIn: 0xffffffff << 32}},
		{"not the rest of another kind", []*Rule{ruleAt(1, 0, 0, 5, udp, nil), ruleAt(2, 0, 0, 4, tcp, nil)}, Key{WordIn: 0x800, WordSrc: 6 << 8},
			Key{WordIn: 0xffffffff<<32 | 0xffff, WordSrc: 0xff00, WordL4: 0xffff << 32}},
		{"not below what matched", []*Rule{ruleAt(1, 0, 0, 5, udp, nil), ruleAt(2, 0, 0, 4, tcp, nil)}, Key{WordIn: 0x800, WordSrc: 17 << 8, WordIP4: 7},
			Key{WordIn: 0xffffffff<<32 | 0xffff, WordSrc: 0xff00, WordIP4: 0xffffffff}},
		{"not what was written before", []*Rule{ruleAt(1, 0, 0, 5, nil, nil, setTo("ip4.dst", 7), goTo(1)), ruleAt(2, 0, 1, 5, udp, nil)}, Key{WordIn: 0x800, WordSrc: 17 << 8},
			Key{WordIn: 0xffffffff<<32 | 0xffff, WordSrc: 0xff00}},
		{"the source of a move", []*Rule{ruleAt(1, 0, 0, 5, nil, nil, Action{Code: ActMove, Dst: field("reg0"), Src: field("ip4.src")})}, Key{}, Key{WordIn: 0xffffffff << 32, WordIP4: 0xffffffff << 32}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, w := pipeline(t, c.rule...)
			c.key[WordIn] |= 1 << 32
			if p := w.Walk(&c.key, 60, 0); p.Mask != c.want {
				t.Errorf("got  %x\nwant %x", p.Mask, c.want)
			}
		})
	}
}

// TestTrace compares what a trace tells with what the walk did.
func TestTrace(t *testing.T) {
	_, w := pipeline(t, ruleAt(11, 0, 0, 1, nil, nil, setTo("reg0", 5), goTo(1)),
		ruleAt(22, 0, 1, 1, []Masked{{WordReg0, 5 << 32, 0xffffffff << 32}}, nil, Action{Code: ActClone, Nested: []Action{goTo(2)}}, outTo(2)))
	key := Key{WordIn: 1 << 32}
	want := slices.Clone(w.Walk(&key, 60, 0).Ops)
	p, tr := w.Trace(&key, 60, 0)
	if !slices.Equal(p.Ops, want) {
		t.Errorf("trace: ops %+v, walk: %+v", p.Ops, want)
	}
	var got []RuleID
	for _, s := range tr.Steps {
		switch {
		case s.Action != nil:
			got = append(got, RuleID(s.Action.Code))
		case s.Rule != nil:
			got = append(got, s.Rule.ID)
		default:
			got = append(got, 0)
		}
	}
	if want := []RuleID{11, ActSet, ActNext, 22, ActClone, ActNext, 0, ActOutput}; !slices.Equal(got, want) {
		t.Errorf("steps %v, want %v", got, want)
	}
	if before, after := tr.Steps[1].Before[WordReg0], tr.Steps[2].Before[WordReg0]; before != 0 || after != 5<<32 {
		t.Errorf("reg0 before and after it was set: %x, %x", before, after)
	}
	if tr.Steps[6].Depth != 1 {
		t.Errorf("table in a clone is at depth %d", tr.Steps[6].Depth)
	}
}

// TestStillGood changes rules that concern some packets only.
func TestStillGood(t *testing.T) {
	rule := func(id RuleID, dst uint64) *Rule {
		return ruleAt(id, 0, 0, 5, []Masked{{WordIP4, dst, 0xffffffff}}, nil, outTo(uint32(dst)+1))
	}
	tab, w := pipeline(t, rule(1, 1), rule(2, 2), rule(3, 3))
	key := Key{WordIn: 1 << 32, WordIP4: 2}
	p := w.Walk(&key, 60, 0)
	mask, path, guards := p.Mask, p.Path, [2]Guard(p.Guards)
	good := func() bool {
		for _, g := range guards {
			if tab.paths.cells.Value(g.Cell) != g.Want {
				return false
			}
		}
		return true
	}
	if !good() {
		t.Fatal("guards of a new program do not hold")
	}
	moved := 0
	for i := range uint64(200) { // rules for other packets
		x := tab.Begin()
		x.must(t, x.Add(rule(RuleID(100+i), 100+i)))
		x.commit(t)
		w.Quiet()
		if good() {
			continue
		}
		moved++
		var ok bool
		if guards, ok = w.StillGood(&key, &mask, path, guards); !ok {
			t.Fatalf("rule for %d concerns the packet for 2", 100+i)
		}
	}
	if moved > 20 {
		t.Errorf("%d of 200 changes of other packets' rules moved the guards", moved)
	}
	x := tab.Begin()
	x.must(t, x.Remove(2))
	x.commit(t)
	if _, ok := w.StillGood(&key, &mask, path, guards); ok || good() {
		t.Error("a program stays good although its rule is gone")
	}
}

// TestSelectShares holds buckets to their weights, and flows to their buckets.
func TestSelectShares(t *testing.T) {
	s := &Select{ID: 1, Fields: []Field{field("ip4.src")}, Buckets: []Bucket{{ID: 1, Weight: 1}, {ID: 2, Weight: 2}, {ID: 3, Weight: 0}, {ID: 4, Weight: 5}}}
	d, err := encodeSelect(s)
	if err != nil {
		t.Fatal(err)
	}
	fewer := *s
	fewer.Buckets = s.Buckets[:3]
	d2, err := encodeSelect(&fewer)
	if err != nil {
		t.Fatal(err)
	}
	const n = 80_000
	var counts [5]int
	r := rand.New(rand.NewPCG(1, 1))
	for range n {
		h := selectMix(selectStart, r.Uint64())
		id, _, ok := pick(d[1+d[0]:], h)
		if !ok {
			t.Fatal("no bucket")
		}
		counts[id]++
		if id2, _, _ := pick(d2[1+d2[0]:], h); id != 4 && id2 != id {
			t.Fatalf("a flow of bucket %d went to %d when bucket 4 went", id, id2)
		}
	}
	for id, weight := range []int{0, 1, 2, 0, 5} {
		want := n / 8 * weight
		if counts[id] < want-want/10 || counts[id] > want+want/10 {
			t.Errorf("bucket %d has %d of %d flows, want about %d", id, counts[id], n, want)
		}
	}
}

func TestCounters(t *testing.T) {
	c, err := NewCounters(0)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, handle uint32, packets, bytes uint64) {
		t.Helper()
		if p, b := c.Get(handle); p != packets || b != bytes {
			t.Errorf("%s: %d packets, %d bytes, want %d and %d", what, p, b, packets, bytes)
		}
	}
	check("new", 100, 0, 0)
	c.Add(100, 1, 60)
	c.Add(100, 2, 120)
	check("two sums", 100, 3, 180)
	next := uint32(100 | 1<<handleBits)
	check("the next rule's", next, 0, 0)
	c.Add(next, 5, 5)
	c.Add(100, 7, 7) // late
	check("the next rule's after a late one", next, 5, 5)
	check("the old rule's", 100, 0, 0)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// TestArena gives out and takes back blocks of all sizes: they do not overlap,
// and come back.
func TestArena(t *testing.T) {
	a, err := newArena(16 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.mem.release(); err != nil {
			t.Error(err)
		}
	}()
	type block struct {
		ref uint32
		n   int
	}
	var blocks []block
	r := rand.New(rand.NewPCG(3, 3))
	for i := range 20_000 {
		if len(blocks) > 50 && r.IntN(2) == 0 {
			k := r.IntN(len(blocks))
			b := blocks[k]
			for j := range b.n {
				if a.words[int(b.ref)+j] != uint64(b.ref) {
					t.Fatalf("step %d: block %d of %d words was overwritten", i, b.ref, b.n)
				}
			}
			a.release(memRules, b.ref, b.n)
			blocks[k] = blocks[len(blocks)-1]
			blocks = blocks[:len(blocks)-1]
			continue
		}
		n := 1 + r.IntN(1<<(1+r.IntN(12)))
		ref := a.alloc(memRules, n)
		if ref == 0 {
			continue
		}
		for j := range n {
			a.words[int(ref)+j] = uint64(ref)
		}
		blocks = append(blocks, block{ref, n})
	}
	for _, b := range blocks {
		a.release(memRules, b.ref, b.n)
	}
	if a.used[memRules] != 0 {
		t.Errorf("%d words in use after all were freed", a.used[memRules])
	}
}

// TestSetByWords: a set of any field does what it does when it is decoded in full, as Trace
// does.
func TestSetByWords(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 4))
	written := 0
	for _, f := range Fields() {
		value, low := r.Uint64()&(1<<f.Width-1), uint64(0)
		if f.Width == 128 {
			value, low = r.Uint64(), r.Uint64()
		}
		rule := ruleAt(1, 0, 0, 1, nil, nil, Action{Code: ActSet, Dst: f, Value: value, ValueLow: low}, goTo(1))
		if checkRule(rule) != nil {
			continue // a field that rules do not write
		}
		written++
		_, w := pipeline(t, rule, ruleAt(2, 0, 1, 1, nil, nil, outTo(2)))
		key := Key{WordIn: 1 << 32}
		got := *w.Walk(&key, 60, 0)
		got.Ops = slices.Clone(got.Ops)
		ctx := w.ctx
		traced, _ := w.Trace(&key, 60, 0)
		if w.ctx != ctx {
			t.Errorf("%s: the context is %x, want %x", f.Name, ctx, w.ctx)
		}
		if got.Mask != traced.Mask || !slices.Equal(got.Ops, traced.Ops) {
			t.Errorf("%s: got %+v, want %+v", f.Name, got.Ops, traced.Ops)
		}
	}
	if written < len(Fields())/2 {
		t.Errorf("%d of %d fields were written", written, len(Fields()))
	}
}

// TestFollow: what Follow returns is what Walk does, but for what Seal adds.
func TestFollow(t *testing.T) {
	tab, w := pipeline(t, ruleAt(1, 0, 0, 1, nil, nil, setTo("ip4.src", 5), outTo(2)))
	key := Key{WordIn: 1 << 32}
	want := *w.Walk(&key, 60, 0)
	want.Ops, want.Rules, want.Guards = slices.Clone(want.Ops), slices.Clone(want.Rules), slices.Clone(want.Guards)
	got := w.Follow(&key, 60, 0)
	if got.Mask != want.Mask || !slices.Equal(got.Ops, want.Ops) || !slices.Equal(got.Rules, want.Rules) || !got.Cacheable {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if w.Seal(); !reflect.DeepEqual(*got, want) {
		t.Errorf("sealed: got %+v, want %+v", *got, want)
	}
	w.Follow(&key, 60, 0)
	x := tab.Begin()
	x.must(t, x.Add(ruleAt(2, 0, 9, 1, nil, nil, outTo(3))))
	x.commit(t)
	if w.Seal(); w.out.Cacheable {
		t.Error("what a transaction came into the way of may be kept")
	}
}
