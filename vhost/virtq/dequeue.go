package virtq

import (
	"millrace/dataplane/packet"
)

// rxMax is the longest chain that a frame can come in, in bytes, and rxSuper the
// longest of a super-frame.
const (
	rxMax   = HeaderLen + packet.FrameMax
	rxSuper = HeaderLen + packet.SuperMax
)

// Dequeue fills b with frames that the driver has sent: headers in private
// memory, the rest where it is until Complete. The error is ErrBroken; there
// are no frames with it.
//
// All chains taken are returned by Complete, also those of frames that were
// dropped here (b.Early).
func (d *Device) Dequeue(b *packet.Batch) error {
	if d.bad != nil {
		return d.bad
	}
	n, err := d.ready(packet.BatchMax)
	if err == nil && n > 0 {
		n, err = d.take(b, min(n, uint32(b.Max())))
	}
	if err != nil {
		b.Reset()
		d.Break(err)
		return err
	}
	d.taken = uint16(n)
	d.next += uint16(n)
	return nil
}

// take reads the first n chains into b and returns how many there was room
// for. Addresses are gathered first and bytes moved in one go, so that the
// guest's cache lines arrive together.
func (d *Device) take(b *packet.Batch, n uint32) (uint32, error) {
	d.moves, d.walked, d.super = d.moves[:0], 0, false
	looked := n // chain for which the window was moved: once is enough
	for i := uint32(0); i < n; i++ {
		if i += d.takePlain(b, i, n); i == n {
			break
		}
		seq := d.next + uint16(i)
		if looked != i && d.refocus(seq) {
			looked = i
			i-- // again, from the window that this chain needs
			continue
		}
		head := d.head(seq)
		if head > d.mask {
			return 0, broken("available entry %d names descriptor %d of %d", seq, head, d.mask+1)
		}
		fits, err := d.takeChain(b, loadDesc(d.desc, head))
		if err != nil {
			return 0, err
		}
		if !fits {
			n = i
			break
		}
		d.putUsed(seq, head, 0)
		if d.walked > walkMax || b.Bytes >= packet.SuperBytes && d.cfg.Offload&packet.TakesSuper != 0 {
			n = i + 1
		}
	}
	packet.Move(d.moves)
	d.checkHeaders(b)
	return n, nil
}

// takePlain is take for the chains from number i on, as long as they are of the
// usual kind: one descriptor, in the window, of a frame that fits the head. It
// returns how many it took. What it needs of d is in locals: the compiler
// would load it again after every store.
func (d *Device) takePlain(b *packet.Batch, i, n uint32) uint32 {
	avail, table, used, mask, hdr, win := d.avail, d.desc, d.used, d.mask, d.hdr, d.win
	off := uint16(packet.HeadRoom - hdr)
	seq, f, moves, bytes := uint32(d.next)+i, b.N, len(d.moves), b.Bytes
	first := f
	out := d.moves[:cap(d.moves)]
	for ; i < n && f < packet.BatchMax && moves < len(out); i++ {
		at := uintptr(seq & mask)
		head := uint32(load16(avail + 2*at))
		if head > mask {
			break
		}
		de := loadDesc(table, head)
		size := de.len - hdr
		p, ok := win.At(de.addr, uint64(de.len))
		if !ok || de.flags&(descNext|descWrite|descIndirect) != 0 || size-packet.FrameMin > packet.HeadMax-packet.FrameMin {
			break
		}
		b.Frames[f] = packet.Frame{Off: packet.HeadRoom, HeadLen: uint16(size), Len: size}
		out[moves] = packet.Copy{Dst: b.SlotAddr(f, off), Src: p, N: uintptr(de.len)}
		store64(used+usedElemSize*at, uint64(head))
		bytes += uint64(size)
		f++
		moves++
		seq++
	}
	b.N, b.Bytes = f, bytes
	d.moves = out[:moves]
	return uint32(f - first)
}

// Complete returns the chains of the last Dequeue to the driver. Nothing that b
// borrowed may be used afterwards.
func (d *Device) Complete() {
	if d.taken != 0 && d.bad == nil {
		n := d.taken
		d.taken = 0
		d.publish(n)
	}
}

// checkHeaders looks for frames whose virtio-net header asks for something: in most
// batches, flags and gso_type are 0 (virtio 5.1.6.2.1).
func (d *Device) checkHeaders(b *packet.Batch) {
	off := packet.HeadRoom - d.hdr
	for i := range b.N {
		s := b.Slot(i)
		if s[off]|s[off+1] != 0 {
			d.judge(b)
			return
		}
	}
	if d.super {
		d.judge(b)
	}
}

// judge is checkHeaders once there is something to judge. It drops what cannot be, or
// was not negotiated, and closes the gaps.
func (d *Device) judge(b *packet.Batch) {
	d.super = false
	off := packet.HeadRoom - d.hdr
	kept := 0
	for i := range b.N {
		s := b.Slot(i)
		if kept != i {
			b.Frames[kept] = b.Frames[i]
			*b.Slot(kept) = *s
		}
		if why := b.Judge(kept, s[off:off+packet.HeaderLen], d.cfg.Offload); why != packet.ReasonNone {
			b.Bytes -= uint64(b.Frames[kept].Len)
			b.DropEarly(why)
			continue
		}
		kept++
	}
	b.N = kept
}

// takeChain is take for a frame that is not wholly in one descriptor, or is
// long. It reports false if b has no room for its segments.
func (d *Device) takeChain(b *packet.Batch, first desc) (bool, error) {
	d.stats.Chains++
	moves, segs := len(d.moves), b.NSegs
	var c chain
	if err := c.start(d, first, false); err != nil {
		return false, err
	}
	f := &b.Frames[b.N]
	*f = packet.Frame{Off: packet.HeadRoom, Seg: uint32(segs)}
	slot := packet.HeadRoom - d.hdr // where the next private byte goes
	total, most := uint32(0), uint32(rxMax)
	if d.cfg.Offload&packet.TakesSuper != 0 {
		most = rxSuper
	}
	for {
		p, n, err := c.piece()
		if err != nil {
			return false, err
		}
		if n == 0 {
			break
		}
		if n > most-total {
			d.moves, b.NSegs = d.moves[:moves], segs
			b.DropEarly(packet.ReasonRxTooLong)
			return true, c.drain()
		}
		total += n
		if private := min(n, packet.SlotSize-slot); private > 0 {
			d.moves = append(d.moves, packet.Copy{Dst: b.SlotAddr(b.N, uint16(slot)), Src: p, N: uintptr(private)})
			slot += private
			p, n = p+uintptr(private), n-private
		}
		if n > 0 {
			if b.NSegs == packet.SegsMax {
				d.moves, b.NSegs = d.moves[:moves], segs
				if b.N > 0 {
					return false, nil
				}
				b.DropEarly(packet.ReasonRxTooLong) // a super-frame in crumbs never fits
				return true, c.drain()
			}
			b.Segs[b.NSegs] = packet.Seg{Addr: p, Len: uintptr(n)}
			b.NSegs++
		}
	}
	if total < d.hdr+packet.FrameMin {
		d.moves, b.NSegs = d.moves[:moves], segs
		b.DropEarly(packet.ReasonRxTooShort)
		return true, nil
	}
	d.super = d.super || total > rxMax // the header may say otherwise
	f.HeadLen = uint16(slot - packet.HeadRoom)
	f.Len = total - d.hdr
	f.NSeg = uint32(b.NSegs) - f.Seg
	b.Bytes += uint64(f.Len)
	b.N++
	return true, nil
}
