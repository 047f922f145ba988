package flowcache

import "millrace/flowtable"

// MaskOf returns the mask of the entry that leads a key to a result, and whether
// there is one. It is lent until the next call that changes the cache.
func (c *Cache) MaskOf(p *Plan, key *flowtable.Key, wide bool, result uint32) (mask *flowtable.Key, ok bool) {
	off := result &^ Stale
	l := p.probes(wide)
	for i := range l.list[:l.n] {
		if m := l.list[i].mask; c.leads(wildNarrow+index(wide), key, m, off) {
			return &c.masks[m].bits, true
		}
	}
	if m := p.exact[index(wide)]; c.leads(exactNarrow+index(wide), key, m, off) {
		return &c.masks[m].bits, true
	}
	return nil, false
}

// leads reports whether a key has an entry under a mask that leads to program off.
func (c *Cache) leads(kind int, key *flowtable.Key, mask uint16, off uint32) bool {
	s := c.spotFor(kind, key, mask)
	b, found := s.table.find(s.key[:s.n], s.mask, s.hash)
	return found && s.table.at(b).program() == off && !c.dead(s.table.at(b))
}

// Tell tells what programs have counted since they were last told of, as their end
// does: of about budget programs from place from on. It returns where to go on: 0 at
// the end. Begin with 0.
func (c *Cache) Tell(from, budget int) (on int) {
	a := c.programs
	budget *= emptySlabs
	for at := from; at < len(a.slabs); at++ {
		if budget <= 0 {
			return at
		}
		budget--
		s := &a.slabs[at]
		if s.used == 0 {
			continue
		}
		a.tellSlab(uint32(at))
		budget -= emptySlabs * (1 + int(s.fresh))
	}
	return 0
}

// emptySlabs is how many slabs without programs are passed over in the time of one program: an
// idle cache is nothing but them.
const emptySlabs = 64

// tellSlab tells of the programs of a slab. What is told to will be looked at in memory that
// is far away, so it is asked for before.
func (a *programs) tellSlab(at uint32) {
	size := uint32(a.classes[a.slabs[at].class])
	n := 0
	for i := range uint32(a.slabs[at].fresh) {
		off := at*slabLines + i*size
		if a.at(off).flags&inUse == 0 || !a.hasNews(off) {
			continue
		}
		a.due[n] = off
		if n++; n == len(a.due) {
			a.tellDue(n)
			n = 0
		}
	}
	a.tellDue(n)
}

// tellDue tells of the first n programs that are due.
func (a *programs) tellDue(n int) {
	if a.ahead != nil {
		values := 0
		for _, off := range a.due[:n] {
			h := a.at(off)
			for _, conn := range h.conns(a.words(off, h.words())) {
				if values < len(a.values) {
					a.values[values], _ = counted(conn)
					values++
				}
			}
		}
		a.ahead(&a.values, values)
	}
	for _, off := range a.due[:n] {
		a.tell(off)
	}
}

// TellConnections has f told, for each OpCT of each program that is told of, by its Value and
// Arg, what it has counted since it was last. ahead, which may be nil, is told the Values of
// some of those that come next. They may not change the cache.
func (c *Cache) TellConnections(f func(value uint64, arg uint32, packets, bytes uint64), ahead func(values *[BatchMax]uint64, n int)) {
	c.programs.conns, c.programs.ahead = f, ahead
}

// A tally is what a program has counted when it was last told of.
type tally struct{ packets, bytes uint64 }

// tallyBytes is the size of a tally.
const tallyBytes = 16

// linesMin is how many lines a program has at least.
const linesMin = (8*(headerWords+1) + lineBytes - 1) / lineBytes

// hasNews reports whether a program has counted since it was last told of.
func (a *programs) hasNews(off uint32) bool {
	h, t := a.at(off), &a.tallies[off/linesMin]
	return h.Packets != t.packets || h.Bytes != t.bytes
}

// tell tells what a program has counted since it was last told of.
func (a *programs) tell(off uint32) {
	if !a.hasNews(off) {
		return
	}
	h, t := a.at(off), &a.tallies[off/linesMin]
	image := a.words(off, h.words())
	a.retired(image[len(image)-1], h.rules(image), h.Packets-t.packets, h.Bytes-t.bytes)
	if a.conns != nil {
		for _, conn := range h.conns(image) {
			value, arg := counted(conn)
			a.conns(value, arg, h.Packets-t.packets, h.Bytes-t.bytes)
		}
	}
	t.packets, t.bytes = h.Packets, h.Bytes
}
