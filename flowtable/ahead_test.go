package flowtable

import (
	"slices"
	"sync"
	"testing"

	"millrace/flowtable/prefetch"
)

// aheadTables is a table with a rule for each of n addresses, a walker that has
// gone through it, and keys for some of the rules.
func aheadTables(t *testing.T, n int) (*Tables, *Walker, [AheadMax]Key) {
	if !prefetch.Harmless {
		t.Skip("needs a processor that asks for any address without harm")
	}
	tab, w := newTables(t, Options{Reserve: 32 << 20})
	rules := make([]*Rule, 0, n)
	for i := range n {
		m := []Masked{{WordIn, 0x800, 0xffff}, {WordSrc, 17 << 8, 0xff00}, {WordIP4, uint64(i), 0xffffffff}, {WordReg0, 5 << 32, 0xffffffff << 32}}
		rules = append(rules, ruleAt(RuleID(i+10), 0, 1, 5, m, nil, outTo(2)))
	}
	x := tab.Begin()
	x.must(t, x.SetEntry(&Entry{Port: 1, Datapath: 1}))
	x.must(t, x.Add(ruleAt(1, 0, 0, 5, nil, nil, setTo("reg0", 5), goTo(1))))
	for _, r := range rules {
		x.must(t, x.Add(r))
	}
	x.commit(t)
	var keys [AheadMax]Key
	for i := range keys {
		keys[i] = Key{WordIn: 1<<32 | 0x800, WordSrc: 17 << 8, WordIP4: uint64(i * 31 % n)}
	}
	w.Walk(&keys[0], 60, 0)
	return tab, w, keys
}

// TestAhead checks that what is asked for ahead is what the walks then find.
func TestAhead(t *testing.T) {
	_, w, keys := aheadTables(t, 5000)
	if w.ahead.n != 1 {
		t.Fatalf("the walk has left %d subtables, want the large one", w.ahead.n)
	}
	w.aheadSlots(0, &keys, AheadMax)
	w.aheadRules(0, AheadMax)
	rules, right := w.ahead.at[0], 0
	for i, ref := range rules {
		if ref != 0 && slices.Contains(w.Walk(&keys[i], 60, 0).Rules, uint32(w.words[ref+ruleHandle])) {
			right++
		}
	}
	if right < AheadMax*9/10 {
		t.Errorf("%d of %d rules were asked for", right, AheadMax)
	}
}

// TestAheadForgets checks that nothing is asked for of subtables that may be
// gone.
func TestAheadForgets(t *testing.T) {
	tab, w, keys := aheadTables(t, 1000)
	x := tab.Begin()
	for i := range 1000 {
		x.must(t, x.Remove(RuleID(i+10)))
	}
	x.commit(t)
	w.Quiet()
	tab.Reclaim()
	if w.ahead.n != 0 {
		t.Error("the walker still knows a subtable that was taken out")
	}
	w.Ahead(&keys, AheadMax, testCounters())
}

// TestAheadSmall checks that nothing is asked for that is near anyway.
func TestAheadSmall(t *testing.T) {
	if _, w, _ := aheadTables(t, 40); w.ahead.n != 0 {
		t.Errorf("%d subtables of 40 rules are remembered", w.ahead.n)
	}
}

// TestAheadAllocates checks that it does not.
func TestAheadAllocates(t *testing.T) {
	if raceOn {
		return // an arena is on the Go heap then, and its address is found by reflection
	}
	_, w, keys := aheadTables(t, 5000)
	c := testCounters()
	if n := testing.AllocsPerRun(100, func() { w.Ahead(&keys, AheadMax, c) }); n != 0 {
		t.Errorf("it allocates %v times", n)
	}
}

// testCounters are counters of all tests that do not look at them.
var testCounters = sync.OnceValue(func() *Counters {
	c, err := NewCounters(0)
	if err != nil {
		panic(err)
	}
	return c
})
