package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/dataplane/sys"
)

// streamsRig is a crewRig with two workers and some wires, each with a sender that
// numbers its frames.
type streamsRig struct {
	*crewRig
	in, out []*wideDevice
	sent    []atomic.Uint32
	stop    chan struct{}
	halted  sync.Once
	ended   sync.WaitGroup
}

// newStreams starts a sender on each of n wires, which sends some frames and pauses.
func newStreams(t *testing.T, n int) *streamsRig {
	t.Helper()
	r := &streamsRig{crewRig: newCrewRig(t, 1), sent: make([]atomic.Uint32, n), stop: make(chan struct{})}
	if err := r.s.SetWorkers(r.cpus); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.end) // also of a test that has failed: others count what is allocated meanwhile
	for i := range n {
		a, b := fmt.Sprint("in", i), fmt.Sprint("out", i)
		r.in, r.out = append(r.in, r.port(a, PortSpec{})), append(r.out, r.port(b, PortSpec{}))
		if err := r.s.Wire(a, b); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// send has stream i send bursts of that many frames until the test halts it.
func (r *streamsRig) send(i, burst int) {
	r.ended.Go(func() {
		for {
			d := r.in[i]
			d.mu.Lock()
			for range burst {
				d.in = append(d.in, numbered(2, 1, r.sent[i].Add(1)-1))
			}
			d.mu.Unlock()
			select {
			case <-r.stop:
				return
			case <-time.After(200 * time.Microsecond):
			}
		}
	})
}

// end ends the senders.
func (r *streamsRig) end() {
	r.halted.Do(func() { close(r.stop) })
	r.ended.Wait()
}

// halt ends the senders, and checks that every frame has come, once, in order.
func (r *streamsRig) halt() {
	r.t.Helper()
	r.end()
	for i, d := range r.out {
		n := int(r.sent[i].Load())
		eventually(r.t, fmt.Sprintf("all %d frames of stream %d", n, i), func() bool {
			d.mu.Lock()
			defer d.mu.Unlock()
			return len(d.out) >= n
		})
		for j, f := range d.out {
			if got := binary.BigEndian.Uint32(f[20:]); got != uint32(j) {
				r.t.Fatalf("stream %d: frame %d of %d is number %d", i, j, n, got)
			}
		}
	}
	r.check()
}

// TestQueuesMove moves receive queues from worker to worker while frames come by them:
// all frames arrive, once and in order, and ports tell where their queues are.
func TestQueuesMove(t *testing.T) {
	r := newStreams(t, 4)
	r.send(0, 20)
	r.send(1, 20)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for range 100 {
		to := map[rxPlace]int{}
		r.s.mu.Lock()
		for _, p := range r.s.byNumber() {
			if random.IntN(2) == 0 {
				to[rxPlace{p.number, 0}] = random.IntN(2)
			}
		}
		r.s.move(to)
		for i, w := range r.s.workers {
			held := map[rxPlace]bool{}
			w.do(func() {
				for _, q := range w.live {
					held[rxPlace{q.port.number, q.index}] = true
				}
			})
			for at, n := range to {
				if held[at] != (n == i) {
					t.Errorf("seed %d: worker %d has the queue of port %d: %v, it is worker %d's", seed, i, at.port, held[at], n)
				}
			}
		}
		for _, p := range r.s.byNumber() {
			if w, ok := to[rxPlace{p.number, 0}]; ok && (p.dealt[0] != w || p.cpus[0] != r.cpus[w]) {
				t.Errorf("seed %d: port %d is said to be at %v, CPUs %v", seed, p.number, p.dealt, p.cpus)
			}
		}
		r.s.mu.Unlock()
	}
	r.halt()
}

// TestRebalance has two busy queues on one worker: they are parted, the estimate says
// so before, and then there is nothing left to do. How much better it is depends on the loads
// that were measured: a queue has the time, too, in which the kernel gives the CPU to others.
func TestRebalance(t *testing.T) {
	r := newStreams(t, 3)
	all := map[rxPlace]int{} // the inputs to worker 0, the outputs to worker 1
	r.s.mu.Lock()
	for _, p := range r.s.byNumber() {
		all[rxPlace{p.number, 0}] = map[bool]int{true: 0, false: 1}[p.wire != ""]
	}
	r.s.move(all)
	r.s.mu.Unlock()
	r.send(0, 40)
	r.send(1, 40)
	dry, err := r.s.Rebalance(t.Context(), RebalanceRequest{DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	busy := dry.Before.Workers[0]
	if len(busy.Queues) != 3 {
		t.Fatalf("loads: %+v", busy)
	}
	a, b := busy.Queues[0].Load, busy.Queues[1].Load
	if want := improvement([]float64{a + b, 0}, []float64{a, b}); dry.Done || dry.Moves != 1 || math.Abs(dry.Improvement-want) > 1e-6 || dry.Before.Span < LoadLeast {
		t.Errorf("dry run: %+v, want an improvement of %v", dry, want)
	}
	if busy.Queues[0].Load <= 0 || busy.Queues[0].Frames == 0 || busy.Queues[0].Cycles <= 0 || busy.Queues[2].Load != 0 {
		t.Errorf("loads: %+v", busy)
	}
	if sum := a + b; sum < busy.Load*.99 || sum > busy.Load*1.01 {
		t.Errorf("queues have loads of %v in all, their worker has %v", sum, busy.Load)
	}
	for _, tt := range []struct {
		name string
		r    RebalanceRequest
	}{
		{"not so busy", RebalanceRequest{Load: 1.01}},
		{"not so much better", RebalanceRequest{Improvement: 1.01}},
		{"not known for long", RebalanceRequest{WholeSpan: true}},
	} {
		if got, err := r.s.Rebalance(t.Context(), tt.r); err != nil || got.Done || got.Why == "" {
			t.Errorf("%s: %+v, %v", tt.name, got, err)
		}
	}
	done, err := r.s.Rebalance(t.Context(), RebalanceRequest{})
	if err != nil || !done.Done || done.Moves != 1 {
		t.Fatalf("%+v, %v", done, err)
	}
	p0, _ := r.s.Port("in0")
	p1, _ := r.s.Port("in1")
	if p0.Workers[0] == p1.Workers[0] {
		t.Errorf("both are on CPU %d", p0.Workers[0])
	}
	again, err := r.s.Rebalance(t.Context(), RebalanceRequest{})
	if err != nil || again.Done {
		t.Errorf("again: %+v, %v", again, err)
	}
	r.halt()
}

// TestRebalanceWithOne: with one worker there is nothing to deal.
func TestRebalanceWithOne(t *testing.T) {
	r := newCrewRig(t, 2)
	r.port("a", PortSpec{})
	got, err := r.s.Rebalance(t.Context(), RebalanceRequest{})
	if err != nil || got.Done || got.Moves != 0 || got.Why != "there is one worker only" {
		t.Errorf("%+v, %v", got, err)
	}
	if err := r.s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := r.s.Rebalance(t.Context(), RebalanceRequest{}); !errors.Is(err, ErrIsClosing) {
		t.Errorf("of a closed switch: %v", err)
	}
}

// TestNewWorkersHaveLoads: workers that are set deal by what was measured before.
func TestNewWorkersHaveLoads(t *testing.T) {
	r := newStreams(t, 4)
	if err := r.s.SetWorkers(r.cpus[:1]); err != nil {
		t.Fatal(err)
	}
	r.send(0, 40)
	r.send(1, 40)
	eventually(t, "both have a load", func() bool {
		l := r.s.Loads(0)
		return l.Workers[0].Queues[0].Load > 0 && l.Workers[0].Queues[1].Load > 0
	})
	if err := r.s.SetWorkers(r.cpus); err != nil {
		t.Fatal(err)
	}
	p0, _ := r.s.Port("in0")
	p1, _ := r.s.Port("in1")
	if p0.Workers[0] == p1.Workers[0] {
		t.Errorf("both are on CPU %d", p0.Workers[0])
	}
	r.halt()
}

// TestLoadLog: a span begins with the youngest sample that is old enough.
func TestLoadLog(t *testing.T) {
	var l loadLog
	if l.begun() {
		t.Error("it has begun by itself")
	}
	second := uint64(sys.TSCHz())
	for i := range uint64(20) {
		l.note(loadSample{at: i * 5 * second})
	}
	now := uint64(97) * second
	for span, want := range map[time.Duration]uint64{time.Second: 95, 1500 * time.Millisecond: 95, 3 * time.Second: 90, LoadSpan - time.Second: 35, time.Hour: 35} {
		if got := l.before(now, span).at / second; got != want {
			t.Errorf("span %v begins at %d s, want %d s", span, got, want)
		}
	}
	l.forget(loadSample{at: now})
	if got := l.before(now+second, time.Hour).at; got != now {
		t.Errorf("after forget: %d", got)
	}
}
