package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"millrace/dataplane/sys"
	"millrace/waittest"
)

// numbered is a frame from station src to dst that carries n.
func numbered(dst, src byte, n uint32) []byte {
	f := eth(dst, src, 0, 64)
	binary.BigEndian.PutUint32(f[20:], n)
	return f
}

// A crewRig is a switch with workers that run, and fake ports.
type crewRig struct {
	t    *testing.T
	s    *Switch
	cpus []int

	mu   sync.Mutex
	devs map[string]*wideDevice
}

// newCrewRig starts a switch with one worker. Its CPUs may be fewer than a test
// wants workers: it tells.
func newCrewRig(t *testing.T, queues int) *crewRig {
	t.Helper()
	cpus, err := sys.AllowedCPUs()
	if err != nil {
		t.Fatal(err)
	}
	if len(cpus) < 2 {
		t.Skip("needs two CPUs")
	}
	before := runtime.GOMAXPROCS(4) // workers spin here
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	r := &crewRig{t: t, cpus: cpus[:2], devs: map[string]*wideDevice{}}
	open := func(spec PortSpec, e Env) (Device, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		d := &wideDevice{n: queues, fakeDevice: fakeDevice{env: e}}
		r.devs[spec.Name] = d
		return d, nil
	}
	r.s, err = New(Options{CPUs: r.cpus[:1], Allowed: r.cpus, Openers: map[string]Opener{TypeVhostServer: open}, RulesMax: 1 << 12, RuleMemory: 2 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.s.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *crewRig) port(name string, spec PortSpec) *wideDevice {
	r.t.Helper()
	spec.Name, spec.Bridge, spec.Type = name, "br0", TypeVhostServer
	if _, err := r.s.AddPort(r.t.Context(), spec); err != nil {
		r.t.Fatal(err)
	}
	return r.devs[name]
}

// check fails the test if an account does not balance, or if all together do
// not.
func (r *crewRig) check() map[string]PortStats {
	r.t.Helper()
	return (&rig{t: r.t, s: r.s}).stats()
}

// TestSetWorkers moves workers about while two stations send to each other:
// every frame comes once and in order, addresses stay known, and the accounts
// are exact.
func TestSetWorkers(t *testing.T) {
	r := newCrewRig(t, 1)
	a, b := r.port("a", PortSpec{}), r.port("b", PortSpec{})
	push := func(d *wideDevice, f []byte) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.in = append(d.in, f)
	}
	taken := func(d *wideDevice) int {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.out)
	}
	push(b, eth(1, 2, 0, 60)) // to a, unknown yet: makes station 2 known
	eventually(t, "b's first frame comes to a", func() bool { return taken(a) == 1 })
	stop, ended, sent := make(chan struct{}), make(chan struct{}), uint32(0)
	go func() {
		defer close(ended)
		for {
			for range 50 {
				push(a, numbered(2, 1, sent))
				sent++
			}
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Microsecond):
			}
		}
	}()
	places := [][]int{{r.cpus[1]}, {r.cpus[0], r.cpus[1]}, {r.cpus[1], r.cpus[0]}, {r.cpus[0]}, {r.cpus[0]}}
	for i := range 60 {
		cpus := places[i%len(places)]
		if err := r.s.SetWorkers(cpus); err != nil {
			t.Fatal(err)
		}
		if got := r.s.Workers(); !slices.Equal(got, cpus) {
			t.Fatalf("workers on %v, want %v", got, cpus)
		}
		if got := len(r.s.Snapshot().Workers); got != len(cpus) {
			t.Fatalf("%d workers in the account, want %d", got, len(cpus))
		}
	}
	close(stop)
	<-ended
	eventually(t, "all frames have come", func() bool { return taken(b) >= int(sent) })
	for i, f := range b.out {
		if n := binary.BigEndian.Uint32(f[20:]); n != uint32(i) {
			t.Fatalf("frame %d of %d is number %d", i, sent, n)
		}
	}
	st := r.check()
	if st["a"].RxFrames != uint64(sent) || st["b"].TxFrames != uint64(sent) || st["b"].RxFrames != 1 {
		t.Errorf("%d frames sent: %+v", sent, st)
	}
	macs, err := r.s.MACs("br0")
	if err != nil || len(macs) != 2 || r.s.Bridges()[0].Learned != 2 {
		t.Errorf("addresses %+v, %v", macs, err)
	}
	if err := r.s.DelPort(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if st := r.check(); st["(removed)"].RxFrames != uint64(sent) {
		t.Errorf("the account of the removed port: %+v", st["(removed)"])
	}
}

// TestSetWorkersIsTold: ports say that other CPUs poll their queues now.
func TestSetWorkersIsTold(t *testing.T) {
	r := newCrewRig(t, 1)
	r.port("a", PortSpec{})
	events := r.s.Watch(t.Context())
	<-events // it is there
	if err := r.s.SetWorkers(r.cpus[1:]); err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-events:
		if e.Kind != EventChanged || e.Port.Name != "a" || !slices.Equal(e.Port.Workers, r.cpus[1:]) {
			t.Errorf("%+v", e)
		}
	default:
		t.Error("nobody is told")
	}
}

// TestNewWorkerKnowsAll: VLANs, wires, patch ports, floods and numbers are as
// they were for the worker before.
func TestNewWorkerKnowsAll(t *testing.T) {
	r := newCrewRig(t, 1)
	r.port("gone", PortSpec{})
	a, b, c := r.port("a", PortSpec{Tag: 5}), r.port("b", PortSpec{Tag: 5}), r.port("c", PortSpec{})
	d, e := r.port("d", PortSpec{}), r.port("e", PortSpec{})
	for _, p := range []PortSpec{{Bridge: "br0", Name: "x", Type: TypePatch, Peer: "y", Tag: 5}, {Bridge: "br1", Name: "y", Type: TypePatch, Peer: "x"}} {
		if _, err := r.s.AddPort(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	other := PortSpec{Bridge: "br1", Name: "f", Type: TypeVhostServer}
	if _, err := r.s.AddPort(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	f := r.devs["f"]
	err := errors.Join(r.s.DelPort(t.Context(), "gone"), r.s.Wire("d", "e"), r.s.SetBridge("br1", BridgeSettings{Flood: []uint16{0}}))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		if err := r.s.SetWorkers(r.cpus[(i+1)%2 : (i+1)%2+1]); err != nil {
			t.Fatal(err)
		}
		n := i + 1
		for _, in := range []*wideDevice{a, d} {
			in.mu.Lock()
			in.in = append(in.in, eth(9, 1, 0, 60))
			in.mu.Unlock()
		}
		count := func(d *wideDevice) int {
			d.mu.Lock()
			defer d.mu.Unlock()
			return len(d.out)
		}
		eventually(t, "copies", func() bool {
			return count(b) == n && count(f) == n && count(c) == n && count(d) == n && count(e) == 2*n
		})
	}
	if len(a.out) != 0 {
		t.Errorf("a has %d frames", len(a.out))
	}
	for _, br := range r.s.Bridges() {
		if want := map[string]int{"br0": 1, "br1": 0}[br.Name]; br.MACs != want {
			t.Errorf("%s knows %d addresses, want %d", br.Name, br.MACs, want)
		}
	}
	r.check()
}

// TestNewWorkerKnowsTime: what a new worker learns at once is not old already.
func TestNewWorkerKnowsTime(t *testing.T) {
	r := newCrewRig(t, 1)
	a := r.port("a", PortSpec{})
	r.s.mu.Lock()
	r.s.engine.epoch = r.s.engine.epoch.Add(-1000 * time.Second) // as if it had run for long
	r.s.opts.Poll = PollBusy                                     // a sleep would tell it the time
	r.s.mu.Unlock()
	a.mu.Lock()
	a.in = append(a.in, eth(255, 1, 0, 60))
	a.broken = "not yet" // until the new worker is there
	a.mu.Unlock()
	if err := r.s.SetWorkers(r.cpus[1:]); err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	a.broken = ""
	a.mu.Unlock()
	var macs []MACEntry
	eventually(t, "an address", func() bool {
		macs, _ = r.s.MACs("br0")
		a.mu.Lock()
		defer a.mu.Unlock()
		a.in = append(a.in, eth(255, 1, 0, 60)) // nothing is learned while somebody lists addresses
		return len(macs) == 1
	})
	if macs[0].Age > 500*time.Second {
		t.Errorf("%+v", macs[0])
	}
}

// TestSetWorkersRefuses leaves all as it was.
func TestSetWorkersRefuses(t *testing.T) {
	r := newCrewRig(t, 8)
	r.port("a", PortSpec{})
	for _, tt := range []struct {
		name string
		cpus []int
	}{
		{"none", nil},
		{"twice", []int{r.cpus[0], r.cpus[0]}},
		{"not there", []int{r.cpus[0], 1000}},
		{"not allowed", []int{r.cpus[1] + 1}},
	} {
		if err := r.s.SetWorkers(tt.cpus); !errors.Is(err, ErrBadCPUs) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	r.s.opts.Allowed = nil // so that the kernel is asked
	if err := r.s.SetWorkers([]int{r.cpus[1], 1000}); err == nil {
		t.Error("a CPU that is not there")
	}
	tuned := ""
	r.s.opts.Tune = func(cpus, _ []int) error { tuned += fmt.Sprint(cpus); return nil }
	if err := r.s.SetWorkers([]int{r.cpus[1]}); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprint([]int{r.cpus[1], r.cpus[0]}, r.cpus[1:2]); tuned != fmt.Sprint([]int{r.cpus[1], r.cpus[0]})+fmt.Sprint(r.cpus[1:2]) {
		t.Errorf("tuned for %s, want %s", tuned, want)
	}
	r.s.opts.Tune = func([]int, []int) error { return errors.New("no") }
	if err := r.s.SetWorkers(r.cpus[:1]); err == nil || !slices.Equal(r.s.Workers(), r.cpus[1:2]) {
		t.Errorf("%v, workers on %v", err, r.s.Workers())
	}
	if p, err := r.s.Port("a"); err != nil || len(p.Workers) != 8 || p.Workers[7] != r.cpus[1] {
		t.Errorf("port %+v, %v", p, err)
	}
}

// TestQuiesceMeetsMoves: devices quiesce and ports come and go while workers
// move, and all of it comes to an end.
func TestQuiesceMeetsMoves(t *testing.T) {
	r := newCrewRig(t, 2)
	a := r.port("a", PortSpec{})
	stop := make(chan struct{})
	var running sync.WaitGroup
	for _, fn := range []func(){
		a.env.Quiesce,
		func() { r.s.Snapshot() },
		func() {
			_, err := r.s.AddPort(t.Context(), PortSpec{Bridge: "br1", Name: "b", Type: TypePatch, Peer: "c"})
			if err = errors.Join(err, r.s.DelPort(t.Context(), "b")); err != nil {
				t.Error(err)
			}
		},
	} {
		running.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					fn()
				}
			}
		})
	}
	for i := range 40 {
		if err := r.s.SetWorkers([][]int{r.cpus, r.cpus[:1], r.cpus[1:]}[i%3]); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	running.Wait()
	if n := len(r.s.names()); n != 1 {
		t.Errorf("%d ports", n)
	}
}

// eventually waits for ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	waittest.Until(t, what, ok)
}
