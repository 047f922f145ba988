package virtq

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"millrace/dataplane/packet"
)

const everything = packet.TakesSum | packet.TakesSuper | packet.TakesECN

// superFrame is a super-frame of TCP over IPv4 of n bytes, with its header.
func superFrame(r *rand.Rand, n, size int) []byte {
	b := make([]byte, HeaderLen+n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	h, f := b[:HeaderLen], b[HeaderLen:]
	clear(h)
	h[0], h[1] = 1, 1
	binary.LittleEndian.PutUint16(h[2:], 54)
	binary.LittleEndian.PutUint16(h[4:], uint16(size))
	binary.LittleEndian.PutUint16(h[6:], 34)
	binary.LittleEndian.PutUint16(h[8:], 16)
	copy(f[12:], []byte{8, 0, 0x45, 0})
	binary.BigEndian.PutUint16(f[16:], uint16(n-14))
	f[20], f[21], f[23], f[46] = 0, 0, 6, 0x50
	return b
}

// A superPair is a ring of the driver's with memory for a few super-frames.
type superPair struct {
	g      *guest
	driver *Driver
	device *Device
	area   Area
}

func newSuperPair(g *guest, cfg Config) *superPair {
	cfg.Layout = g.layout(1024)
	d, err := NewDriver(DriverConfig{Layout: cfg.Layout}, g.area(1024*32*descSize))
	if err != nil {
		g.t.Fatal(err)
	}
	return &superPair{g, d, g.device(cfg), g.area(16 << 20)}
}

// chain adds a chain over n bytes at place, cut into about parts buffers.
func (p *superPair) chain(place, n, parts int, write bool) uint64 {
	p.g.t.Helper()
	gpa := p.area.GPA + uint64(place)<<17
	var list []Buffer
	for at, step := 0, max(n/parts, 1); at < n; at += step {
		list = append(list, Buffer{GPA: gpa + uint64(at), Len: uint32(min(step, n-at)), Write: write})
	}
	if _, ok := p.driver.Add(list, 0); !ok {
		p.g.t.Fatal("ring is full")
	}
	return gpa
}

// turn carries what tx has sent to rx and returns the batch's list.
func turn(t *testing.T, b *packet.Batch, tx, rx *superPair) (list []packet.Ref) {
	t.Helper()
	b.Reset()
	if err := tx.device.Dequeue(b); err != nil {
		t.Fatal(err)
	}
	for i := range b.N {
		list = append(list, packet.Ref{Frame: uint16(i)})
	}
	if err := rx.device.Enqueue(b, list); err != nil {
		t.Fatal(err)
	}
	tx.device.Complete()
	rx.device.Commit(b)
	return list
}

// TestSuperFrames sends super-frames from guest to guest, among others that ask for
// nothing: in chains of all shapes, to one long chain or to many that are merged. They come whole, with
// the header that they were sent with.
func TestSuperFrames(t *testing.T) {
	for _, merged := range []bool{false, true} {
		r := rand.New(rand.NewPCG(1, 2))
		g := newGuest(t, 1, 64<<20)
		tx := newSuperPair(g, Config{Offload: everything})
		rx := newSuperPair(g, Config{Offload: everything, Mergeable: merged})
		b := packet.NewBatch()
		for range 100 {
			var sent [][]byte
			for i := range 3 {
				f := append(make([]byte, HeaderLen), make([]byte, 60+r.IntN(900))...)
				if i != 1 {
					f = superFrame(r, 2000+r.IntN(60000), 1448)
				}
				g.write(tx.chain(i, len(f), 1+r.IntN(40), false), f)
				sent = append(sent, f)
			}
			tx.driver.Show()
			if merged {
				for i := range 100 {
					rx.chain(i, 1600, 1+r.IntN(2), true)
				}
			} else {
				for i := range 3 {
					rx.chain(i, 70000, 20, true)
				}
			}
			rx.driver.Show()
			for i, ref := range turn(t, b, tx, rx) {
				if ref.Why != packet.ReasonNone {
					t.Fatalf("frame %d: %v", i, ref.Why)
				}
			}
			place := 0
			for i, want := range sent {
				got, chains := takeSuper(t, rx, &place)
				binary.LittleEndian.PutUint16(want[10:], uint16(chains))
				if !bytes.Equal(got, want) {
					t.Fatalf("frame %d of %d bytes came as %d bytes\n%x\n%x", i, len(want), len(got), got[:80], want[:80])
				}
			}
			drain(tx, rx)
			tx, rx = reset(g, tx, rx)
		}
	}
}

// takeSuper returns the next frame with its header, and in how many chains it came.
func takeSuper(t *testing.T, p *superPair, place *int) (f []byte, chains int) {
	t.Helper()
	for chains == 0 || chains < int(binary.LittleEndian.Uint16(f[10:])) {
		u, ok := p.driver.Reap()
		if !ok {
			t.Fatalf("no frame: %v", p.driver.Err())
		}
		f = append(f, p.g.read(p.area.GPA+uint64(*place)<<17, u.Len)...)
		*place++
		chains++
	}
	return f, chains
}

// drain takes back what the device is done with.
func drain(pairs ...*superPair) {
	for _, p := range pairs {
		for ok := true; ok; {
			_, ok = p.driver.Reap()
		}
	}
}

// reset begins anew with rings in the same memory, so that all buffers are the driver's.
func reset(g *guest, pairs ...*superPair) (tx, rx *superPair) {
	for _, p := range pairs {
		cfg := p.device.cfg
		clear(view(cfg.Used, uint32(UsedBytes(cfg.Size))))
		d, err := NewDriver(DriverConfig{Layout: cfg.Layout}, Area{})
		if err != nil {
			g.t.Fatal(err)
		}
		p.driver, p.device = d, g.device(cfg)
	}
	return pairs[0], pairs[1]
}

// TestSuperRefused: what was not agreed on is dropped where it comes in, or left where it
// would go out; a super-frame in crumbs does not stop the ring.
func TestSuperRefused(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, tt := range []struct {
		name     string
		from, to packet.Takes
		parts    int
		early    packet.Reason
		left     packet.Reason
	}{
		{"all agreed", everything, everything, 40, 0, 0},
		{"sender may not", packet.TakesSum, everything, 40, packet.ReasonRxTooLong, 0},
		{"sender may send nothing", 0, everything, 40, packet.ReasonRxTooLong, 0},
		{"sender may send datagrams", packet.TakesSum | packet.TakesUDP4, everything, 40, packet.ReasonRxHeader, 0},
		{"receiver takes checksums", everything, packet.TakesSum, 40, 0, packet.ReasonTxDown},
		{"receiver takes nothing", everything, 0, 40, 0, packet.ReasonTxDown},
	} {
		g := newGuest(t, 1, 64<<20)
		tx := newSuperPair(g, Config{Offload: tt.from})
		rx := newSuperPair(g, Config{Offload: tt.to})
		f := superFrame(r, 30000, 1448)
		g.write(tx.chain(0, len(f), tt.parts, false), f)
		plain := append(make([]byte, HeaderLen), make([]byte, 60)...)
		g.write(tx.chain(1, len(plain), 1, false), plain)
		tx.driver.Show()
		for i := range 2 {
			rx.chain(i, 70000, 20, true)
		}
		rx.driver.Show()
		b := packet.NewBatch()
		list := turn(t, b, tx, rx)
		if tt.early != packet.ReasonNone {
			if b.N != 1 || b.NEarly != 1 || b.Early[tt.early] != 1 || list[0].Why != packet.ReasonNone {
				t.Errorf("%s: %d frames, dropped %v", tt.name, b.N, b.Early)
			}
		} else if b.N != 2 || list[0].Why != tt.left || list[1].Why != packet.ReasonNone {
			t.Errorf("%s: %d frames, left %v", tt.name, b.N, list)
		}
		if b.Bytes == 0 || b.N == 1 && b.Bytes != 60 {
			t.Errorf("%s: %d bytes", tt.name, b.Bytes)
		}
	}
}

// TestSuperCrumbs: a super-frame in more pieces than a batch holds is dropped, and the ring
// goes on.
func TestSuperCrumbs(t *testing.T) {
	g := newGuest(t, 1, 64<<20)
	layout := g.layout(32768)
	d, err := NewDriver(DriverConfig{Layout: layout}, Area{})
	if err != nil {
		t.Fatal(err)
	}
	p := &superPair{g, d, g.device(Config{Layout: layout, Offload: everything}), g.area(1 << 20)}
	p.chain(0, 30000, 30000, false)
	p.chain(1, HeaderLen+60, 1, false)
	d.Show()
	b := packet.NewBatch()
	dropped, frames := uint32(0), 0
	for range 3 {
		b.Reset()
		if err := p.device.Dequeue(b); err != nil {
			t.Fatal(err)
		}
		dropped += b.Early[packet.ReasonRxTooLong]
		frames += b.N
		p.device.Complete()
	}
	if dropped != 1 || frames != 1 {
		t.Errorf("%d frames dropped, %d received", dropped, frames)
	}
}

// TestSuperBatch: of super-frames a batch takes only so many.
func TestSuperBatch(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	g := newGuest(t, 1, 64<<20)
	tx := newSuperPair(g, Config{Offload: everything})
	for i := range 30 {
		f := superFrame(r, 60000, 1448)
		g.write(tx.chain(i, len(f), 4, false), f)
	}
	tx.driver.Show()
	b := packet.NewBatch()
	got := 0
	for got < 30 {
		b.Reset()
		if err := tx.device.Dequeue(b); err != nil {
			t.Fatal(err)
		}
		if b.N == 0 || b.Bytes >= packet.SuperBytes+packet.SuperMax {
			t.Fatalf("%d frames with %d bytes", b.N, b.Bytes)
		}
		got += b.N
		tx.device.Complete()
	}
}
