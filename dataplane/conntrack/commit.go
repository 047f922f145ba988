package conntrack

import (
	"fmt"
	"sync/atomic"
)

// Terms are what a connection is committed with.
type Terms struct {
	Mark, MarkMask   uint32 // bits of the mark that are set
	Label, LabelMask [2]uint64
	NAT              *NAT  // translation of a new connection; nil: none
	Policy           uint8 // timeout policy of a new connection; 0: its zone's
	// Force says that a connection which the packet is a reply of gives way to
	// one in the packet's direction.
	Force bool
}

// A Result says what became of a Commit.
type Result uint8

// The results. From Full on, nothing was committed.
const (
	Created    Result = iota
	Changed           // an old connection got another mark or label
	Unchanged         // an old connection, or an ICMP error about one: nothing to do
	Full              // every connection of the table is assured and goes on
	BucketFull        // no place in the index
	Limited           // the zone has its limit
	Clash             // another connection has the reply's addresses and ports
	NoPort            // no address and port of the translation is free
	NotValid          // the packet cannot begin a connection
	results
)

// String names the result, for counters and traces.
func (r Result) String() string {
	if r >= results {
		return fmt.Sprintf("result %d", uint8(r))
	}
	return [results]string{"created", "changed", "unchanged", "table full", "bucket full", "zone limit", "clash", "no port", "invalid"}[r]
}

// Commit makes a connection of a packet, or changes the one that it belongs to.
// v is what Track said of the packet in this zone; afterwards it is what Track
// would have said if the connection had been there, but for the packet being
// new. A program whose walk did anything but Unchanged is for this packet only:
// v.Cacheable says so.
//
// If two workers create the same connection, the first is kept, and the second
// has its verdict of it.
func (w *Worker) Commit(zone uint16, p *Packet, c *Terms, now uint64, v *Verdict) Result {
	if v.State == 0 && !v.Wait {
		w.Track(zone, p, now, v)
	}
	switch {
	case v.State&StateInvalid != 0 || v.State == 0:
		return NotValid
	case v.State&StateRelated != 0:
		return Unchanged
	case v.Ref != 0 && c.Force && v.Reply:
		w.t.remove(v.Ref, &w.counts.flushed)
		*v = Verdict{State: StateTracked | StateNew, Uses: v.Uses}
	}
	for range lookTries {
		if v.Ref != 0 {
			if changed, ok := w.t.amend(v.Ref, c, v); ok {
				if changed {
					v.Cacheable = false
					return Changed
				}
				return Unchanged
			}
		}
		result, raced := w.create(zone, p, c, now, v)
		v.Cacheable = false
		if !raced {
			return result
		}
		w.counts.raced.Add(1)
		w.Track(zone, p, now, v)
		v.Cacheable = false
		if v.State&StateInvalid != 0 {
			return NotValid
		}
	}
	return Clash
}

// amend sets bits of a connection's mark and label. It reports false if the
// connection has gone.
func (t *Table) amend(ref Ref, c *Terms, v *Verdict) (changed, ok bool) {
	i := ref.index()
	r := &t.records[i]
	mark := v.Mark&^c.MarkMask | c.Mark&c.MarkMask
	label := masked(v.Label, c)
	if mark == v.Mark && label == v.Label {
		return false, status(r.state.Load())&dead == 0
	}
	l := t.lockOf(r)
	l.Lock()
	defer l.Unlock()
	if status(r.state.Load())&dead != 0 || r.generation() != ref.generation() {
		return false, false
	}
	v.Mark = r.mark&^c.MarkMask | c.Mark&c.MarkMask
	v.Label = masked(r.label, c)
	atomic.StoreUint32(&r.mark, v.Mark)
	if c.LabelMask != [2]uint64{} {
		r.writeLabel(v.Label)
	}
	t.move(i)
	return true, true
}

// masked returns a label with the bits that c sets.
func masked(label [2]uint64, c *Terms) [2]uint64 {
	for i := range label {
		label[i] = label[i]&^c.LabelMask[i] | c.Label[i]&c.LabelMask[i]
	}
	return label
}

// create makes a connection of a packet. It reports raced if somebody has made
// it meanwhile.
func (w *Worker) create(zone uint16, p *Packet, c *Terms, now uint64, v *Verdict) (result Result, raced bool) {
	t := w.t
	s, tags, ok := t.begin(p)
	if !ok {
		return NotValid, false
	}
	w.makeRoom()
	i := w.alloc()
	if i == 0 {
		w.counts.full.Add(1)
		return Full, false
	}
	policy := t.policyOf(zone, c)
	k := p.key(zone)
	t.fill(i, &k, p.Len, c, now, s|status(policy)<<policyShift)
	r := &t.records[i]
	r.seq = [2]window{{end: tags[0]}, {end: tags[1]}}
	if p.Proto == ProtoTCP && t.options.Windows {
		r.seq = [2]window{}
		next, _ := windowStep(status(r.state.Load()), tcpNone, &r.seq, 0, p)
		r.state.Store(uint64(next))
	}
	got := w.place(i, p.Tuple, zone, c.NAT)
	if got != inserted {
		r.state.Store(uint64(dead))
		w.free = append(w.free, i)
		return w.refusal(got), got == exists
	}
	t.extend(i, t.until(tickOf(now), s|status(policy)<<policyShift, &r.original))
	w.counts.created.Add(1)
	want := t.cell(i)
	state := status(r.state.Load())
	t.describe(i, 0, state&^seenReply, v)
	v.Cell, v.Want = i, want
	return Created, false
}

// policyOf returns the timeout policy of a new connection.
func (t *Table) policyOf(zone uint16, c *Terms) uint8 {
	if c.Policy == 0 || t.policies[c.Policy].Load() == nil {
		return uint8(t.zones[zone].policy.Load())
	}
	return c.Policy
}

// fill writes a record that nobody sees yet, but for the reply's key. Its first packet has
// so many bytes.
func (t *Table) fill(i uint32, k *key, bytes uint32, c *Terms, now uint64, s status) {
	r := &t.records[i]
	o := &r.original
	o[0], o[1], o[2], o[3], o[4] = k[0], k[1], k[2], k[3], k[4]
	put64(&r.ident, r.ident.Load()&^0xffffffff|uint64(tickOf(now)))
	r.mark, r.label = c.Mark&c.MarkMask, masked([2]uint64{}, c)
	if r.label != [2]uint64{} {
		s |= 1 << labelShift
	}
	r.packets, r.bytes, r.seq = [2]uint64{1}, [2]uint64{uint64(bytes)}, [2]window{}
	put64(&r.state, uint64(s))
}

// refusal counts why a connection was not made.
func (w *Worker) refusal(got insertion) Result {
	switch got {
	case noSlot:
		w.counts.bucketFull.Add(1)
		return BucketFull
	case limited:
		w.counts.limited.Add(1)
		return Limited
	case noPort:
		w.counts.noPort.Add(1)
		return NoPort
	}
	w.counts.clash.Add(1)
	return Clash
}

// An insertion is what became of a try to put a record into the index.
type insertion uint8

const (
	inserted insertion = iota
	exists             // there is a connection of the packet
	taken              // there is one with the reply's key
	noSlot
	limited
	noPort
)

// insert puts record i into the index and its zone. The absence of what it is
// ends when it is found.
func (t *Table) insert(i uint32) insertion {
	r, x := &t.records[i], &t.index
	return t.insertAt(i, x.seed.hash(&r.original), x.seed.hash(&r.reply))
}

// insertAt is insert for keys of these hashes.
func (t *Table) insertAt(i uint32, ho, hr uint64) insertion {
	x := &t.index
	x.lockBoth(ho, hr)
	got := t.insertLocked(i, ho, hr)
	if got == noSlot && t.relocate(ho) && t.relocate(hr) {
		got = t.insertLocked(i, ho, hr)
	}
	x.unlockBoth(ho, hr)
	if got == inserted {
		t.move(t.absence(ho))
		t.move(t.absence(hr))
	}
	return got
}

// insertLocked is insertAt under the locks of both hashes' buckets. The record is in both places
// of the index and in its zone's list, or in none.
func (t *Table) insertLocked(i uint32, ho, hr uint64) insertion {
	r := &t.records[i]
	one := t.berth(&r.original, ho)
	if one.held {
		return exists
	}
	other := t.berth(&r.reply, hr)
	switch {
	case other.held:
		return taken
	case one.slot == nil || other.slot == nil:
		return noSlot
	case !t.enlist(i):
		return limited
	}
	if r.reply != r.original {
		other.fill(slotOf(hr, i, 1))
		if one.slot == other.slot { // both have the same bucket
			if one = t.berth(&r.original, ho); one.slot == nil {
				t.index.take(hr, slotOf(hr, i, 1))
				t.delist(i)
				return noSlot
			}
		}
	}
	one.fill(slotOf(ho, i, 0))
	return inserted
}
