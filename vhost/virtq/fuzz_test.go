package virtq

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
	"millrace/vhost/guestmem"
)

// fuzzRegions lie in a file of fuzzFile bytes, with room before, between and
// behind them that nobody may touch. The first two are neighbours in guest
// addresses.
var fuzzRegions = []guestmem.Region{
	{GPA: 0x1000, Size: 0xc00, User: 0x1000, Offset: 0x1100},
	{GPA: 0x1c00, Size: 0x700, User: 0x2000, Offset: 0x3080},
	{GPA: 0x4000, Size: 0x240, User: 0x4000, Offset: 0x5000},
}

const fuzzFile = 0x8000

// A fuzzRing is a ring in a page between two pages that fault, and memory that
// its descriptors reach.
type fuzzRing struct {
	t      *testing.T
	page   []byte // desc at its start, used ring up to its end
	file   []byte // all of the memory's file
	cfg    Config
	device *Device
	data   []byte // what is left of the fuzzer's input
	way    uint16 // descWrite if the device is to write
}

const (
	fuzzAvail = 0x600
	fuzzPage  = 4096
)

// newFuzzRing makes a ring to receive from, or to send to if dir is odd.
func newFuzzRing(t *testing.T, dir, opts byte, data []byte) *fuzzRing {
	t.Helper()
	size := uint16(2) << (dir >> 1 & 3)
	ring, err := sys.MapAnonymous(3 * fuzzPage)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ring.Close() })
	fd, err := sys.NewMemfd("virtq-fuzz", fuzzFile)
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	file, err := sys.MapShared(fd.Int(), 0, fuzzFile)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	b := ring.Bytes()
	if err := errors.Join(unix.Mprotect(b[:fuzzPage], unix.PROT_NONE), unix.Mprotect(b[2*fuzzPage:], unix.PROT_NONE)); err != nil {
		t.Fatal(err)
	}
	r := &fuzzRing{t: t, page: b[fuzzPage : 2*fuzzPage], file: file.Bytes(), data: data, way: uint16(dir&1) * descWrite}
	for i := range r.file {
		if i%64 > 11 {
			r.file[i] = byte(0xe0 + i%13)
		}
	}
	var mem *guestmem.Map
	for _, g := range fuzzRegions {
		m, err := mem.With(g, fd.Int())
		if err != nil {
			t.Fatal(err)
		}
		mem.Close()
		mem = m
	}
	t.Cleanup(func() { mem.Close() })
	base := packet.Addr(r.page)
	r.cfg = Config{
		Layout: Layout{
			Size: size, Desc: base, Avail: base + fuzzAvail,
			Used: base + uintptr(fuzzPage-UsedBytes(size)-2)&^3,
		},
		Mem: mem, Base: 65533,
		EventIdx: opts&1 != 0, Indirect: opts&2 == 0, Mergeable: opts&4 != 0, Legacy: opts&8 != 0,
	}
	if r.device, err = NewDevice(r.cfg); err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint16(r.page[fuzzAvail+2:], r.cfg.Base)
	r.device.Start()
	for i := range int(size) {
		r.desc(r.page[16*i:], int(size))
	}
	for _, g := range fuzzRegions {
		for i := range 8 {
			r.desc(r.file[g.Offset+64*uint64(i)+16:], 8)
		}
	}
	return r
}

// byte takes a byte of the input, 0 when there is none.
func (r *fuzzRing) byte() byte {
	if len(r.data) == 0 {
		return 0
	}
	b := r.data[0]
	r.data = r.data[1:]
	return b
}

func (r *fuzzRing) u16() uint16 { return uint16(r.byte()) | uint16(r.byte())<<8 }

// desc makes a descriptor of input bytes: any value is possible, those that
// lead somewhere are likely.
func (r *fuzzRing) desc(at []byte, size int) {
	kind, rare, next, a, n := r.byte(), r.byte(), r.byte(), uint64(r.u16()), uint64(r.byte())
	flags := r.way
	switch kind & 7 {
	case 0, 1, 2:
		flags |= descNext
	case 3:
		flags |= descIndirect
		n = 16 * (n%6 + 1)
	case 4:
		n *= 5
	}
	g := fuzzRegions[int(kind>>4)%len(fuzzRegions)]
	addr := g.GPA + a%g.Size
	if n < g.Size {
		addr = g.GPA + a%(g.Size-n)
	}
	if kind&8 != 0 {
		addr &^= 63 // where a good header is
	}
	next %= byte(size)
	switch rare {
	case 1:
		flags ^= descWrite
	case 2, 3:
		addr = g.GPA + g.Size - a%64
	case 4:
		addr = a << 48
	case 5:
		n |= n << 24
	case 6:
		flags |= descIndirect | descNext
	case 7:
		flags |= descIndirect
	case 8:
		next = r.byte()
	case 9, 10:
		n = 0
	}
	binary.LittleEndian.PutUint64(at, addr)
	binary.LittleEndian.PutUint32(at[8:], uint32(n))
	binary.LittleEndian.PutUint16(at[12:], flags)
	binary.LittleEndian.PutUint16(at[14:], uint16(next))
}

// mutate does what a guest may do between two looks of the device: rewrite
// descriptors, tables and buffers, and show more chains.
func (r *fuzzRing) mutate() {
	size := int(r.cfg.Size)
	for range r.byte() % 24 {
		switch at := int(r.u16()); at % 4 {
		case 0, 1:
			r.desc(r.page[16*(at/4%size):], size)
		case 2: // an indirect table's descriptors, or bytes of a frame
			g := fuzzRegions[at/4%len(fuzzRegions)]
			r.desc(r.file[g.Offset+uint64(at/16*16)%(g.Size-16):], 8)
		case 3:
			g := fuzzRegions[at/4%len(fuzzRegions)]
			r.file[g.Offset+uint64(at/16)%g.Size] = r.byte()
		}
	}
	idx := r.page[fuzzAvail+2:]
	for range r.byte() % 7 {
		i := binary.LittleEndian.Uint16(idx)
		head := uint16(r.byte())
		if head < 250 {
			head %= uint16(size)
		}
		binary.LittleEndian.PutUint16(r.page[fuzzAvail+4+2*(int(i)%size):], head)
		binary.LittleEndian.PutUint16(idx, i+1)
	}
	if r.byte() == 255 {
		binary.LittleEndian.PutUint16(idx, r.u16())
	}
}

// reference returns the slow walker over copies of the memory as it is.
func (r *fuzzRing) reference() *reference {
	return &reference{
		cfg: r.cfg, regions: fuzzRegions, file: slices.Clone(r.file),
		table: slices.Clone(r.page[:DescBytes(r.cfg.Size)]), avail: slices.Clone(r.page[fuzzAvail : fuzzAvail+AvailBytes(r.cfg.Size)]),
		next: r.device.Base(), seen: r.device.seen,
	}
}

// usable compares the device's opinion of the ring with the reference's, and
// reports whether the two agree that it can be used.
func (r *fuzzRing) usable(err error, ok bool) bool {
	if (err == nil) != ok || err != nil && !errors.Is(err, ErrBroken) {
		r.t.Fatalf("device says %v, reference says usable: %v", err, ok)
	}
	return ok
}

// dequeue compares one Dequeue with the reference.
func (r *fuzzRing) dequeue(b *packet.Batch) bool {
	ref := r.reference()
	want, early, ok := ref.dequeue()
	b.Reset()
	b.Early, b.NEarly = [packet.ReasonCount]uint32{}, 0
	if !r.usable(r.device.Dequeue(b), ok) {
		return false
	}
	if b.N != len(want) || b.Early != early {
		r.t.Fatalf("%d frames and %v dropped, want %d and %v", b.N, b.Early, len(want), early)
	}
	for i, w := range want {
		if got := b.AppendTo(nil, i); !bytes.Equal(got, w) {
			r.t.Fatalf("frame %d\ngot  %x\nwant %x", i, got, w)
		}
	}
	r.device.Complete()
	if !bytes.Equal(r.file, ref.file) {
		r.t.Fatal("Dequeue wrote to guest memory")
	}
	r.checkNext(ref)
	return true
}

// enqueue compares one Enqueue with the reference, byte for byte of all memory.
func (r *fuzzRing) enqueue(b *packet.Batch, pool []byte) bool {
	b.Reset()
	var frames [][]byte
	var list []packet.Ref
	for range r.byte() % 6 {
		f := pool[r.byte():]
		f = f[:packet.FrameMin+int(r.u16())%1200]
		head := min(len(f), packet.HeadMax)
		b.Add(f[:head], packet.Seg{Addr: packet.Addr(f[head:]), Len: uintptr(len(f) - head)})
		frames = append(frames, f)
		list = append(list, packet.Ref{Frame: uint16(len(list))})
	}
	ref := r.reference()
	used, why, ok := ref.enqueue(frames)
	if !r.usable(r.device.Enqueue(b, list), ok) {
		return false
	}
	r.device.Commit(b)
	for i := range list {
		if list[i].Why != why[i] {
			r.t.Fatalf("frame %d of %d bytes: %v, want %v", i, len(frames[i]), list[i].Why, why[i])
		}
	}
	if !bytes.Equal(r.file, ref.file) {
		r.t.Fatalf("memory differs from the reference's, first at %#x of the file", firstDiff(r.file, ref.file))
	}
	for i, u := range used {
		at := (int(ref.next) - len(used) + i + 1<<16) % int(r.cfg.Size)
		e := load64(r.cfg.Used + 4 + 8*uintptr(at))
		if e != uint64(u.head)|uint64(u.n)<<32 {
			r.t.Fatalf("used element %d is %#x, want %+v", at, e, u)
		}
	}
	r.checkNext(ref)
	return true
}

// checkNext compares indices.
func (r *fuzzRing) checkNext(ref *reference) {
	if idx := load16(r.cfg.Used + 2); r.device.Base() != ref.next || idx != ref.next {
		r.t.Fatalf("device at %d, used index %d, reference at %d", r.device.Base(), idx, ref.next)
	}
}

func firstDiff(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// FuzzChains turns input into what a guest writes, and compares the device with
// a slow one over several rounds: whether the ring is broken, each frame's
// bytes, each byte of memory. Memory around the regions and behind the rings
// must stay as it was.
func FuzzChains(f *testing.F) {
	r := make([]byte, 2000)
	for seed := range uint64(24) {
		x := seed*0x9e3779b97f4a7c15 + 1
		for i := range r {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
			r[i] = byte(x >> 32)
		}
		f.Add(byte(seed), byte(seed/2), slices.Clone(r[:80*(seed+1)]))
	}
	b := packet.NewBatch()
	pool, err := sys.MapAnonymous(4096)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { pool.Close() })
	for i := range pool.Bytes() {
		pool.Bytes()[i] = byte(i * 7)
	}
	f.Fuzz(func(t *testing.T, dir, opts byte, data []byte) {
		ring := newFuzzRing(t, dir, opts, data)
		for range 8 {
			ring.mutate()
			if dir&1 == 0 && !ring.dequeue(b) || dir&1 == 1 && !ring.enqueue(b, pool.Bytes()) {
				if err := ring.device.Dequeue(b); !errors.Is(err, ErrBroken) || b.N != 0 && dir&1 == 0 {
					t.Fatalf("broken ring goes on: %v", err)
				}
				break
			}
		}
	})
}

// TestChainsRandom gives random input to the comparison of FuzzChains, and
// counts what became of it: rings that are always broken would test nothing.
func TestChainsRandom(t *testing.T) {
	b := packet.NewBatch()
	pool := make([]byte, 4096)
	r := rand.New(rand.NewPCG(7, 8))
	var usable, frames, early int
	var total Stats
	for n := range 2000 {
		data := make([]byte, 1500)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		t.Run("", func(t *testing.T) {
			ring := newFuzzRing(t, byte(n), byte(n/8), data)
			for range 8 {
				ring.mutate()
				b.Sent = 0
				if n&1 == 0 && !ring.dequeue(b) || n&1 == 1 && !ring.enqueue(b, pool) {
					break
				}
				usable++
				frames += b.Sent + b.N*(1-n&1)
				early += b.NEarly
			}
			s := ring.device.Stats()
			total.Chains += s.Chains
			total.Indirect += s.Indirect
			total.Merged += s.Merged
		})
	}
	t.Logf("%d rounds, %d frames, %d early drops, %+v", usable, frames, early, total)
	if usable < 1000 || frames < 200 || total.Indirect < 200 || total.Merged < 20 {
		t.Error("random input reaches too little")
	}
}
