package packet

// Last says that the borrowed memory of all frames stays as it is until the
// batch is filled again: Release does not end the loan. The receive queue of a
// device that hands out copies says so, after it has filled the batch.
func (b *Batch) Last() { b.lasting = true }

// Keep makes all bytes of frame i last until the batch is filled again. Borrowed
// bytes that Release would take away are copied to memory of the batch, once,
// however many queues send them and in however many frames: segments stay what
// they are, but for where they lie, and pieces of one frame lie side by side.
//
// A transmit queue calls it in Tx for what it reads in Commit, which comes after
// Release. It reports whether there was room, which there is for all that one
// queue receives, cut or whole. It panics like any access if the lender has taken the memory
// away; the frame is then good still, as far as its lender is.
func (b *Batch) Keep(i int) bool { return b.lasting || b.keep(b.Tail(i)) }

// Gather is Keep that copies also what lasts, so that it lies side by side.
func (b *Batch) Gather(i int) bool { return b.keep(b.Tail(i)) }

// keptMax is the room for bytes that are kept: for a batch of the longest frames, and
// super-frames among them, which are no more when there are SuperBytes.
const keptMax = BatchMax*FrameMax + SuperBytes + SuperMax

// keep moves what segments name to memory of the batch. That is made when a worker
// first needs it, once in its life: most send to no such queue.
func (b *Batch) keep(segs []Seg) bool {
	for k := range segs {
		s := &segs[k]
		if b.isKept(*s) {
			continue
		}
		if b.kept == nil {
			b.kept = make([]byte, keptMax)
		}
		if int(s.Len) > len(b.kept)-b.nKept {
			return false
		}
		to := b.kept[b.nKept:][:s.Len]
		copy(to, bytesAt(*s))
		b.nKept += len(to)
		s.Addr = Addr(to)
	}
	return true
}

// isKept reports whether a segment is in memory of the batch.
func (b *Batch) isKept(s Seg) bool {
	return s.Len == 0 || b.nKept > 0 && s.Addr-Addr(b.kept) < uintptr(b.nKept)
}
