package packet

// Pull moves private bytes of frame i, whose head may begin anywhere in its slot, to
// where a received frame's are, and makes as much of the frame private as of a
// received one. Segments that lose bytes are written anew, since others may use those
// that there are: it reports whether there was room for them, and for what is private already. It reads borrowed memory.
func (b *Batch) Pull(i int) bool {
	f := &b.Frames[i]
	if f.HeadLen > HeadMax {
		return false
	}
	slot := &b.heads[i]
	copy(slot[HeadRoom:], slot[f.Off:f.Off+f.HeadLen])
	f.Off = HeadRoom
	want := int(min(f.Len, HeadMax)) - int(f.HeadLen)
	if want <= 0 {
		return true
	}
	if b.NSegs+int(f.NSeg) > SegsMax {
		return false
	}
	first := b.NSegs
	for _, s := range b.Tail(i) {
		n := min(want, int(s.Len))
		copy(slot[HeadRoom+f.HeadLen:], bytesAt(s)[:n])
		f.HeadLen += uint16(n)
		want -= n
		if s.Len > uintptr(n) {
			b.Segs[b.NSegs] = Seg{s.Addr + uintptr(n), s.Len - uintptr(n)}
			b.NSegs++
		}
	}
	f.Seg, f.NSeg = uint32(first), uint32(b.NSegs-first)
	return true
}

// Trim takes off what is behind byte n of frame i: padding. It reports whether
// there was room for the segments of what is left.
func (b *Batch) Trim(i int, n uint32) bool {
	f := &b.Frames[i]
	if n >= f.Len {
		return true
	}
	f.Len = n
	if n <= uint32(f.HeadLen) {
		f.HeadLen, f.NSeg = uint16(n), 0
		return true
	}
	if b.NSegs+int(f.NSeg) > SegsMax {
		return false
	}
	first, left := b.NSegs, uintptr(n)-uintptr(f.HeadLen)
	for _, s := range b.Tail(i) {
		if left == 0 {
			break
		}
		b.Segs[b.NSegs] = Seg{s.Addr, min(s.Len, left)}
		left -= b.Segs[b.NSegs].Len
		b.NSegs++
	}
	f.Seg, f.NSeg = uint32(first), uint32(b.NSegs-first)
	return true
}
