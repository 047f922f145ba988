package afxdp

import (
	"encoding/binary"
	"testing"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
)

// A kernel is the other end of a socket's rings, in ordinary memory:
//
//	producer | consumer | flags | (gap) | entries
type kernel struct {
	umem               *umem
	rx, tx, fill, done *far
	rcv                *receiver
	snd                *sender
	kicks              int
	onKick             func()
}

// far is one ring as the kernel sees it.
type far struct {
	ring
	mem  []byte
	next uint32
}

func newFar(t testing.TB, entries uint32, size uintptr) *far {
	t.Helper()
	m, err := sys.MapAnonymous(64 + int(entries)*int(size))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	base := packet.Addr(m.Bytes())
	return &far{mem: m.Bytes(), ring: ring{producer: word(base), consumer: word(base + 4), flags: word(base + 8), entries: base + 64, mask: entries - 1}}
}

// newKernel makes both ends of a socket with chunks of a size, n of them to
// receive and to send. Positions begin at start.
func newKernel(t testing.TB, chunk, n, start uint32) *kernel {
	t.Helper()
	u, err := newUmem(chunk, n, n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.close() })
	k := &kernel{umem: u, rx: newFar(t, n, descSize), tx: newFar(t, n, descSize), fill: newFar(t, 2*n, addrSize), done: newFar(t, n, addrSize)}
	for _, f := range []*far{k.rx, k.tx, k.fill, k.done} {
		f.producer.Store(start)
		f.consumer.Store(start)
		f.next = start
	}
	k.rcv = newReceiver(u, k.rx.ring, k.fill.ring)
	k.snd = newSender(u, k.tx.ring, k.done.ring, true, func() {
		k.kicks++
		if k.onKick != nil {
			k.onKick()
		}
	})
	if err := k.rcv.stock(); err != nil {
		t.Fatal(err)
	}
	return k
}

// at views n bytes of memory at addr.
func (k *kernel) at(addr uint64, n uint32) []byte {
	return k.umem.mem.Bytes()[addr : addr+uint64(n)]
}

// chunk takes a chunk from the fill ring, as the kernel does to receive.
func (k *kernel) chunk() (uint64, bool) {
	if k.fill.next == k.fill.producer.Load() {
		return 0, false
	}
	a := k.fill.addr(k.fill.next)
	k.fill.next++
	k.fill.consumer.Store(k.fill.next)
	return a, true
}

// receive puts a frame into the receive ring, over as many chunks as it takes.
// It reports false if there are not enough.
func (k *kernel) receive(frame []byte) bool {
	room := k.umem.chunk() - headroom
	for first := true; first || len(frame) > 0; first = false {
		a, ok := k.chunk()
		if !ok {
			return false
		}
		n := min(uint32(len(frame)), room)
		copy(k.at(a+headroom, n), frame)
		frame = frame[n:]
		d := desc{a + headroom, n, 0}
		if len(frame) > 0 {
			d.options = optionMore
		}
		k.rx.setDesc(k.rx.next, d)
		k.rx.next++
	}
	k.rx.producer.Store(k.rx.next)
	return true
}

// send takes frames from the transmit ring, up to most, and completes their
// chunks.
func (k *kernel) send(most int) (frames [][]byte) {
	var frame []byte
	for len(frames) < most && k.tx.next != k.tx.producer.Load() {
		d := k.tx.desc(k.tx.next)
		k.tx.next++
		frame = append(frame, k.at(d.addr, d.len)...)
		k.done.setAddr(k.done.next, d.addr)
		k.done.next++
		if d.options&optionMore == 0 {
			frames = append(frames, frame)
			frame = nil
		}
	}
	k.tx.consumer.Store(k.tx.next)
	k.done.producer.Store(k.done.next)
	return frames
}

// frameOf is a frame of n bytes that no other has.
func frameOf(n int, seed uint32) []byte {
	f := make([]byte, n)
	for i := 0; i+4 <= n; i += 4 {
		binary.LittleEndian.PutUint32(f[i:], seed*2654435761+uint32(i))
	}
	return f
}
