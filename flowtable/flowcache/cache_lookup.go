package flowcache

import (
	"math/bits"

	"millrace/flowtable"
	"millrace/flowtable/prefetch"
)

// prefetchFrom is how many entries or programs must be in use before their
// lines are asked for ahead: fewer stay in the caches near the core, where
// the asking costs more than it saves.
const prefetchFrom = 256

// promoteDepth is the place in a plan's list from which on a hit is worth an
// exact entry.
const promoteDepth = 3

// scratch is what a lookup works with: one batch.
type scratch struct {
	todo  [BatchMax]uint8  // indices of keys that have found nothing yet
	cand  [BatchMax]uint8  // indices of keys whose tag agreed
	hash  [BatchMax]uint64 // in the order of todo or cand
	tried [BatchMax]uint64 // hashes under the mask that is probed, in the order of todo
	found [BatchMax]uint64 // ids of entries, 0 for none
	again uint64           // bit i: key i equals key i-1
	ends  [MasksMax]int    // by place in the plan's list: end of the mask's run in cand
}

// Lookup leads n narrow keys, all of ports of one plan, to programs. out[i] is
// the offset of a program; with Stale, if one of its guards does not hold; 0
// for a miss.
//
// It works in stages, each for all keys: hash, ask for lines, compare; and at
// the end programs and guards. So the loads of a batch wait for memory together.
func (c *Cache) Lookup(keys *[BatchMax]NarrowKey, n int, p *Plan, out *[BatchMax]uint32) {
	b := &c.batch
	b.found = [BatchMax]uint64{}
	n = min(n, BatchMax)
	c.deep = 0
	left := c.beginNarrow(keys, n)
	l := &p.narrow
	exact := p.counts[exactNarrow] > 0
	if exact && l.exactFirst {
		left = c.exactNarrow(keys, left, p)
	}
	if l.n > 0 && left > 0 {
		left = c.wildNarrow(keys, left, p)
	}
	if exact && !l.exactFirst && left > 0 {
		left = c.exactNarrow(keys, left, p)
	}
	c.settle(n, out)
	c.stats.Misses += uint64(left)
	l.missed += uint32(left)
	if left >= aheadFrom && !p.Still {
		c.ahead(keys, left, p)
	}
	if c.deep != 0 && l.exactFirst {
		i := c.deepest(n)
		var key flowtable.Key
		copy(key[:], keys[i][:])
		c.promoteLater(p, &key, false, b.found[i])
	}
}

// Missed returns how many keys have missed so far.
func (c *Cache) Missed() uint64 { return c.stats.Misses }

// aheadFrom is how many keys of a batch must miss before the memory that their
// installs will read is asked for ahead.
const aheadFrom = 4

// ahead asks for what Install will look at for the keys of todo, if they get
// entries under the mask that most have.
func (c *Cache) ahead(keys *[BatchMax]NarrowKey, left int, p *Plan) {
	b, t, id := &c.batch, c.tables[exactNarrow], p.exact[0]
	if p.narrow.n > 0 {
		t, id = c.tables[wildNarrow], p.narrow.list[0].mask
	}
	c.hashNarrow(keys, left, &c.masks[id], &b.tried)
	if c.wantsSight(t) {
		prefetch.Lines(c.seenBase(), &b.tried, left, uint64(len(c.seen)-1), 3)
		return
	}
	for i := range b.tried[:left] {
		b.tried[i] = t.second(b.tried[i])
	}
	prefetch.Lines(t.base(), &b.tried, left, t.mask, narrowShift)
}

// deepest returns the index of the first key of a batch that was found under the
// mask furthest back in the list.
func (c *Cache) deepest(n int) int {
	for i := 0; i < n && i < BatchMax; i++ {
		if uint16(c.batch.found[i]>>48) == c.deep {
			return i
		}
	}
	return 0
}

// exactNarrow probes the exact mask, and returns how many keys are left.
func (c *Cache) exactNarrow(keys *[BatchMax]NarrowKey, left int, p *Plan) int {
	id := p.exact[0]
	c.stats.Probes += uint64(left)
	now := c.probeNarrow(keys, left, c.tables[exactNarrow], &c.masks[id], id)
	p.narrow.exactHits += uint32(left - now)
	c.stats.ExactHits += uint64(left - now)
	return now
}

// hit counts hits of the mask at place i of a list.
func (c *Cache) hit(l *probes, pr *probe, i, hits int) {
	if hits == 0 {
		return
	}
	pr.hits += uint32(hits)
	l.depth += uint32(hits * (i + 1))
	c.stats.WildHits += uint64(hits)
	if i+1 >= promoteDepth {
		c.deep = pr.mask
	}
}

// beginNarrow lists the keys that have to be looked for: all but those that
// equal the one before them.
func (c *Cache) beginNarrow(keys *[BatchMax]NarrowKey, n int) int {
	b := &c.batch
	b.todo[0], b.again = 0, 0
	left := min(n, 1)
	for i := 1; i < n && i < BatchMax; i++ {
		k, before := &keys[i], &keys[i-1]
		b.todo[left&(BatchMax-1)] = uint8(i)
		left++
		if k[flowtable.WordIP4] == before[flowtable.WordIP4] && k[flowtable.WordL4] == before[flowtable.WordL4] && *k == *before {
			b.again |= 1 << i
			left--
		}
	}
	c.stats.Repeats += uint64(n - left)
	return left
}

// probeNarrow looks for the keys of todo under one mask, and returns how many
// it has not found. It asks for the first bucket of each at once, for it is used
// where most keys are found.
func (c *Cache) probeNarrow(keys *[BatchMax]NarrowKey, left int, t *table, m *maskInfo, id uint16) int {
	b := &c.batch
	c.hashNarrow(keys, left, m, &b.hash)
	b.cand = b.todo
	if t.used >= prefetchFrom {
		prefetch.Lines(t.base(), &b.hash, left, t.mask, narrowShift)
	}
	return c.compareNarrow(keys, left, t, (*NarrowKey)(m.bits[:flowtable.NarrowWords]), id)
}

// wildNarrow probes the plan's wildcard masks, and returns how many keys are
// left. A first mask that finds nearly all keys is probed as an exact one is.
// For the others it goes by tags only, mask after mask; then the lines of all
// entries that the tags led to are asked for together.
func (c *Cache) wildNarrow(keys *[BatchMax]NarrowKey, left int, p *Plan) int {
	b, l, t := &c.batch, &p.narrow, c.tables[wildNarrow]
	masks, cands, from := 0, 0, 0
	if l.direct {
		id, was := l.list[0].mask, left
		c.stats.Probes += uint64(left)
		left = c.probeNarrow(keys, left, t, &c.masks[id], id)
		c.hit(l, &l.list[0], 0, was-left)
		b.ends[0], masks = 0, 1
	}
	for ; masks < l.n && left > 0; masks++ {
		c.stats.Probes += uint64(left)
		left, cands = c.seekNarrow(keys, left, cands, t, &c.masks[l.list[masks].mask])
		b.ends[masks] = cands
	}
	if t.used >= prefetchFrom {
		prefetch.Lines(t.base(), &b.hash, cands, t.mask, narrowShift)
	}
	for i := range b.ends[:masks] {
		end, id := b.ends[i], l.list[i].mask
		if end == from {
			continue
		}
		wrong := compareFirst(t, keys, b, from, end, (*NarrowKey)(c.masks[id].bits[:flowtable.NarrowWords]), id, c.epoch)
		c.hit(l, &l.list[i], i, end-from-wrong)
		for _, at := range b.cand[from : from+wrong] {
			var key flowtable.Key
			copy(key[:], keys[at&(BatchMax-1)][:])
			left += c.misled(p, &key, false, i, left, at)
		}
		from = end
	}
	return left
}

// misled looks on, from the mask at place i of the list, for a key whose tag
// agreed by chance with another entry's, as one in thousands does. It returns 1 if the
// key is left, and has put it to place left of todo.
func (c *Cache) misled(p *Plan, key *flowtable.Key, wide bool, i, left int, at uint8) int {
	l := p.probes(wide)
	for ; i < l.n; i++ {
		s := c.spotFor(wildNarrow+index(wide), key, l.list[i].mask)
		if b, found := s.table.find(s.key[:s.n], s.mask, s.hash); found {
			e := s.table.at(b)
			c.batch.found[at&(BatchMax-1)], e.epoch = e.id, c.epoch
			c.hit(l, &l.list[i], i, 1)
			return 0
		}
	}
	c.batch.todo[left&(BatchMax-1)] = at
	return 1
}

// seekNarrow looks in the tags for the keys of todo under one mask. Buckets of those
// that it finds are added to cand and hash from place cands on, the others stay in
// todo. It hashes all before it looks for any: the loads of many tags are under way
// together when the loop around them is short.
func (c *Cache) seekNarrow(keys *[BatchMax]NarrowKey, left, cands int, t *table, m *maskInfo) (rest, more int) {
	b := &c.batch
	c.hashNarrow(keys, left, m, &b.tried)
	for j := 0; j < left && j < BatchMax; j++ {
		i, at := b.todo[j], b.tried[j]
		tag := *t.tag(at)
		found := agrees(tag, at)
		if tag&tagDisplaced != 0 && found == 0 {
			at, found = t.seekSecond(at)
		}
		b.hash[cands&(BatchMax-1)], b.cand[cands&(BatchMax-1)] = at, i
		b.todo[rest&(BatchMax-1)] = i
		cands += found
		rest += 1 - found
	}
	return rest, cands
}

// hashNarrow hashes the keys of todo under a mask.
func (c *Cache) hashNarrow(keys *[BatchMax]NarrowKey, left int, m *maskInfo, to *[BatchMax]uint64) {
	b := &c.batch
	mask, s, seed := (*NarrowKey)(m.bits[:flowtable.NarrowWords]), c.secrets, m.seed
	for j := 0; j < left && j < BatchMax; j++ {
		k := &keys[b.todo[j]&(BatchMax-1)]
		h := fold(k[0]&mask[0]^s[0], k[1]&mask[1]^s[1])
		h ^= fold(k[2]&mask[2]^s[2], k[3]&mask[3]^s[3])
		h ^= fold(k[4]&mask[4]^s[4], k[5]&mask[5]^s[5])
		to[j] = fold(h^seed, s[flowtable.KeyWords])
	}
}

// compareNarrow compares the keys that cand lists with the entries where their
// hashes lead, in both buckets. Those that it finds go to found, the others to
// todo, whose new length it returns.
func (c *Cache) compareNarrow(keys *[BatchMax]NarrowKey, cands int, t *table, bits *NarrowKey, id uint16) (rest int) {
	b := &c.batch
	cand := &b.cand
	again, seconds := compareFirst(t, keys, b, 0, cands, bits, id, c.epoch), 0
	for j := 0; j < again && j < BatchMax; j++ {
		i, h := cand[j], b.hash[j]
		cand[seconds&(BatchMax-1)], b.hash[seconds&(BatchMax-1)] = i, t.second(h)
		if t.narrow(h).displaced != 0 {
			seconds++
			continue
		}
		b.todo[rest&(BatchMax-1)] = i
		rest++
	}
	if seconds == 0 {
		return rest
	}
	if t.used >= prefetchFrom {
		prefetch.Lines(t.base(), &b.hash, seconds, t.mask, narrowShift)
	}
	seconds = compareFirst(t, keys, b, 0, seconds, bits, id, c.epoch)
	for j := 0; j < seconds && j < BatchMax; j++ {
		b.todo[rest&(BatchMax-1)] = cand[j]
		rest++
	}
	return rest
}

// compareFirstGeneric compares the keys that places from to end of b.cand list
// with the entries in the buckets that b.hash names. Those that agree under
// bits and id go to b.found, and their entries get epoch now. The others are put to
// places from on of b.cand and b.hash; it returns how many they are.
func compareFirstGeneric(t *table, keys *[BatchMax]NarrowKey, b *scratch, from, end int, bits *NarrowKey, id, now uint16) int {
	again := from
	for j := from; j < end && j < BatchMax; j++ {
		i, h := b.cand[j&(BatchMax-1)]&(BatchMax-1), b.hash[j&(BatchMax-1)]
		e := t.narrow(h)
		if e.differs(&keys[i], bits, id) == 0 {
			b.found[i] = e.id
			if e.epoch != now {
				e.epoch = now
			}
			continue
		}
		b.cand[again&(BatchMax-1)], b.hash[again&(BatchMax-1)] = i, h
		again++
	}
	return again - from
}

// differs returns 0 if the entry is that of a key under a mask.
func (e *narrowEntry) differs(k, mask *NarrowKey, id uint16) uint64 {
	d := e.id>>48 ^ uint64(id)
	for i := range k {
		d |= k[i]&mask[i] ^ e.key[i]
	}
	return d
}

// settle turns ids of entries into results: it looks at the programs'
// generations and guards.
func (c *Cache) settle(n int, out *[BatchMax]uint32) {
	b, a := &c.batch, c.programs
	if again := b.again; again != 0 {
		for i := 1; i < n && i < BatchMax; i++ {
			if again>>i&1 != 0 {
				b.found[i] = b.found[i-1]
			}
		}
	}
	if a.live >= prefetchFrom {
		prefetch.Lines(a.base(), &b.found, n, 1<<32-1, narrowShift)
	}
	stale, deep, codes := 0, uint64(0), uint8(0)
	for i := 0; i < n && i < BatchMax; i++ {
		id := b.found[i]
		off := uint32(id)
		h := a.at(off)
		bad := c.cells.now(h.guards[0].Cell) ^ h.guards[0].Want
		bad |= c.cells.now(h.guards[1].Cell) ^ h.guards[1].Want
		bad |= c.cells.now(h.guards[2].Cell) ^ h.guards[2].Want
		bad |= c.cells.now(h.guards[3].Cell) ^ h.guards[3].Want
		codes |= h.Code
		if bad != 0 {
			off |= Stale
			stale++
		} else if h.guardCount > guardsInLine {
			deep |= 1 << i
		}
		if h.gen != uint16(id>>32) {
			off = 0
		}
		out[i] = off
	}
	c.stats.Stale += uint64(stale)
	if deep != 0 || codes >= ProgramPatch {
		c.settleMore(n, deep, out)
	}
}

// settleMore asks for the second lines of programs, and looks at the guards there of
// the results in set.
func (c *Cache) settleMore(n int, set uint64, out *[BatchMax]uint32) {
	a := c.programs
	if a.live >= prefetchFrom {
		prefetch.Lines(a.base()+lineBytes, &c.batch.found, n, 1<<32-1, narrowShift)
	}
	for ; set != 0; set &= set - 1 {
		i := bits.TrailingZeros64(set)
		if off := out[i]; off != 0 && !a.guardsHold(off, c.cells) {
			out[i] = off | Stale
			c.stats.Stale++
		}
	}
}
