package flowcache

import (
	"millrace/flowtable"
	"millrace/flowtable/prefetch"
)

// LookupWide is Lookup for keys of all words. Narrow and wide keys never share
// entries: a frame is looked up as what its parser says that it is.
func (c *Cache) LookupWide(keys *[BatchMax]flowtable.Key, n int, p *Plan, out *[BatchMax]uint32) {
	b := &c.batch
	b.found = [BatchMax]uint64{}
	n = min(n, BatchMax)
	c.deep = 0
	left := c.beginWide(keys, n)
	l := &p.wide
	exact := p.counts[exactWide] > 0
	if exact && l.exactFirst {
		left = c.exactWide(keys, left, p)
	}
	if l.n > 0 && left > 0 {
		left = c.wildWide(keys, left, p)
	}
	if exact && !l.exactFirst && left > 0 {
		left = c.exactWide(keys, left, p)
	}
	c.settle(n, out)
	c.stats.Misses += uint64(left)
	l.missed += uint32(left)
	if c.deep != 0 && l.exactFirst {
		i := c.deepest(n)
		c.promoteLater(p, &keys[i], true, b.found[i])
	}
}

// exactWide probes the exact mask, and returns how many keys are left.
func (c *Cache) exactWide(keys *[BatchMax]flowtable.Key, left int, p *Plan) (rest int) {
	b, id, t := &c.batch, p.exact[1], c.tables[exactWide]
	mask := &c.masks[id].bits
	c.stats.Probes += uint64(left)
	_, cands := c.seekWide(keys, left, 0, t, &c.masks[id])
	c.prefetchWide(t, cands)
	again := compareWide(t, keys, b, 0, cands, mask, id, c.epoch)
	for j, i := range b.cand[:again] {
		if e := t.wide(t.second(b.hash[j])); e.differs(&keys[i&(BatchMax-1)], mask, id) == 0 {
			b.found[i&(BatchMax-1)], e.epoch = e.id, c.epoch
			continue
		}
		b.todo[rest&(BatchMax-1)] = i
		rest++
	}
	p.wide.exactHits += uint32(left - rest)
	c.stats.ExactHits += uint64(left - rest)
	return rest
}

// wildWide is wildNarrow for wide keys.
func (c *Cache) wildWide(keys *[BatchMax]flowtable.Key, left int, p *Plan) int {
	b, l, t := &c.batch, &p.wide, c.tables[wildWide]
	masks, cands := 0, 0
	for ; masks < l.n && left > 0; masks++ {
		c.stats.Probes += uint64(left)
		left, cands = c.seekWide(keys, left, cands, t, &c.masks[l.list[masks].mask])
		b.ends[masks] = cands
	}
	c.prefetchWide(t, cands)
	from := 0
	for i := range b.ends[:masks] {
		end, id := b.ends[i], l.list[i].mask
		wrong := compareWide(t, keys, b, from, end, &c.masks[id].bits, id, c.epoch)
		c.hit(l, &l.list[i], i, end-from-wrong)
		for _, at := range b.cand[from : from+wrong] {
			left += c.misled(p, &keys[at&(BatchMax-1)], true, i, left, at)
		}
		from = end
	}
	return left
}

// prefetchWide asks for both lines of the entries that hash lists.
func (c *Cache) prefetchWide(t *table, n int) {
	if t.used >= prefetchFrom {
		prefetch.Lines(t.base(), &c.batch.hash, n, t.mask, wideShift)
		prefetch.Lines(t.base()+lineBytes, &c.batch.hash, n, t.mask, wideShift)
	}
}

// beginWide lists the keys that have to be looked for: all but those that
// equal the one before them.
func (c *Cache) beginWide(keys *[BatchMax]flowtable.Key, n int) int {
	b := &c.batch
	b.todo[0], b.again = 0, 0
	left := min(n, 1)
	for i := 1; i < n && i < BatchMax; i++ {
		k, before := &keys[i], &keys[i-1]
		b.todo[left&(BatchMax-1)] = uint8(i)
		left++
		if k[flowtable.WordIP6DstLow] == before[flowtable.WordIP6DstLow] && k[flowtable.WordL4] == before[flowtable.WordL4] && *k == *before {
			b.again |= 1 << i
			left--
		}
	}
	c.stats.Repeats += uint64(n - left)
	return left
}

// seekWide is seekNarrow for wide keys. In a table that is not probed by tags it
// lists all keys.
func (c *Cache) seekWide(keys *[BatchMax]flowtable.Key, left, cands int, t *table, m *maskInfo) (rest, more int) {
	b, mask, s := &c.batch, &m.bits, c.secrets
	for j := 0; j < left && j < BatchMax; j++ {
		i := b.todo[j]
		k := &keys[i&(BatchMax-1)]
		h := fold(k[0]&mask[0]^s[0], k[1]&mask[1]^s[1]) ^ fold(k[2]&mask[2]^s[2], k[3]&mask[3]^s[3])
		h ^= fold(k[4]&mask[4]^s[4], k[5]&mask[5]^s[5]) ^ fold(k[6]&mask[6]^s[6], k[7]&mask[7]^s[7])
		h ^= fold(k[8]&mask[8]^s[8], k[9]&mask[9]^s[9]) ^ fold(k[10]&mask[10]^s[10], k[11]&mask[11]^s[11])
		h = fold(h^fold(k[12]&mask[12]^s[12], k[13]&mask[13]^s[13])^m.seed, s[flowtable.KeyWords])
		at, found := h, 1
		if t.tagged {
			tag := *t.tag(h)
			if found = agrees(tag, h); tag&tagDisplaced != 0 && found == 0 {
				at, found = t.seekSecond(h)
			}
		}
		b.hash[cands&(BatchMax-1)], b.cand[cands&(BatchMax-1)] = at, i
		b.todo[rest&(BatchMax-1)] = i
		cands += found
		rest += 1 - found
	}
	return rest, cands
}

// compareWide is compareFirst for wide keys.
func compareWide(t *table, keys *[BatchMax]flowtable.Key, b *scratch, from, end int, bits *flowtable.Key, id, now uint16) int {
	again := from
	for j := from; j < end && j < BatchMax; j++ {
		i, h := b.cand[j&(BatchMax-1)]&(BatchMax-1), b.hash[j&(BatchMax-1)]
		e, k := t.wide(h), &keys[i]
		d := e.id>>48 ^ uint64(id) // differs, written out
		d |= (k[0]&bits[0] ^ e.key[0]) | (k[1]&bits[1] ^ e.key[1]) | (k[2]&bits[2] ^ e.key[2]) | (k[3]&bits[3] ^ e.key[3])
		d |= (k[4]&bits[4] ^ e.key[4]) | (k[5]&bits[5] ^ e.key[5]) | (k[6]&bits[6] ^ e.key[6]) | (k[7]&bits[7] ^ e.key[7])
		d |= (k[8]&bits[8] ^ e.key[8]) | (k[9]&bits[9] ^ e.key[9]) | (k[10]&bits[10] ^ e.key[10]) | (k[11]&bits[11] ^ e.key[11])
		if d|(k[12]&bits[12]^e.key[12])|(k[13]&bits[13]^e.key[13]) == 0 {
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
func (e *wideEntry) differs(k, mask *flowtable.Key, id uint16) uint64 {
	d := e.id>>48 ^ uint64(id)
	for i := range k {
		d |= k[i]&mask[i] ^ e.key[i]
	}
	return d
}
