package virtq

// Buffers is an Area cut into one buffer for each descriptor of a ring, Stride
// bytes apart. Strides that are an odd multiple of 64 spread short frames over
// all sets of a cache.
type Buffers struct {
	Area
	Stride uint32
	Header uint32 // bytes of the virtio-net header at the start of each
}

// check compares b with a ring of size descriptors.
func (b Buffers) check(size uint16) error {
	if b.Stride <= b.Header || b.Header != HeaderLen && b.Header != HeaderLenLegacy || uint64(b.Stride)*uint64(size) > b.Size {
		return misused("%d buffers of %d bytes with a header of %d do not fit %d bytes", size, b.Stride, b.Header, b.Size)
	}
	return nil
}

// Stride is a good distance for buffers that hold frames of up to n bytes.
func Stride(n int) uint32 {
	lines := (uint32(n) + HeaderLen + 63) / 64
	if lines > 2 {
		lines |= 1
	}
	return 64 * lines
}

// fixed is a ring whose descriptor i always names buffer i. The avail ring is
// written once: as long as the device uses chains in order, entry k names the
// buffer that came back k-size chains before, and there is nothing to write but
// avail.idx.
//
// Entry k may be overwritten as soon as used element k is there: the device has
// taken entries up to k by then, whatever order it uses them in. So a device
// that goes out of order costs one store for each element that differs, and
// nothing else changes.
type fixed struct {
	driverEnd
	bufs Buffers
	out  []bool // by buffer: the device has it; used once the device is out of order
	odd  bool   // the device has been out of order
}

// newFixed lays descriptors over the buffers, each for n bytes with flags.
func newFixed(cfg DriverConfig, bufs Buffers, n uint32, flags uint16) (fixed, error) {
	if err := bufs.check(cfg.Size); err != nil {
		return fixed{}, err
	}
	end, err := newDriverEnd(cfg)
	if err != nil {
		return fixed{}, err
	}
	f := fixed{driverEnd: end, bufs: bufs, out: make([]bool, cfg.Size)}
	for i := range uint32(cfg.Size) {
		storeDesc(f.desc, i, desc{addr: bufs.GPA + uint64(i)*uint64(bufs.Stride), len: n, flags: flags})
		store16(f.avail+2*uintptr(i), uint16(i))
	}
	return f, nil
}

// Reordered reports whether the device has ever used buffers out of order.
func (f *fixed) Reordered() bool { return f.odd }

// buffer is the number of the buffer in avail entry i.
func (f *fixed) buffer(i uint16) uint32 {
	return uint32(load16(f.avail+2*uintptr(uint32(i)&f.mask))) & f.mask
}

// A tally is what take sees of a run of used elements.
type tally struct {
	sum  uint64 // of the lengths
	most uint32 // largest length
	bits uint32 // lengths, or'ed
}

// take looks at n used elements that nobody has looked at: it makes the avail
// entries at the same indices name their buffers.
func (f *fixed) take(from uint16, n uint32) tally {
	var diff, top, sum, bits uint64
	for i := range n {
		k := uintptr((uint32(from) + i) & f.mask)
		e := load64(f.used + usedElemSize*k)
		diff |= uint64(uint32(e)) ^ uint64(load16(f.avail+2*k))
		sum += e >> 32
		bits |= e
		top = max(top, e)
	}
	if diff != 0 || f.odd {
		f.reorder(from, n)
	}
	return tally{sum, uint32(top >> 32), uint32(bits >> 32)}
}

// reorder is take's slow half. It checks each element: once buffers are out of
// order, one of them might come back twice.
func (f *fixed) reorder(from uint16, n uint32) {
	if !f.odd {
		f.odd = true
		for i := from; i != f.next; i++ {
			f.out[f.buffer(i)] = true
		}
	}
	for i := range uint16(n) {
		head, _ := f.element(from + i)
		if head > f.mask || !f.out[head] {
			f.fail(misused("used element %d names buffer %d, which the device does not have", from+i, head))
			return
		}
		f.out[head] = false
		store16(f.avail+2*uintptr(uint32(from+i)&f.mask), uint16(head))
	}
}

// give publishes n more entries.
func (f *fixed) give(n uint32) {
	if f.odd {
		for i := range uint16(n) {
			f.out[f.buffer(f.next+i)] = true
		}
	}
	f.publish(uint16(n))
}
