package packet

import (
	"bytes"
	"encoding/binary"
)

// runsMax is how many flows of TCP are merged at a time in one list.
const runsMax = 8

// A Merger makes super-frames of segments of TCP that follow each other in a list, so that
// Cut and Settle would make of them what they are, to the bit: the other way round. It waits for
// nothing: what is not in the list is not merged. One worker uses it.
type Merger struct {
	runs [runsMax]run
	n    int
	next [SlotsMax]uint16 // by frame: which follows it in its run

	// Kept free for runs that are not joined yet:
	slots, segs int

	// Of the last Merge:
	Merged uint64 // super-frames made
	Joined uint64 // segments that went into them, beyond the first of each
}

// A piece is a segment of TCP.
type piece struct {
	place
	body  int // first byte of its payload
	n     int // bytes of payload
	seq   uint32
	flags byte
}

// A run is segments of a flow that follow each other, so far.
type run struct {
	piece              // the first of them
	first, last uint16 // frames
	out         int    // place in the new list
	count       int
	bytes       int // of payload
	segs        int // that a super-frame of them needs
	sound       bool
}

// TCP flags besides those that not all segments have.
const (
	tcpACK = 0x10
	tcpECE = 0x40
)

// Merge appends list to out, which is empty and has room for it, with super-frames in place of
// segments that may be merged for a peer that takes what is in takes. The frames themselves stay
// as they are, for other lists. It reads borrowed memory, so it panics like any access if the
// lender has taken that away.
func (m *Merger) Merge(b *Batch, list, out []Ref, takes Takes) []Ref {
	m.n, m.slots, m.segs, m.Merged, m.Joined = 0, 0, 0, 0, 0
	for _, r := range list {
		out = m.add(b, int(r.Frame), out, takes)
	}
	m.closeAll(b, out)
	return out
}

// Mergeable reports whether it makes sense to Merge: that there is room to Keep what comes of it
// beside what other ports need, and that nobody has kept the frames yet, in pieces.
func (b *Batch) Mergeable() bool { return b.nKept == 0 && 2*b.Bytes <= keptMax }

// add puts frame i into the list, or into the run that it goes on with.
func (m *Merger) add(b *Batch, i int, out []Ref, takes Takes) []Ref {
	single := append(out, Ref{Frame: uint16(i)})
	p, ok := b.piece(i)
	if !ok {
		if p.hidesTCP() {
			m.closeAll(b, out)
		}
		return single
	}
	k := m.find(b, i, &p)
	if k >= 0 && m.join(b, &m.runs[k], i, &p) {
		if p.n < m.runs[k].n || p.flags&(tcpPSH|tcpFIN) != 0 {
			m.close(b, k, out)
		}
		return out
	}
	if k >= 0 {
		m.close(b, k, out) // what comes later must not overtake this
	}
	if p.n == 0 || p.flags&^tcpECE != tcpACK || !takes.super(p.six) || !b.plain(i, &p) {
		return single
	}
	if m.n == runsMax {
		m.close(b, 0, out)
	}
	m.runs[m.n] = run{piece: p, first: uint16(i), last: uint16(i), out: len(out), count: 1, bytes: p.n, segs: int(b.Frames[i].NSeg) + 1}
	m.n++
	return single
}

// super reports whether t has super-frames of TCP over that IP.
func (t Takes) super(six bool) bool {
	want := TakesSum | TakesTCP4
	if six {
		want = TakesSum | TakesTCP6
	}
	return t&want == want
}

// piece reads the headers of frame i; ok is false if it is not a whole packet of TCP.
func (b *Batch) piece(i int) (p piece, ok bool) {
	head := b.Head(i)
	if p.place, ok = find(head, int(b.Frames[i].Len)); !ok || p.proto != protoTCP {
		return p, false
	}
	tcp := head[p.l4:]
	p.body = p.l4 + int(tcp[12]>>4)*4
	p.n, p.seq, p.flags = p.end-p.body, binary.BigEndian.Uint32(tcp[4:]), tcp[13]
	return p, p.body >= p.l4+tcpLeast && p.body <= len(head) && p.n >= 0
}

// hidesTCP reports whether what was not understood may be TCP of any flow: a fragment, or
// headers of IPv6 that are not known.
func (p *place) hidesTCP() bool {
	const icmp6 = 58
	return p.proto == protoTCP || p.six && p.proto != protoUDP && p.proto != icmp6
}

// find returns the run of a segment's flow, or -1.
func (m *Merger) find(b *Batch, i int, p *piece) int {
	h := b.Head(i)
	for k := range m.n {
		r := &m.runs[k]
		o := b.Head(int(r.first))
		if r.six == p.six && bytes.Equal(addresses(o, &r.place), addresses(h, &p.place)) && bytes.Equal(o[r.l4:r.l4+4], h[p.l4:p.l4+4]) {
			return k
		}
	}
	return -1
}

// addresses are those of a packet's ends.
func addresses(head []byte, p *place) []byte {
	if p.six {
		return head[p.net+8 : p.net+40]
	}
	return head[p.net+12 : p.net+20]
}

// plain reports whether frame i has nothing that a super-frame could not have: options of IP,
// bytes behind the packet, and requests other than for its own checksum.
func (b *Batch) plain(i int, p *piece) bool {
	if p.end != int(b.Frames[i].Len) {
		return false
	}
	if b.Asking && b.asks[i].start != 0 {
		if a := &b.asks[i]; a.kind != Whole || a.net == 0 || a.ecn {
			return false
		}
	}
	if p.six {
		return p.l4 == p.net+ip6Len
	}
	return p.l4 == p.net+ip4Least
}

// join adds frame i to a run if it is the next segment and no different from the others, and
// all of them arrived intact.
func (m *Merger) join(b *Batch, r *run, i int, p *piece) bool {
	segs := int(b.Frames[i].NSeg) + 1
	switch {
	case p.n == 0 || p.n > r.n || p.seq != r.seq+uint32(r.bytes) || p.flags&^(tcpPSH|tcpFIN) != r.flags:
		return false
	case r.body-r.net+r.bytes+p.n > 1<<16-1 || !b.plain(i, p) || !b.alike(r, i, p):
		return false
	case !m.room(b, r, segs):
		return false
	case !r.sound && !b.sound(int(r.first), &r.piece) || !b.sound(i, p):
		return false
	}
	if r.count == 1 {
		m.slots++
		m.segs += r.segs
	}
	m.segs += segs
	m.next[r.last] = uint16(i)
	r.last, r.sound = uint16(i), true
	r.count, r.bytes, r.segs = r.count+1, r.bytes+p.n, r.segs+segs
	return true
}

// room reports whether a run may have so many segments of memory more.
func (m *Merger) room(b *Batch, r *run, segs int) bool {
	slots := m.slots
	if r.count == 1 {
		slots++
		segs += r.segs
	}
	return slots <= SlotsMax-BatchMax-b.copies && m.segs+segs <= SegsMax-b.NSegs
}

// alike reports whether the headers of frame i are those of the run's first, but for what
// Cut would change.
func (b *Batch) alike(r *run, i int, p *piece) bool {
	if p.net != r.net || p.l4 != r.l4 || p.body != r.body {
		return false
	}
	h, o := b.Head(i), b.Head(int(r.first))
	same := func(from, to int) bool { return bytes.Equal(h[from:to], o[from:to]) }
	ip, l4 := p.net, p.l4
	if p.six {
		if !same(ip, ip+4) || !same(ip+6, ip+8) {
			return false
		}
	} else if !same(ip, ip+2) || !same(ip+6, ip+10) ||
		binary.BigEndian.Uint16(h[ip+4:]) != binary.BigEndian.Uint16(o[ip+4:])+uint16(r.count) {
		return false
	}
	return same(0, ip) && same(l4+8, l4+13) && same(l4+14, l4+16) && same(l4+18, p.body)
}

// sound reports whether the checksums of frame i are right, or that of TCP not there yet. Zero
// can be written in two ways, of which Cut and Settle know one.
func (b *Batch) sound(i int, p *piece) bool {
	h := b.Head(i)
	ip := h[p.net:]
	if !p.six && (Sum16(ip[:ip4Least]) != 0xffff || ip[10]&ip[11] == 0xff) {
		return false
	}
	if b.Asking && b.asks[i].start != 0 {
		return true
	}
	return h[p.field()]&h[p.field()+1] != 0xff && Fold(pseudo(ip, protoTCP, p.end-p.l4)+uint64(b.SumTo(i, p.l4, p.end))) == 0xffff
}

func (m *Merger) closeAll(b *Batch, out []Ref) {
	for m.n > 0 {
		m.close(b, m.n-1, out)
	}
}

// close ends a run: its super-frame takes its place in the list.
func (m *Merger) close(b *Batch, k int, out []Ref) {
	r := &m.runs[k]
	if r.count > 1 {
		m.slots--
		m.segs -= r.segs
		m.Merged++
		m.Joined += uint64(r.count - 1)
		out[r.out].Frame = uint16(m.build(b, r))
	}
	m.n--
	m.runs[k] = m.runs[m.n]
}

// build makes the super-frame of a run. Its headers are the first segment's, and the payload
// stays where it is.
func (m *Merger) build(b *Batch, r *run) int {
	b.ask()
	j := BatchMax + b.copies
	b.copies++
	off := b.Frames[r.first].Off
	f := &b.Frames[j]
	*f = Frame{Off: off, HeadLen: uint16(r.body), Len: uint32(r.body + r.bytes), Seg: uint32(b.NSegs)}
	copy(b.heads[j][off:int(off)+r.body], b.Head(int(r.first)))
	for i, left := int(r.first), r.count; left > 0; i, left = int(m.next[i]), left-1 {
		b.append(f, i, r.body)
	}
	s := b.heads[j][off:]
	s[r.l4+13] |= b.Head(int(r.last))[r.l4+13]
	a := ask{start: off + uint16(r.l4), field: off + uint16(r.l4+tcpSum), net: off + uint16(r.net), body: off + uint16(r.body), size: uint16(r.n), kind: TCP4}
	if ip := s[r.net:]; r.six {
		a.kind = TCP6
		binary.BigEndian.PutUint16(ip[4:], uint16(r.body-r.net-ip6Len+r.bytes))
	} else {
		change(ip, ip[2:], uint16(r.body-r.net+r.bytes))
	}
	b.asks[j] = a
	return j
}

// append adds what frame i has from byte body on to f, whose segments are the batch's last.
func (b *Batch) append(f *Frame, i, body int) {
	o := &b.Frames[i]
	if n := int(o.HeadLen) - body; n > 0 {
		b.Segs[b.NSegs] = Seg{b.SlotAddr(i, o.Off+uint16(body)), uintptr(n)}
		b.NSegs++
		f.NSeg++
	}
	f.NSeg += uint32(copy(b.Segs[b.NSegs:], b.Tail(i)))
	b.NSegs += int(o.NSeg)
}

// ask has frames of the batch ask for something, none of which may have done so yet.
func (b *Batch) ask() {
	if !b.Asking {
		clear(b.asks[:b.N])
		clear(b.asks[BatchMax : BatchMax+b.copies])
		b.Asking = true
	}
}
