package flowtable

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"testing"
)

// manyMasks are rules of 5 tables with 40 masks in all, n of them: prefixes of both
// addresses, with and without ports.
func manyMasks(n int) []*Rule {
	r := rand.New(rand.NewPCG(1, 2))
	rules := make([]*Rule, 0, n+5)
	for i := range n {
		table := uint8(i % 5)
		kind := i / 5 % 8
		src, dst := uint64(0xffffffff)<<(kind%4*4)&0xffffffff, uint64(0xffffffff)<<(kind/2*3)&0xffffffff
		m := []Masked{{WordIn, 0x800, 0xffff}, {WordSrc, 6 << 8, 0xff00}, {WordIP4, 0, src<<32 | dst}}
		m[2].Value = r.Uint64() & m[2].Mask
		if kind&1 != 0 {
			m = append(m, Masked{WordL4, uint64(r.IntN(1000)) << 32, 0xffff << 32})
		}
		acts := []Action{setTo("reg0", uint64(i)), goTo(table + 1)}
		if table == 4 {
			acts = []Action{outTo(2)}
		}
		rules = append(rules, ruleAt(RuleID(i+1), 0, table, uint16(100+r.IntN(100)), m, nil, acts...))
	}
	return rules
}

// defaults are rules that go on to the next table.
func defaults() []*Rule {
	var out []*Rule
	for i := range uint8(5) {
		a := goTo(i + 1)
		if i == 4 {
			a = outTo(3)
		}
		out = append(out, ruleAt(RuleID(1e9)+RuleID(i), 0, i, 0, nil, nil, a))
	}
	return out
}

// tablesWith returns tables with rules, and a walker.
func tablesWith(b testing.TB, rules ...[]*Rule) (*Tables, *Walker) {
	tab, err := New(Options{})
	if err != nil {
		b.Fatal(err)
	}
	x := tab.Begin()
	x.must(b, x.SetEntry(&Entry{Port: 1, Datapath: 1}))
	for _, l := range rules {
		for _, r := range l {
			x.must(b, x.Add(r))
		}
	}
	x.commit(b)
	w := tab.NewWalker(SideTables{})
	b.Cleanup(func() {
		w.Close()
		if err := tab.Close(); err != nil {
			b.Error(err)
		}
	})
	return tab, w
}

// keysOf returns packets that match the rules, one each.
func keysOf(rules []*Rule) []Key {
	keys := make([]Key, len(rules))
	for i, r := range rules {
		keys[i][WordIn] = 1 << 32
		for _, m := range r.Match {
			keys[i][m.Word] |= m.Value
		}
	}
	return keys
}

func BenchmarkWalk(b *testing.B) {
	rules := manyMasks(10_000)
	_, w := tablesWith(b, rules, defaults())
	keys := keysOf(rules)
	i, sum := 0, 0
	b.ReportAllocs()
	for b.Loop() {
		p := w.Walk(&keys[i%len(keys)], 60, 0)
		sum += len(p.Ops)
		i += 7
	}
	if sum == 0 {
		b.Fatal("nothing delivered")
	}
}

func BenchmarkWalk5Exact(b *testing.B) {
	var rules []*Rule
	for i := range 10_000 {
		table := uint8(i % 5)
		a := []Action{goTo(table + 1)}
		if table == 4 {
			a = []Action{outTo(2)}
		}
		rules = append(rules, ruleAt(RuleID(i+1), 0, table, 100, []Masked{{WordIn, 0x800, 0xffff}, {WordIP4, uint64(i / 5), 0xffffffff}}, nil, a...))
	}
	_, w := tablesWith(b, rules)
	keys := keysOf(rules)
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		w.Walk(&keys[i%len(keys)], 60, 0)
		i += 7
	}
}

// portGroupRules are n rules `outport == @pg && ip4.src == $as`, which differ in
// their sets only; port p is in the groups that its bits say.
func portGroupRules(x *Txn, n int) ([]*Rule, error) {
	var rules []*Rule
	for i := range n {
		pg, as := SetID(10+2*i), SetID(11+2*i)
		if err := x.SetSet(Set{pg, 32, true}, []Member{{Low: uint64(i%1000 + 1), MaskLow: 0xffffffff}}); err != nil {
			return nil, err
		}
		if err := x.SetSet(Set{as, 32, false}, []Member{{Low: 10<<24 | uint64(i)<<8, MaskLow: 0xffffff00}}); err != nil {
			return nil, err
		}
		rules = append(rules, ruleAt(RuleID(i+1), 0, 1, 1000, []Masked{{WordIn, 0x800, 0xffff}},
			[]Pred{{Kind: InSet, Field: field("ip4.src"), Set: as}, {Kind: InSet, Field: field("outport"), Set: pg}}, outTo(2)))
	}
	return rules, nil
}

func BenchmarkWalkPortGroups(b *testing.B) {
	for _, n := range []int{50, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			tab, w := tablesWith(b)
			x := tab.Begin()
			rules, err := portGroupRules(x, n)
			x.must(b, err)
			x.must(b, x.Add(ruleAt(1e9, 0, 0, 1, nil, nil, Action{Code: ActMove, Dst: field("outport"), Src: field("ip4.dst")}, goTo(1))))
			for _, r := range rules {
				x.must(b, x.Add(r))
			}
			x.commit(b)
			key := Key{WordIn: 1<<32 | 0x800}
			i := 0
			for b.Loop() {
				key[WordIP4] = uint64(10<<24|i%n<<8|5)<<32 | uint64(i%n%1000+1)
				if p := w.Walk(&key, 60, 0); len(p.Ops) != 1 {
					b.Fatalf("packet %x was dropped", key)
				}
				i++
			}
		})
	}
}

// exactRules are n rules of a table on one address and port each.
func exactRules(n int) []*Rule {
	rules := make([]*Rule, n)
	for i := range rules {
		rules[i] = ruleAt(RuleID(bits.Reverse64(uint64(i+1))), 0, uint8(i&3), 100, []Masked{{WordIn, 0x800, 0xffff}, {WordIP4, uint64(i), 0xffffffff}, {WordL4, uint64(i&0xff) << 32, 0xffff << 32}}, nil,
			setTo("reg0", uint64(i)&0xffffffff), goTo(4))
	}
	return rules
}

func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			rules := exactRules(n)
			for b.Loop() {
				tab, err := New(Options{})
				if err != nil {
					b.Fatal(err)
				}
				x := tab.Begin()
				for _, r := range rules {
					x.must(b, x.Add(r))
				}
				x.commit(b)
				b.StopTimer()
				used := uint64(0)
				for _, u := range tab.Usage() {
					if u.Name != "free" {
						used += u.Bytes
					}
				}
				b.ReportMetric(float64(used)/float64(n), "B/rule")
				if err := tab.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkChange changes n rules of 100,000 in a transaction, with programs on
// their path.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{1, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			rules := exactRules(100_000)
			tab, w := tablesWith(b, rules)
			keys := keysOf(rules)
			for i := range 1000 {
				w.Walk(&keys[i], 60, 0)
			}
			for b.Loop() {
				x := tab.Begin()
				for i := range n {
					x.must(b, x.Replace(rules[i*7%len(rules)]))
				}
				x.commit(b)
				w.Quiet()
			}
		})
	}
}

// TestHeap holds the tables to little Go memory: the collector would stall the
// workers.
func TestHeap(t *testing.T) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	if raceOn {
		t.Skip("needs arenas outside the Go heap, which a build with the race detector has not")
	}
	before := heap()
	tab, _ := tablesWith(t)
	const n = 200_000
	x := tab.Begin()
	for i := range uint64(n) {
		x.must(t, x.Add(ruleAt(RuleID(i+1), 0, 0, 1, []Masked{{WordIP4, i, 0xffffffff}}, nil, outTo(uint32(i+1)))))
	}
	x.commit(t)
	if grown := int64(heap()) - int64(before); grown > 4<<20 {
		t.Errorf("%d rules take %d bytes of the Go heap", n, grown)
	}
	x = tab.Begin()
	for i := range uint64(n) {
		x.must(t, x.Remove(RuleID(i+1)))
	}
	x.commit(t)
	if tab.Reclaim(); tab.Rules() != 0 {
		t.Errorf("%d rules left", tab.Rules())
	}
	for range 1000 { // one turn of a walker that is never quiet would keep all
		for _, w := range tab.walkers {
			w.Quiet()
		}
		if !tab.Reclaim() {
			break
		}
	}
	for _, u := range tab.Usage() {
		if u.Name == "rules" && u.Bytes != 0 {
			t.Errorf("rules take %d bytes after all were removed", u.Bytes)
		}
	}
}

func TestWalkAllocates(t *testing.T) {
	rules := manyMasks(2000)
	tab, w := tablesWith(t, rules, defaults())
	x := tab.Begin()
	x.must(t, x.Replace(ruleAt(1e9, 0, 0, 0, nil, nil, Action{Code: ActClone, Nested: []Action{setTo("eth.src", 5), outTo(7), goTo(2)}},
		Action{Code: ActDatapath, Value: 1, Arg: 3, Table: 3}, goTo(1), setTo("ip4.src", 3), goTo(2))))
	x.commit(t)
	keys := keysOf(rules)
	for i := range keys {
		w.Walk(&keys[i], 60, 0)
	}
	i := 0
	if n := testing.AllocsPerRun(2000, func() {
		w.Walk(&keys[i%len(keys)], 60, 0)
		w.Quiet()
		i++
	}); n != 0 {
		t.Errorf("a walk allocates %v times", n)
	}
}
