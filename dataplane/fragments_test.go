package dataplane

import (
	"bytes"
	"encoding/binary"
	"runtime/debug"
	"testing"
	"time"

	"millrace/dataplane/conntrack"
	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
)

// fragmented returns the fragments of an IPv4 frame without options, with size
// bytes of payload each.
func fragmented(f []byte, id uint16, size int) (out [][]byte) {
	for at := 34; at < len(f); at += size {
		end := min(at+size, len(f))
		g := append(bytes.Clone(f[:34]), f[at:end]...)
		binary.BigEndian.PutUint16(g[16:], uint16(len(g)-14))
		binary.BigEndian.PutUint16(g[18:], id)
		offset := uint16(at-34) / 8
		if end < len(f) {
			offset |= 0x2000
		}
		binary.BigEndian.PutUint16(g[20:], offset)
		binary.BigEndian.PutUint16(g[24:], 0)
		binary.BigEndian.PutUint16(g[24:], folded(sum(0, g[14:34])))
		out = append(out, g)
	}
	return out
}

// fragmented6 returns fragments of UDP over IPv6.
func fragmented6(id uint32, payload []byte, size int) (out [][]byte) {
	for at := 0; at < len(payload); at += size {
		end := min(at+size, len(payload))
		g := make([]byte, 14+40+8, 14+40+8+size)
		copy(g, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60})
		binary.BigEndian.PutUint16(g[18:], uint16(8+end-at))
		g[20], g[21], g[22+15], g[38+15], g[22], g[38] = 44, 64, 1, 2, 0xfd, 0xfd
		g[54] = conntrack.ProtoUDP
		offset := uint16(at)
		if end < len(payload) {
			offset |= 1
		}
		binary.BigEndian.PutUint16(g[56:], offset)
		binary.BigEndian.PutUint32(g[58:], id)
		out = append(out, append(g, payload[at:end]...))
	}
	return out
}

// send gives frames to a port, all in one turn or each in its own, and returns
// what leaves by another.
func (r *rig) send(from, to string, together bool, frames ...[]byte) [][]byte {
	r.t.Helper()
	r.devs[to].out = nil
	for _, f := range frames {
		r.devs[from].in = append(r.devs[from].in, f)
		if !together {
			r.turn()
		}
	}
	r.turn()
	r.turn()
	return r.devs[to].out
}

// joined puts the fragments of a datagram together again, in whatever order they are.
func joined(t *testing.T, frames [][]byte) []byte {
	t.Helper()
	out := make([]byte, 34)
	for _, f := range frames {
		if folded(sum(0, f[14:34])) != 0 {
			t.Fatalf("%x: wrong checksum of IP", f)
		}
		at := int(binary.BigEndian.Uint16(f[20:])&0x1fff) * 8
		if at == 0 {
			copy(out, f[:34])
			out[20], out[21] = 0, 0
			binary.BigEndian.PutUint16(out[24:], 0)
		}
		if n := 34 + at + len(f) - 34; n > len(out) {
			out = append(out, make([]byte, n-len(out))...)
		}
		copy(out[34+at:], f[34:])
	}
	binary.BigEndian.PutUint16(out[16:], uint16(len(out)-14))
	binary.BigEndian.PutUint16(out[24:], folded(sum(0, out[14:34])))
	return out
}

// TestFragments sends datagrams in fragments, in any order: all of them leave, translated
// as the first one is, and those that had to wait in the order in which they came.
func TestFragments(t *testing.T) {
	r := twoZones(t)
	x := ipv4{ap("10.0.0.1:1000"), ap("198.51.100.1:80"), conntrack.ProtoUDP}
	want := ipv4{ap("192.0.2.1:1000"), x.dst, x.proto}
	id := uint16(0)
	for _, together := range []bool{false, true} {
		for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
			id++
			pieces := fragmented(x.frame(0, 2992), id, 1000)
			out := r.send("a", "b", together, pieces[order[0]], pieces[order[1]], pieces[order[2]])
			var got ipv4
			if len(out) != 3 || !got.read(joined(t, out)) || got != want {
				t.Fatalf("order %v, together %v: %d leave: %x", order, together, len(out), out)
			}
			if order[2] == 0 && binary.BigEndian.Uint16(out[1][20:])&0x1fff != uint16(order[0]*125) {
				t.Errorf("order %v, together %v: those that waited left as %x", order, together, out)
			}
		}
	}
	body := make([]byte, 2000)
	copy(body, []byte{0, 53, 0, 54, 0x07, 0xd0})
	pieces := fragmented6(7, body, 800)
	if out := r.send("a", "b", false, pieces[2], pieces[1], pieces[0]); len(out) != 3 || !bytes.Equal(out[0], pieces[0]) || !bytes.Equal(out[1], pieces[2]) || !bytes.Equal(out[2], pieces[1]) {
		t.Errorf("IPv6: %d leave: %x", len(out), out)
	}
	if s := r.s.ConnectionStats(); s.FragmentsHeld != 12+2 || s.FragmentsReleased != s.FragmentsHeld {
		t.Errorf("held %d, released %d", s.FragmentsHeld, s.FragmentsReleased)
	}
}

// TestFragmentsInVain has later fragments wait whose first never comes: they are
// dropped in the end, and the account is right before and after.
func TestFragmentsInVain(t *testing.T) {
	r := twoZones(t)
	x := ipv4{ap("10.0.0.1:1000"), ap("198.51.100.1:80"), conntrack.ProtoUDP}
	for id := range uint16(10) {
		if out := r.send("a", "b", false, fragmented(x.frame(0, 1992), id, 1000)[1]); len(out) != 0 {
			t.Fatalf("a fragment without its first leaves: %x", out)
		}
	}
	stats := func() PortStats {
		p := r.s.Snapshot().Ports[0]
		if !p.Balanced() {
			t.Fatalf("not balanced: %+v", p)
		}
		return p
	}
	if s := stats(); s.RxFrames != 0 || s.RxDrops.Total() != 0 {
		t.Errorf("while they wait: %+v", s)
	}
	r.s.engine.crossing.base -= uint64(40 * sys.TSCHz())
	for deadline := time.Now().Add(time.Minute); stats().RxDrops[packet.ReasonCTFragment] < 10; {
		if time.Now().After(deadline) {
			t.Fatalf("after a minute: %+v", stats())
		}
		r.turn()
	}
	if s := stats(); s.RxFrames != 10 || s.RxBytes != 10*1034 {
		t.Errorf("in the end: %+v", s)
	}
}

// A backwards device receives fragments, the last one first, of a new datagram each time.
type backwards struct {
	fakeDevice
	frames [][]byte
	id     uint16
}

type backwardsRx backwards

func (d *backwards) Rx() []RxQueue { return []RxQueue{(*backwardsRx)(d)} }
func (q *backwardsRx) Rx(b *packet.Batch) {
	q.id++
	for i := len(q.frames) - 1; i >= 0; i-- {
		f := q.frames[i]
		binary.BigEndian.PutUint16(f[18:], q.id)
		b.Add(f[:packet.HeadMax], packet.Seg{Addr: packet.Addr(f[packet.HeadMax:]), Len: uintptr(len(f) - packet.HeadMax)})
	}
}
func (q *backwardsRx) Release()    {}
func (q *backwardsRx) Arm() bool   { return true }
func (q *backwardsRx) Disarm()     {}
func (q *backwardsRx) WakeFD() int { return wakePoll }
func (q *backwardsRx) Signal()     {}

// TestFragmentsAllocs: waiting and going on take no memory of Go's.
func TestFragmentsAllocs(t *testing.T) {
	x := ipv4{ap("10.0.0.1:1000"), ap("198.51.100.1:80"), conntrack.ProtoUDP}
	src := &backwards{frames: fragmented(x.frame(0, 3992), 0, 1000)}
	s := newStageOf(t, src)
	s.add(tracking(2, false))
	w := s.s.workers[0]
	for range 200 {
		w.turn()
	}
	if n := testing.AllocsPerRun(200, w.turn); n != 0 {
		t.Errorf("%v allocations in a turn", n)
	}
	if st := s.s.ConnectionStats(); st.FragmentsHeld < 1000 || st.FragmentsReleased != st.FragmentsHeld {
		t.Errorf("%+v", st)
	}
}

// TestFragmentsAsking has a fragment wait whose checksum its sender has left to others: it is
// finished by the time that it leaves, for what waits asks for nothing.
func TestFragmentsAsking(t *testing.T) {
	r := newRig(t)
	a := r.asking("a", takesAll, PortSpec{})
	b := r.asking("b", takesAll, PortSpec{})
	if err := r.s.SetBridge("br0", BridgeSettings{Pipeline: PipelineFlows}); err != nil {
		t.Fatal(err)
	}
	r.firewall()
	x := ipv4{ap("10.0.0.1:1000"), ap("198.51.100.1:80"), conntrack.ProtoUDP}
	pieces := fragmented(x.frame(0, 1992), 1, 1000)
	h := make([]byte, packet.HeaderLen)
	h[0] = 1
	binary.LittleEndian.PutUint16(h[6:], 34)
	binary.LittleEndian.PutUint16(h[8:], 20)
	want := bytes.Clone(pieces[1][34:])
	binary.BigEndian.PutUint16(want[20:], folded(sum(0, want)))
	for i, f := range [][]byte{pieces[1], pieces[0]} {
		a.push(asked{frame: f, header: [][]byte{h, make([]byte, packet.HeaderLen)}[i]})
		r.turn()
	}
	r.turn()
	if len(b.out) != 2 || !bytes.Equal(b.out[1][34:], want) || b.headers[1][0] != 0 {
		t.Errorf("%d leave: %x\nheaders %x\nwant the end of the last one to be %x", len(b.out), b.out, b.headers, want)
	}
	r.stats()
}

// TestFragmentsFault: a guest that takes its memory away before a fragment of its can wait is
// cut off, and the fragment is dropped; nothing else happens.
func TestFragmentsFault(t *testing.T) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	addr := noMemory(t)
	r := twoZones(t)
	x := ipv4{ap("10.0.0.1:1000"), ap("198.51.100.1:80"), conntrack.ProtoUDP}
	later := fragmented(x.frame(0, 1992), 1, 1000)[1]
	a, w := r.devs["a"], r.s.workers[0]
	a.owned, a.span = addr, 4095
	a.in = [][]byte{x.frame(0, 8)}
	r.turn()
	w.batch.Reset()
	w.batch.Add(later[:packet.HeadMax], packet.Seg{Addr: addr, Len: uintptr(len(later) - packet.HeadMax)})
	w.begin(w.rx[0])
	p := w.ports[1]
	p.rxFrames++
	p.rxBytes += uint64(len(later))
	w.classify(p)
	w.carry()
	if a.broken == "" || w.stats.Faults != 1 || p.rxDrops[packet.ReasonRxFault] != 1 {
		t.Errorf("broken %q, %d faults, drops %v", a.broken, w.stats.Faults, p.rxDrops)
	}
	r.turn()
	r.stats()
}
