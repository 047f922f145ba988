package dataplane

import (
	"encoding/binary"
	"net/netip"
	"os"
	"strconv"
	"testing"

	"millrace/dataplane/conntrack"
	"millrace/dataplane/packet"
	"millrace/flowtable"
)

// floodSources is the variable that says how many sources TestFlood has instead of few.
const floodSources = "MILLRACE_FLOOD"

// A floodDevice receives what a test asks for, or SYNs of which each has another source.
type floodDevice struct {
	fakeDevice
	frame []byte
	count uint32
	left  int // of the flood, for now
}

type floodRx floodDevice

func (d *floodDevice) Rx() []RxQueue { return []RxQueue{(*floodRx)(d)} }
func (q *floodRx) Rx(b *packet.Batch) {
	if len(q.in) > 0 {
		(*fakeRx)(&q.fakeDevice).Rx(b)
		return
	}
	for ; q.left > 0 && b.N < packet.BatchMax; q.left-- {
		q.count++
		binary.BigEndian.PutUint32(q.frame[26:], 11<<24+q.count)
		b.Add(q.frame)
	}
}
func (q *floodRx) Release()    {}
func (q *floodRx) Arm() bool   { return true }
func (q *floodRx) Disarm()     {}
func (q *floodRx) WakeFD() int { return wakePoll }
func (q *floodRx) Signal()     {}

// TestFlood has SYNs of very many sources come while others begin connections, whose
// answers take the time of 1,000 SYNs, and go on with old ones: memory stays at its limit, the
// old connections lose nothing, and nine of ten new ones succeed.
func TestFlood(t *testing.T) {
	sources, room, step, old := 60_000, 16<<10, 1000, 500
	if raceOn { // the same, on a smaller scale
		sources, room, step, old = sources/4, room/4, step/4, old/4
	}
	if v := os.Getenv(floodSources); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatal(err)
		}
		sources, room = n, 1<<20
	}
	r := newRigFor(t, nil, room)
	src := &floodDevice{frame: (ipv4{ap("11.0.0.0:999"), ap("198.51.100.1:80"), conntrack.ProtoTCP}).frame(2, 6)}
	r.s.opts.Openers["src"] = func(PortSpec, Env) (Device, error) { return src, nil }
	r.devs["a"] = &src.fakeDevice
	r.port("a", PortSpec{Type: "src"})
	r.port("b", PortSpec{})
	if err := r.s.SetBridge("br0", BridgeSettings{Pipeline: PipelineFlows}); err != nil {
		t.Fatal(err)
	}
	r.letOut()
	client := func(n int) ipv4 {
		return ipv4{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 1000), ap("198.51.100.1:80"), conntrack.ProtoTCP}
	}
	said := func(from, to string, x ipv4, flags byte) bool { return len(r.pass(from, to, x.frame(flags, 6))) > 0 }
	const syn, ack = 2, 16
	for n := range old {
		if x := client(n); !said("a", "b", x, syn) || !said("b", "a", x.reply(), syn|ack) || !said("a", "b", x, ack) {
			t.Fatalf("connection %d did not come about", n)
		}
	}
	rounds, succeeded, lost := sources/step, 0, 0
	for n := range rounds {
		x := client(old + n)
		began := said("a", "b", x, syn)
		for src.left = step; src.left > 0; {
			r.turn()
		}
		r.devs["b"].out = nil
		if began && said("b", "a", x.reply(), syn|ack) && said("a", "b", x, ack) && said("b", "a", x.reply(), ack) {
			succeeded++
		}
		if x := client(n % old); !said("b", "a", x.reply(), ack) || !said("a", "b", x, ack) {
			lost++
		}
		if st := r.s.ConnectionStats(); st.Connections > room || r.s.engine.crossing.table.Touched() > room+1 {
			t.Fatalf("%+v in a table for %d", st, room)
		}
	}
	for n := range old {
		if x := client(n); !said("b", "a", x.reply(), ack) {
			lost++
		}
	}
	st := r.s.ConnectionStats()
	if lost != 0 || 10*succeeded < 9*rounds || st.Evicted == 0 {
		t.Errorf("%d old connections lost, %d of %d new ones succeeded, %+v", lost, succeeded, rounds, st)
	}
	t.Logf("%d sources: %d of %d new connections succeeded, %d evicted, %d connections", sources, succeeded, rounds, st.Evicted, st.Connections)
}

// letOut are the rules of a firewall of one zone, by which only connections from port 1
// come about.
func (r *rig) letOut() {
	in := func(port uint64) []flowtable.Masked {
		return []flowtable.Masked{is(flowtable.Field{Word: flowtable.WordIn, Shift: 32, Width: 32}, port)}
	}
	const est, isNew, trk = conntrack.StateEstablished, conntrack.StateNew, conntrack.StateTracked
	state := func(set conntrack.State) []flowtable.Masked {
		return []flowtable.Masked{hasState(set|trk, conntrack.StateInvalid)}
	}
	r.rule(1, 0, in(1), connect(5, resume, 1))
	r.rule(2, 0, in(2), connect(5, resume, 3))
	r.rule(3, 1, state(isNew), connect(5, committed, 2))
	r.rule(4, 1, state(est), out(2))
	r.rule(5, 2, nil, out(2))
	r.rule(6, 3, state(est), out(1))
}
