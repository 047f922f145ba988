package dataplane

import (
	"bytes"
	"sync"
	"testing"

	"millrace/dataplane/packet"
	"millrace/flowtable/flowcache"
)

// A fakeDevice is a port whose peer is the test: frames put into in are
// received, frames sent are in out.
type fakeDevice struct {
	mu      sync.Mutex
	in      [][]byte
	out     [][]byte
	staged  [][]byte
	bytes   uint64
	full    bool // takes nothing
	fault   fakeFault
	lent    int // frames lent and not released
	owned   uintptr
	span    uintptr // bytes of it beyond the first
	broken  string
	closed  bool
	signals int
	env     Env
}

// fakeFault says where the device panics as a device does whose peer has taken
// its memory away.
type fakeFault string

type memoryFault struct{ addr uintptr }

func (m memoryFault) Error() string { return "fault" }
func (m memoryFault) RuntimeError() {}
func (m memoryFault) Addr() uintptr { return m.addr }

func (d *fakeDevice) trip(at fakeFault, owned uintptr) {
	if d.fault == at {
		panic(memoryFault{owned})
	}
}

func (d *fakeDevice) Rx() []RxQueue { return []RxQueue{(*fakeRx)(d)} }
func (d *fakeDevice) Tx() TxQueue   { return (*fakeTx)(d) }
func (d *fakeDevice) State() DeviceState {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken != "" {
		return DeviceState{Link: LinkBroken, Reason: d.broken}
	}
	return DeviceState{Link: LinkUp}
}
func (d *fakeDevice) Owns(a uintptr) bool { return a-d.owned <= d.span }
func (d *fakeDevice) Break(reason string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken, d.fault = reason, ""
}
func (d *fakeDevice) Close() error { d.closed = true; return nil }

type fakeRx fakeDevice

func (q *fakeRx) Rx(b *packet.Batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := (*fakeDevice)(q)
	if len(q.in) == 0 || q.broken != "" {
		return
	}
	d.trip("rx", d.owned)
	for len(q.in) > 0 && b.N < b.Max() {
		f := q.in[0]
		q.in = q.in[1:]
		if len(f) < packet.FrameMin {
			b.DropEarly(packet.ReasonRxTooShort)
			continue
		}
		head := f[:min(len(f), packet.HeadMax)]
		var tail []packet.Seg
		if rest := f[len(head):]; len(rest) > 0 {
			tail = []packet.Seg{{Addr: packet.Addr(rest), Len: uintptr(len(rest))}}
		}
		b.Add(head, tail...)
	}
	q.lent = b.N
}
func (q *fakeRx) Release() {
	(*fakeDevice)(q).trip("release", q.owned)
	q.lent = 0
}
func (q *fakeRx) Arm() bool   { q.mu.Lock(); defer q.mu.Unlock(); return len(q.in) > 0 && q.broken == "" }
func (q *fakeRx) Disarm()     {}
func (q *fakeRx) WakeFD() int { return wakePoll }
func (q *fakeRx) Signal()     { q.signals++ }

type fakeTx fakeDevice

func (q *fakeTx) Tx(b *packet.Batch, list []packet.Ref) {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := (*fakeDevice)(q)
	d.trip("tx", d.owned)
	d.trip("source", 0x5000)
	for i := range list {
		if q.full {
			list[i].Why = packet.ReasonTxFull
			continue
		}
		f := b.AppendTo(nil, int(list[i].Frame))
		q.staged = append(q.staged, bytes.Clone(f))
		q.bytes += uint64(len(f))
	}
	d.trip("late", d.owned)
}
func (q *fakeTx) Commit(b *packet.Batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	(*fakeDevice)(q).trip("commit", q.owned)
	b.Sent += len(q.staged)
	b.SentBytes += q.bytes
	q.out = append(q.out, q.staged...)
	q.staged, q.bytes = nil, 0
}
func (q *fakeTx) Abort() { q.staged, q.bytes = nil, 0 }
func (q *fakeTx) Signal() {
	(*fakeDevice)(q).trip("signal", q.owned)
	q.signals++
}

// A rig is a switch with fake ports, driven turn by turn by the test: its
// worker has no goroutine.
type rig struct {
	t    testing.TB
	s    *Switch
	devs map[string]*fakeDevice
}

func newRig(t testing.TB) *rig {
	t.Helper()
	return newRigWith(t, &flowcache.CacheOptions{Exact: 1024, ExactWide: 256, Wild: 4096, WildWide: 256, Seen: 1024, ProgramBytes: 1 << 20})
}

// newRigWith makes a rig with a flow cache of other sizes; with nil, all sizes are as in use.
func newRigWith(t testing.TB, cache *flowcache.CacheOptions) *rig { return newRigFor(t, cache, 0) }

// newRigFor is newRigWith for so many connections.
func newRigFor(t testing.TB, cache *flowcache.CacheOptions, connections int) *rig {
	t.Helper()
	r := &rig{t: t, devs: map[string]*fakeDevice{}}
	open := func(spec PortSpec, e Env) (Device, error) {
		d := &fakeDevice{owned: 0x1000 * uintptr(len(r.devs)+1), env: e}
		r.devs[spec.Name] = d
		return d, nil
	}
	o := Options{CPUs: []int{0}, Openers: map[string]Opener{TypeVhostServer: open}, Cache: cache, Connections: connections, RulesMax: 1 << 12, RuleMemory: 2 << 20}
	if cache == nil {
		o.RulesMax, o.RuleMemory = 0, 0
	}
	var err error
	r.s, err = newSwitch(o)
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWorker(0, 0, PollBusy, r.s.engine, 1)
	if err != nil {
		t.Fatal(err)
	}
	close(w.stopped)
	r.s.workers = []*worker{w}
	go r.s.keepHouse()
	t.Cleanup(func() {
		if err := r.s.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// port adds a port with the settings of spec, to bridge br0 unless it says
// otherwise.
func (r *rig) port(name string, spec PortSpec) *fakeDevice {
	r.t.Helper()
	spec.Name = name
	if spec.Bridge == "" {
		spec.Bridge = "br0"
	}
	if spec.Type == "" {
		spec.Type = TypeVhostServer
	}
	if _, err := r.s.AddPort(r.t.Context(), spec); err != nil {
		r.t.Fatal(err)
	}
	return r.devs[name]
}

// turn lets the worker make one turn, through faults if there are any.
func (r *rig) turn() {
	w := r.s.workers[0]
	step := w.turn
	for done := false; !done; step = w.resume {
		func() {
			defer w.survive()
			step()
			done = true
		}()
	}
}

// stats returns the accounts by port and fails the test if one does not
// balance, or if all together do not.
func (r *rig) stats() map[string]PortStats {
	r.t.Helper()
	by := map[string]PortStats{}
	var in, out uint64
	for _, p := range r.s.Snapshot().Ports {
		if !p.Balanced() {
			r.t.Errorf("port %s does not balance: %+v", p.Name, p)
		}
		in += p.RxFrames + p.Copies + p.Finished.Segments
		out += p.TxFrames + p.RxDrops.Total() + p.TxDrops.Total() + p.Finished.Joined
		by[p.Name] = p
	}
	if in != out {
		r.t.Errorf("%d frames and copies came, %d went or were dropped", in, out)
	}
	return by
}

// eth makes a frame of n bytes from station src to dst, numbers that become
// addresses; a VLAN above 0 adds a tag. Station 255 is broadcast.
func eth(dst, src byte, vlan uint16, n int) []byte {
	mac := func(i byte) []byte {
		if i == 255 {
			return bytes.Repeat([]byte{255}, 6)
		}
		return []byte{2, 0, 0, 0, 0, i}
	}
	f := append(mac(dst), mac(src)...)
	if vlan > 0 {
		f = append(f, 0x81, 0, byte(vlan>>8), byte(vlan))
	}
	f = append(f, 0x08, 0)
	for i := len(f); i < n; i++ {
		f = append(f, byte(i))
	}
	return f
}

// A loopDevice receives a batch of one frame for ever, and allocates nothing.
type loopDevice struct {
	fakeDevice
	frame []byte
}

type loopRx loopDevice

func (d *loopDevice) Rx() []RxQueue { return []RxQueue{(*loopRx)(d)} }

func (q *loopRx) Rx(b *packet.Batch) {
	for range packet.BatchMax {
		b.Add(q.frame)
	}
}
func (q *loopRx) Release()    {}
func (q *loopRx) Arm() bool   { return true }
func (q *loopRx) Disarm()     {}
func (q *loopRx) WakeFD() int { return wakePoll }
func (q *loopRx) Signal()     {}
