package conntrack

import "sync/atomic"

// A Brief is what Track and Commit say of a whole packet of TCP or UDP with nothing odd about
// it, as most packets of the long way are, and they say it from what Ahead has found
// already: key, hash, and where the connection is. Nothing is copied that nobody asks for; who
// does after all has the Verdict.
type Brief struct {
	State      State
	Cacheable  bool // as Verdict's
	Translated bool // the connection's translation changes the packet
	Mark       uint32
	Label      [2]uint64

	advance
	record    uint32 // of the connection; 0: there is none
	direction uint8
	expected  uint8 // which one
	cell      uint32
}

// Briefs reports whether the table can be brief: not if windows are checked.
func (t *Table) Briefs() bool { return !t.options.Windows }

// Brief is Track for the n-th packet that was expected before the last Ahead, with its TCP flags and its
// frame's length. It must be of TCP or UDP, no fragment, and its headers sound.
func (w *Worker) Brief(n int, zone uint16, flags uint16, length uint32, now uint64, b *Brief) {
	s, t := &w.sight, w.t
	n &= AheadMax - 1
	k, p := &s.keys[n], &s.packet
	if k.zone() != zone {
		k[4] = k[4]&^(0xffff<<16) | uint64(zone)<<16
		s.hashes[n] = t.index.seed.hash(k)
	}
	h := s.hashes[n]
	p.Proto, p.Six, p.Flags, p.Len = k.proto(), k[4]&1 != 0, flags, length
	for try := range lookTries {
		want := t.cell(t.absence(h))
		i, dir := uint32(0), 0
		if try == 0 && zone == s.zone {
			i, dir = w.hinted(n, want)
		} else {
			i, dir = t.find(k, h)
		}
		if i == 0 {
			b.advance.want, b.cell = want, t.absence(h)
			break
		}
		if w.advance(i, dir, p, now, &b.advance) {
			b.record, b.direction, b.expected, b.cell = i, uint8(dir), uint8(n), i
			w.describeBrief(b)
			return
		}
	}
	*b = Brief{advance: advance{want: b.want}, cell: b.cell, expected: uint8(n), Cacheable: true, State: StateTracked | StateNew}
	if _, _, ok := t.begin(p); !ok {
		b.State = StateTracked | StateInvalid
		w.counts.invalid.Add(1)
	}
}

// Expected reports whether a packet with this tuple is the n-th that was expected.
func (w *Worker) Expected(n int, tuple *Tuple) bool {
	k := &w.sight.keys[n&(AheadMax-1)]
	is := tuple.key(k.zone())
	return is.same(k)
}

// hinted is find for the n-th packet that was expected, by what Ahead has found. want is the
// value of the cell that stands for its absence: as long as it is the same, what was not there is not.
func (w *Worker) hinted(n int, want uint32) (i uint32, dir int) {
	s, t := &w.sight, w.t
	if hint := s.hints[n]; hint != 0 {
		i, dir = hint>>1, int(hint&1)
		if r := &t.records[i]; r.key(dir).same(&s.keys[n]) && status(r.state.Load())&dead == 0 {
			return i, dir
		}
	} else if s.wants[n] == want {
		return 0, 0
	}
	return t.find(&s.keys[n], s.hashes[n])
}

// describeBrief is describe for what a packet has done to its connection.
func (w *Worker) describeBrief(b *Brief) {
	t, r, dir := w.t, &w.t.records[b.record], int(b.direction)
	if b.what == invalid {
		*b = Brief{advance: b.advance, cell: b.cell, expected: b.expected, Cacheable: true, State: StateTracked | StateInvalid}
		w.counts.invalid.Add(1)
		return
	}
	b.State, b.Mark, b.Label = b.status.stateOf(dir), atomic.LoadUint32(&r.mark), t.readLabel(r)
	b.Cacheable, b.Translated = b.steady, b.status&(srcNAT|dstNAT) != 0
	if b.what == ended {
		t.remove(t.ref(b.record), &w.counts.ended)
	}
}

// Verdict is what Track would have said instead.
func (w *Worker) Verdict(b *Brief, v *Verdict) {
	k := &w.sight.keys[b.expected&(AheadMax-1)]
	*v = Verdict{Original: k.tuple(), Uses: UsesPorts, State: b.State, Cacheable: b.Cacheable, Cell: b.cell, Want: b.want}
	if k.proto() == ProtoTCP {
		v.Uses |= UsesFlags
	}
	if b.record == 0 {
		return
	}
	w.t.describe(b.record, int(b.direction), b.status, v)
	if b.what == ended {
		v.Ref = 0
	}
}

// CommitBrief is Commit. Unless it reports brief, v is what Commit would have said of the packet.
func (w *Worker) CommitBrief(b *Brief, c *Terms, now uint64, v *Verdict) (result Result, brief bool) {
	if b.record == 0 && b.State == StateTracked|StateNew && (c.NAT == nil || c.NAT.mild()) {
		if result, ok := w.createBrief(b, c, now); ok {
			b.Cacheable = false
			return result, true
		}
	}
	k, p := &w.sight.keys[b.expected&(AheadMax-1)], &w.sight.packet
	w.Verdict(b, v)
	p.Tuple = k.tuple()
	result = w.Commit(k.zone(), p, c, now, v)
	b.State, b.Mark, b.Label, b.Cacheable = v.State, v.Mark, v.Label, v.Cacheable
	b.Translated = v.Rewrite.Set != 0
	b.record = 0 // what it is now is in v only
	return result, false
}

// createBrief makes a connection of a packet that has none. It reports false if somebody was faster, or
// if the packet must be translated.
func (w *Worker) createBrief(b *Brief, c *Terms, now uint64) (result Result, ok bool) {
	t, s := w.t, &w.sight
	k, h := &s.keys[b.expected&(AheadMax-1)], s.hashes[b.expected&(AheadMax-1)]
	state, _, _ := t.begin(&s.packet)
	w.makeRoom()
	i := w.alloc()
	if i == 0 {
		w.counts.full.Add(1)
		return Full, true
	}
	state |= status(t.policyOf(k.zone(), c)) << policyShift
	t.fill(i, k, s.packet.Len, c, now, state)
	r := &t.records[i]
	k.inverse(&r.reply)
	if got := t.insertAt(i, h, t.index.seed.hash(&r.reply)); got != inserted {
		r.state.Store(uint64(dead))
		w.free = append(w.free, i)
		if got == exists || got == taken && c.NAT != nil {
			return 0, false
		}
		return w.refusal(got), true
	}
	put32(&t.deadlines[i], t.until(tickOf(now), state, k))
	w.counts.created.Add(1)
	t.recheck(i)
	b.record, b.cell, b.want, b.direction, b.what, b.status = i, i, t.cell(i), 0, accepted, state
	b.steady, b.Mark, b.Label = false, r.mark, r.label
	return Created, true
}
