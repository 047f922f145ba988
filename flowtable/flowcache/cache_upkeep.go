package flowcache

import "millrace/flowtable"

// Flush takes out all entries, and tells of all counters. Results end, as with
// Upkeep.
func (c *Cache) Flush() {
	for _, t := range c.tables {
		for i := uint64(0); t.used > 0 && i <= t.mask; i++ {
			if t.at(i).id != 0 {
				c.evict(t, i)
			}
		}
	}
	clear(c.seen)
	c.promotions = 0
	c.programs.release()
}

// Upkeep is for each turn. Results of lookups end: it frees the programs that
// nothing leads to any more. It looks at budget entries of each table, and
// takes out those that are dead or were not hit for long. epoch counts up by
// one in each period of the caller's, some tenths of a second to seconds; when
// it changes, the plans' masks are sorted anew.
func (c *Cache) Upkeep(epoch uint16, budget int) {
	for i := range c.promote[:c.promotions] {
		pr := &c.promote[i]
		c.promoteNow(pr.plan, &pr.key, pr.wide, pr.id)
	}
	c.promotions = 0
	c.tight, c.short = c.tight || c.short, false
	if epoch != c.epoch {
		c.epoch = epoch
		for _, p := range c.plans {
			if p != nil {
				p.narrow.rank()
				p.wide.rank()
			}
		}
		c.breathe()
	}
	c.supply.plan(c)
	c.sweep(budget, func(e *entry) bool { return c.epoch-e.epoch >= c.idle || c.dead(e) })
	c.programs.release()
}

// breathe shortens the time after which unused entries go while memory for
// programs is short, and lengthens it again afterwards.
func (c *Cache) breathe() {
	if c.tight {
		c.idle = max(c.idle/2, idleForOthers)
	} else {
		c.idle = min(c.idle+1, uint16(c.options.Idle))
	}
	c.tight = false
}

// sweep looks at budget entries of each table, and takes out those that may go.
func (c *Cache) sweep(budget int, mayGo func(*entry) bool) {
	for _, t := range c.tables {
		if t.used == 0 {
			continue
		}
		for range min(budget, t.size()) {
			b := t.hand
			t.hand = (t.hand + 1) & t.mask
			if e := t.at(b); e.id != 0 && mayGo(e) {
				c.evict(t, b)
				c.stats.Expired++
			}
		}
	}
}

// promotion is a flow that is worth an exact entry.
type promotion struct {
	plan *Plan
	wide bool
	id   uint64 // of its wildcard entry
	key  flowtable.Key
}

// promoteLater notes a key that was found late in the list, if it is the
// second time. Upkeep makes the entry: a lookup frees nothing.
func (c *Cache) promoteLater(p *Plan, key *flowtable.Key, wide bool, id uint64) {
	if c.promotions == len(c.promote) {
		return
	}
	pr := &c.promote[c.promotions]
	pr.plan, pr.wide, pr.id, pr.key = p, wide, id, *key
	c.promotions++
}

// promoteNow makes an exact entry with the program of a wildcard one.
func (c *Cache) promoteNow(p *Plan, key *flowtable.Key, wide bool, id uint64) {
	off := uint32(id)
	if h := c.programs.at(off); p.closed || h.gen != uint16(id>>32) || h.refs == 0 {
		return
	}
	s := c.spotFor(exactNarrow+index(wide), key, p.exact[index(wide)])
	if !c.sighted(s.hash) {
		return
	}
	// The program may not go while room is made for its new entry.
	c.programs.at(off).refs++
	b, ok := c.makeRoom(p, &s)
	if !ok || s.table.at(b).id != 0 {
		c.programs.drop(off)
		return
	}
	c.fill(p, &s, b, off)
	c.stats.Promotions++
}
