package afxdp

import (
	"sync/atomic"

	"millrace/dataplane/packet"
)

// headroom is what the kernel leaves free before a received frame in bytes
// (XDP_PACKET_HEADROOM).
const headroom = 256

// A receiver is the receiving half of a socket: chunks go to the kernel by the
// fill ring, come back with frames by the receive ring, are lent to a batch, and
// go to the fill ring again. One worker uses it.
type receiver struct {
	umem  *umem
	ring  taker
	fill  giver
	moves []packet.Copy
	parts []packet.Seg // of the frame in hand, if it has several
	lent  uint32       // entries of ring that the last receive has read; their chunks are on loan

	complete bool // finish checksums that a sender on this machine left to its device

	// missed are frames that the kernel dropped, by reason, for the next
	// batch to tell of; any is set with them.
	missed [packet.ReasonCount]atomic.Uint32
	any    atomic.Bool
}

func newReceiver(u *umem, rx, fill ring) *receiver {
	return &receiver{
		umem: u, ring: newTaker(rx), fill: newGiver(fill),
		moves: make([]packet.Copy, 0, packet.BatchMax), parts: make([]packet.Seg, 0, rx.size()),
	}
}

// stock gives the kernel all chunks for receiving. It is called once.
func (r *receiver) stock() error {
	if room, err := r.fill.room(r.umem.rx); err != nil || room < r.umem.rx {
		return broken("fill ring of %d has no room for %d chunks", r.fill.size(), r.umem.rx)
	}
	for n := range uint64(r.umem.rx) {
		r.fill.setAddr(r.fill.next, n<<r.umem.shift)
		r.fill.next++
	}
	r.fill.show()
	return nil
}

// receive fills b, which is empty, with the frames that have come. Their
// entries stay unread for the kernel until give.
func (r *receiver) receive(b *packet.Batch) error {
	if r.any.Load() {
		r.tellMissed(b)
	}
	n, err := r.ring.ready(packet.BatchMax)
	if n == 0 || err != nil {
		return err
	}
	r.moves = r.moves[:0]
	at, end := r.ring.next, r.ring.next+n
	for room := b.Max(); at != end && b.N < room; {
		if at = r.plain(b, at, end); at == end || b.N == room {
			break
		}
		took, err := r.several(b, at, end)
		if err != nil {
			r.lent = at - r.ring.next
			return err
		}
		if took == 0 {
			break
		}
		at += took
	}
	packet.Move(r.moves)
	r.lent = at - r.ring.next
	if r.complete {
		for i := range b.N {
			completeChecksum(b, i)
		}
	}
	return nil
}

// empty reports whether no frame is there.
func (r *receiver) empty() bool {
	n, err := r.ring.ready(1)
	return n == 0 && err == nil
}

// plain takes frames of one descriptor, and returns where it stopped: at one of
// another kind, or when b is full.
func (r *receiver) plain(b *packet.Batch, at, end uint32) uint32 {
	f, bytes, u, room := b.N, b.Bytes, r.umem, b.Max()
	for ; at != end && f < room; at++ {
		d := r.ring.desc(at)
		p, ok := u.received(d)
		if !ok || d.options != 0 || d.len < packet.FrameMin || b.NSegs == packet.SegsMax {
			break
		}
		head := min(d.len, packet.HeadMax)
		fr := packet.Frame{Off: packet.HeadRoom, HeadLen: uint16(head), Len: d.len}
		r.moves = append(r.moves, packet.Copy{Dst: b.SlotAddr(f, packet.HeadRoom), Src: p, N: uintptr(head)})
		if d.len > head {
			fr.Seg, fr.NSeg = uint32(b.NSegs), 1
			b.Segs[b.NSegs] = packet.Seg{Addr: p + uintptr(head), Len: uintptr(d.len - head)}
			b.NSegs++
		}
		b.Frames[f] = fr
		bytes += uint64(d.len)
		f++
	}
	b.N, b.Bytes = f, bytes
	return at
}

// several takes the frame at position at, of any kind, and returns how many
// descriptors it has: 0 if b has no room for it or it is not all there yet.
func (r *receiver) several(b *packet.Batch, at, end uint32) (uint32, error) {
	r.parts = r.parts[:0]
	total := uint64(0)
	for i := at; ; i++ {
		if i == end {
			if i-at == r.ring.size() {
				return 0, broken("a frame has more than %d descriptors", r.ring.size())
			}
			return 0, nil
		}
		d := r.ring.desc(i)
		p, ok := r.umem.received(d)
		if !ok {
			return 0, broken("received descriptor of %d bytes at %#x lies in no chunk", d.len, d.addr)
		}
		r.parts = append(r.parts, packet.Seg{Addr: p, Len: uintptr(d.len)})
		total += uint64(d.len)
		if d.options&optionMore == 0 {
			break
		}
	}
	n := uint32(len(r.parts))
	switch {
	case total > packet.FrameMax:
		b.DropEarly(packet.ReasonRxTooLong)
	case total < packet.FrameMin:
		b.DropEarly(packet.ReasonRxTooShort)
	case b.NSegs+len(r.parts) > packet.SegsMax:
		return 0, nil
	default:
		r.frame(b, uint32(total))
	}
	return n, nil
}

// frame puts the frame of r.parts into b.
func (r *receiver) frame(b *packet.Batch, total uint32) {
	f := &b.Frames[b.N]
	*f = packet.Frame{Off: packet.HeadRoom, Len: total, Seg: uint32(b.NSegs)}
	for _, s := range r.parts {
		if n := min(packet.HeadMax-uintptr(f.HeadLen), s.Len); n > 0 {
			r.moves = append(r.moves, packet.Copy{Dst: b.SlotAddr(b.N, packet.HeadRoom+f.HeadLen), Src: s.Addr, N: n})
			f.HeadLen += uint16(n)
			s.Addr, s.Len = s.Addr+n, s.Len-n
		}
		if s.Len > 0 {
			b.Segs[b.NSegs] = s
			b.NSegs++
			f.NSeg++
		}
	}
	b.Bytes += uint64(total)
	b.N++
}

// give ends the loan: the kernel gets the chunks of the last receive back.
func (r *receiver) give() error {
	n := r.lent
	if n == 0 {
		return nil
	}
	r.lent = 0
	room, err := r.fill.room(n)
	if err == nil && room < n {
		err = broken("kernel has returned more chunks than there are")
	}
	if err != nil {
		return err
	}
	mask := uint64(r.umem.chunk() - 1)
	for range n {
		r.fill.setAddr(r.fill.next, r.ring.desc(r.ring.next).addr&^mask)
		r.fill.next++
		r.ring.next++
	}
	r.ring.done()
	r.fill.show()
	return nil
}

// miss notes frames that the kernel dropped, for the next batch. Any goroutine
// but a worker may call it.
func (r *receiver) miss(why packet.Reason, n uint32) {
	if n > 0 {
		r.missed[why].Add(n)
		r.any.Store(true)
	}
}

// tellMissed counts in b what the kernel dropped.
func (r *receiver) tellMissed(b *packet.Batch) {
	r.any.Store(false)
	for why := range r.missed {
		if n := r.missed[why].Swap(0); n > 0 {
			b.Early[why] += n
			b.NEarly += int(n)
		}
	}
}
