package flowcache

import (
	"errors"

	"millrace/flowtable"
)

// An InstallResult says what became of a composed program.
type InstallResult uint8

// What Install may answer.
const (
	Installed    InstallResult = iota
	FirstSight                 // the flow is new, and gets an entry at its second packet: see wantsSight
	Changed                    // cells moved since the walk began
	NoRoom                     // the programs' memory is full
	NoBucket                   // both places belong to busy flows of other ports
	OutsideExact               // it depends on bits that the plan's exact mask has not
	BadGuard                   // it names a cell that does not exist
	TooLong                    // no arena holds such a program
	installResults
)

// String names the result, for counters.
func (r InstallResult) String() string {
	return [installResults]string{"installed", "first sight", "changed", "no room", "no bucket", "outside exact mask", "bad guard", "too long"}[r]
}

// spot is where an entry belongs.
type spot struct {
	table *table
	mask  uint16
	hash  uint64
	n     int           // words of key
	key   flowtable.Key // masked
}

// spotFor masks a key.
func (c *Cache) spotFor(kind int, key *flowtable.Key, mask uint16) spot {
	t, m := c.tables[kind], &c.masks[mask]
	s := spot{table: t, mask: mask, n: t.words}
	for i := range t.words {
		s.key[i] = key[i] & m.bits[i]
	}
	s.hash = c.secrets.hash(s.key[:t.words], m.seed)
	return s
}

// hashUnder is the hash of a key under a mask, in the tables of a kind.
func (c *Cache) hashUnder(kind int, key *flowtable.Key, m *maskInfo) uint64 {
	var masked flowtable.Key
	n := c.tables[kind].words
	for i := range masked[:n] {
		masked[i] = key[i] & m.bits[i]
	}
	return c.secrets.hash(masked[:n], m.seed)
}

// Install keeps a composed program for a key that missed. wide says which
// lookup missed. since is Cells.Changes from before the walk began.
//
// A mask that the plan has, or has room for, gives a wildcard entry. Otherwise
// the entry is exact, and made at the second sight of the flow, as wildcard
// entries are if many are in use (see wantsSight).
//
// It returns the program's offset with Installed, and 0 with all else: then
// the caller runs the Composed itself.
func (c *Cache) Install(p *Plan, key *flowtable.Key, wide bool, comp *flowtable.Composed, since uint64) (uint32, InstallResult) {
	if c.check(p, comp, since) == Installed && !c.Sighted(p, key, wide, &comp.Mask) {
		return 0, FirstSight
	}
	return c.InstallSighted(p, key, wide, comp, since)
}

// InstallSighted is Install for a flow that Sighted has said yes to, or that needs no
// second sight.
func (c *Cache) InstallSighted(p *Plan, key *flowtable.Key, wide bool, comp *flowtable.Composed, since uint64) (uint32, InstallResult) {
	program, result := c.install(p, key, wide, comp, since)
	if result == Installed {
		c.stats.Installs++
	}
	c.stats.Refused[result]++
	return program, result
}

// Sighted reports whether a flow is to get an entry now: it was seen before, or needs no
// second sight. It takes note of the flow. mask is that of its Composed, of which the rest need
// not be made yet.
func (c *Cache) Sighted(p *Plan, key *flowtable.Key, wide bool, mask *flowtable.Key) bool {
	bits := planBits(mask, wide)
	m := &maskInfo{bits: bits} // as one that the plan does not have yet
	kind, l := wildNarrow+index(wide), p.probes(wide)
	if id := c.findMask(l, &bits); id != 0 {
		m = &c.masks[id]
	} else if l.n >= c.options.Masks {
		kind, m = exactNarrow+index(wide), &c.masks[p.exact[index(wide)]]
		if c.outside(kind, mask, m) {
			return true // Install says why it gets none
		}
	}
	if p.closed || !c.wantsSight(c.tables[kind]) || c.sighted(c.hashUnder(kind, key, m)) {
		return true
	}
	c.stats.Refused[FirstSight]++
	return false
}

// Replace is Install for a key whose program was stale: its old entries go,
// and the new one needs no second sight.
func (c *Cache) Replace(p *Plan, key *flowtable.Key, wide bool, comp *flowtable.Composed, since uint64) (uint32, InstallResult) {
	c.Remove(p, key, wide)
	return c.InstallSighted(p, key, wide, comp, since)
}

func (c *Cache) install(p *Plan, key *flowtable.Key, wide bool, comp *flowtable.Composed, since uint64) (uint32, InstallResult) {
	if r := c.check(p, comp, since); r != Installed {
		return 0, r
	}
	if c.programs.killed > 0 {
		c.removeDead(p, key, wide) // or it would be found before the new one
	}
	kind := wildNarrow + index(wide)
	mask := c.planMask(p, &comp.Mask, wide)
	if mask == 0 {
		kind, mask = exactNarrow+index(wide), p.exact[index(wide)]
		if c.outside(kind, &comp.Mask, &c.masks[mask]) {
			return 0, OutsideExact
		}
	}
	s := c.spotFor(kind, key, mask)
	return c.enter(p, &s, comp)
}

// outside reports whether a mask has bits that the exact one of a kind of table has not.
func (c *Cache) outside(kind int, mask *flowtable.Key, exact *maskInfo) bool {
	for i := range c.tables[kind].words {
		if mask[i]&^exact.bits[i] != 0 {
			return true
		}
	}
	return false
}

// sightFrom is the part of a table from which on flows are seen twice before they get an
// entry.
const sightFrom = 8

// wantsSight reports whether an entry of a table is made at the second sight only.
// So it is with exact ones, and with all of a table of which an eighth is in use: a flood of
// flows that never come again then costs neither memory, nor entries that others have, nor the
// search for one that may go.
func (c *Cache) wantsSight(t *table) bool { return t.kind <= exactWide || t.used > t.size()/sightFrom }

// check says whether comp may be kept at all.
func (c *Cache) check(p *Plan, comp *flowtable.Composed, since uint64) InstallResult {
	if p.closed || c.cells.Changes() != since {
		return Changed
	}
	for _, g := range comp.Guards {
		if int(g.Cell) >= c.cells.Len() {
			return BadGuard
		}
	}
	return Installed
}

// Flows that were seen once are tags of 16 bits, seenTags to a word; 0 is none.
const (
	seenTags = 4
	seenOnes = 0x0001_0001_0001_0001 // of each tag, the lowest bit
)

// sighted reports whether the hash is that of a flow seen before, and notes it, in the place of
// one that chance names. If that were always the same, flows that come by turns and meet
// there would make each other forgotten for ever. One new flow in thousands is taken for one
// that was seen.
func (c *Cache) sighted(hash uint64) bool {
	word, tag := &c.seen[hash&uint64(len(c.seen)-1)], hash>>48|1
	if x := *word ^ tag*seenOnes; (x-seenOnes)&^x&(seenOnes<<15) != 0 { // one of the four is zero
		return true
	}
	c.drawn = c.drawn*6364136223846793005 + 1
	at := c.drawn >> 62 * 16
	*word = *word&^(0xffff<<at) | tag<<at
	return false
}

// planMask returns the id under which a plan knows a mask, or 0 if it does not
// and has no room for one more.
func (c *Cache) planMask(p *Plan, m *flowtable.Key, wide bool) uint16 {
	l := p.probes(wide)
	bits := planBits(m, wide)
	if id := c.findMask(l, &bits); id != 0 {
		return id
	}
	if l.n >= c.options.Masks {
		return 0
	}
	id, err := c.newMask(&bits, wide)
	if err != nil {
		return 0 // all masks of the cache are taken: exact
	}
	l.direct = l.n == 0
	l.list[l.n] = probe{mask: id}
	l.n++
	return id
}

// planBits are the bits of a mask as a plan has them.
func planBits(m *flowtable.Key, wide bool) flowtable.Key {
	bits := *m
	bits[flowtable.WordIn] |= inPortBits
	if !wide {
		clear(bits[flowtable.NarrowWords:])
	}
	return bits
}

// findMask returns the id of the mask of a list that has these bits, or 0.
func (c *Cache) findMask(l *probes, bits *flowtable.Key) uint16 {
	for i := range l.list[:l.n] {
		if c.masks[l.list[i].mask].bits == *bits {
			return l.list[i].mask
		}
	}
	return 0
}

// enter makes an entry in a spot, or gives the one that is there another program.
func (c *Cache) enter(p *Plan, s *spot, comp *flowtable.Composed) (uint32, InstallResult) {
	// Room may be made by taking the last entry of this very mask, which the
	// plan must not forget now.
	c.pin(p, s, 1)
	off, result := c.enterPinned(p, s, comp)
	c.pin(p, s, ^uint32(0))
	c.tidy(p, s.mask)
	return off, result
}

// pin adds n to the entries of a spot's mask.
func (c *Cache) pin(p *Plan, s *spot, n uint32) {
	if pr := c.probeOf(p, s.table, s.mask); pr != nil {
		pr.entries += n
	}
}

func (c *Cache) enterPinned(p *Plan, s *spot, comp *flowtable.Composed) (uint32, InstallResult) {
	off, err := c.intern(p, comp)
	switch {
	case errors.Is(err, ErrProgramLong):
		return 0, TooLong
	case err != nil:
		return 0, NoRoom
	}
	b, ok := c.makeRoom(p, s)
	switch {
	case !ok:
		c.programs.drop(off)
		return 0, NoBucket
	case s.table.at(b).id != 0:
		c.repoint(s.table, b, off)
	default:
		c.fill(p, s, b, off)
	}
	return off, Installed
}

// fill writes the entry of a spot into its free bucket b. The reference to the
// program is the entry's from now on.
func (c *Cache) fill(p *Plan, s *spot, b uint64, off uint32) {
	t := s.table
	id := entryID(off, c.programs.at(off).gen, s.mask)
	t.put(b, s.hash, entry{id: id, plan: p.id, epoch: c.epoch}, s.key[:s.n])
	c.masks[s.mask].users++
	if p.counts[t.kind]++; p.counts[t.kind] == 1 {
		t.active++
	}
	if pr := c.probeOf(p, t, s.mask); pr != nil {
		pr.entries++
	}
}

// probeOf returns the probe under which a plan counts entries, nil for exact ones.
func (c *Cache) probeOf(p *Plan, t *table, mask uint16) *probe {
	if !t.tagged {
		return nil
	}
	return p.probes(t.kind == wildWide).find(mask)
}

// repoint gives the entry in bucket b another program, whose reference it takes.
func (c *Cache) repoint(t *table, b uint64, off uint32) {
	e := t.at(b)
	old := e.program()
	e.id = entryID(off, c.programs.at(off).gen, e.mask())
	e.epoch = c.epoch
	c.programs.drop(old)
}

// intern makes a program for a plan. If there is no room, some entries go, so
// that there is after the next Upkeep.
func (c *Cache) intern(p *Plan, comp *flowtable.Composed) (uint32, error) {
	off, err := c.programs.intern(comp)
	if errors.Is(err, ErrProgramRoom) && !c.short {
		c.short = true
		c.makeSpace(p)
	}
	return off, err
}

// tidy takes a mask without entries out of a plan's list.
func (c *Cache) tidy(p *Plan, mask uint16) {
	for _, l := range [2]*probes{&p.narrow, &p.wide} {
		for i := range l.list[:l.n] {
			if pr := &l.list[i]; pr.mask == mask && pr.entries == 0 {
				copy(l.list[i:], l.list[i+1:l.n])
				l.n--
				c.letGo(mask)
				return
			}
		}
	}
}

// each calls do with the spots where a key may have an entry.
func (c *Cache) each(p *Plan, key *flowtable.Key, wide bool, do func(t *table, b uint64)) {
	l := p.probes(wide)
	list := l.list
	for _, pr := range list[:l.n] {
		s := c.spotFor(wildNarrow+index(wide), key, pr.mask)
		if b, found := s.table.find(s.key[:s.n], s.mask, s.hash); found {
			do(s.table, b)
		}
	}
	s := c.spotFor(exactNarrow+index(wide), key, p.exact[index(wide)])
	if b, found := s.table.find(s.key[:s.n], s.mask, s.hash); found {
		do(s.table, b)
	}
}

// Remove takes out all entries that a key has.
func (c *Cache) Remove(p *Plan, key *flowtable.Key, wide bool) {
	if p.closed {
		return
	}
	c.each(p, key, wide, func(t *table, b uint64) { c.evict(t, b) })
}

// removeDead takes out the entries of a key whose programs were killed.
func (c *Cache) removeDead(p *Plan, key *flowtable.Key, wide bool) {
	c.each(p, key, wide, func(t *table, b uint64) {
		if c.dead(t.at(b)) {
			c.evict(t, b)
		}
	})
}

// Refresh says that a stale result is right for its key after all: what changed does
// not concern it. wants are the values that its guards have now, in the order of
// Guards. The key's entries then lead to a program with them, which is returned; 0 if
// there was no room. Other keys that share the program are not spoken for.
func (c *Cache) Refresh(p *Plan, key *flowtable.Key, wide bool, result uint32, wants []uint32) uint32 {
	old := result &^ Stale
	comp := c.recompose(old)
	if len(wants) != len(comp.Guards) || p.closed {
		return 0
	}
	for i := range wants {
		comp.Guards[i].Want = wants[i]
	}
	off, err := c.programs.intern(&comp)
	if err != nil {
		return 0
	}
	c.each(p, key, wide, func(t *table, b uint64) {
		if e := t.at(b); e.program() == old && !c.dead(e) {
			c.programs.at(off).refs++
			c.repoint(t, b, off)
		}
	})
	alone := c.programs.at(off).refs == 1
	c.programs.drop(off)
	if alone {
		return 0
	}
	return off
}

// recompose returns what a program was made from, but for its mask.
func (c *Cache) recompose(off uint32) flowtable.Composed {
	h := c.programs.at(off)
	comp := flowtable.Composed{Guards: c.Guards(nil, off), Rules: append([]uint32(nil), c.Rules(off)...), Tag: c.Tag(off)}
	for _, conn := range h.conns(c.programs.words(off, h.words())) {
		value, arg := counted(conn)
		comp.Ops = append(comp.Ops, flowtable.Op{Code: flowtable.OpCT, Value: value, Arg: arg})
	}
	comp.Ops = append(comp.Ops, c.Ops(off)...)
	if h.Code == ProgramDrop || h.Code == ProgramOps {
		comp.Drop = h.Arg
	}
	return comp
}

// Kill makes all entries of a result's program dead. Keys that led to it miss.
func (c *Cache) Kill(result uint32) { c.programs.kill(result &^ Stale) }
