package flowtable

import (
	"errors"
	"math/rand/v2"
	"testing"
)

// refuseFrom makes the n-th block from now be refused, and all later ones too
// if they are to be; n counts from 0. It returns how many were asked for.
func (a *arena) refuseFrom(n int, all bool) *int {
	asked := new(int)
	a.refuses = func() bool {
		*asked++
		return *asked == n+1 || all && *asked > n
	}
	return asked
}

// TestOutOfMemory lets memory run out at each block that a transaction asks for:
// what a call is refused leaves no trace, and a commit that fails leaves none of
// the transaction. The model tells.
func TestOutOfMemory(t *testing.T) {
	for _, crowd := range []bool{false, true} {
		for _, all := range []bool{false, true} {
			seeds := uint64(6)
			if raceOn || testing.Short() {
				seeds = 2
			}
			for seed := range seeds {
				outOfMemory(t, seed, crowd, all)
			}
		}
	}
}

// outOfMemory does one transaction of a seed again and again, with one more
// block each time.
func outOfMemory(t *testing.T, seed uint64, crowd, all bool) {
	failed, refused := 0, 0
	for n := 0; ; n++ {
		x := newTwin(t, randChooser{rand.New(rand.NewPCG(seed, 4))}, 40)
		x.crowd = crowd
		for range 3 {
			x.transact(false, 20)
			x.w.Quiet()
		}
		for range 20 {
			x.packet()
		}
		x.tab.Reclaim()
		x.full = true
		asked := x.tab.mem.refuseFrom(n, all)
		before := x.m
		if x.transact(false, 30); x.m == before {
			failed++
		}
		refused += x.refused
		done := *asked <= n
		x.tab.Reclaim()
		x.tab.mem.refuses, x.full = nil, false
		x.check()
		for range 3 { // what is left must not disturb the next ones
			x.transact(false, 10)
			x.check()
			x.w.Quiet()
		}
		x.empty()
		x.end()
		if done {
			break
		}
	}
	t.Logf("seed %d: %d transactions failed, %d calls were refused", seed, failed, refused)
	if refused == 0 {
		t.Errorf("seed %d: %d transactions failed, %d calls were refused: memory never ran out", seed, failed, refused)
	}
}

// check compares a few packets, kept programs and chains.
func (x *twin) check() {
	x.t.Helper()
	for range 15 {
		x.packet()
	}
	x.recheck()
	checkChains(x.t, x.tab)
}

// empty removes all rules and sets; nothing may be left of them.
func (x *twin) empty() {
	x.t.Helper()
	txn := x.tab.Begin()
	x.open = txn
	for id := range x.m.rules {
		x.must(txn.Remove(id))
	}
	for id := range x.m.sets {
		x.must(txn.RemoveSet(id))
	}
	if _, err := txn.Commit(false); err != nil {
		x.t.Fatal(err)
	}
	for x.w.Quiet(); x.tab.Reclaim(); x.w.Quiet() {
	}
	a := x.tab.mem
	if n := a.used[memRules]; n != 0 {
		x.t.Fatalf("%d words of rules are left", n)
	}
	for name, i := range map[string]index{"ids": x.tab.ids, "uses": x.tab.uses, "members": x.tab.members, "values": x.tab.values, "sets": x.tab.sets} {
		if n := a.words[i+1] >> 32; n != 0 {
			x.t.Fatalf("%d %s are left", n, name)
		}
	}
	for d := range uint32(domainsMax) {
		if n := x.tab.masksIn(uint32(a.words[x.tab.domains+d])); n != 0 {
			x.t.Fatalf("%d masks of domain %d are left", n, d)
		}
	}
	x.m = newModel()
}

// TestFullGroups: a commit that finds no room for what groups are to have is
// undone, and says so.
func TestFullGroups(t *testing.T) {
	for n := 0; ; n++ {
		tab, w := newTables(t, Options{Reserve: 16 << 20})
		x := tab.Begin()
		x.must(t, x.SetGroup(1, []uint64{1, 2}))
		x.must(t, x.SetGroup(2, []uint64{3}))
		for i := range uint32(3) {
			x.must(t, x.SetEntry(&Entry{Port: i + 1, Datapath: uint64(i + 1)}))
		}
		x.must(t, x.Add(ruleAt(1, 1, 0, 1, nil, nil, outTo(7))))
		x.must(t, x.Add(ruleAt(2, 2, 0, 1, nil, nil, outTo(8))))
		x.commit(t)
		ports := func() (out [3]uint32) {
			for i := range out {
				if p := w.Walk(&Key{WordIn: uint64(i+1) << 32}, 60, 0); len(p.Ops) == 1 {
					out[i] = p.Ops[0].Arg
				}
			}
			return out
		}
		x = tab.Begin()
		x.must(t, x.SetGroup(1, []uint64{3, 5}))
		x.must(t, x.SetGroup(2, []uint64{1, 2, 6}))
		x.must(t, x.Add(ruleAt(3, 1, 0, 2, []Masked{{WordIP4, 1, 1}}, nil, outTo(9))))
		asked := tab.mem.refuseFrom(n, true)
		r, err := x.Commit(false)
		tab.mem.refuses = nil
		want := [3]uint32{8, 8, 7}
		if err != nil {
			want = [3]uint32{7, 7, 8}
			if !errors.Is(err, ErrFull) || r.Added != 0 || r.Version != tab.Version() || tab.Rules() != 2 {
				t.Errorf("got %v, %+v, %d rules", err, r, tab.Rules())
			}
		}
		if got := ports(); got != want {
			t.Errorf("after a commit with %d blocks, error %v: ports %d, want %d", n, err, got, want)
		}
		w.Quiet()
		tab.Begin().commit(t) // must not put in force what was undone
		if got := ports(); got != want {
			t.Errorf("after a commit with %d blocks and an empty one: ports %d, want %d", n, got, want)
		}
		if *asked <= n {
			if err != nil {
				t.Errorf("no block was refused, and yet: %v", err)
			}
			return
		}
	}
}
