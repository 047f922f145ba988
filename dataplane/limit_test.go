package dataplane

import (
	"errors"
	"math"
	"sync"
	"testing"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
)

// TestLimits: of a batch as many frames pass as there are tokens for, both ways; the rest
// is counted, and a limit that is taken away is gone.
func TestLimits(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   Limit // of port a
		out  Limit // of port b
		long int   // of 60 frames
		pass int
	}{
		{"none", Limit{}, Limit{}, 60, 60},
		{"bytes in", Limit{Bytes: 1, Burst: 1840}, Limit{}, 60, 40},     // 46 are counted of each
		{"frames in", Limit{Frames: 1, FrameBurst: 5}, Limit{}, 60, 5},  //
		{"bytes out", Limit{}, Limit{Bytes: 1, Burst: 986}, 1000, 1},    //
		{"frames out", Limit{}, Limit{Frames: 1, FrameBurst: 7}, 60, 7}, //
		{"overdrawn", Limit{}, Limit{Bytes: 1, Burst: 1}, 1500, 1},      // else it would never pass
		{"both", Limit{Frames: 1, FrameBurst: 5}, Limit{Frames: 1, FrameBurst: 3}, 60, 3},
		{"less of two", Limit{Bytes: 1, Burst: 460, Frames: 1, FrameBurst: 20}, Limit{}, 60, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			a, b := r.port("a", PortSpec{Ingress: tt.in}), r.port("b", PortSpec{Egress: tt.out})
			r.turn() // a worker's clock is that of its last turn
			send := func() {
				b.out = nil
				for range 60 {
					a.in = append(a.in, eth(2, 1, 0, tt.long))
				}
				r.turn()
			}
			send()
			want := tt.pass
			if tt.in == tt.out {
				want = 60
			}
			st := r.stats()
			if len(b.out) != want {
				t.Errorf("%d of 60 frames passed, want %d", len(b.out), want)
			}
			if n := st["a"].RxDrops[packet.ReasonIngressRate] + st["b"].TxDrops[packet.ReasonEgressRate]; int(n) != 60-want {
				t.Errorf("%d are counted as dropped for their rate, want %d", n, 60-want)
			}
			for _, name := range []string{"a", "b"} {
				if _, err := r.s.SetPort(t.Context(), PortSpec{Bridge: "br0", Name: name, Type: TypeVhostServer}); err != nil {
					t.Fatal(err)
				}
			}
			if send(); len(b.out) != 60 {
				t.Errorf("without limits %d of 60 frames passed", len(b.out))
			}
			r.stats()
		})
	}
}

// TestLimitWired: frames of a port that is wired are held to its limit, too.
func TestLimitWired(t *testing.T) {
	r := newRig(t)
	a, b := r.port("a", PortSpec{Ingress: Limit{Frames: 1, FrameBurst: 9}}), r.port("b", PortSpec{Egress: Limit{Frames: 1, FrameBurst: 6}})
	if err := r.s.Wire("a", "b"); err != nil {
		t.Fatal(err)
	}
	r.turn()
	for range 64 {
		a.in = append(a.in, eth(2, 1, 0, 60))
	}
	r.turn()
	if st := r.stats(); len(b.out) != 6 || st["a"].RxDrops[packet.ReasonIngressRate] != 55 || st["b"].TxDrops[packet.ReasonEgressRate] != 3 {
		t.Errorf("%d frames passed; %v %v", len(b.out), st["a"].RxDrops, st["b"].TxDrops)
	}
}

// TestLimitRefused: a limit needs a burst, and a device.
func TestLimitRefused(t *testing.T) {
	r := newRig(t)
	for name, spec := range map[string]PortSpec{
		"burst":  {Type: TypeVhostServer, Ingress: Limit{Bytes: 1}},
		"frames": {Type: TypeVhostServer, Egress: Limit{Frames: 1}},
		"patch":  {Type: TypePatch, Peer: "x", Egress: Limit{Frames: 1, FrameBurst: 1}},
		"secure": {Type: TypePatch, Peer: "x", Sources: []Source{{MAC: [6]byte{2}}}},
	} {
		spec.Bridge, spec.Name = "br0", name
		if _, err := r.s.AddPort(t.Context(), spec); !errors.Is(err, ErrBadSpec) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestGaugeShared: however many workers take tokens at a time, no more are taken than
// come.
func TestGaugeShared(t *testing.T) {
	const rate, burst, workers, tries = 1e6, 1000, 4, 20000
	g := newGauge(rate, burst)
	g.perFrame = g.unit
	second := uint64(sys.TSCHz())
	passed := make([]int, workers)
	var running sync.WaitGroup
	for i := range workers {
		running.Go(func() {
			b := packet.NewBatch()
			list := make([]packet.Ref, 7)
			for at := range tries { // all of it in a tenth of a second
				passed[i] += g.pass(b, list, g.base+1<<37+uint64(at)*second/10/tries)
			}
		})
	}
	running.Wait()
	sum := 0
	for _, n := range passed {
		sum += n
	}
	if want := rate/10 + burst; math.Abs(float64(sum)-want) > want/50 {
		t.Errorf("%d frames passed, of %v that may", sum, want)
	}
}

// fullBatch is a batch of short frames, and the list of all of them.
func fullBatch() (*packet.Batch, []packet.Ref) {
	b := packet.NewBatch()
	for range packet.BatchMax {
		b.Add(eth(2, 1, 0, 60))
	}
	return b, newIdentity()[:]
}

// TestLimitAllocsPerRun: a limit allocates nothing.
func TestLimitAllocsPerRun(t *testing.T) {
	g := newLimiter(Limit{Bytes: 1 << 30, Burst: 1 << 20, Frames: 1 << 20, FrameBurst: 1 << 10})
	b, list := fullBatch()
	if n := testing.AllocsPerRun(100, func() { g.pass(b, list, sys.TSC()) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkLimit is what a limit costs a frame that passes.
func BenchmarkLimit(b *testing.B) {
	g := newLimiter(Limit{Bytes: 1 << 40, Burst: 1 << 40})
	batch, list := fullBatch()
	for b.Loop() {
		if n := g.pass(batch, list, sys.TSC()); n != len(list) {
			b.Fatalf("%d of %d frames pass", n, len(list))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/packet.BatchMax, "ns/frame")
}
