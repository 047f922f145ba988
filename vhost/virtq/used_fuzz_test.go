package virtq

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"millrace/dataplane/packet"
)

// A usedElem is an element of a used ring.
type usedElem struct{ head, n uint32 }

// A wild is a device that reads the avail ring as it should, and writes to the used ring and to
// buffers what its input says. Beside it stands what a driver is to make of that.
type wild struct {
	t      *testing.T
	data   []byte
	l      Layout
	bufs   Buffers
	seen   uint16          // avail entries read
	used   uint16          // used.idx
	held   []uint32        // buffers that the device has, in the order they came
	given  []usedElem      // used and not taken by the driver
	broken bool            // an element makes no sense
	out    map[uint32]bool // held, as the driver has it to be
}

func (w *wild) byte() byte {
	if len(w.data) == 0 {
		return 0
	}
	b := w.data[0]
	w.data = w.data[1:]
	return b
}

// look reads what the driver has shown: no buffer that it has shown already.
func (w *wild) look() {
	shown := uint16(word(w.l.Avail).Load() >> 16)
	if n := shown - w.seen; n > w.l.Size {
		w.t.Fatalf("%d chains at once in a ring of %d", n, w.l.Size)
	}
	for ; w.seen != shown; w.seen++ {
		b := uint32(load16(w.l.Avail + 4 + 2*uintptr(w.seen%w.l.Size)))
		if w.out[b] || b >= uint32(w.l.Size) {
			w.t.Fatalf("buffer %d is given to the device that has %v", b, w.held)
		}
		w.out[b] = true
		w.held = append(w.held, b)
	}
}

// use uses some buffers, mostly some that it has. It writes over no element that the driver has not taken.
func (w *wild) use() {
	for n := w.byte() % 6; n > 0 && len(w.held) > 0 && len(w.given) < int(w.l.Size); n-- {
		e := usedElem{w.pick(), w.length()}
		if w.out[e.head] {
			w.fill(w.bufs.Addr + uintptr(e.head)*uintptr(w.bufs.Stride))
		} else {
			w.broken = true
		}
		delete(w.out, e.head)
		w.given = append(w.given, e)
		store64(w.l.Used+4+usedElemSize*uintptr(w.used%w.l.Size), uint64(e.head)|uint64(e.n)<<32)
		w.used++
	}
	if w.byte() == 255 {
		w.used += uint16(len(w.held)) + 1 // more than it had
		w.broken = true
	}
	word(w.l.Used).Store(uint32(w.used) << 16)
}

// pick takes a buffer from those it has: the first, another, or seldom one out of the air.
func (w *wild) pick() uint32 {
	at := 0
	switch c := w.byte(); {
	case c > 252:
		return uint32(w.byte() % 10) // the ring has 8
	case c > 150:
		at = int(c) % len(w.held)
	}
	b := w.held[at]
	w.held = slices.Delete(w.held, at, at+1)
	return b
}

// length is a length of a frame that fits a buffer, or seldom about the bounds.
func (w *wild) length() uint32 {
	switch c := uint32(w.byte()); {
	case c == 255:
		return w.bufs.Stride + uint32(w.byte()%3)
	case c == 254:
		return HeaderLen - uint32(w.byte()%3)
	case c > 160:
		return w.bufs.Stride
	default:
		return HeaderLen + c%(w.bufs.Stride-HeaderLen)
	}
}

// fill writes a buffer, and how many buffers its frame has.
func (w *wild) fill(at uintptr) {
	p, c := view(at, w.bufs.Stride), w.byte()
	for i := range p {
		p[i] = c + byte(i)
	}
	p[10], p[11] = 1, 0
	switch c := w.byte(); {
	case c > 248:
		p[10], p[11] = w.byte()%12, w.byte()/255
	case c > 128:
		p[10] = 1 + c%4
	}
}

// frame is the next frame as the driver should have it: with its header, if whole, where nothing is put together.
// It reports false if there is none, or none that makes sense.
func (w *wild) frame(mergeable, whole bool) (f []byte, ok bool) {
	if w.broken || len(w.given) == 0 {
		return nil, false
	}
	n := 1
	first := w.given[0]
	w.broken = first.n < HeaderLen || first.n > w.bufs.Stride
	if !w.broken && mergeable {
		p := w.bytes(first)
		n = int(p[10]) | int(p[11])<<8
		w.broken = n == 0 || n > int(w.l.Size)
	}
	if w.broken || n > len(w.given) {
		return nil, false
	}
	for _, e := range w.given[:n] {
		if e.n > w.bufs.Stride {
			w.broken = true
			return nil, false
		}
		f = append(f, w.bytes(e)...)
	}
	if !whole {
		w.broken = n > 1 && len(f) > packet.FrameMax+HeaderLen
		f = f[HeaderLen:]
	}
	w.given = w.given[n:]
	return f, !w.broken
}

func (w *wild) bytes(e usedElem) []byte {
	return view(w.bufs.Addr+uintptr(e.head)*uintptr(w.bufs.Stride), e.n)
}

// FuzzUsed has drivers read what a device makes of any input, and compares with what they should make
// of it: each frame's bytes, how much there is room for, and that it is noticed what makes no sense.
func FuzzUsed(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for seed := range 256 {
		b := make([]byte, 800)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(byte(seed), b)
	}
	g := newGuest(f, 1, 1<<20)
	f.Fuzz(func(t *testing.T, opts byte, data []byte) {
		g.t, g.used = t, 0
		w := &wild{t: t, data: data, l: g.layout(8), bufs: g.buffers(8, 64), out: map[uint32]bool{}}
		if opts&1 != 0 {
			w.bufs = g.buffers(8, 4096) // three are more than a frame has
		}
		cfg := DriverConfig{Layout: w.l, EventIdx: opts&2 != 0}
		if opts&4 != 0 {
			cfg.Base, w.seen, w.used = 65530, 65530, 65530
		}
		if opts&8 != 0 {
			w.send(cfg)
			return
		}
		w.receive(cfg, opts&16 != 0, opts&32 != 0)
	})
}

// receive runs a Receiver, by Next or by NextParts.
func (w *wild) receive(cfg DriverConfig, mergeable, whole bool) {
	r, err := NewReceiver(cfg, w.bufs, mergeable)
	if err != nil {
		w.t.Fatal(err)
	}
	next := r.Next
	if whole {
		next = func() ([]byte, bool) {
			parts, ok := r.NextParts(nil)
			return bytes.Join(parts, nil), ok
		}
	}
	for len(w.data) > 0 && !w.broken {
		w.look()
		w.use()
		for {
			want, more := w.frame(mergeable, whole)
			got, ok := next()
			if ok != more || ok && !bytes.Equal(got, want) {
				w.t.Fatalf("got frame %x, %v (%v), want %x, %v", got, ok, r.Err(), want, more)
			}
			if !ok {
				break
			}
		}
		w.judge(r.Err())
		r.Release()
	}
}

// send runs a Sender.
func (w *wild) send(cfg DriverConfig) {
	s, err := NewSender(cfg, w.bufs)
	if err != nil {
		w.t.Fatal(err)
	}
	free := 8
	for len(w.data) > 0 {
		w.look()
		w.use()
		free, w.given = free+len(w.given), nil
		if w.broken {
			free = 0
		}
		if got := s.Room(9); got != free {
			w.t.Fatalf("room for %d, want %d (%v)", got, free, s.Err())
		}
		w.judge(s.Err())
		if w.broken {
			return
		}
		n := min(free, int(w.byte()%5))
		s.Send(n)
		free -= n
	}
}

// judge compares a driver's error with what the device has done.
func (w *wild) judge(err error) {
	if (err != nil) != w.broken || err != nil && !errors.Is(err, ErrDevice) {
		w.t.Fatalf("got error %v, want one: %v", err, w.broken)
	}
}
