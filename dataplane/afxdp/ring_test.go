package afxdp

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"millrace/dataplane/packet"
)

// starts are positions from which rings are tried: the last wraps around.
var starts = []uint32{0, 1, 63, 1<<32 - 5}

// rounds is how often tests fill rings.
func rounds() int {
	if testing.Short() {
		return 25
	}
	return 100
}

// TestReceive receives frames of all sizes and finds them as they were sent,
// however often the rings go round.
func TestReceive(t *testing.T) {
	for _, chunk := range []uint32{chunkSmall, chunkLarge} {
		for _, start := range starts {
			k := newKernel(t, chunk, 64, start)
			b := packet.NewBatch()
			sizes := []int{packet.FrameMin, 60, 128, 129, 1514, int(chunk) - headroom, int(chunk) - headroom + 1, 2 * (int(chunk) - headroom), packet.FrameMax}
			for round := range rounds() {
				var want [][]byte
				for i := range 8 {
					f := frameOf(sizes[(round+i)%len(sizes)], uint32(round*64+i))
					if k.receive(f) {
						want = append(want, f)
					}
				}
				b.Reset()
				if err := k.rcv.receive(b); err != nil {
					t.Fatal(err)
				}
				if b.N != len(want) {
					t.Fatalf("chunk %d, round %d: %d frames, want %d", chunk, round, b.N, len(want))
				}
				var bytesIn uint64
				for i, f := range want {
					bytesIn += uint64(len(f))
					if got := b.AppendTo(nil, i); !bytes.Equal(got, f) {
						t.Fatalf("chunk %d, round %d: frame %d of %d bytes differs (%d bytes)", chunk, round, i, len(f), len(got))
					}
					if h := b.Head(i); len(h) != min(len(f), packet.HeadMax) {
						t.Fatalf("head of %d bytes for a frame of %d", len(h), len(f))
					}
				}
				if b.Bytes != bytesIn {
					t.Fatalf("%d bytes counted, want %d", b.Bytes, bytesIn)
				}
				if err := k.rcv.give(); err != nil {
					t.Fatal(err)
				}
			}
			if n := k.fill.producer.Load() - k.fill.consumer.Load(); n != 64 {
				t.Errorf("chunk %d: kernel has %d chunks of 64 in the end", chunk, n)
			}
		}
	}
}

// TestReceiveLoan: chunks that are on loan are not given to the kernel.
func TestReceiveLoan(t *testing.T) {
	k := newKernel(t, chunkSmall, 64, 0)
	for i := range 64 {
		k.receive(frameOf(500, uint32(i)))
	}
	b := packet.NewBatch()
	if err := k.rcv.receive(b); err != nil || b.N != 64 {
		t.Fatalf("%d frames (%v)", b.N, err)
	}
	if _, ok := k.chunk(); ok {
		t.Error("the kernel has a chunk although all are on loan")
	}
	if k.rx.consumer.Load() != 0 {
		t.Error("entries are given up while they are on loan")
	}
	if err := k.rcv.give(); err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	for {
		a, ok := k.chunk()
		if !ok {
			break
		}
		if seen[a] || a%chunkSmall != 0 {
			t.Fatalf("chunk %#x comes twice or is none", a)
		}
		seen[a] = true
	}
	if len(seen) != 64 {
		t.Errorf("%d chunks came back, want 64", len(seen))
	}
}

// TestReceiveDrops: what no frame can be is dropped by name, and the next ones
// are received.
func TestReceiveDrops(t *testing.T) {
	k := newKernel(t, chunkSmall, 64, 0)
	good := frameOf(100, 1)
	k.receive(frameOf(packet.FrameMin-1, 2))
	k.receive(good)
	k.receive(nil)
	k.receive(frameOf(packet.FrameMax+1, 3))
	k.receive(good)
	k.rcv.miss(packet.ReasonRxRingFull, 7)
	k.rcv.miss(packet.ReasonRxNoBuffer, 2)
	k.rcv.miss(packet.ReasonRxTooLong, 0)
	b := packet.NewBatch()
	if err := k.rcv.receive(b); err != nil {
		t.Fatal(err)
	}
	if b.N != 2 || b.Bytes != 200 {
		t.Errorf("%d frames of %d bytes, want 2 of 200", b.N, b.Bytes)
	}
	for why, n := range map[packet.Reason]uint32{packet.ReasonRxTooShort: 2, packet.ReasonRxTooLong: 1, packet.ReasonRxRingFull: 7, packet.ReasonRxNoBuffer: 2} {
		if b.Early[why] != n {
			t.Errorf("%s: %d, want %d", why, b.Early[why], n)
		}
	}
	if b.NEarly != 12 {
		t.Errorf("%d drops in all, want 12", b.NEarly)
	}
}

// TestReceiveIncomplete: a frame whose last descriptor is not there yet waits.
func TestReceiveIncomplete(t *testing.T) {
	k := newKernel(t, chunkSmall, 64, 0)
	f := frameOf(5000, 1)
	k.receive(frameOf(60, 2))
	k.receive(f)
	all := k.rx.producer.Load()
	k.rx.producer.Store(all - 1)
	b := packet.NewBatch()
	if err := k.rcv.receive(b); err != nil || b.N != 1 {
		t.Fatalf("%d frames (%v), want one", b.N, err)
	}
	if err := k.rcv.give(); err != nil {
		t.Fatal(err)
	}
	k.rx.producer.Store(all)
	b.Reset()
	if err := k.rcv.receive(b); err != nil || b.N != 1 || !bytes.Equal(b.AppendTo(nil, 0), f) {
		t.Fatalf("%d frames (%v), want the long one", b.N, err)
	}
}

// TestReceiveBroken: what the kernel never writes is an error, not an access.
func TestReceiveBroken(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(k *kernel)
	}{
		{"address behind memory", func(k *kernel) { k.rx.setDesc(0, desc{1 << 40, 60, 0}) }},
		{"address of a chunk for sending", func(k *kernel) { k.rx.setDesc(0, desc{64 * chunkSmall, 60, 0}) }},
		{"length over the chunk's end", func(k *kernel) { k.rx.setDesc(0, desc{256, chunkSmall - 255, 0}) }},
		{"length that overflows", func(k *kernel) { k.rx.setDesc(0, desc{256, 1<<32 - 1, 0}) }},
		{"address that overflows", func(k *kernel) { k.rx.setDesc(0, desc{1<<64 - 1, 2, 0}) }},
		{"producer too far ahead", func(k *kernel) { k.rx.producer.Store(65) }},
		{"producer went back", func(k *kernel) { k.rx.producer.Store(1<<32 - 1) }},
		{"a chain without an end", func(k *kernel) {
			for i := range uint32(64) {
				k.rx.setDesc(i, desc{uint64(i) * chunkSmall, 10, optionMore})
			}
			k.rx.producer.Store(64)
		}},
	} {
		k := newKernel(t, chunkSmall, 64, 0)
		k.receive(frameOf(60, 1))
		tt.spoil(k)
		b := packet.NewBatch()
		if err := k.rcv.receive(b); !errors.Is(err, errBroken) {
			t.Errorf("%s: %v, want errBroken", tt.name, err)
		}
		if b.N != 0 {
			t.Errorf("%s: %d frames", tt.name, b.N)
		}
	}
}

// add puts a frame into a batch: its head, and the rest in pieces.
func add(b *packet.Batch, frame []byte, pieces int) {
	n := min(len(frame), packet.HeadMax)
	var segs []packet.Seg
	rest := frame[n:]
	for i := pieces; i > 0 && len(rest) > 0; i-- {
		size := (len(rest) + i - 1) / i
		segs = append(segs, packet.Seg{Addr: packet.Addr(rest), Len: uintptr(size)})
		rest = rest[size:]
	}
	if !b.Add(frame[:n], segs...) {
		panic("batch is full")
	}
}

// refsTo names the first n frames of a batch.
func refsTo(n int) []packet.Ref {
	list := make([]packet.Ref, n)
	for i := range list {
		list[i].Frame = uint16(i)
	}
	return list
}

// TestSend sends frames of all sizes in all pieces and finds them whole at the
// kernel's end, in order.
func TestSend(t *testing.T) {
	for _, chunk := range []uint32{chunkSmall, chunkLarge} {
		for _, start := range starts {
			k := newKernel(t, chunk, 64, start)
			b := packet.NewBatch()
			for round := range rounds() {
				b.Reset()
				var want [][]byte
				for i := range 8 {
					f := frameOf([]int{14, 60, 128, 129, 1514, int(chunk), int(chunk) + 1, packet.FrameMax}[(round+i)%8], uint32(round*64+i))
					want = append(want, f)
					add(b, f, 1+round%5)
				}
				b.Sent, b.SentBytes = 0, 0
				list := refsTo(len(want))
				if err := k.snd.send(b, list, 0); err != nil {
					t.Fatal(err)
				}
				if got := k.send(1); len(got) != 0 {
					t.Fatal("the kernel sees a frame before it is committed")
				}
				k.snd.commit(b)
				got := k.send(1 << 20)
				if len(got) != len(want) || b.Sent != len(want) {
					t.Fatalf("chunk %d, round %d: %d frames, %d counted, want %d", chunk, round, len(got), b.Sent, len(want))
				}
				for i := range got {
					if !bytes.Equal(got[i], want[i]) {
						t.Fatalf("chunk %d, round %d: frame %d of %d bytes differs", chunk, round, i, len(want[i]))
					}
				}
			}
		}
	}
}

// TestSendFull: frames for which there is no chunk are left, all after the first
// of them, and nothing is lost by an abort.
func TestSendFull(t *testing.T) {
	k := newKernel(t, chunkSmall, 64, 0)
	b := packet.NewBatch()
	for i := range 40 {
		add(b, frameOf(60, uint32(i)), 1)
	}
	list := refsTo(40)
	for range 3 {
		if err := k.snd.send(b, list, 0); err != nil {
			t.Fatal(err)
		}
		k.snd.abort()
	}
	if len(k.snd.free) != 64 || k.snd.ring.next != 0 {
		t.Fatalf("after aborts %d chunks are free, the ring is at %d", len(k.snd.free), k.snd.ring.next)
	}
	for range 2 {
		if err := k.snd.send(b, list, 0); err != nil {
			t.Fatal(err)
		}
		k.snd.commit(b)
	}
	if b.Sent != 64 {
		t.Errorf("%d frames sent, want as many as there are chunks", b.Sent)
	}
	if k.kicks == 0 {
		t.Error("the kernel was not asked to send when chunks ran out")
	}
	for i, ref := range list {
		want := packet.ReasonNone
		if i >= 24 {
			want = packet.ReasonTxFull
		}
		if ref.Why != want {
			t.Errorf("frame %d: %v, want %v", i, ref.Why, want)
		}
	}
	if got := k.send(1 << 20); len(got) != 64 {
		t.Errorf("%d frames at the kernel", len(got))
	}
	// A kernel that sends when it is asked to makes room at once.
	k.onKick = func() { k.send(1 << 20) }
	for round := range 10 {
		list := refsTo(40)
		if err := k.snd.send(b, list, 0); err != nil {
			t.Fatal(err)
		}
		k.snd.commit(b)
		if list[39].Why != packet.ReasonNone {
			t.Fatalf("round %d: %v", round, list[39].Why)
		}
	}
}

// TestSendTooLong: frames that are longer than the MTU, or than chunks where
// there is one for each, are left by name; those after them are sent.
func TestSendTooLong(t *testing.T) {
	k := newKernel(t, chunkSmall, 64, 0)
	tagged := frameOf(1518, 1)
	copy(tagged[12:], []byte{0x81, 0x00})
	untagged := frameOf(1515, 2)
	copy(untagged[12:], []byte{0x08, 0x00})
	b := packet.NewBatch()
	for _, f := range [][]byte{untagged, tagged, frameOf(60, 3), frameOf(1514, 4), frameOf(3000, 5)} {
		add(b, f, 1)
	}
	list := refsTo(5)
	if err := k.snd.send(b, list, 1500); err != nil {
		t.Fatal(err)
	}
	k.snd.commit(b)
	for i, want := range []packet.Reason{packet.ReasonTxTooLong, 0, 0, 0, packet.ReasonTxTooLong} {
		if list[i].Why != want {
			t.Errorf("frame %d: %v, want %v", i, list[i].Why, want)
		}
	}
	k.snd.multi = false
	list = refsTo(5)
	if err := k.snd.send(b, list, 0); err != nil {
		t.Fatal(err)
	}
	if list[4].Why != packet.ReasonTxTooLong || list[0].Why != 0 {
		t.Errorf("one chunk a frame: %v", list)
	}
}

// TestSendBroken: completions of chunks that the kernel does not have are
// errors.
func TestSendBroken(t *testing.T) {
	for _, tt := range []struct {
		name string
		addr uint64
		n    uint32
	}{
		{"a chunk for receiving", 0, 1}, {"behind memory", 1 << 40, 1}, {"within a chunk", 64*chunkSmall + 1, 1},
		{"a chunk that is free", 100 * chunkSmall, 1}, {"too many", 64 * chunkSmall, 65},
	} {
		k := newKernel(t, chunkSmall, 64, 0)
		for i := range tt.n {
			k.done.setAddr(i, tt.addr)
		}
		k.done.producer.Store(tt.n)
		if err := k.snd.reclaim(); !errors.Is(err, errBroken) {
			t.Errorf("%s: %v, want errBroken", tt.name, err)
		}
	}
}

// TestNoAllocs: neither half allocates for frames.
func TestNoAllocs(t *testing.T) {
	k := newKernel(t, chunkSmall, 128, 0)
	k.rcv.complete = true
	k.onKick = func() {}
	b := packet.NewBatch()
	list := refsTo(packet.BatchMax)
	frames := [][]byte{frameOf(60, 1), frameOf(1514, 2), unfinished(t, "tcp6", 700), frameOf(60, 3)}
	allocs := testing.AllocsPerRun(100, func() {
		for i := range 16 {
			f := frames[i%4]
			a, _ := k.chunk()
			copy(k.at(a+headroom, uint32(len(f))), f)
			k.rx.setDesc(k.rx.next, desc{a + headroom, uint32(len(f)), 0})
			k.rx.next++
		}
		k.rx.producer.Store(k.rx.next)
		b.Reset()
		if err := k.rcv.receive(b); err != nil || b.N != 16 {
			t.Fatal(b.N, err)
		}
		if err := k.snd.send(b, list[:16], 1500); err != nil {
			t.Fatal(err)
		}
		if err := k.rcv.give(); err != nil {
			t.Fatal(err)
		}
		k.snd.commit(b)
		for k.tx.next != k.tx.producer.Load() {
			k.done.setAddr(k.done.next, k.tx.desc(k.tx.next).addr)
			k.tx.next++
			k.done.next++
		}
		k.tx.consumer.Store(k.tx.next)
		k.done.producer.Store(k.done.next)
	})
	if allocs != 0 {
		t.Errorf("%v allocations a batch", allocs)
	}
}

// FuzzDescriptors has the kernel write anything into the rings that it fills:
// what is received lies in chunks for receiving, and nothing else happens than
// an error.
func FuzzDescriptors(f *testing.F) {
	f.Add(uint64(256), uint32(60), uint32(0), uint32(1), uint64(0))
	f.Add(uint64(1<<40), uint32(1<<31), uint32(1), uint32(64), uint64(1<<63))
	f.Fuzz(func(t *testing.T, addr uint64, size, options, produced uint32, done uint64) {
		k := newKernel(t, chunkSmall, 64, 0)
		rng := rand.New(rand.NewPCG(addr, uint64(size)))
		for i := range uint32(64) {
			d := desc{addr + uint64(i)*chunkSmall, size, options}
			if i%3 == 2 {
				d = desc{rng.Uint64() % (70 * chunkSmall), rng.Uint32() % 2100, rng.Uint32() % 2}
			}
			k.rx.setDesc(i, d)
			k.done.setAddr(i, done+uint64(i)*chunkSmall)
		}
		k.rx.producer.Store(produced)
		k.done.producer.Store(produced)
		b := packet.NewBatch()
		if err := k.rcv.receive(b); err != nil && !errors.Is(err, errBroken) {
			t.Fatal(err)
		}
		lo, hi := k.umem.base, k.umem.base+64*chunkSmall
		total := uint64(0)
		for i := range b.N {
			if n := uint32(len(b.AppendTo(nil, i))); n != b.Frames[i].Len || n < packet.FrameMin || n > packet.FrameMax {
				t.Fatalf("frame of %d bytes, says %d", n, b.Frames[i].Len)
			}
			total += uint64(b.Frames[i].Len)
			for _, s := range b.Tail(i) {
				if s.Addr < lo || s.Addr+s.Len > hi {
					t.Fatalf("segment %#x of %d bytes outside of memory", s.Addr, s.Len)
				}
			}
		}
		if total != b.Bytes {
			t.Fatalf("%d bytes counted of %d", b.Bytes, total)
		}
		_ = k.rcv.give()
		if n := k.fill.producer.Load() - k.fill.consumer.Load(); n > k.fill.size() {
			t.Fatalf("fill ring of %d has %d entries", k.fill.size(), n)
		}
		_ = k.snd.reclaim()
		if len(k.snd.free) > 64 {
			t.Fatalf("%d chunks are free of 64", len(k.snd.free))
		}
	})
}
