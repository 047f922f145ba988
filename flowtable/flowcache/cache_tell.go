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
	for at := from; at < len(a.slabs); at++ {
		if budget <= 0 {
			return at
		}
		budget--
		s := &a.slabs[at]
		if s.used == 0 {
			continue
		}
		size := uint32(a.classes[s.class])
		for i := range uint32(s.fresh) {
			if off := uint32(at)*slabLines + i*size; a.at(off).flags&inUse != 0 {
				a.tell(off)
			}
		}
		budget -= int(s.fresh)
	}
	return 0
}

// TellConnections has f told, for each OpCT of each program that is told of, by its Value and
// Arg, what it has counted since it was last. f may not change the cache.
func (c *Cache) TellConnections(f func(value uint64, arg uint32, packets, bytes uint64)) {
	c.programs.conns = f
}

// A tally is what a program has counted when it was last told of.
type tally struct{ packets, bytes uint64 }

// tallyBytes is the size of a tally.
const tallyBytes = 16

// linesMin is how many lines a program has at least.
const linesMin = (8*(headerWords+1) + lineBytes - 1) / lineBytes

// tell tells what a program has counted since it was last told of.
func (a *programs) tell(off uint32) {
	h, t := a.at(off), &a.tallies[off/linesMin]
	if h.Packets == t.packets && h.Bytes == t.bytes {
		return
	}
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
