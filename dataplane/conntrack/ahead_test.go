package conntrack

import (
	"math/rand/v2"
	"testing"
)

// TestAhead checks that what is asked for ahead changes nothing, whatever was expected: of
// twins of which one asks, both say the same of all packets.
func TestAhead(t *testing.T) {
	a, b := twin(t), twin(t)
	r := rand.New(rand.NewPCG(1, 8))
	now := uint64(1e9)
	for range 300 {
		now += uint64(r.IntN(1e8))
		n := r.IntN(AheadMax + 20) // more than fit are forgotten
		packets := make([]Packet, n)
		var refs [AheadMax]uint64
		for i := range packets {
			p := &packets[i]
			p.Proto, p.Len, p.Flags = ProtoTCP, 60, []uint16{FlagSYN, FlagACK, FlagFIN | FlagACK}[r.IntN(3)]
			p.Src, p.Dst, p.SrcPort, p.DstPort = Addr{1: 1}, Addr{1: 2}, uint16(r.IntN(400)), 80
			if r.IntN(2) == 0 {
				p.Tuple = p.Inverse()
			}
			a.Expect(i, p.Src[0], p.Src[1], p.Dst[0], p.Dst[1], uint64(p.SrcPort)<<48|uint64(p.DstPort)<<32, p.Proto, false)
			refs[i%AheadMax] = r.Uint64()
		}
		a.Ahead(n, uint16(1+r.IntN(2)))
		a.TouchAhead(&refs, r.IntN(AheadMax+1))
		for i := range packets {
			if got, want := commitOne(a, packets[i], now), commitOne(b, packets[i], now); got != want {
				t.Fatalf("packet %v %#x: state %v, without asking %v", packets[i].Tuple, packets[i].Flags, got, want)
			}
		}
	}
	if a.t.Stats().Created != b.t.Stats().Created || a.t.Stats().Created < 100 {
		t.Errorf("%d connections made, without asking %d", a.t.Stats().Created, b.t.Stats().Created)
	}
}

// twin is a worker of a table of its own.
func twin(t *testing.T) *Worker {
	table, err := New(Options{Capacity: 1024, Fragments: 16, Held: 4096, Affinity: 16})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	})
	w := table.Worker(0)
	w.Quiet()
	return w
}

// commitOne has a packet begin a connection, if it can, and returns its state.
func commitOne(w *Worker, p Packet, now uint64) State {
	w.Quiet()
	var v Verdict
	w.Track(1, &p, now, &v)
	w.Commit(1, &p, &Terms{}, now, &v)
	return v.State
}

// TestAheadAllocates checks that asking ahead does not allocate.
func TestAheadAllocates(t *testing.T) {
	w := twin(t)
	p := Packet{Tuple: Tuple{Src: Addr{1: 1}, Dst: Addr{1: 2}, SrcPort: 1, DstPort: 2, Proto: ProtoUDP}, Len: 60}
	commitOne(w, p, 1e9)
	var refs [AheadMax]uint64
	if n := testing.AllocsPerRun(100, func() {
		for i := range AheadMax {
			w.Expect(i, p.Src[0], p.Src[1], p.Dst[0], p.Dst[1], 1<<48|2<<32, p.Proto, false)
		}
		w.Ahead(AheadMax, 1)
		w.TouchAhead(&refs, AheadMax)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
