package flowcache

// makeRoom returns a bucket for a spot: the one where its entry is, a free one,
// one whose entry could move to its other bucket, or one whose entry may go.
func (c *Cache) makeRoom(p *Plan, s *spot) (uint64, bool) {
	t := s.table
	if b, found := t.find(s.key[:s.n], s.mask, s.hash); found {
		return b, true
	}
	first, second := t.buckets(s.hash)
	full := t.at(first).displaced == ^uint16(0)
	if c.isFree(t, first) {
		return first, true
	}
	if !full && c.isFree(t, second) {
		return second, true
	}
	if c.shift(t, first) {
		return first, true
	}
	if !full && c.shift(t, second) {
		return second, true
	}
	b := first
	rank := c.rank(p, t, first)
	if other := c.rank(p, t, second); other > rank && !full {
		b, rank = second, other
	}
	if rank == 0 {
		return 0, false
	}
	c.evict(t, b)
	c.stats.Evicted++
	return b, true
}

// isFree reports whether bucket b is free, and frees it if its entry is dead.
func (c *Cache) isFree(t *table, b uint64) bool {
	e := t.at(b)
	if e.id != 0 && c.dead(e) {
		c.evict(t, b)
	}
	return e.id == 0
}

// Steps of a shift. As long as less than half of a table is in use nearly every
// entry finds a place by a few (cuckoo hashing with two choices, Pagh and Rodler
// 2004). Beyond, most searches would be in vain, and each step is a line from
// memory.
const (
	shiftMax  = 32
	shiftFull = 2
)

// shift frees bucket b by moving its entry to its other bucket, the one that is
// there to its other, and so on. It moves nothing unless the last finds a free
// bucket.
func (c *Cache) shift(t *table, b uint64) bool {
	var path [shiftMax]uint64
	steps := shiftMax
	if t.used > t.size()/2 {
		steps = shiftFull
	}
	n := 0
	for ; !c.isFree(t, b); n++ {
		if n == steps {
			return false
		}
		path[n] = b
		first, second := t.buckets(c.hashAt(t, b))
		if b = first; path[n] == first {
			b = second
		}
	}
	for i := n - 1; i >= 0; i-- {
		if !t.move(path[i], c.hashAt(t, path[i])) {
			return false
		}
	}
	return true
}

// hashAt returns the hash of the entry in bucket b.
func (c *Cache) hashAt(t *table, b uint64) uint64 {
	return c.secrets.hash(t.key(b), c.masks[t.at(b).mask()].seed)
}

// Ranks of victims: the higher, the sooner it goes; 0 stays. The low bits of a rank are its
// age.
const (
	rankIdle = 1 << 16 // of a plan within its share, not hit of late
	rankOwn  = 2 << 16 // of the plan that wants the place
	rankOver = 3 << 16 // of a plan that has more than its share

	idleForOthers = 2 // epochs without a hit after which others may take the place
)

// rank says how readily the entry in bucket b makes room for one of plan p. The
// share of a plan is the table divided by those that have entries in it or want one. A plan
// that fills its share with new flows takes from itself, and never a place of
// somebody's flow that is in use.
func (c *Cache) rank(p *Plan, t *table, b uint64) uint32 {
	e := t.at(b)
	age := uint32(c.epoch - e.epoch)
	sharers := t.active
	if p.counts[t.kind] == 0 {
		sharers++
	}
	switch owner := c.plans[e.plan]; {
	case owner.counts[t.kind] > t.size()/sharers:
		return rankOver + age
	case owner == p:
		return rankOwn + age
	case age >= idleForOthers:
		return rankIdle + age
	}
	return 0
}

// dead reports whether an entry can never be hit again: its program is
// gone, or its mask is its plan's no more.
func (c *Cache) dead(e *entry) bool {
	return c.programs.at(e.program()).gen != e.gen() || c.masks[e.mask()].retired
}

// evict takes the entry out of bucket b.
func (c *Cache) evict(t *table, b uint64) {
	e := *t.at(b)
	t.take(b, c.hashAt(t, b))
	p := c.plans[e.plan]
	if p.counts[t.kind]--; p.counts[t.kind] == 0 {
		t.active--
	}
	if pr := c.probeOf(p, t, e.mask()); pr != nil {
		pr.entries--
	}
	c.letGo(e.mask())
	c.tidy(p, e.mask())
	c.programs.drop(e.program())
	c.forget(p)
}

// evictBudget is how many entries of each table are looked at in a turn when
// there is no room for a program.
const evictBudget = 64

// makeSpace takes out entries for their programs' memory: of the plan that
// wants it, of plans that have more entries than the average, and those that
// were not hit of late.
func (c *Cache) makeSpace(p *Plan) {
	used, plans := 0, 0
	for _, q := range c.plans {
		if n := q.entries(); n > 0 || q == p {
			used, plans = used+n, plans+1
		}
	}
	c.sweep(evictBudget, func(e *entry) bool {
		owner := c.plans[e.plan]
		return owner == p || owner.entries()*plans > used || c.epoch-e.epoch >= idleForOthers || c.dead(e)
	})
}

// entries returns how many entries a plan has. The plan may be nil.
func (p *Plan) entries() (n int) {
	if p != nil {
		for _, count := range p.counts {
			n += count
		}
	}
	return n
}
