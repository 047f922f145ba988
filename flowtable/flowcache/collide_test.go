package flowcache

import (
	"math/rand/v2"
	"testing"

	"millrace/flowtable"
)

// An attack is on one of the tables of a cache.
type attack struct {
	wide bool
	wild bool // entries are wildcard entries, else exact ones
}

// attackEntries is the size of these tables.
const attackEntries = 128

// name tells attacks from each other.
func (a attack) name() string {
	return map[bool]string{false: "narrow", true: "wide"}[a.wide] + " " + map[bool]string{false: "exact", true: "wildcard"}[a.wild]
}

// cache returns a cache with these secrets, or with new ones, and a plan of it.
func (a attack) cache(t *testing.T, s *Secrets) (*Cache, *Plan) {
	o := smallOptions()
	o.Secrets, o.Exact, o.Wild, o.ExactWide, o.WildWide = s, attackEntries, attackEntries, attackEntries, attackEntries
	c, _ := newTestCache(t, o, nil)
	return c, newTestPlan(t, c)
}

// spot returns where the entry of a key belongs.
func (a attack) spot(c *Cache, p *Plan, key *flowtable.Key) spot {
	comp := output(1, fullMask())
	mask := p.exact[index(a.wide)]
	kind := exactNarrow + index(a.wide)
	if a.wild {
		mask, kind = c.planMask(p, &comp.Mask, a.wide), wildNarrow+index(a.wide)
	}
	return c.spotFor(kind, key, mask)
}

// outcome says how keys fare in a cache, on average: how many bucket lines a lookup of
// one reads, and how many of them have an entry.
func (a attack) outcome(t *testing.T, s *Secrets, keys []flowtable.Key) (lines, found float64) {
	c, p := a.cache(t, s)
	for i := range keys {
		sp := a.spot(c, p, &keys[i])
		if _, r := c.enter(p, &sp, output(1, fullMask())); r != Installed && r != NoBucket {
			t.Fatalf("install: %v", r)
		}
	}
	for i := range keys {
		sp := a.spot(c, p, &keys[i])
		first, _ := sp.table.buckets(sp.hash)
		lines++
		if e := sp.table.at(first); (e.id == 0 || !equalWords(sp.table.key(first), sp.key[:sp.n])) && e.displaced > 0 {
			lines++
		}
		if _, ok := sp.table.find(sp.key[:sp.n], sp.mask, sp.hash); ok {
			found++
		}
	}
	n := float64(len(keys))
	return lines / n, found / n
}

// collide returns keys that have the same two buckets under these secrets.
func (a attack) collide(t *testing.T, s *Secrets, n int) (out []flowtable.Key) {
	c, p := a.cache(t, s)
	for i := 0; len(out) < n; i++ {
		k := flowKey(1, i)
		sp := a.spot(c, p, &k)
		if first, second := sp.table.buckets(sp.hash); first == 7 && second == 9 {
			out = append(out, k)
		}
		if i > 1<<24 {
			t.Fatal("no colliding keys found")
		}
	}
	return out
}

// TestCollisions: keys that somebody chose who knows the code, and secrets, push
// each other out of a cache that has these. Under secrets that are drawn, they
// fare as random keys do: nearly all are found, by less than twice the lines.
func TestCollisions(t *testing.T) {
	const n = 32
	for _, a := range []attack{{}, {wide: true}, {wild: true}, {wide: true, wild: true}} {
		t.Run(a.name(), func(t *testing.T) {
			known := testSecrets()
			bad, random := a.collide(t, known, n), make([]flowtable.Key, n)
			for i := range random {
				random[i] = flowKey(1, rand.IntN(1<<30))
			}
			usual, usualFound := a.outcome(t, nil, random)
			hurt, hurtFound := a.outcome(t, known, bad)
			worst, least := 0.0, 1.0
			for range 5 {
				lines, found := a.outcome(t, nil, bad)
				worst, least = max(worst, lines), min(least, found)
			}
			t.Logf("lines a lookup: %.2f (%.2f found) for random keys, %.2f (%.2f) under secrets that the attacker knows, %.2f (%.2f) under others",
				usual, usualFound, hurt, hurtFound, worst, least)
			if hurtFound > 0.1 {
				t.Error("keys that are made for secrets do not hurt under them: this tests nothing")
			}
			if worst >= 2*usual || least < 0.9 {
				t.Error("they hurt under secrets that the attacker does not know")
			}
		})
	}
}
