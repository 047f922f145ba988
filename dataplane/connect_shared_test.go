package dataplane

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"

	"millrace/dataplane/conntrack"
	"millrace/dataplane/packet"
)

// A lanesDevice receives by several queues what each draws for itself, and sends under a
// lock, as devices do.
type lanesDevice struct {
	fakeDevice
	lanes []*lane
	sent  func(f []byte)
}

// A lane is one receive queue.
type lane struct {
	rnd    *rand.Rand
	draw   func(r *rand.Rand) []byte
	frames [packet.BatchMax][]byte // in the hands of the worker
}

type lanesTx lanesDevice

func (d *lanesDevice) Rx() (queues []RxQueue) {
	for _, l := range d.lanes {
		queues = append(queues, l)
	}
	return queues
}
func (d *lanesDevice) Tx() TxQueue { return (*lanesTx)(d) }

func (l *lane) Rx(b *packet.Batch) {
	for i := range 16 {
		f := l.draw(l.rnd)
		l.frames[i] = f
		if n := packet.HeadMax; len(f) > n {
			b.Add(f[:n], packet.Seg{Addr: packet.Addr(f[n:]), Len: uintptr(len(f) - n)})
		} else {
			b.Add(f)
		}
	}
}
func (l *lane) Release()    {}
func (l *lane) Arm() bool   { return true }
func (l *lane) Disarm()     {}
func (l *lane) WakeFD() int { return wakePoll }
func (l *lane) Signal()     {}

func (q *lanesTx) Tx(b *packet.Batch, list []packet.Ref) {
	q.mu.Lock() // until Commit
	for i := range list {
		f := b.AppendTo(nil, int(list[i].Frame))
		q.staged = append(q.staged, f)
		q.bytes += uint64(len(f))
	}
}
func (q *lanesTx) Commit(b *packet.Batch) {
	b.Sent, b.SentBytes = b.Sent+len(q.staged), b.SentBytes+q.bytes
	for _, f := range q.staged {
		q.sent(f)
	}
	q.Abort()
}
func (q *lanesTx) Abort() {
	q.staged, q.bytes = nil, 0
	q.mu.Unlock()
}
func (q *lanesTx) Signal() {}

// sharedFlows draws packets of few connections: those of clients, and answers to what
// they become.
func sharedFlows(back bool) func(r *rand.Rand) []byte {
	return func(r *rand.Rand) []byte {
		n := uint16(1000 + r.IntN(24))
		client := netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), n)
		x := ipv4{client, ap("198.51.100.1:80"), conntrack.ProtoUDP}
		if back {
			x = ipv4{x.dst, netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), n), x.proto}
		}
		if n%2 == 0 {
			x.proto = conntrack.ProtoTCP
			return x.frame([]byte{2, 16, 16, 16, 16, 18, 17, 4}[r.IntN(8)], r.IntN(200))
		}
		if n%4 == 1 {
			return x.frame(0, r.IntN(200))
		}
		pieces := fragmented(x.frame(0, 392), uint16(r.IntN(8)), 200)
		return pieces[r.IntN(len(pieces))]
	}
}

// TestSharedConnections has four workers carry the same connections at once, in both directions,
// with fragments whose pieces come to different workers, while zones are flushed:
// what leaves is translated, checksums are right, accounts and the table's books agree.
func TestSharedConnections(t *testing.T) {
	const workers = 4
	r := newRig(t)
	for id := 1; id < workers; id++ {
		w, err := newWorker(id, id, PollBusy, r.s.engine, workers)
		if err != nil {
			t.Fatal(err)
		}
		close(w.stopped)
		r.s.workers = append(r.s.workers, w)
	}
	left := map[string]int{}
	for _, name := range []string{"a", "b"} {
		d := &lanesDevice{sent: func(f []byte) { r.checkShared(name, f, left) }}
		for i := range uint64(workers) {
			d.lanes = append(d.lanes, &lane{rnd: rand.New(rand.NewPCG(i, 7)), draw: sharedFlows(name == "b")})
		}
		r.s.opts.Openers[name] = func(PortSpec, Env) (Device, error) { return d, nil }
		r.port(name, PortSpec{Type: name})
	}
	if err := r.s.SetBridge("br0", BridgeSettings{Pipeline: PipelineFlows}); err != nil {
		t.Fatal(err)
	}
	r.firewall()
	turns := 1500
	if raceOn {
		turns = 300
	}
	var running sync.WaitGroup
	for _, w := range r.s.workers {
		running.Go(func() {
			for range turns {
				w.turn()
			}
		})
	}
	for i := range 20 {
		r.s.FlushConnections(uint16(5 + i%2))
	}
	running.Wait()
	r.stats()
	if left["a"] < turns || left["b"] < 10*turns {
		t.Errorf("in %d turns of four workers there left %v", turns, left)
	}
	st, n := r.s.ConnectionStats(), 0
	for range r.s.Connections() {
		n++
	}
	if n != st.Connections || n == 0 {
		t.Errorf("%d connections are listed, %d counted: %+v", n, st.Connections, st)
	}
}

// checkShared looks at a frame that leaves by a port. Ports' locks keep others out, of
// this port.
func (r *rig) checkShared(name string, f []byte, left map[string]int) {
	sharedMu.Lock()
	defer sharedMu.Unlock()
	left[name]++
	src, dst := netip.AddrFrom4([4]byte(f[26:30])), netip.AddrFrom4([4]byte(f[30:34]))
	outside, inside := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("10.0.0.1")
	if name == "b" && src != outside || name == "a" && dst != inside {
		r.t.Errorf("left by %s: %v > %v", name, src, dst)
	}
	var x ipv4
	if whole := binary.BigEndian.Uint16(f[20:])&0x3fff == 0; whole && !x.read(f) || folded(sum(0, f[14:34])) != 0 {
		r.t.Errorf("left by %s with a wrong checksum: %x", name, f)
	}
}

var sharedMu sync.Mutex
