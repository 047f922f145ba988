package virtq

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
	"millrace/vhost/guestmem"
)

// guestGPA is where the memory of tests begins.
const guestGPA = 0x1_0000_0000

// A guest is shared memory of one or more regions, which touch in guest
// addresses and nowhere else, and what is left of it.
type guest struct {
	t    testing.TB
	mem  *guestmem.Map
	used uint64
	size uint64 // of a region
}

// newGuest maps regions of size bytes each.
func newGuest(t testing.TB, regions int, size uint64) *guest {
	t.Helper()
	g := &guest{t: t, size: size}
	for i := range uint64(regions) {
		fd, err := sys.NewMemfd("virtq-test", int64(size))
		if err != nil {
			t.Fatal(err)
		}
		at := guestGPA + i*size
		m, err := g.mem.With(guestmem.Region{GPA: at, Size: size, User: at}, fd.Int())
		fd.Close()
		if err != nil {
			t.Fatal(err)
		}
		g.mem.Close()
		g.mem = m
	}
	t.Cleanup(func() { g.mem.Close() })
	return g
}

// area takes n bytes of one region.
func (g *guest) area(n uint64) Area {
	g.t.Helper()
	if g.used/g.size != (g.used+n-1)/g.size {
		g.used = (g.used/g.size + 1) * g.size
	}
	a := Area{GPA: guestGPA + g.used, Size: n}
	w, _ := g.mem.Find(a.GPA)
	p, ok := w.At(a.GPA, n)
	if !ok {
		g.t.Fatalf("test memory too small for %d bytes more", n)
	}
	g.used = (g.used + n + 63) &^ 63
	a.Addr = p
	return a
}

func (g *guest) layout(size uint16) Layout {
	return Layout{
		Size: size, Desc: g.area(DescBytes(size)).Addr,
		Avail: g.area(AvailBytes(size)).Addr, Used: g.area(UsedBytes(size)).Addr,
	}
}

func (g *guest) buffers(size uint16, stride uint32) Buffers {
	return Buffers{Area: g.area(uint64(size) * uint64(stride)), Stride: stride, Header: HeaderLen}
}

// pieces calls f with the n bytes at gpa, which may lie in several regions.
func (g *guest) pieces(gpa, n uint64, f func([]byte)) {
	for n > 0 {
		w, _ := g.mem.Find(gpa)
		size := min(n, w.Size-(gpa-w.GPA))
		p, ok := w.At(gpa, size)
		if !ok {
			g.t.Fatalf("test memory has nothing at %#x", gpa)
		}
		f(view(p, uint32(size)))
		gpa, n = gpa+size, n-size
	}
}

func (g *guest) write(gpa uint64, b []byte) {
	g.pieces(gpa, uint64(len(b)), func(p []byte) { b = b[copy(p, b):] })
}

func (g *guest) read(gpa uint64, n uint32) []byte {
	var b []byte
	g.pieces(gpa, uint64(n), func(p []byte) { b = append(b, p...) })
	return b
}

func (g *guest) device(cfg Config) *Device {
	g.t.Helper()
	cfg.Mem = g.mem
	d, err := NewDevice(cfg)
	if err != nil {
		g.t.Fatal(err)
	}
	d.Start()
	return d
}

func randomFrame(r *rand.Rand) []byte {
	n := packet.FrameMin + r.IntN(300)
	switch r.IntN(8) {
	case 0:
		n = packet.FrameMin
	case 1:
		n = packet.FrameMax - r.IntN(3)
	case 2:
		n = packet.FrameMin + r.IntN(packet.FrameMax-packet.FrameMin+1)
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// cut splits the n bytes from gpa into a random chain of buffers.
func cut(r *rand.Rand, gpa uint64, n uint32, write bool) []Buffer {
	var out []Buffer
	for n > 0 || len(out) == 0 {
		size := min(n, 1+uint32(r.IntN(1+r.IntN(int(n)+1))))
		if r.IntN(9) == 0 {
			size = 0
		}
		if len(out) == 13 {
			size = n
		}
		out = append(out, Buffer{GPA: gpa, Len: size, Write: write})
		gpa += uint64(size)
		n -= size
	}
	return out
}

// A chainPair is a driver and a device on one ring, with memory for one frame
// for each descriptor.
type chainPair struct {
	g      *guest
	driver *Driver
	device *Device
	room   []uint64 // guest addresses of memory in no chain
	in     map[uint16]posted
}

// posted is what the driver knows of a chain that it gave away.
type posted struct {
	gpa   uint64
	chain []Buffer
}

const chainRoom = 10112 // bytes for a frame: a length at which frames cross regions

func newChainPair(g *guest, size uint16, cfg Config) *chainPair {
	cfg.Layout = g.layout(size)
	d, err := NewDriver(DriverConfig{Layout: cfg.Layout, Base: cfg.Base, EventIdx: cfg.EventIdx}, g.area(uint64(size)*32*descSize))
	if err != nil {
		g.t.Fatal(err)
	}
	p := &chainPair{g: g, driver: d, device: g.device(cfg), in: map[uint16]posted{}}
	for range size {
		p.room = append(p.room, guestGPA+g.used)
		g.used += chainRoom
	}
	return p
}

// add posts a random chain over n bytes, and reports false if the ring is full.
func (p *chainPair) add(r *rand.Rand, n uint32, write, indirect bool) (posted, bool) {
	if len(p.room) == 0 {
		return posted{}, false
	}
	gpa := p.room[len(p.room)-1] + uint64(r.IntN(64))
	chain := cut(r, gpa, n, write)
	inner := 0
	if indirect && r.IntN(2) == 0 {
		inner = 1 + r.IntN(len(chain))
	}
	head, ok := p.driver.Add(chain, inner)
	if !ok {
		return posted{}, false
	}
	p.room = p.room[:len(p.room)-1]
	p.in[head] = posted{gpa: gpa, chain: chain}
	return p.in[head], true
}

// reap takes a chain back.
func (p *chainPair) reap() (posted, uint32, bool) {
	u, ok := p.driver.Reap()
	if !ok {
		if err := p.driver.Err(); err != nil {
			p.g.t.Fatal(err)
		}
		return posted{}, 0, false
	}
	c, ok := p.in[u.Head]
	if !ok {
		p.g.t.Fatalf("chain %d came back, which was not given", u.Head)
	}
	delete(p.in, u.Head)
	p.room = append(p.room, c.gpa&^63)
	return c, u.Len, true
}

// TestForwardChains sends frames of all lengths in chains of all shapes through
// two devices, and compares with a list: same frames, same order, none twice.
func TestForwardChains(t *testing.T) {
	for _, tt := range []struct {
		name             string
		regions          int
		indirect, merged bool
		legacy           bool
		rxMin, rxMax     int // bytes of a receive chain
	}{
		{"direct", 1, false, false, false, 9740, 10000},
		{"indirect", 1, true, false, false, 9740, 10000},
		{"merged", 1, false, true, false, 100, 3000},
		{"indirect and merged", 1, true, true, false, 12, 10000},
		{"crossing regions", 40, true, true, false, 64, 10000},
		{"short header", 1, true, false, true, 9740, 10000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const size = 256
			region := uint64(32 << 20)
			if tt.regions > 1 {
				region = 0x31000 // chainRoom does not divide it
			}
			g := newGuest(t, tt.regions, region)
			cfg := Config{Base: 65000, Indirect: tt.indirect, Mergeable: tt.merged, Legacy: tt.legacy}
			n := size
			if tt.regions > 1 {
				n = 256
			}
			f := forwardTest{
				t: t, g: g, r: rand.New(rand.NewPCG(1, 2)), hdr: HeaderLen, merged: tt.merged,
				tx: newChainPair(g, uint16(n), cfg), rx: newChainPair(g, uint16(n), cfg),
			}
			if tt.legacy {
				f.hdr = HeaderLenLegacy
			}
			for range 1500 {
				f.round(tt.indirect, tt.rxMin, tt.rxMax)
			}
			if f.received < 2000 || f.dropped == 0 {
				t.Errorf("%d frames received and %d dropped: the test does not test much", f.received, f.dropped)
			}
			if s := f.tx.device.Stats(); s.Chains == 0 || tt.indirect && s.Indirect == 0 {
				t.Errorf("device statistics %+v", s)
			}
		})
	}
}

type forwardTest struct {
	t                 *testing.T
	g                 *guest
	r                 *rand.Rand
	hdr               uint32
	merged            bool
	tx, rx            *chainPair
	batch             packet.Batch
	sent, want        [][]byte // frames sent and not dequeued; forwarded and not received
	received, dropped int
}

// round lets all four parties do a random amount of work.
func (f *forwardTest) round(indirect bool, rxMin, rxMax int) {
	for range f.r.IntN(12) {
		frame := randomFrame(f.r)
		b := append(make([]byte, f.hdr), frame...)
		c, ok := f.tx.add(f.r, uint32(len(b)), false, indirect)
		if !ok {
			break
		}
		f.g.write(c.gpa, b)
		f.sent = append(f.sent, frame)
	}
	f.tx.driver.Show()
	for range f.r.IntN(24) {
		if _, ok := f.rx.add(f.r, uint32(rxMin+f.r.IntN(rxMax-rxMin+1)), true, indirect); !ok {
			break
		}
	}
	f.rx.driver.Show()
	f.forward()
	for {
		if _, _, ok := f.tx.reap(); !ok {
			break
		}
	}
	f.receive()
}

// forward is the device's turn.
func (f *forwardTest) forward() {
	b := &f.batch
	b.Reset()
	if err := f.tx.device.Dequeue(b); err != nil {
		f.t.Fatal(err)
	}
	var list []packet.Ref
	for i := range b.N {
		list = append(list, packet.Ref{Frame: uint16(i)})
	}
	if err := f.rx.device.Enqueue(b, list); err != nil {
		f.t.Fatal(err)
	}
	f.tx.device.Complete()
	f.rx.device.Commit(b)
	for _, ref := range list {
		if ref.Why == packet.ReasonNone {
			f.want = append(f.want, f.sent[ref.Frame])
		} else {
			f.dropped++
		}
	}
	f.sent = f.sent[b.N:]
}

// receive puts the frames of the receive ring together, chain by chain.
func (f *forwardTest) receive() {
	for {
		c, n, ok := f.rx.reap()
		if !ok {
			return
		}
		b := f.g.read(c.gpa, n)
		parts := 1
		if f.merged {
			parts = int(binary.LittleEndian.Uint16(b[10:]))
		}
		for range parts - 1 {
			c, n, ok := f.rx.reap()
			if !ok {
				f.t.Fatalf("frame of %d parts ends early", parts)
			}
			b = append(b, f.g.read(c.gpa, n)...)
		}
		if got := b[f.hdr:]; len(f.want) == 0 || !bytes.Equal(got, f.want[0]) {
			f.t.Fatalf("frame %d of %d bytes, in %d parts, is not the one that was sent", f.received, len(got), parts)
		}
		f.want = f.want[1:]
		f.received++
	}
}

// TestForwardFast is TestForwardChains for Sender and Receiver.
func TestForwardFast(t *testing.T) {
	for _, tt := range []struct {
		name   string
		merged bool
		stride uint32
		count  bool
	}{
		{"one buffer", false, Stride(packet.FrameMax), false},
		{"one of several", true, Stride(packet.FrameMax), false},
		{"merged", true, Stride(700), false},
		{"tight", true, 64, false},
		{"counted", false, Stride(packet.FrameMax), true},
		{"merged and counted", true, Stride(700), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuest(t, 1, 16<<20)
			f := newFastPair(t, g, 256, Config{Base: 65400, Mergeable: tt.merged}, Stride(packet.FrameMax), tt.stride, tt.merged)
			r := rand.New(rand.NewPCG(3, 4))
			received, dropped := 0, 0
			var sent, want [][]byte
			for range 4000 {
				n := min(f.tx.Room(64), r.IntN(20))
				for i := range n {
					frame := randomFrame(r)
					b := f.tx.Buffer(i)
					copy(f.tx.Frame(b), frame)
					f.tx.SetLen(b, len(frame))
					sent = append(sent, frame)
				}
				f.tx.Send(n)
				for i, ok := range f.forward() {
					if ok {
						want = append(want, sent[i])
					} else {
						dropped++
					}
				}
				sent = sent[f.batch.N:]
				if tt.count {
					frames, size := f.rx.Count()
					for _, w := range want[:frames] {
						size -= uint64(len(w))
					}
					if size != 0 {
						t.Fatalf("counted %d bytes too many", int64(size))
					}
					want = want[frames:]
					received += frames
					continue
				}
				for range r.IntN(30) {
					frame, ok := f.rx.Next()
					if !ok {
						break
					}
					if !bytes.Equal(frame, want[0]) {
						t.Fatalf("frame %d of %d bytes is not the one that was sent", received, len(frame))
					}
					want = want[1:]
					received++
				}
				f.rx.Release()
			}
			if err := errors.Join(f.tx.Err(), f.rx.Err()); err != nil {
				t.Fatal(err)
			}
			if received < 5000 || f.tx.Reordered() || f.rx.Reordered() {
				t.Errorf("%d frames received, %d dropped", received, dropped)
			}
		})
	}
}

// A fastPair is a Sender and a Receiver with two devices between them.
type fastPair struct {
	t        testing.TB
	tx       *Sender
	rx       *Receiver
	from, to *Device
	batch    *packet.Batch
	list     []packet.Ref
	ok       []bool
}

func newFastPair(t testing.TB, g *guest, size uint16, cfg Config, txStride, rxStride uint32, merged bool) *fastPair {
	t.Helper()
	a, b := g.layout(size), g.layout(size)
	tx, err1 := NewSender(DriverConfig{Layout: a, Base: cfg.Base}, g.buffers(size, txStride))
	rx, err2 := NewReceiver(DriverConfig{Layout: b, Base: cfg.Base}, g.buffers(size, rxStride), merged)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	f := &fastPair{t: t, tx: tx, rx: rx, batch: packet.NewBatch(), list: make([]packet.Ref, packet.BatchMax), ok: make([]bool, packet.BatchMax)}
	cfg.Layout = a
	f.from = g.device(cfg)
	cfg.Layout = b
	f.to = g.device(cfg)
	return f
}

// forward carries one batch and reports which frames were taken.
func (f *fastPair) forward() []bool {
	b := f.batch
	b.Reset()
	if err := f.from.Dequeue(b); err != nil {
		f.t.Fatal(err)
	}
	list := f.list[:b.N]
	for i := range list {
		list[i] = packet.Ref{Frame: uint16(i)}
	}
	if err := f.to.Enqueue(b, list); err != nil {
		f.t.Fatal(err)
	}
	f.from.Complete()
	f.to.Commit(b)
	for i := range list {
		f.ok[i] = list[i].Why == packet.ReasonNone
	}
	return f.ok[:b.N]
}

// A shuffler is a device that uses chains in any order: it takes all there are
// and returns some of them.
type shuffler struct {
	l          Layout
	next, done uint16
	held       []uint16
}

func (s *shuffler) step(r *rand.Rand, n uint32) []uint16 {
	for idx := load16(s.l.Avail + 2); s.next != idx; s.next++ {
		s.held = append(s.held, load16(s.l.Avail+4+2*uintptr(s.next%s.l.Size)))
	}
	r.Shuffle(len(s.held), func(i, j int) { s.held[i], s.held[j] = s.held[j], s.held[i] })
	give := s.held[:min(len(s.held), r.IntN(20))]
	for _, h := range give {
		store64(s.l.Used+4+8*uintptr(s.done%s.l.Size), uint64(h)|uint64(n)<<32)
		s.done++
	}
	s.held = s.held[len(give):]
	word(s.l.Used).Store(uint32(s.done) << 16)
	return give
}

// TestOutOfOrder lets a device return buffers in any order: a Sender must not
// reuse one that is still out, a Receiver must see each once.
func TestOutOfOrder(t *testing.T) {
	g := newGuest(t, 1, 4<<20)
	r := rand.New(rand.NewPCG(5, 6))
	l, m := g.layout(64), g.layout(64)
	bufs := g.buffers(64, 128)
	tx, err1 := NewSender(DriverConfig{Layout: l, Base: 65530}, g.buffers(64, 128))
	rx, err2 := NewReceiver(DriverConfig{Layout: m, Base: 65530}, bufs, false)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	ts, rs := shuffler{l: l, next: 65530, done: 65530}, shuffler{l: m, next: 65530, done: 65530}
	out := map[int]bool{}
	frames := 0
	for round := range 5000 {
		n := min(tx.Room(64), r.IntN(12))
		for i := range n {
			if b := tx.Buffer(i); out[b] {
				t.Fatalf("round %d: buffer %d is sent while the device has it", round, b)
			} else {
				out[b] = true
			}
		}
		tx.Send(n)
		for _, h := range ts.step(r, 0) {
			delete(out, int(h))
		}
		given := rs.step(r, 62)
		for _, h := range given {
			view(bufs.Addr+uintptr(h)*128+12, 1)[0] = byte(h)
		}
		for i := range given {
			f, ok := rx.Next()
			if !ok || len(f) != 50 || f[0] != byte(given[i]) {
				t.Fatalf("round %d: frame %d of %d wrong (%d bytes)", round, i, len(given), len(f))
			}
			frames++
		}
		rx.Release()
	}
	if err := errors.Join(tx.Err(), rx.Err()); err != nil {
		t.Fatal(err)
	}
	if !tx.Reordered() || !rx.Reordered() || frames < 10000 {
		t.Errorf("reordered %v, %v; %d frames", tx.Reordered(), rx.Reordered(), frames)
	}
}

// TestBrokenDevice finds each kind of nonsense in the used ring.
func TestBrokenDevice(t *testing.T) {
	for _, tt := range []struct {
		name  string
		idx   uint16
		elems []uint64
		merge bool
	}{
		{"index too far", 100, nil, false},
		{"index behind", 65535, nil, false},
		{"no such buffer", 1, []uint64{64 | 72<<32}, false},
		{"same buffer twice", 2, []uint64{1 | 72<<32, 1 | 72<<32}, false},
		{"longer than the buffer", 1, []uint64{0 | 129<<32}, false},
		{"shorter than the header", 1, []uint64{0 | 11<<32}, false},
		{"frame of no buffer", 1, []uint64{0 | 72<<32}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuest(t, 1, 1<<20)
			l := g.layout(64)
			rx, err := NewReceiver(DriverConfig{Layout: l}, g.buffers(64, 128), tt.merge)
			if err != nil {
				t.Fatal(err)
			}
			for i, e := range tt.elems {
				store64(l.Used+4+8*uintptr(i), e)
			}
			word(l.Used).Store(uint32(tt.idx) << 16)
			for range 3 {
				rx.Next()
			}
			if err := rx.Err(); !errors.Is(err, ErrDevice) {
				t.Errorf("got error %v, want ErrDevice", err)
			}
			if n, _ := rx.Count(); n != 0 {
				t.Errorf("counted %d frames", n)
			}
		})
	}
}

// TestRewritten: a device may write an element anew that was looked at, while the rest of its frame is awaited.
func TestRewritten(t *testing.T) {
	g := newGuest(t, 1, 1<<20)
	l, bufs := g.layout(64), g.buffers(64, 128)
	rx, err := NewReceiver(DriverConfig{Layout: l}, bufs, true)
	if err != nil {
		t.Fatal(err)
	}
	view(bufs.Addr, 12)[10] = 2 // buffers of the frame
	store64(l.Used+4, 0|128<<32)
	word(l.Used).Store(1 << 16)
	if f, ok := rx.Next(); ok || rx.Err() != nil {
		t.Fatalf("half a frame is %x, %v, %v", f, ok, rx.Err())
	}
	store64(l.Used+4, 0|3<<32)
	store64(l.Used+12, 1|3<<32)
	word(l.Used).Store(2 << 16)
	rx.look()
	if f, ok := rx.merged(2); ok || !errors.Is(rx.Err(), ErrDevice) {
		t.Errorf("a frame of 6 bytes with a header of 12 is %x, %v, %v", f, ok, rx.Err())
	}
}

// TestNoAllocs carries batches of several kinds: nothing may be allocated.
func TestNoAllocs(t *testing.T) {
	for _, size := range []int{60, 1500, packet.FrameMax} {
		for _, stride := range []uint32{Stride(packet.FrameMax), Stride(512)} {
			t.Run(fmt.Sprintf("%d bytes in %d", size, stride), func(t *testing.T) {
				g := newGuest(t, 1, 32<<20)
				f := newFastPair(t, g, 1024, Config{Mergeable: true}, Stride(size), stride, true)
				for i := range 1024 {
					f.tx.SetLen(i, size)
				}
				i := 0
				turn := func() {
					f.tx.Send(min(32, f.tx.Room(32)))
					f.forward()
					if i++; i%2 == 0 {
						f.rx.Count()
						return
					}
					for {
						if _, ok := f.rx.Next(); !ok {
							break
						}
					}
					f.rx.Release()
				}
				turn()
				if n := testing.AllocsPerRun(1000, turn); n != 0 {
					t.Errorf("%v allocations a batch", n)
				}
			})
		}
	}
}

// TestMergedLooksAgain sends frames that need two buffers each when the device
// knows of as many buffers as frames, and the driver has given more since.
func TestMergedLooksAgain(t *testing.T) {
	g := newGuest(t, 1, 1<<20)
	l := g.layout(64)
	rx, err := NewReceiver(DriverConfig{Layout: l}, g.buffers(64, 64), true)
	if err != nil {
		t.Fatal(err)
	}
	dev := g.device(Config{Layout: l, Mergeable: true})
	idx := rx.pub.Load()
	rx.pub.Store(4 << 16) // what the device sees at first
	if n, err := dev.ready(4); n != 4 || err != nil {
		t.Fatal(n, err)
	}
	rx.pub.Store(idx)
	b := packet.NewBatch()
	list := make([]packet.Ref, 4)
	for i := range list {
		b.Add(make([]byte, 100))
		list[i].Frame = uint16(i)
	}
	if err := dev.Enqueue(b, list); err != nil {
		t.Fatal(err)
	}
	dev.Commit(b)
	if n, bytes := rx.Count(); n != 4 || bytes != 400 || b.Sent != 4 {
		t.Errorf("%d frames of %d bytes received, %d sent; want 4 of 400: %+v", n, bytes, b.Sent, list)
	}
}

// TestAssumeInOrder sends through a device that keeps order, and one that does
// not.
func TestAssumeInOrder(t *testing.T) {
	g := newGuest(t, 1, 4<<20)
	f := newFastPair(t, g, 64, Config{Base: 65500}, 128, 128, false)
	f.tx.AssumeInOrder()
	for i := range 64 {
		f.tx.SetLen(i, 60)
	}
	got := 0
	for range 3000 {
		f.tx.Send(min(f.tx.Room(64), 50))
		f.forward()
		n, _ := f.rx.Count()
		got += n
	}
	if f.tx.Err() != nil || got < 100_000 {
		t.Errorf("%d frames, %v", got, f.tx.Err())
	}
	l := g.layout(64)
	tx, err := NewSender(DriverConfig{Layout: l}, g.buffers(64, 128))
	if err != nil {
		t.Fatal(err)
	}
	tx.AssumeInOrder()
	s, r := shuffler{l: l}, rand.New(rand.NewPCG(9, 9))
	for range 100 {
		tx.Send(min(tx.Room(64), 10))
		s.step(r, 0)
	}
	if !errors.Is(tx.Err(), ErrDevice) || tx.Room(1) != 0 {
		t.Errorf("got error %v, want ErrDevice", tx.Err())
	}
}
