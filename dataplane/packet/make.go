package packet

// madeMax is how many bytes of frames that New makes lie outside of slots, in one batch.
const madeMax = BatchMax * 1280

// New makes a frame of the switch's own, and returns its number; ok is false if there is no
// room left. Like Copy's, it is behind those that were received. Its bytes are private,
// also those behind the head.
func (b *Batch) New(frame []byte) (number int, ok bool) {
	head := min(len(frame), HeadMax)
	if b.copies == SlotsMax-BatchMax || b.NSegs == SegsMax || len(frame)-head > madeMax-b.nMade {
		return 0, false
	}
	j := BatchMax + b.copies
	b.copies++
	f := &b.Frames[j&(SlotsMax-1)]
	*f = Frame{Off: HeadRoom, HeadLen: uint16(head), Len: uint32(len(frame)), Seg: uint32(b.NSegs)}
	copy(b.heads[j&(SlotsMax-1)][HeadRoom:], frame[:head])
	if rest := frame[head:]; len(rest) > 0 {
		b.addMade(f, rest)
	}
	return j, true
}

// addMade puts bytes behind the head of a new frame. The memory is made when a worker first
// needs it, once in its life.
func (b *Batch) addMade(f *Frame, rest []byte) {
	if b.made == nil {
		b.made = make([]byte, madeMax)
	}
	to := b.made[b.nMade:][:len(rest)]
	copy(to, rest)
	b.nMade += len(to)
	b.Segs[b.NSegs] = Seg{Addr: Addr(to), Len: uintptr(len(to))}
	b.NSegs++
	f.NSeg = 1
}

// CopyTo copies the first bytes of frame i to dst, as many as it has room for, and returns how many
// they were. It panics like any access if the lender has taken memory away.
func (b *Batch) CopyTo(dst []byte, i int) (n int) {
	n = copy(dst, b.Head(i))
	for _, s := range b.Tail(i) {
		n += copy(dst[n:], bytesAt(s))
	}
	return n
}
