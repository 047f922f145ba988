package flowtable

import (
	"math/rand/v2"
	"testing"
)

// An attackable is a hash of the tables, and how keys of an attacker's choice come
// into it.
type attackable struct {
	name  string
	index func(t *Tables) index
	tag   func(t *Tables, v uint64) uint32
	enter func(x *Txn, vs []uint64) error
}

// attackables are the hashes that packets or clients choose the keys of.
func attackables() []attackable {
	match := func(v uint64) []Masked { return []Masked{{WordIP4, v, ^uint64(0)}} }
	full := ^uint64(0)
	addRules := func(x *Txn, rule func(v uint64) *Rule, vs []uint64) error {
		for _, v := range vs {
			if err := x.Add(rule(v)); err != nil {
				return err
			}
		}
		return nil
	}
	return []attackable{
		{
			"rules of a subtable",
			func(t *Tables) index {
				var any uint32
				t.ids.each(t.mem, func(rule uint32) bool { any = rule; return false })
				return index(uint32(t.mem.words[any+ruleSubtable]) + subtableRules)
			},
			func(t *Tables, v uint64) uint32 { return t.seed.sumTag(t.seed.add(0, v, WordIP4), 0) },
			func(x *Txn, vs []uint64) error {
				n := RuleID(0)
				return addRules(x, func(v uint64) *Rule { n++; return ruleAt(n, 0, 0, 1, match(v), nil, outTo(1)) }, vs)
			},
		}, {
			"ids of rules",
			func(t *Tables) index { return t.ids },
			func(t *Tables, v uint64) uint32 { return t.idTag(v) },
			func(x *Txn, vs []uint64) error {
				return addRules(x, func(v uint64) *Rule { return ruleAt(RuleID(v), 0, 0, 1, match(v), nil, outTo(1)) }, vs)
			},
		}, {
			"members of a set",
			func(t *Tables) index { return t.members },
			func(t *Tables, v uint64) uint32 { return t.setTag(1, 0, full, 0, v) },
			func(x *Txn, vs []uint64) error {
				members := make([]Member, len(vs))
				for i, v := range vs {
					members[i] = Member{Low: v, MaskLow: full}
				}
				return x.SetSet(Set{1, 64, true}, members)
			},
		}, {
			"values of all sets",
			func(t *Tables) index { return t.values },
			func(t *Tables, v uint64) uint32 { return t.valueTag(domainOf(Set{1, 64, true}), 0, full, 0, v) },
			func(x *Txn, vs []uint64) error {
				for i, v := range vs {
					if err := x.SetSet(Set{SetID(i + 1), 64, true}, []Member{{Low: v, MaskLow: full}}); err != nil {
						return err
					}
				}
				return nil
			},
		},
	}
}

// steps returns how many words a search reads to find an entry with this tag: that
// of the filter, and slots.
func (x index) steps(a *arena, tag uint32) (n int) {
	b, m := uint32(a.words[x]), uint32(a.words[x]>>32)
	n = 1
	for i := tag & m; ; i = (i + 1) & m {
		n++
		if s := a.words[b+1+i]; s == 0 || uint32(s>>32) == tag {
			return n
		}
	}
}

// cost returns what finding one of some values costs on average, if they are what a
// hash holds: under a seed, or, if that is nil, under one that is drawn as ever.
func (at *attackable) cost(t *testing.T, s *seed, vs []uint64) float64 {
	t.Helper()
	tab, _ := newTables(t, Options{Reserve: 32 << 20})
	if s != nil {
		tab.seed = *s // nothing is in the hashes yet
	}
	x := tab.Begin()
	x.must(t, at.enter(x, vs))
	x.commit(t)
	sum, h := 0, at.index(tab)
	for _, v := range vs {
		sum += h.steps(tab.mem, at.tag(tab, v))
	}
	return float64(sum) / float64(len(vs))
}

// collide returns values that begin their search at one slot, if the seed is
// this one.
func (at *attackable) collide(t *testing.T, s *seed, n int) (out []uint64) {
	const slots = 1 << 11
	tab, _ := newTables(t, Options{Reserve: 4 << 20})
	tab.seed = *s
	for v := uint64(1); len(out) < n; v++ {
		if at.tag(tab, v)%slots == 77 {
			out = append(out, v)
		}
	}
	return out
}

// TestCollisions: keys that somebody chose who knows the code, and a seed, make
// lookups slow under that seed, but not under the ones that are drawn: less than
// twice as slow as random keys. It counts words that are read.
func TestCollisions(t *testing.T) {
	known := newSeed()
	const n = 1000
	for _, at := range attackables() {
		t.Run(at.name, func(t *testing.T) {
			random := make([]uint64, n)
			for i := range random {
				random[i] = rand.Uint64()
			}
			usual, bad := at.cost(t, nil, random), at.collide(t, &known, n)
			hurt, worst := at.cost(t, &known, bad), 0.0
			for range 5 {
				worst = max(worst, at.cost(t, nil, bad))
			}
			t.Logf("words a lookup: %.2f for random keys, %.1f under the seed that the attacker knows, %.2f under others", usual, hurt, worst)
			if hurt < 20*usual {
				t.Error("keys that are made for a seed do not hurt under it: this tests nothing")
			}
			if worst >= 2*usual {
				t.Error("they hurt under seeds that the attacker does not know")
			}
			sorted := make([]uint64, n)
			for i := range sorted {
				sorted[i] = uint64(i+1) << (i % 3 * 16) // what runs and shifts make
			}
			if got := at.cost(t, nil, sorted); got > 2*usual {
				t.Errorf("%.2f words a lookup for keys in order", got)
			}
		})
	}
}
