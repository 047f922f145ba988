package virtq

import (
	"encoding/binary"
	"errors"
	"testing"

	"millrace/dataplane/packet"
)

// laborious makes a ring of the largest size, full of chains that all name one
// indirect table: empty descriptors, and a last one of n bytes. The longest
// chains allowed cost the device most and the driver nothing.
func laborious(g *guest, n uint32, write bool) Config {
	cfg := Config{Layout: g.layout(SizeMax), Indirect: true, Mergeable: true}
	flags := uint16(descNext)
	if write {
		flags |= descWrite
	}
	buf, table := g.area(uint64(n)), g.area(descSize*(SizeMax-1))
	desc := func(p uintptr, addr uint64, n uint32, flags, next uint16) {
		store64(p, addr)
		store64(p+8, uint64(n)|uint64(flags)<<32|uint64(next)<<48)
	}
	for i := range uint16(SizeMax - 1) {
		desc(table.Addr+descSize*uintptr(i), buf.GPA, 0, flags, i+1)
	}
	desc(table.Addr+descSize*(SizeMax-2), buf.GPA, n, flags&^descNext, 0)
	desc(cfg.Desc, table.GPA, descSize*(SizeMax-1), descIndirect, 0)
	store16(cfg.Avail+2, SizeMax)
	return cfg
}

// effortMax is how many descriptors one call may walk: its limit, and the chain
// in which it gets there.
const effortMax = walkMax + SizeMax

// TestEffortDequeue takes chains that are all work and no bytes: each call ends
// soon, and in the end all of them are counted.
func TestEffortDequeue(t *testing.T) {
	g := newGuest(t, 1, 4<<20)
	d := g.device(laborious(g, 1, false))
	b := packet.NewBatch()
	for got := 0; got < 200; got += b.NEarly {
		b.Reset()
		if err := d.Dequeue(b); err != nil {
			t.Fatal(err)
		}
		if d.walked > effortMax || b.NEarly == 0 {
			t.Fatalf("one call walked %d descriptors, at most %d, and took %d chains", d.walked, effortMax, b.NEarly)
		}
		d.Complete()
	}
}

// TestEffortEnqueue sends to buffers of 12 bytes behind very long chains: a
// frame that takes many of them breaks the ring, soon.
func TestEffortEnqueue(t *testing.T) {
	g := newGuest(t, 1, 4<<20)
	d := g.device(laborious(g, HeaderLen, true))
	b := packet.NewBatch()
	b.Add(make([]byte, packet.HeadMax))
	err := d.Enqueue(b, []packet.Ref{{}})
	if !errors.Is(err, ErrBroken) || d.walked > effortMax {
		t.Fatalf("walked %d descriptors, at most %d: %v", d.walked, effortMax, err)
	}
}

// TestEffortOrder sends many frames to long chains with room for one each: those
// that would take too long are left, in order, and have room the next time.
func TestEffortOrder(t *testing.T) {
	g := newGuest(t, 1, 4<<20)
	d := g.device(laborious(g, 200, true))
	b := packet.NewBatch()
	for i := range packet.BatchMax {
		b.Add(binary.BigEndian.AppendUint64(make([]byte, packet.FrameMin), uint64(i)))
	}
	sent := 0
	for sent < b.N {
		var list []packet.Ref
		for i := sent; i < b.N; i++ {
			list = append(list, packet.Ref{Frame: uint16(i)})
		}
		b.Sent = 0
		if err := d.Enqueue(b, list); err != nil {
			t.Fatal(err)
		}
		d.Commit(b)
		if d.walked > effortMax || b.Sent == 0 {
			t.Fatalf("one call walked %d descriptors, at most %d, and sent %d frames", d.walked, effortMax, b.Sent)
		}
		for i, r := range list {
			if left := i >= b.Sent; left != (r.Why == packet.ReasonTxFull) {
				t.Fatalf("%d frames sent, frame %d of them: %v", b.Sent, i, r.Why)
			}
		}
		sent += b.Sent
	}
}

// TestEffortMoves sends frames to chains of one-byte descriptors: the moves of a
// whole batch are not kept.
func TestEffortMoves(t *testing.T) {
	g := newGuest(t, 1, 4<<20)
	cfg := Config{Layout: g.layout(1024), Indirect: true}
	buf, table := g.area(2048), g.area(descSize*1024)
	for i := range uintptr(1024) {
		store64(table.Addr+descSize*i, buf.GPA+uint64(i))
		store64(table.Addr+descSize*i+8, 1|(descNext|descWrite)<<32|uint64(i+1)<<48)
	}
	store64(table.Addr+descSize*1023+8, 1024|descWrite<<32)
	store64(cfg.Desc, table.GPA)
	store64(cfg.Desc+8, descSize*1024|descIndirect<<32)
	store16(cfg.Avail+2, packet.BatchMax)
	d := g.device(cfg)
	b := packet.NewBatch()
	var list []packet.Ref
	tail := g.area(1000)
	for i := range packet.BatchMax {
		b.Add(make([]byte, packet.HeadMax), packet.Seg{Addr: tail.Addr, Len: 1000})
		list = append(list, packet.Ref{Frame: uint16(i)})
	}
	if err := d.Enqueue(b, list); err != nil {
		t.Fatal(err)
	}
	if most := 4 * movesMax; cap(d.moves) > most {
		t.Errorf("room for %d moves, at most %d", cap(d.moves), most)
	}
}
