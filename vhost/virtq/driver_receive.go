package virtq

import "millrace/dataplane/packet"

// A Receiver is the driver's end of a receive ring (virtio 5.1.6.3): all its
// buffers are with the device, and go back to it as soon as they were looked at.
// Buffers in the order they were posted are posted again by one store a batch.
type Receiver struct {
	fixed
	mergeable bool
	ready     uint32 // used elements known and not looked at
	spent     uint32 // used elements looked at and not given back
	long      []byte // a frame put together from several buffers
}

// NewReceiver takes the driver's end of a receive ring and posts all buffers.
// mergeable says that VIRTIO_NET_F_MRG_RXBUF was negotiated. No device may be
// using the ring.
func NewReceiver(cfg DriverConfig, bufs Buffers, mergeable bool) (*Receiver, error) {
	f, err := newFixed(cfg, bufs, bufs.Stride, descWrite)
	if err != nil {
		return nil, err
	}
	r := &Receiver{fixed: f, mergeable: mergeable && bufs.Header == HeaderLen, long: make([]byte, 0, packet.FrameMax+HeaderLen)}
	r.give(uint32(cfg.Size))
	return r, nil
}

// Count takes the frames that have come, without a look at their bytes, and
// gives their buffers back. It sees the used elements only. Buffers that are
// wholly full make it look for merged frames in the headers.
func (r *Receiver) Count() (frames int, bytes uint64) { return r.CountOdd(nil) }

// CountOdd is Count that lends each frame of an odd number of bytes to odd: a
// sender can mark frames by their length, which costs nothing to see.
func (r *Receiver) CountOdd(odd func(frame []byte)) (frames int, bytes uint64) {
	n, t := r.look()
	if n == 0 {
		return 0, 0
	}
	if r.ready+r.spent > n || r.mergeable && t.most >= r.bufs.Stride || odd != nil && t.bits&1 != 0 {
		return r.countEach(odd)
	}
	r.ready = 0
	r.done += uint16(n)
	r.give(n)
	return int(n), t.sum - uint64(n)*uint64(r.bufs.Header)
}

// countEach is Count when frames have to be looked at.
func (r *Receiver) countEach(odd func([]byte)) (frames int, bytes uint64) {
	for {
		f, ok := r.next()
		if !ok {
			break
		}
		if odd != nil && len(f)&1 != 0 {
			odd(f)
		}
		frames++
		bytes += uint64(len(f))
	}
	r.Release()
	return frames, bytes
}

// Next lends a frame that has come, until Release. A frame that was spread over
// several buffers is put together, and good until the next Next. It reports
// false if there is none, or if the device broke the ring: see Err.
func (r *Receiver) Next() ([]byte, bool) {
	if r.ready == 0 {
		r.look()
	}
	return r.next()
}

// look takes the used elements that are new.
func (r *Receiver) look() (n uint32, t tally) {
	if r.bad != nil {
		return 0, t
	}
	known := r.ready + r.spent
	if n = r.completed(); n <= known {
		return 0, t
	}
	n -= known
	t = r.take(r.done+uint16(known), n)
	if r.bad != nil {
		return 0, t
	}
	r.ready += n
	return n, t
}

// next returns a frame from the elements that were looked at.
func (r *Receiver) next() ([]byte, bool) {
	if r.ready == 0 || r.bad != nil {
		return nil, false
	}
	b, n := r.element(r.done + uint16(r.spent))
	if n < r.bufs.Header || n > r.bufs.Stride {
		r.fail(misused("used element %d has %d bytes, in a buffer of %d", r.done+uint16(r.spent), n, r.bufs.Stride))
		return nil, false
	}
	p := view(r.bufs.Addr+uintptr(b&r.mask)*uintptr(r.bufs.Stride), n)
	if r.mergeable {
		if parts := uint32(p[10]) | uint32(p[11])<<8; parts != 1 {
			return r.merged(parts)
		}
	}
	r.ready--
	r.spent++
	return p[r.bufs.Header:], true
}

// merged puts a frame of several buffers together. It reports false while some
// of them are not used yet.
func (r *Receiver) merged(parts uint32) ([]byte, bool) {
	if parts == 0 || parts > r.mask+1 {
		r.fail(misused("frame in %d buffers", parts))
		return nil, false
	}
	if parts > r.ready {
		if r.look(); parts > r.ready {
			return nil, false
		}
	}
	r.long = r.long[:0]
	for range parts {
		b, n := r.element(r.done + uint16(r.spent))
		if n > r.bufs.Stride || len(r.long)+int(n) > cap(r.long) {
			r.fail(misused("part of %d bytes after %d of a frame, in a buffer of %d", n, len(r.long), r.bufs.Stride))
			return nil, false
		}
		r.long = append(r.long, view(r.bufs.Addr+uintptr(b&r.mask)*uintptr(r.bufs.Stride), n)...)
		r.ready--
		r.spent++
	}
	if len(r.long) < int(r.bufs.Header) { // the first was longer when next looked at it
		r.fail(misused("frame of %d bytes in %d buffers, less than a header", len(r.long), parts))
		return nil, false
	}
	return r.long[r.bufs.Header:], true
}

// NextParts is Next for frames of any length, with their virtio-net header: it
// lends the buffers that one has come in, added to parts, until Release. Nothing
// is copied.
func (r *Receiver) NextParts(parts [][]byte) ([][]byte, bool) {
	if r.ready == 0 {
		r.look()
	}
	if r.ready == 0 || r.bad != nil {
		return parts, false
	}
	first, ok := r.part(r.spent)
	if !ok || len(first) < int(r.bufs.Header) {
		r.fail(misused("used element %d has %d bytes, less than a header", r.done+uint16(r.spent), len(first)))
		return parts, false
	}
	n := uint32(1)
	if r.mergeable {
		n = uint32(first[10]) | uint32(first[11])<<8
	}
	if n == 0 || n > r.mask+1 {
		r.fail(misused("frame in %d buffers", n))
		return parts, false
	}
	if n > r.ready {
		if r.look(); n > r.ready {
			return parts, false
		}
	}
	parts = append(parts, first)
	for i := uint32(1); i < n; i++ {
		p, ok := r.part(r.spent + i)
		if !ok {
			return parts, false
		}
		parts = append(parts, p)
	}
	r.ready -= n
	r.spent += n
	return parts, true
}

// part is the used buffer i from the first that was not given back.
func (r *Receiver) part(i uint32) ([]byte, bool) {
	b, n := r.element(r.done + uint16(i))
	if n > r.bufs.Stride {
		r.fail(misused("used element %d has %d bytes, in a buffer of %d", r.done+uint16(i), n, r.bufs.Stride))
		return nil, false
	}
	return view(r.bufs.Addr+uintptr(b&r.mask)*uintptr(r.bufs.Stride), n), true
}

// Release gives the buffers of all frames that Next has lent back to the
// device.
func (r *Receiver) Release() {
	if r.spent == 0 {
		return
	}
	r.done += uint16(r.spent)
	r.give(r.spent)
	r.spent = 0
}
