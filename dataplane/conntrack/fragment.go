package conntrack

import "sync/atomic"

// Fragments: a later fragment has no ports. The first one's are remembered under
// what all fragments of a datagram have in common, so that later ones find the same
// connection. One that comes before the first waits in memory of a fixed size.

// setSize is how many datagrams a set has, of which the oldest gives way.
const setSize = 4

// How long a datagram is remembered, in ticks: 30 seconds (RFC 791, Linux), 60
// for IPv6 (RFC 8200 4.5), and one when all of it has been seen: its identifier
// may come again soon.
const (
	datagramTicks  = 448
	datagram6Ticks = 895
	doneTicks      = 15
)

// heldMax is how many fragments of one datagram may wait.
const heldMax = 64

// A datagram is what is known of one. All is under the set's lock.
type datagram struct {
	key              [5]uint64 // source, destination, and id (32..63), zone (16..31), IPv4's protocol (8..15), IPv6 (0)
	srcPort, dstPort uint16
	proto            uint8
	flags            uint8  // the first fragment's TCP flags, and firstSeen
	waiting          uint16 // fragments
	deadline         uint32 // tick; 0: free
	held             heldList
	got, size        uint16 // bytes of payload seen, and of all, 0 if the last was not seen
}

// firstSeen in a datagram's flags says that the first fragment was seen.
const firstSeen = 0x80

// known reports whether the first fragment was seen.
func (d *datagram) known() bool { return d.flags&firstSeen != 0 }

// fragments are the datagrams of a table.
type fragments struct {
	setTable
	sets  [][setSize]datagram
	live  atomic.Int32 // datagrams
	store store
}

// init makes room for n datagrams and for size bytes of fragments that wait.
func (f *fragments) init(m *memory, n, size int) (err error) {
	f.setTable.init(n, setSize)
	if f.sets, err = array[[setSize]datagram](m, f.n); err != nil {
		return err
	}
	return f.store.init(m, size)
}

// datagramKey returns what the fragments of a datagram have in common.
func (p *Packet) datagramKey(zone uint16) (k [5]uint64) {
	k = [5]uint64{p.Src[0], p.Src[1], p.Dst[0], p.Dst[1], uint64(p.FragmentID)<<32 | uint64(zone)<<16}
	if p.Six {
		k[4] |= 1 // its fragments name the protocol of the first header only
	} else {
		k[4] |= uint64(p.Proto) << 8
	}
	return k
}

// of returns the set of a key, locked.
func (f *fragments) of(k *[5]uint64) (*[setSize]datagram, *lock) {
	at, l := f.locate(f.seed.hash((*key)(k)))
	return &f.sets[at], l
}

// findDatagram returns the datagram of a key, or nil.
func findDatagram(set *[setSize]datagram, k *[5]uint64, now uint32) *datagram {
	for i := range set {
		if d := &set[i]; d.deadline != 0 && d.key == *k && int32(now-d.deadline) < 0 {
			return d
		}
	}
	return nil
}

// begin takes a place in a set for a datagram: a free one, or the oldest's.
func (f *fragments) begin(set *[setSize]datagram, k *[5]uint64, now uint32, c *counts) *datagram {
	d := &set[0]
	for i := range set {
		if int32(set[i].deadline-d.deadline) < 0 || set[i].deadline == 0 {
			d = &set[i]
		}
		if d.deadline == 0 {
			break
		}
	}
	f.forget(d, c)
	life := uint32(datagramTicks)
	if k[4]&1 != 0 {
		life = datagram6Ticks
	}
	*d = datagram{key: *k, deadline: max(now+life, 1)}
	f.live.Add(1)
	return d
}

// forget frees a datagram's place. Fragments that wait for it are lost.
func (f *fragments) forget(d *datagram, c *counts) {
	if d.waiting != 0 {
		c.fragLost.Add(uint64(d.waiting))
		f.store.lose(d.held)
	}
	if d.deadline != 0 {
		f.live.Add(-1)
	}
	*d = datagram{}
}

// note counts a fragment's payload. When all of it was seen, the datagram is
// soon forgotten.
func (d *datagram) note(p *Packet, now uint32) {
	d.got += min(p.Size, ^d.got)
	if p.Last {
		d.size = p.Offset + p.Size
	}
	if d.size != 0 && d.got >= d.size && int32(d.deadline-now) > doneTicks {
		d.deadline = max(now+doneTicks, 1)
	}
}

// assemble gives a fragment the ports of its datagram. It reports false if v has
// the verdict already: the packet must wait, or is invalid.
func (w *Worker) assemble(zone uint16, p *Packet, now uint64, v *Verdict) bool {
	f, at := &w.t.fragments, tickOf(now)
	k := p.datagramKey(zone)
	set, l := f.of(&k)
	defer l.Unlock()
	d := findDatagram(set, &k, at)
	if p.Fragment == FirstFragment {
		if d == nil {
			d = f.begin(set, &k, at, &w.counts)
		}
		d.srcPort, d.dstPort, d.proto, d.flags = p.SrcPort, p.DstPort, p.Proto, firstSeen|uint8(p.Flags)&0x3f
		if p.Error {
			d.proto = 0 // what it is about is in the first fragment only
		}
		if d.waiting != 0 {
			w.counts.fragReleased.Add(uint64(d.waiting))
			f.store.join(&w.ready, d.held)
			d.held, d.waiting = heldList{}, 0
		}
		v.Released = w.ready.first != 0
		d.note(p, at)
		return true
	}
	if d == nil || !d.known() {
		v.Wait = true
		return false
	}
	if d.proto == 0 || p.Offset < headerOf(d.proto) {
		w.refuse(v) // it would overwrite what was looked at (RFC 3128)
		return false
	}
	p.SrcPort, p.DstPort, p.Proto, p.Flags = d.srcPort, d.dstPort, d.proto, uint16(d.flags&^firstSeen)
	w.counts.fragTracked.Add(1)
	d.note(p, at)
	return true
}

// headerOf returns how many bytes of a protocol's header decide about a packet.
func headerOf(proto uint8) uint16 {
	switch proto {
	case ProtoTCP:
		return 20
	case ProtoSCTP:
		return 16
	}
	return 8
}

// A Holding says what became of a fragment that Hold was given.
type Holding uint8

// What Hold may answer.
const (
	Held    Holding = iota // it waits; Release returns it when its first has come
	Known                  // its first has just come: Track it again
	Refused                // no room: drop it
)

// Hold keeps a copy of a frame whose verdict says Wait until the first fragment
// of its datagram comes to this zone: Verdict.Released then has that worker call
// Release. meta is returned with it; by its low 8 bits the memory is shared out.
// Frames whose first does not come are counted, and Lost tells of them.
func (w *Worker) Hold(zone uint16, p *Packet, frame []byte, meta, now uint64) Holding {
	f, at := &w.t.fragments, tickOf(now)
	k := p.datagramKey(zone)
	set, l := f.of(&k)
	defer l.Unlock()
	d := findDatagram(set, &k, at)
	switch {
	case d == nil:
		d = f.begin(set, &k, at, &w.counts)
	case d.known():
		return Known
	}
	if d.waiting >= heldMax || !f.store.add(&d.held, frame, meta) {
		w.counts.fragOver.Add(1)
		return Refused
	}
	d.waiting++
	w.counts.fragHeld.Add(1)
	return Held
}

// Ready has Release return a copy of a frame: of one that Hold has answered Known for. It
// reports whether there was room.
func (w *Worker) Ready(frame []byte, meta uint64) bool {
	return w.t.fragments.store.add(&w.ready, frame, meta)
}

// Release returns a frame that may go on, appended to dst, and its meta. It
// reports false if there is none.
func (w *Worker) Release(dst []byte) (frame []byte, meta uint64, ok bool) {
	return w.t.fragments.store.next(&w.ready, dst)
}

// Lost returns the size and meta of a frame of anybody's that was held in vain. It
// reports false if there is none. Until it is called, such frames keep their memory.
func (w *Worker) Lost() (size int, meta uint64, ok bool) { return w.t.fragments.store.nextLost() }

// ExpireFragments forgets datagrams whose time is over, of one part of all of which there are
// parts. It goes on where the last call of anybody has stopped.
func (w *Worker) ExpireFragments(now uint64, parts int) {
	w.t.fragments.expire(tickOf(now), w.t.fragments.n/parts+1, &w.counts)
}

// ExpireFragments is Worker.ExpireFragments, of all, for whoever is no worker.
func (t *Table) ExpireFragments(now uint64) {
	t.fragments.expire(tickOf(now), t.fragments.n, &t.counts)
}

// expire forgets datagrams of some sets whose time is over.
func (f *fragments) expire(now uint32, sets int, c *counts) {
	if f.live.Load() == 0 {
		return
	}
	f.some(sets, func(at uint32) {
		for i := range f.sets[at] {
			if d := &f.sets[at][i]; d.deadline != 0 && int32(now-d.deadline) >= 0 {
				f.forget(d, c)
			}
		}
	})
}
