package afxdp

import (
	"millrace/dataplane/packet"
)

// fragsMax is the most chunks of one frame: the kernel makes each a fragment of
// a packet buffer (MAX_SKB_FRAGS).
const fragsMax = 17

// A sender is the sending half of a socket: frames are copied into chunks, which
// go to the kernel by the transmit ring and come back by the completion ring.
// It is used by one worker at a time.
type sender struct {
	umem  *umem
	ring  giver
	done  taker
	multi bool     // frames may take several chunks
	free  []uint32 // chunks, by number among those for sending
	out   []bool   // by number: the kernel has it
	moves []packet.Copy
	kick  func() // has the kernel send what it was shown

	// Of the frames that send has taken and commit has not shown:
	taken  int // chunks
	frames int
	bytes  uint64
}

func newSender(u *umem, tx, done ring, multi bool, kick func()) *sender {
	s := &sender{
		umem: u, ring: newGiver(tx), done: newTaker(done), multi: multi, kick: kick,
		free: make([]uint32, u.tx), out: make([]bool, u.tx), moves: make([]packet.Copy, 0, 4*packet.BatchMax),
	}
	for i := range s.free {
		s.free[i] = u.tx - 1 - uint32(i)
	}
	return s
}

// send copies the frames of list into chunks. The kernel sees nothing of them
// until commit. A frame that is left has Why set: ReasonTxFull from the first
// one for which there is no chunk, so that order is kept.
func (s *sender) send(b *packet.Batch, list []packet.Ref, mtu uint32) error {
	s.taken, s.frames, s.bytes = 0, 0, 0
	s.moves = s.moves[:0]
	if err := s.makeRoom(len(list)); err != nil {
		return err
	}
	for i := range list {
		ref := &list[i]
		f := &b.Frames[ref.Frame&(packet.SlotsMax-1)]
		n := int((f.Len + s.umem.chunk() - 1) >> s.umem.shift)
		if !fits(b, int(ref.Frame), mtu) || n > 1 && (!s.multi || n > fragsMax) {
			ref.Why = packet.ReasonTxTooLong
			continue
		}
		if err := s.makeRoom(n); err != nil {
			s.abort()
			return err
		}
		if len(s.free) < n {
			leave(list[i:], packet.ReasonTxFull)
			break
		}
		s.put(b, int(ref.Frame&(packet.SlotsMax-1)), f, n)
		if len(s.moves) > cap(s.moves)-packet.BatchMax {
			packet.Move(s.moves)
			s.moves = s.moves[:0]
		}
	}
	packet.Move(s.moves)
	s.moves = s.moves[:0]
	return nil
}

// leave marks all of list as left that is not marked yet.
func leave(list []packet.Ref, why packet.Reason) {
	for i := range list {
		if list[i].Why == packet.ReasonNone {
			list[i].Why = why
		}
	}
}

// makeRoom tries to have n chunks free: by those that the kernel is done with,
// then by having it send.
func (s *sender) makeRoom(n int) error {
	if len(s.free) >= n {
		return nil
	}
	if err := s.reclaim(); err != nil || len(s.free) >= n || s.ring.idle() {
		return err
	}
	s.kick()
	return s.reclaim()
}

// reclaim takes back the chunks that the kernel has sent.
func (s *sender) reclaim() error {
	n, err := s.done.ready(s.done.size())
	if err != nil || n == 0 {
		return err
	}
	for range n {
		addr := s.done.addr(s.done.next)
		c, ok := s.umem.sending(addr)
		if !ok || !s.out[c] {
			return broken("kernel has completed a chunk at %#x that it was not given", addr)
		}
		s.out[c] = false
		s.free = append(s.free, c)
		s.done.next++
	}
	s.done.done()
	return nil
}

// put lays frame i over n free chunks. There are as many descriptors as chunks,
// so the ring has room.
func (s *sender) put(b *packet.Batch, i int, f *packet.Frame, n int) {
	s.frames++
	s.bytes += uint64(f.Len)
	if n == 1 {
		dst := s.next(f.Len, 0)
		s.moves = append(s.moves, packet.Copy{Dst: dst, Src: b.SlotAddr(i, f.Off), N: uintptr(f.HeadLen)})
		dst += uintptr(f.HeadLen)
		for _, seg := range b.Segs[f.Seg : f.Seg+f.NSeg] {
			s.moves = append(s.moves, packet.Copy{Dst: dst, Src: seg.Addr, N: seg.Len})
			dst += seg.Len
		}
		return
	}
	s.spread(b, i, f)
}

// spread lays frame i over several chunks.
func (s *sender) spread(b *packet.Batch, i int, f *packet.Frame) {
	left := f.Len
	src := packet.Seg{Addr: b.SlotAddr(i, f.Off), Len: uintptr(f.HeadLen)}
	segs := b.Segs[f.Seg : f.Seg+f.NSeg]
	for left > 0 {
		room := min(left, s.umem.chunk())
		left -= room
		more := uint32(0)
		if left > 0 {
			more = optionMore
		}
		dst := s.next(room, more)
		for room > 0 {
			for src.Len == 0 {
				src, segs = segs[0], segs[1:]
			}
			n := min(uintptr(room), src.Len)
			s.moves = append(s.moves, packet.Copy{Dst: dst, Src: src.Addr, N: n})
			dst, room = dst+n, room-uint32(n)
			src.Addr, src.Len = src.Addr+n, src.Len-n
		}
	}
}

// next takes a free chunk, gives it the next descriptor, and returns where it
// is.
func (s *sender) next(size, options uint32) uintptr {
	last := len(s.free) - 1
	c := s.free[last]
	s.free = s.free[:last]
	s.out[c] = true
	addr := s.umem.addrOf(c)
	s.ring.setDesc(s.ring.next, desc{addr, size, options})
	s.ring.next++
	s.taken++
	return s.umem.base + uintptr(addr)
}

// commit shows the kernel what send has taken and counts it in b.
func (s *sender) commit(b *packet.Batch) {
	b.Sent += s.frames
	b.SentBytes += s.bytes
	s.taken, s.frames, s.bytes = 0, 0, 0
	s.ring.show()
}

// abort forgets what send has taken.
func (s *sender) abort() {
	for ; s.taken > 0; s.taken-- {
		s.ring.next--
		c, _ := s.umem.sending(s.ring.desc(s.ring.next).addr)
		s.out[c] = false
		s.free = append(s.free, c)
	}
	s.frames, s.bytes = 0, 0
	s.moves = s.moves[:0]
}

// tagLen is the length of an 802.1Q tag in bytes.
const tagLen = 4

// fits reports whether frame i is not longer than the MTU allows: a tag is not
// counted.
func fits(b *packet.Batch, i int, mtu uint32) bool {
	n := b.Frames[i&(packet.SlotsMax-1)].Len
	if mtu == 0 || n <= mtu+packet.FrameMin {
		return true
	}
	return n <= mtu+packet.FrameMin+tagLen && isTagged(b.Head(i&(packet.SlotsMax-1)))
}

// isTagged reports whether a frame begins with a tag.
func isTagged(head []byte) bool {
	return len(head) >= packet.FrameMin && (head[12] == 0x81 && head[13] == 0x00 || head[12] == 0x88 && head[13] == 0xa8)
}
