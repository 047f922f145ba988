package flowtable

import (
	"fmt"
	"testing"
)

// repeats are changes that a client may make again and again in one
// transaction. None may become slower each time.
func repeats() map[string]func(x *Txn, i int) error {
	one := Member{Low: 1, MaskLow: 0xffffffff}
	return map[string]func(x *Txn, i int) error{
		"replace a rule": func(x *Txn, i int) error {
			return x.Replace(ruleAt(1, 0, 0, 1, nil, nil, outTo(uint32(i+1))))
		},
		"remove and add a rule": func(x *Txn, i int) error {
			if err := x.Remove(1); err != nil {
				return err
			}
			return x.Add(ruleAt(1, 0, 0, uint16(i), nil, nil, outTo(1)))
		},
		"add and remove a member": func(x *Txn, i int) error {
			if i&1 == 0 {
				return x.AddMembers(1, one)
			}
			return x.DelMembers(1, one)
		},
		"set a set": func(x *Txn, i int) error {
			return x.SetSet(Set{1, 32, true}, []Member{{Low: uint64(i & 1), MaskLow: 0xffffffff}})
		},
		"set a meter": func(x *Txn, i int) error { return x.SetMeter(&Meter{ID: 1, Rate: uint64(i + 1)}) },
		"set and remove a meter": func(x *Txn, i int) error {
			if i&1 == 1 {
				return x.RemoveMeter(1)
			}
			return x.SetMeter(&Meter{ID: 1, Rate: 1})
		},
		"priorities that rise": func(x *Txn, i int) error {
			m := []Masked{{WordIP4, uint64(i), 0xffffffff}, {WordL4, 0, 1<<40 + uint64(i%200)<<42}}
			return x.Add(ruleAt(RuleID(i+2), 0, 0, uint16(i/2), m, nil, outTo(1)))
		},
		"one value in many sets": func(x *Txn, i int) error { return x.SetSet(Set{SetID(i + 2), 32, true}, []Member{one}) },
		"a set of many datapaths": func(x *Txn, i int) error {
			r := ruleAt(RuleID(i+2), 0, 0, 1, nil, []Pred{{Kind: InSet, Field: field("in_port"), Set: 1}}, outTo(1))
			r.Datapath = uint64(i + 2)
			return x.Add(r)
		},
	}
}

// repeat makes a change n times in one transaction, and takes out in a second
// one what rules and sets it left.
func repeat(tb testing.TB, tab *Tables, w *Walker, n int, change func(x *Txn, i int) error, middle func()) {
	x := tab.Begin()
	x.must(tb, x.SetSet(Set{1, 32, true}, nil))
	x.must(tb, x.Replace(ruleAt(1, 0, 0, 1, nil, nil, outTo(1))))
	for i := range n {
		x.must(tb, change(x, i))
	}
	middle()
	x.commit(tb)
	w.Quiet()
	var ids []RuleID
	tab.EachBrief(func(b Brief) bool { ids = append(ids, b.ID); return true })
	x = tab.Begin()
	for _, id := range ids {
		x.must(tb, x.Remove(id))
	}
	for _, s := range x.t.sets.ids(tab) {
		x.must(tb, x.RemoveSet(s))
	}
	x.commit(tb)
	for w.Quiet(); tab.Reclaim(); w.Quiet() {
	}
}

// ids returns the ids of sets that are there.
func (x index) ids(t *Tables) (out []SetID) {
	x.each(t.mem, func(ref uint32) bool {
		if t.mem.words[ref+setVersion] != never {
			out = append(out, SetID(t.mem.words[ref+setID]))
		}
		return true
	})
	return out
}

// TestRepeats: what a transaction does again and again leaves nothing behind that
// lookups or later changes go through.
func TestRepeats(t *testing.T) {
	for name, change := range repeats() {
		t.Run(name, func(t *testing.T) {
			tab, w := newTables(t, Options{Reserve: 256 << 20})
			repeat(t, tab, w, 5000, change, func() {
				if rule := tab.findRule(1); rule != 0 {
					if n, _ := checkChain(t, tab, tab.chainWith(1)); n > 2 {
						t.Errorf("%d rules in the chain of one", n)
					}
				}
				members := 0
				for ref := uint32(tab.mem.words[tab.findSet(1)+setMembers]); ref != 0; ref = uint32(tab.mem.words[ref+memberLinks]) {
					members++
				}
				if members > 2 {
					t.Errorf("%d members in the list of two", members)
				}
			})
			if n := tab.mem.used[memRules]; n != 0 {
				t.Errorf("%d words of rules are left", n)
			}
		})
	}
}

// BenchmarkRepeats tells what one of many equal changes costs, with making room
// afterwards.
func BenchmarkRepeats(b *testing.B) {
	for name, change := range repeats() {
		for _, n := range []int{2000, 20_000} {
			b.Run(fmt.Sprint(name, "/", n), func(b *testing.B) {
				tab, w := tablesWith(b)
				for b.Loop() {
					repeat(b, tab, w, n, change, func() {})
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/change")
			})
		}
	}
}
