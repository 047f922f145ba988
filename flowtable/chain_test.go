package flowtable

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
)

// portRange is the rule that matches destination ports low..high in table 0,
// as do others: only the predicates of such rules differ.
func portRange(id RuleID, priority uint16, low, high uint64, acts ...Action) *Rule {
	return ruleAt(id, 0, 0, priority, []Masked{{WordIn, 0x800, 0xffff}, {WordSrc, 6 << 8, 0xff00}},
		[]Pred{{Kind: InRange, Field: field("tp.dst"), Low: low, High: high}}, acts...)
}

// orders are orders in which n rules may come.
func orders(n int) map[string][]int {
	up := make([]int, n)
	for i := range up {
		up[i] = i
	}
	down := slices.Clone(up)
	slices.Reverse(down)
	return map[string][]int{"up": up, "down": down, "mixed": rand.New(rand.NewPCG(1, 1)).Perm(n)}
}

// seekSteps returns how many nodes the writer looks at to find a node.
func (t *Tables) seekSteps(c *chain, node uint32) (n int) {
	w, r := t.mem.words, t.rankOf(c, node)
	at := c.head
	if t.isRoot(at) {
		tower := t.tower(at)
		for l := uint32(towerMax); l > 0; l-- {
			for n++; w[tower+l] != 0 && t.precedes(c, uint32(w[tower+l]), &r); n++ {
				at = uint32(w[tower+l])
				tower = t.tower(at)
			}
		}
	}
	for n++; at != node && t.next(at) != node; n++ {
		at = t.next(at)
	}
	return n
}

// checkChain holds a chain to its order, its towers and its ranges, and returns
// its length and the average steps of a search.
func checkChain(t *testing.T, tab *Tables, c chain) (length, steps int) {
	t.Helper()
	first, ranges := c.head, uint32(0)
	var path [towerMax]uint32 // the tower that is next to be left, by level
	if tab.isRoot(c.head) {
		first, ranges = tab.next(c.head), uint32(tab.mem.words[c.head+rootRanges])
		for l := range path {
			path[l] = tab.tower(c.head)
		}
	}
	links := 0
	for node := first; node != 0; node = tab.next(node) {
		r := tab.rankOf(&c, node)
		if next := tab.next(node); next != 0 && tab.precedes(&c, next, &r) {
			t.Fatalf("node %d of the chain is before its predecessor", length+1)
		}
		if tower := tab.tower(node); tower != 0 {
			for l := range uint32(tab.mem.words[tower]) {
				if got := uint32(tab.mem.words[path[l]+1+l]); got != node {
					t.Fatalf("level %d leads to block %d, want %d", l, got, node)
				}
				path[l] = tower
			}
		}
		length++
		steps += tab.seekSteps(&c, node)
		if ranges != 0 {
			low, high := tab.rangeOf(node, tab.mem.words[ranges+rangesField])
			shift := cover(low, high)
			links += int(high>>shift-low>>shift) + 1
			for v := low >> shift; v <= high>>shift; v++ {
				in := tab.linksIn(ranges, block(shift, v<<shift))
				tab.linkOf(&in, node)
			}
		}
	}
	for l, tower := range path {
		if tower != 0 && tab.mem.words[tower+1+uint32(l)] != 0 {
			t.Fatalf("level %d does not end", l)
		}
	}
	if tab.isRoot(c.head) && tab.mem.words[c.head+rootCount] != uint64(length) {
		t.Fatalf("root counts %d nodes of %d", tab.mem.words[c.head+rootCount], length)
	}
	if ranges != 0 {
		index(ranges+rangesLinks).each(tab.mem, func(node uint32) bool {
			n, _ := checkChain(t, tab, chain{head: node, links: true})
			links -= n
			return true
		})
	}
	if links != 0 {
		t.Fatalf("%d links are missing", links)
	}
	return length, steps / length
}

// chainWith returns the chain of the rule with an id.
func (t *Tables) chainWith(id RuleID) chain {
	rule := t.findRule(id)
	return t.chainOf(uint32(t.mem.words[rule+ruleSubtable]), rule)
}

// TestLongChain: rules that differ in predicates only come and go in any order
// at a cost that grows as the logarithm of their number.
func TestLongChain(t *testing.T) {
	const n = 10_000
	for name, order := range orders(n) {
		t.Run(name, func(t *testing.T) {
			tab, w := newTables(t, Options{Reserve: 32 << 20})
			before := tab.mem.used[memClassifier]
			x := tab.Begin()
			x.must(t, x.SetEntry(&Entry{Port: 1, Datapath: 1}))
			for _, i := range order {
				x.must(t, x.Add(portRange(RuleID(i+1), uint16(i/2), uint64(i), uint64(i), outTo(uint32(i+1)))))
			}
			x.commit(t)
			length, steps := checkChain(t, tab, tab.chainWith(1))
			if most := 8 * bits.Len(n); length != n || steps > most {
				t.Errorf("%d rules, %d steps to find one; want %d and at most %d", length, steps, n, most)
			}
			for i := 0; i < n; i += 97 {
				p := w.Walk(&Key{WordIn: 1<<32 | 0x800, WordSrc: 6 << 8, WordL4: uint64(i) << 32}, 60, 0)
				if len(p.Ops) != 1 || p.Ops[0].Arg != uint32(i+1) {
					t.Fatalf("port %d: %+v", i, p.Ops)
				}
			}
			w.Quiet()
			x = tab.Begin()
			for _, i := range order[:n/2] {
				x.must(t, x.Remove(RuleID(i+1)))
			}
			x.commit(t)
			w.Quiet()
			tab.Reclaim()
			left := order[n/2:]
			if length, _ := checkChain(t, tab, tab.chainWith(RuleID(left[0]+1))); length != n/2 {
				t.Errorf("%d rules left in the chain, want %d", length, n/2)
			}
			x = tab.Begin()
			for _, i := range left {
				x.must(t, x.Remove(RuleID(i+1)))
			}
			x.commit(t)
			for w.Quiet(); tab.Reclaim(); w.Quiet() {
			}
			if tab.mem.used[memRules] != 0 {
				t.Errorf("rules take %d words after all were removed", tab.mem.used[memRules])
			}
			ids := uint32(tab.mem.words[uint32(tab.mem.words[tab.ids])]) + 1
			_, size := class(indexWords(ids))
			if now := tab.mem.used[memClassifier] - int64(size); now != before {
				t.Errorf("chains take %d words after all were removed", now-before)
			}
		})
	}
}

// TestCrowds holds lookups in long chains to the model, while rules come and
// go.
func TestCrowds(t *testing.T) {
	n := packets(t, 6000)
	const perTables, perTxn = 2000, 20
	ranged := 0
	for s := range uint64((n + perTables - 1) / perTables) {
		t.Run(fmt.Sprint(s), func(t *testing.T) {
			x := newTwin(t, randChooser{rand.New(rand.NewPCG(s, 3))}, 120)
			x.crowd = true
			for i := range perTables {
				x.packet()
				if i%perTxn == 0 {
					x.transact(false, 1+x.c.n(40)*x.c.n(2))
					x.recheck()
					x.w.Quiet()
				}
				if i%100 == 0 {
					ranged += checkChains(t, x.tab)
				}
			}
		})
	}
	if t.Logf("%d chains with ranges", ranged); ranged < n/1000 {
		t.Errorf("%d chains with ranges: too few to tell", ranged)
	}
}

// checkChains checks all chains of rules that are there, and returns how many
// have ranges.
func checkChains(t *testing.T, tab *Tables) (ranged int) {
	seen := map[uint32]bool{}
	tab.ids.each(tab.mem, func(rule uint32) bool {
		if tab.mem.words[rule+ruleAdded] == never {
			return true // it is in no chain any more
		}
		c := tab.chainOf(uint32(tab.mem.words[rule+ruleSubtable]), rule)
		if !seen[c.head] {
			seen[c.head] = true
			checkChain(t, tab, c)
			if tab.rangesOf(c.head) != 0 {
				ranged++
			}
		}
		return true
	})
	return ranged
}

// BenchmarkChain adds and removes 10,000 rules that differ in their port ranges
// only, in two transactions.
func BenchmarkChain(b *testing.B) {
	const n = 10_000
	for _, name := range []string{"up", "down", "mixed"} {
		b.Run(name, func(b *testing.B) {
			order := orders(n)[name]
			rules := make([]*Rule, n)
			for i := range rules {
				rules[i] = portRange(RuleID(i+1), uint16(i), uint64(i), uint64(i), outTo(2))
			}
			tab, w := tablesWith(b)
			for b.Loop() {
				x := tab.Begin()
				for _, i := range order {
					x.must(b, x.Add(rules[i]))
				}
				x.commit(b)
				x = tab.Begin()
				for _, i := range order {
					x.must(b, x.Remove(rules[i].ID))
				}
				x.commit(b)
				w.Quiet()
				tab.Reclaim()
			}
		})
	}
}

// BenchmarkWalkRanges walks a table of port ranges of one mask.
func BenchmarkWalkRanges(b *testing.B) {
	const n = 1000
	var rules []*Rule
	for i := range uint64(n) {
		rules = append(rules, portRange(RuleID(i+1), 100, i*60, i*60+30, outTo(2)))
	}
	_, w := tablesWith(b, rules)
	i := uint64(0)
	for b.Loop() {
		w.Walk(&Key{WordIn: 1<<32 | 0x800, WordSrc: 6 << 8, WordL4: i * 7 & 0xffff << 32}, 60, 0)
		i++
	}
}
