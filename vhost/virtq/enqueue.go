package virtq

import (
	"millrace/dataplane/packet"
)

// Enqueue copies the frames of list into the driver's buffers, in order. The
// driver sees nothing of them until Commit. A frame that is left has Why set:
// ReasonTxFull from the first one for which there is no room, so that order is
// kept; ReasonTxTooLong for one that is longer than the driver's buffers.
//
// The error is ErrBroken; nothing was taken then.
func (d *Device) Enqueue(b *packet.Batch, list []packet.Ref) error {
	if d.bad != nil {
		return d.bad
	}
	d.staged = staged{next: d.next}
	avail, err := d.ready(uint32(len(list)))
	if err == nil {
		d.moves, d.walked = d.moves[:0], 0
		e := enqueue{d: d, b: b, staged: staged{next: d.next}, left: avail}
		if err = e.all(list); err == nil {
			packet.Move(d.moves)
			d.staged = e.staged
			return nil
		}
	}
	d.Break(err)
	return err
}

// Commit shows the driver what Enqueue has taken, and counts it in b.
//
// The worker completes the frames' source before it commits: a switch that is
// killed in between loses them, where the other order would send them twice.
func (d *Device) Commit(b *packet.Batch) {
	s := d.staged
	if s.frames == 0 || d.bad != nil {
		return
	}
	n := s.next - d.next
	d.publish(n)
	d.next = s.next
	d.staged = staged{next: d.next}
	b.Sent += s.frames
	b.SentBytes += s.bytes
}

// Abort forgets what Enqueue has taken.
func (d *Device) Abort() { d.staged = staged{next: d.next} }

// staged is what Enqueue has taken and Commit has not shown yet.
type staged struct {
	next   uint16 // next chain to fill
	frames int
	bytes  uint64
}

// An enqueue is the state of one Enqueue: nothing of it holds until the frames
// are there.
type enqueue struct {
	d *Device
	b *packet.Batch
	staged
	left uint32 // chains there are
}

// all puts the frames of list into chains.
func (e *enqueue) all(list []packet.Ref) error {
	looked := len(list) // frame for which the window was moved: once is enough
	for i := 0; i < len(list); i++ {
		if i += e.plain(e.unasking(list[i:])); i == len(list) {
			break
		}
		if e.left == 0 {
			if more, err := e.more(0); !more {
				full(list[i:])
				return err
			}
			i-- // again, with the chains that have come
			continue
		}
		if looked != i && e.d.refocus(e.next) {
			looked = i
			i-- // again, from the window that this chain needs
			continue
		}
		why, err := e.chains(&list[i])
		if err != nil {
			return err
		}
		if why == packet.ReasonTxFull {
			full(list[i:])
			break
		}
		list[i].Why = why
		if e.d.walked > walkMax {
			full(list[i+1:])
			break
		}
		if len(e.d.moves) > movesMax {
			packet.Move(e.d.moves)
			e.d.moves = e.d.moves[:0]
		}
	}
	return nil
}

// unasking returns the first frames of list that ask for nothing, whose header is
// empty.
func (e *enqueue) unasking(list []packet.Ref) []packet.Ref {
	if e.b.Asking {
		for n := range list {
			if e.b.Needs(int(list[n].Frame&(packet.SlotsMax-1))) != 0 {
				return list[:n]
			}
		}
	}
	return list
}

// plain is all for the first frames of list, as long as their chains are of the
// usual kind: one descriptor, in the window, with room for the frame. It
// returns how many it put. See takePlain for its locals.
func (e *enqueue) plain(list []packet.Ref) int {
	d, b := e.d, e.b
	avail, table, used, mask, hdr, win := d.avail, d.desc, d.used, d.mask, d.hdr, d.win
	seq, bytes, left := uint32(e.next), e.bytes, int(e.left)
	moves := d.moves
	n := 0
	for ; n < len(list) && n < left; n++ {
		i := int(list[n].Frame & (packet.SlotsMax - 1))
		f := &b.Frames[i]
		at := uintptr(seq & mask)
		head := uint32(load16(avail + 2*at))
		if head > mask {
			break
		}
		de := loadDesc(table, head)
		need := hdr + f.Len
		p, ok := win.At(de.addr, uint64(de.len))
		if !ok || de.flags&(descNext|descWrite|descIndirect) != descWrite || de.len < need {
			break
		}
		store64(p, 0)
		store32(p+8, 1<<16) // num_buffers; the frame overwrites it after a short header
		p += uintptr(hdr)
		moves = append(moves, packet.Copy{Dst: p, Src: b.SlotAddr(i, f.Off), N: uintptr(f.HeadLen)})
		if f.NSeg != 0 {
			moves = appendTail(moves, b, f, p+uintptr(f.HeadLen))
			if len(moves) > movesMax { // copies of one frame have the same tail again and again
				packet.Move(moves)
				moves = moves[:0]
			}
		}
		store64(used+usedElemSize*at, uint64(head)|uint64(need)<<32)
		bytes += uint64(f.Len)
		seq++
	}
	d.moves = moves
	e.next += uint16(n)
	e.left -= uint32(n)
	e.frames += n
	e.bytes = bytes
	return n
}

// more reports whether there are more than n chains left. It looks again when
// there seem to be none: Enqueue has counted on one for each frame, and a merged
// frame takes several.
func (e *enqueue) more(n uint32) (bool, error) {
	if e.left > n {
		return true, nil
	}
	avail, err := e.d.ready(SizeMax + 1)
	if err != nil {
		return false, err
	}
	taken := uint32(e.next - e.d.next)
	if avail < taken+e.left {
		return false, broken("available index went back to %d", e.d.seen)
	}
	e.left = avail - taken
	return e.left > n, nil
}

// appendTail copies the segments of f to p on.
func appendTail(moves []packet.Copy, b *packet.Batch, f *packet.Frame, p uintptr) []packet.Copy {
	for _, s := range b.Segs[f.Seg : f.Seg+f.NSeg] {
		moves = append(moves, packet.Copy{Dst: p, Src: s.Addr, N: s.Len})
		p += s.Len
	}
	return moves
}

// full marks list as left for want of room.
func full(list []packet.Ref) {
	for i := range list {
		list[i].Why = packet.ReasonTxFull
	}
}

// chains puts one frame that does not go into one descriptor: it fills one
// chain, or several when they are merged (virtio 5.1.6.4).
func (e *enqueue) chains(ref *packet.Ref) (packet.Reason, error) {
	d := e.d
	i := int(ref.Frame & (packet.SlotsMax - 1))
	f := &e.b.Frames[i]
	if e.b.Needs(i)&^d.cfg.Offload != 0 {
		return packet.ReasonTxDown, nil // the peer has come back as another one since somebody looked
	}
	head := d.head(e.next)
	if head > d.mask {
		return packet.ReasonNone, broken("available entry %d names descriptor %d of %d", e.next, head, d.mask+1)
	}
	de := loadDesc(d.desc, head)
	d.stats.Chains++
	w := writer{e: e, moves: len(d.moves)}
	need := d.hdr + f.Len
	walked := d.walked
	n := uint16(0) // chains filled
	for filled := uint32(0); ; {
		got, err := w.chain(de, need-filled, filled == 0)
		if err != nil {
			return packet.ReasonNone, err
		}
		d.putUsed(e.next+n, head, got)
		n++
		filled += got
		if filled == need {
			break
		}
		if d.walked-walked > walkMax {
			return packet.ReasonNone, broken("a frame of %d bytes takes more than %d descriptors", f.Len, walkMax)
		}
		if !d.cfg.Mergeable {
			d.moves = d.moves[:w.moves]
			return packet.ReasonTxTooLong, nil
		}
		if more, err := e.more(uint32(n)); !more {
			d.moves = d.moves[:w.moves]
			return packet.ReasonTxFull, err
		}
		if head = d.head(e.next + n); head > d.mask {
			return packet.ReasonNone, broken("available entry %d names descriptor %d of %d", e.next+n, head, d.mask+1)
		}
		de = loadDesc(d.desc, head)
	}
	w.header(i, n)
	w.frame(f, i)
	e.next += n
	e.left -= uint32(n)
	e.frames++
	e.bytes += uint64(f.Len)
	if n > 1 {
		d.stats.Merged++
	}
	return packet.ReasonNone, nil
}
