package dataplane

import (
	"bytes"
	"encoding/binary"
	"runtime/debug"
	"testing"

	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
	"millrace/dataplane/parse/parsetest"
)

// An askingDevice is a fakeDevice whose frames come with a virtio-net header, and which
// takes what takes says.
type askingDevice struct {
	fakeDevice
	takes   packet.Takes
	asked   [][]byte // headers of frames in in
	headers [][]byte // of frames in out
	gone    []byte   // memory that lends frames and cannot be read; nil: it is as it was
}

func (d *askingDevice) Owns(a uintptr) bool { return a-packet.Addr(d.gone) < uintptr(len(d.gone)) }

type (
	askingRx askingDevice
	askingTx askingDevice
)

func (d *askingDevice) Rx() []RxQueue { return []RxQueue{(*askingRx)(d)} }
func (d *askingDevice) Tx() TxQueue   { return (*askingTx)(d) }

func (q *askingRx) Rx(b *packet.Batch) {
	(*fakeRx)(&q.fakeDevice).Rx(b)
	for i := range b.N {
		if q.gone != nil {
			b.Tail(i)[0].Addr = packet.Addr(q.gone)
		}
		if why := b.Judge(i, q.asked[i], 0xff); why != packet.ReasonNone {
			panic(why)
		}
	}
	q.asked = q.asked[b.N:]
}
func (q *askingRx) Release()    { (*fakeRx)(&q.fakeDevice).Release() }
func (q *askingRx) Arm() bool   { return false }
func (q *askingRx) Disarm()     {}
func (q *askingRx) WakeFD() int { return wakePoll }
func (q *askingRx) Signal()     {}

func (q *askingTx) Takes() packet.Takes { return q.takes }
func (q *askingTx) Tx(b *packet.Batch, list []packet.Ref) {
	for _, r := range list {
		if b.Needs(int(r.Frame))&^q.takes != 0 {
			panic("frame needs what the device does not take")
		}
		h := make([]byte, packet.HeaderLen)
		b.PutHeader(int(r.Frame), h)
		q.headers = append(q.headers, h)
	}
	(*fakeTx)(&q.fakeDevice).Tx(b, list)
}
func (q *askingTx) Commit(b *packet.Batch) { (*fakeTx)(&q.fakeDevice).Commit(b) }
func (q *askingTx) Abort()                 { (*fakeTx)(&q.fakeDevice).Abort() }
func (q *askingTx) Signal()                {}

// asking adds a port with an askingDevice.
func (r *rig) asking(name string, takes packet.Takes, spec PortSpec) *askingDevice {
	d := &askingDevice{takes: takes}
	r.s.opts.Openers["asking"] = func(PortSpec, Env) (Device, error) { return d, nil }
	spec.Type = "asking"
	r.port(name, spec)
	return d
}

// send has the device receive a frame of TCP with n bytes of payload from station src to dst,
// whose checksum is not finished, in segments of size; 0: it is one.
func (d *askingDevice) send(dst, src byte, n, size int) {
	f := eth(dst, src, 0, 54+n)
	ip := f[14:]
	clear(ip[:40])
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(ip[2:], uint16(40+n))
	copy(ip[12:], []byte{10, 0, 0, src, 10, 0, 0, dst})
	binary.BigEndian.PutUint16(ip[10:], parsetest.Checksum(ip[:20]))
	copy(ip[20:], []byte{0x30, 0x39, 0x00, 0x50})
	ip[32], ip[33] = 0x50, 0x18
	h := make([]byte, packet.HeaderLen)
	h[0], h[6], h[8] = 1, 34, 16
	if size > 0 {
		h[1] = 1
		binary.LittleEndian.PutUint16(h[4:], uint16(size))
	}
	d.in, d.asked = append(d.in, f), append(d.asked, h)
}

const takesTCP = packet.TakesSum | packet.TakesTCP4

// TestFinish floods super-frames and frames without checksums to ports that take all, some
// and nothing: each gets what it takes, the others' frames are finished, and each conversion is counted.
func TestFinish(t *testing.T) {
	r := newRig(t)
	src := r.asking("src", takesTCP, PortSpec{})
	whole := r.asking("whole", takesTCP, PortSpec{})
	sums := r.asking("sums", packet.TakesSum, PortSpec{})
	plain := r.port("plain", PortSpec{})
	again := r.port("again", PortSpec{})
	src.send(255, 1, 5000, 1000)
	src.send(255, 1, 1400, 0)
	src.send(255, 1, 4999, 1000)
	r.turn()
	by := r.stats()
	if len(whole.out) != 3 || len(whole.out[0]) != 5054 || whole.headers[0][1] != 1 || whole.headers[1][0] != 1 {
		t.Errorf("who takes all has %d frames, headers %x", len(whole.out), whole.headers)
	}
	if len(sums.out) != 11 || sums.headers[0][0] != 1 || sums.headers[0][1] != 0 {
		t.Errorf("who takes checksums has %d frames, headers %x", len(sums.out), sums.headers)
	}
	for _, d := range []*fakeDevice{plain, again} {
		if len(d.out) != 11 {
			t.Fatalf("who takes nothing has %d frames", len(d.out))
		}
		for i, f := range d.out {
			if err := parsetest.Sound(f, 14, 34, len(f), 6); err != nil {
				t.Errorf("frame %d of %d bytes: %v", i, len(f), err)
			}
		}
	}
	if !bytes.Equal(plain.out[4][54:], whole.out[0][4054:]) {
		t.Error("the last segment has not the end of the payload")
	}
	for name, want := range map[string]Finished{
		"whole": {}, "sums": {TCP: 2, Segments: 8}, "plain": {Sums: 11, TCP: 2, Segments: 8},
		"again": {TCP: 2, Segments: 8}, // what was finished for one is finished for all
	} {
		if got := by[name].Finished; got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}

// TestFinishVersions floods a super-frame with a tag and without.
func TestFinishVersions(t *testing.T) {
	r := newRig(t)
	src := r.asking("src", takesTCP, PortSpec{Tag: 7})
	plain := r.port("plain", PortSpec{Tag: 7})
	trunk := r.port("trunk", PortSpec{Trunks: []uint16{7}})
	src.send(255, 1, 5000, 1000)
	r.turn()
	r.stats()
	if len(plain.out) != 5 || len(trunk.out) != 5 {
		t.Fatalf("%d and %d segments, want 5", len(plain.out), len(trunk.out))
	}
	for i := range 5 {
		f := trunk.out[i]
		untagged := append(bytes.Clone(f[:12]), f[16:]...)
		if !bytes.Equal(untagged, plain.out[i]) {
			t.Errorf("segment %d differs by more than the tag", i)
		}
		if err := parsetest.Sound(untagged, 14, 34, len(untagged), 6); err != nil {
			t.Errorf("segment %d: %v", i, err)
		}
	}
}

// TestFinishRoom: super-frames for which there is no room are dropped and counted.
func TestFinishRoom(t *testing.T) {
	r := newRig(t)
	src := r.asking("src", takesTCP, PortSpec{})
	plain := r.port("plain", PortSpec{})
	for range 8 {
		src.send(255, 1, 30000, 150)
	}
	r.turn()
	p := r.stats()["plain"]
	if len(plain.out) != 800 || p.Offered != 8 || p.TxDrops[packet.ReasonCopies] != 4 {
		t.Errorf("%d segments, account %+v", len(plain.out), p)
	}
}

// TestFinishFault: a source that takes its memory away before a checksum is finished loses
// the frames, and the port that they were for is as it was.
func TestFinishFault(t *testing.T) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	r := newRig(t)
	src := r.asking("src", takesTCP, PortSpec{})
	plain, third := r.port("plain", PortSpec{}), r.port("third", PortSpec{})
	var err error
	if src.gone, err = unix.Mmap(-1, 0, 1<<16, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(src.gone)
	src.send(255, 1, 5000, 1000)
	r.turn()
	by := r.stats()
	if src.broken == "" || plain.broken != "" || len(plain.out)+len(plain.staged)+len(third.out)+len(third.staged) != 0 {
		t.Errorf("broken: %q, %q; %d frames went out", src.broken, plain.broken, len(plain.out))
	}
	for _, name := range []string{"plain", "third"} {
		if n := by[name].TxDrops[packet.ReasonRxFault]; n != 5 {
			t.Errorf("%s has %d drops, want 5: %+v", name, n, by[name])
		}
	}
	other := r.asking("other", takesTCP, PortSpec{})
	other.send(255, 2, 5000, 1000)
	r.turn()
	if r.stats(); len(plain.out) != 5 {
		t.Errorf("%d frames went out afterwards, want 5", len(plain.out))
	}
}

// TestFinishAllocsPerRun: a worker that finishes frames allocates nothing.
func TestFinishAllocsPerRun(t *testing.T) {
	r := newRig(t)
	src := &superLoop{}
	maker := &askingDevice{}
	maker.send(2, 1, 60000, 1448)
	src.frame, src.header = maker.in[0], maker.asked[0]
	r.s.opts.Openers["loop"] = func(PortSpec, Env) (Device, error) { return src, nil }
	r.s.opts.Openers["null"] = func(PortSpec, Env) (Device, error) { return &nullDevice{}, nil }
	r.port("src", PortSpec{Type: "loop"})
	r.port("dst", PortSpec{Type: "null"})
	w := r.s.workers[0]
	for range 10 {
		w.turn()
	}
	if n := testing.AllocsPerRun(100, w.turn); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if p := r.stats()["dst"]; p.Finished.TCP == 0 || p.Finished.Sums == 0 {
		t.Errorf("nothing was finished: %+v", p)
	}
}

// A superLoop receives one super-frame again and again.
type superLoop struct {
	loopDevice
	header []byte
}

type superLoopRx struct {
	loopRx
	d *superLoop
}

func (d *superLoop) Rx() []RxQueue { return []RxQueue{&superLoopRx{d: d}} }

func (q *superLoopRx) Rx(b *packet.Batch) {
	f := q.d.frame
	for range 4 {
		b.Add(f[:packet.HeadMax], packet.Seg{Addr: packet.Addr(f[packet.HeadMax:]), Len: uintptr(len(f) - packet.HeadMax)})
		if why := b.Judge(b.N-1, q.d.header, 0xff); why != packet.ReasonNone {
			panic(why)
		}
	}
}
