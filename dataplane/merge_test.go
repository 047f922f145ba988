package dataplane

import (
	"bytes"
	"encoding/binary"
	"runtime/debug"
	"testing"

	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
)

// gro are the options of a port for which segments are merged.
var gro = map[string]string{OptionGRO: "true"}

// sendSegments has the device receive segments of TCP, numbered one after the other, whose checksums
// are not finished.
func (d *askingDevice) sendSegments(dst, src byte, n, payload int) {
	first := len(d.in)
	for i := range n {
		d.send(dst, src, payload, 0)
		ip := d.in[first+i][14:]
		ip[33] = 0x10 // ACK, no PSH
		binary.BigEndian.PutUint32(ip[24:], uint32(i*payload))
		binary.BigEndian.PutUint16(ip[4:], uint16(i))
		sum := binary.BigEndian.Uint16(ip[10:]) // RFC 1624
		binary.BigEndian.PutUint16(ip[10:], ^packet.Fold(uint64(^sum)+uint64(i)))
	}
}

// TestMerge floods segments to ports that ask for super-frames and take them, ask and do not take
// them, or do not ask: each gets what it takes, and the accounts are exact.
func TestMerge(t *testing.T) {
	r := newRig(t)
	src := r.asking("src", takesTCP, PortSpec{})
	merged := r.asking("merged", takesTCP, PortSpec{Options: gro})
	again := r.asking("again", takesTCP, PortSpec{Options: gro})
	unable := r.asking("unable", packet.TakesSum, PortSpec{Options: gro})
	unasked := r.asking("unasked", takesTCP, PortSpec{})
	plain := r.port("plain", PortSpec{})
	src.sendSegments(255, 1, 5, 1000)
	src.send(255, 1, 100, 0) // another number: not the next
	r.turn()
	by := r.stats()
	for _, d := range []*askingDevice{merged, again} {
		if len(d.out) != 2 || len(d.out[0]) != 5054 || d.headers[0][1] != 1 || binary.LittleEndian.Uint16(d.headers[0][4:]) != 1000 {
			t.Errorf("who asks has %d frames, headers %x", len(d.out), d.headers)
		}
	}
	if len(unable.out) != 6 || len(unasked.out) != 6 || len(plain.out) != 6 {
		t.Errorf("the others have %d, %d and %d frames", len(unable.out), len(unasked.out), len(plain.out))
	}
	for name, want := range map[string]Finished{"merged": {Merged: 1, Joined: 4}, "again": {Merged: 1, Joined: 4}, "unable": {}, "unasked": {}, "plain": {Sums: 6}} {
		if got := by[name].Finished; got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	if got := merged.out[0][54:]; !bytes.Equal(got[1000:2000], plain.out[1][54:]) {
		t.Error("the second segment's payload is not in its place")
	}
	// What plain has was finished. It is merged as well, since its checksums are right.
	src.in, src.asked = plain.out[:5], make([][]byte, 5)
	for i := range src.asked {
		src.asked[i] = make([]byte, packet.HeaderLen)
	}
	r.turn()
	if r.stats(); len(merged.out) != 3 {
		t.Errorf("%d frames", len(merged.out))
	}
}

// TestMergeFault: a source that takes its memory away while checksums are looked at loses the frames.
func TestMergeFault(t *testing.T) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	r := newRig(t)
	src := r.asking("src", takesTCP, PortSpec{})
	merged, third := r.asking("merged", takesTCP, PortSpec{Options: gro}), r.port("third", PortSpec{})
	var err error
	if src.gone, err = unix.Mmap(-1, 0, 1<<16, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(src.gone)
	src.sendSegments(255, 1, 5, 1000)
	for _, h := range src.asked {
		clear(h) // finished, they say
	}
	r.turn()
	if by := r.stats(); src.broken == "" || by["merged"].TxDrops[packet.ReasonRxFault] != 5 || by["third"].TxDrops[packet.ReasonRxFault] != 5 {
		t.Errorf("broken: %q; %+v", src.broken, by)
	}
	if len(merged.out)+len(third.out) != 0 {
		t.Error("frames went out")
	}
}

// TestMergeAllocsPerRun: a worker that merges allocates nothing.
func TestMergeAllocsPerRun(t *testing.T) {
	r := newRig(t)
	maker := &askingDevice{}
	maker.sendSegments(2, 1, 8, 1400)
	src := &segmentLoop{frames: maker.in, headers: maker.asked}
	r.s.opts.Openers["loop"] = func(PortSpec, Env) (Device, error) { return src, nil }
	r.s.opts.Openers["null"] = func(PortSpec, Env) (Device, error) { return &takingDevice{}, nil }
	r.port("src", PortSpec{Type: "loop"})
	r.port("dst", PortSpec{Type: "null", Options: gro})
	w := r.s.workers[0]
	for range 10 {
		w.turn()
	}
	if n := testing.AllocsPerRun(100, w.turn); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if p := r.stats()["dst"]; p.Finished.Merged == 0 {
		t.Errorf("nothing was merged: %+v", p)
	}
}

// A segmentLoop receives the same segments again and again.
type segmentLoop struct {
	loopDevice
	frames, headers [][]byte
}

type segmentLoopRx struct {
	loopRx
	d *segmentLoop
}

func (d *segmentLoop) Rx() []RxQueue { return []RxQueue{&segmentLoopRx{d: d}} }

func (q *segmentLoopRx) Rx(b *packet.Batch) {
	for i, f := range q.d.frames {
		b.Add(f[:packet.HeadMax], packet.Seg{Addr: packet.Addr(f[packet.HeadMax:]), Len: uintptr(len(f) - packet.HeadMax)})
		b.Judge(i, q.d.headers[i], 0xff)
	}
}

// A takingDevice is a nullDevice that takes super-frames.
type takingDevice struct{ nullDevice }

type takingTx struct{ TxQueue }

func (d *takingDevice) Tx() TxQueue  { return takingTx{d.nullDevice.Tx()} }
func (takingTx) Takes() packet.Takes { return takesTCP }
