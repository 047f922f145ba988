package flowcache

import (
	"millrace/flowtable"
)

// An EntryView is one entry of a cache, for dumps and for looking entries
// over after a change. It is a copy.
type EntryView struct {
	Plan    *Plan
	Wide    bool
	Exact   bool
	Mask    flowtable.Key // bits that matter: those of the walk or, for an exact entry, all relevant ones
	Key     flowtable.Key // masked
	Program uint32
	Idle    uint16 // epochs since its last hit
}

// Entries calls visit with the entries of up to budget buckets from bucket
// from on, and returns where to go on: 0 at the end. Begin with 0. Entries that
// come, go or move between two calls may be missed or seen twice.
func (c *Cache) Entries(from uint64, budget int, visit func(*EntryView)) (on uint64) {
	base := uint64(0)
	for _, t := range c.tables {
		end := base + uint64(t.size())
		for ; from < end; from++ {
			if budget--; budget < 0 {
				return from
			}
			if e := t.at(from - base); e.id != 0 && !c.dead(e) {
				v := EntryView{Plan: c.plans[e.plan], Wide: t.words == flowtable.KeyWords, Exact: !t.tagged, Mask: c.masks[e.mask()].bits,
					Program: e.program(), Idle: c.epoch - e.epoch}
				copy(v.Key[:], t.key(from-base))
				visit(&v)
			}
		}
		base = end
	}
	return 0
}
