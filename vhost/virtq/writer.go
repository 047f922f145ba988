package virtq

import "millrace/dataplane/packet"

// A writer lays one frame with its header over the pieces of guest memory that
// its chains name. The pieces are gathered first, as moves without a source, so
// that nothing is written before it is known that all of it fits.
type writer struct {
	e     *enqueue
	moves int // index of the first piece in d.moves
}

// chain gathers up to need bytes of the chain that begins with first and
// returns how many there are. The header must not be split over two chains.
func (w *writer) chain(first desc, need uint32, header bool) (uint32, error) {
	d := w.e.d
	var c chain
	if err := c.start(d, first, true); err != nil {
		return 0, err
	}
	got := uint32(0)
	for got < need {
		p, n, err := c.piece()
		if err != nil {
			return 0, err
		}
		if n == 0 {
			break
		}
		n = min(n, need-got)
		d.moves = append(d.moves, packet.Copy{Dst: p, N: uintptr(n)})
		got += n
	}
	if got == 0 || header && got < d.hdr {
		return 0, broken("receive buffer of %d bytes has no room for the header", got)
	}
	return got, nil
}

// header writes the virtio-net header for frame i in n chains, byte by byte: it
// may be spread over descriptors of any length. What is left of the pieces is
// for the frame.
func (w *writer) header(i int, n uint16) {
	d := w.e.d
	h := [HeaderLen]byte{10: byte(n), 11: byte(n >> 8)}
	w.e.b.PutHeader(i, h[:])
	for i := uint32(0); i < d.hdr; {
		m := &d.moves[w.moves]
		if m.N == 0 {
			w.moves++
			continue
		}
		store8(m.Dst, h[i])
		m.Dst, m.N = m.Dst+1, m.N-1
		i++
	}
}

// frame gives each piece its source, frame number i, splitting pieces where the
// frame's own segments end.
func (w *writer) frame(f *packet.Frame, i int) {
	d, b := w.e.d, w.e.b
	d.pieces = append(d.pieces[:0], d.moves[w.moves:]...)
	d.moves = d.moves[:w.moves]
	src := packet.Seg{Addr: b.SlotAddr(i&(packet.SlotsMax-1), f.Off), Len: uintptr(f.HeadLen)}
	segs := b.Segs[f.Seg : f.Seg+f.NSeg]
	for _, p := range d.pieces {
		for p.N > 0 {
			for src.Len == 0 {
				src, segs = segs[0], segs[1:]
			}
			n := min(p.N, src.Len)
			d.moves = append(d.moves, packet.Copy{Dst: p.Dst, Src: src.Addr, N: n})
			p.Dst, p.N = p.Dst+n, p.N-n
			src.Addr, src.Len = src.Addr+n, src.Len-n
		}
	}
}
