package dataplane

import (
	"fmt"
	"testing"

	"millrace/dataplane/conntrack"
	"millrace/dataplane/packet"
	"millrace/flowtable"
)

// tracking are rules that send all IP out by port 2, through so many zones; in the last
// one sources are translated if nat is set.
func tracking(zones int, nat bool) []flowtable.Rule {
	ip := []flowtable.Masked{is(fields("eth.type")[0], 0x0800)}
	isNew := []flowtable.Masked{hasState(conntrack.StateNew|conntrack.StateTracked, 0)}
	rules := []flowtable.Rule{{Match: ip, Actions: []flowtable.Action{connect(1, resume|flowtable.CTTranslate, 1)}}}
	for z := 1; z <= zones; z++ {
		on := []flowtable.Action{out(2)}
		if z < zones {
			on = []flowtable.Action{connect(uint16(z+1), resume|flowtable.CTTranslate, uint8(2*z+1))}
		}
		terms := []flowtable.Action{}
		if nat && z == zones {
			terms = append(terms, natTo(flowtable.NATSource, "192.0.2.1", 0), flowtable.Action{Code: flowtable.ActNAT, Table: flowtable.NATSource | flowtable.NATLast, ValueLow: 0xc00002ff})
		}
		table := uint8(2*z - 1)
		rules = append(rules,
			flowtable.Rule{Table: table, Priority: 2, Match: isNew, Actions: []flowtable.Action{connect(uint16(z), committed|flowtable.CTTranslate, table+1, terms...)}},
			flowtable.Rule{Table: table, Priority: 1, Actions: on}, flowtable.Rule{Table: table + 1, Actions: on})
	}
	return rules
}

// BenchmarkConnections is connections whose packets all come from one side, through one
// zone, two, and two with translation.
func BenchmarkConnections(b *testing.B) {
	for _, n := range []int{1024, 65536} {
		for _, c := range []struct {
			name  string
			zones int
			nat   bool
		}{{"one zone", 1, false}, {"two zones", 2, false}, {"two zones and NAT", 2, true}} {
			b.Run(fmt.Sprintf("%d/%s", n, c.name), func(b *testing.B) {
				s := newStage(b, udpFlows(n), shuffled(n))
				s.add(tracking(c.zones, c.nat))
				s.run(b)
			})
		}
	}
}

// A tcpDevice receives whole TCP connections: each step of a batch of them is a batch.
type tcpDevice struct {
	fakeDevice
	first, step int
	frames      [2][packet.BatchMax][]byte // of each direction
}

// tcpSteps are a connection from SYN to the last ACK: a direction, and flags.
var tcpSteps = [...][2]byte{{0, 2}, {1, 18}, {0, 16}, {0, 24}, {1, 24}, {0, 17}, {1, 17}, {0, 16}}

func newTCPDevice() *tcpDevice {
	d := &tcpDevice{}
	for i := range d.frames[0] {
		x := ipv4{ap("10.0.0.1:1"), ap("198.51.100.1:80"), conntrack.ProtoTCP}
		d.frames[0][i], d.frames[1][i] = x.frame(0, 6), x.reply().frame(0, 6)
	}
	return d
}

type tcpRx tcpDevice

func (d *tcpDevice) Rx() []RxQueue { return []RxQueue{(*tcpRx)(d)} }

func (q *tcpRx) Rx(b *packet.Batch) {
	dir, flags := tcpSteps[q.step][0], tcpSteps[q.step][1]
	for i := range packet.BatchMax {
		f, n := q.frames[dir][i], q.first+i
		addr, port := 26, 34
		if dir == 1 {
			addr, port = 30, 36
		}
		f[addr+1], f[addr+2] = byte(n>>24), byte(n>>16)
		f[port], f[port+1], f[47] = byte(n>>8), byte(n), flags
		b.Frames[i] = packet.Frame{Off: packet.HeadRoom, HeadLen: uint16(len(f)), Len: uint32(len(f))}
		copy(b.Slot(i)[packet.HeadRoom:], f)
	}
	if q.step++; q.step == len(tcpSteps) {
		q.step, q.first = 0, q.first+packet.BatchMax
	}
	b.N, b.Bytes = packet.BatchMax, 60*packet.BatchMax
}
func (q *tcpRx) Release()    {}
func (q *tcpRx) Arm() bool   { return true }
func (q *tcpRx) Disarm()     {}
func (q *tcpRx) WakeFD() int { return wakePoll }
func (q *tcpRx) Signal()     {}

// BenchmarkTCP is whole TCP connections, from SYN to the last ACK, of eight frames each.
func BenchmarkTCP(b *testing.B) {
	for zones := 1; zones <= 2; zones++ {
		b.Run(fmt.Sprintf("%d zones", zones), func(b *testing.B) {
			s := newStageOf(b, newTCPDevice())
			s.add(tracking(zones, false))
			w := s.s.workers[0]
			before := s.s.ConnectionStats()
			for range 800 {
				w.turn()
			}
			if st := s.s.ConnectionStats(); int(st.Created-before.Created) < 90*packet.BatchMax*zones || st.Invalid != before.Invalid {
				b.Fatalf("%+v", st)
			}
			measure(b, w)
		})
	}
}

// BenchmarkConnect is frames that each begin a connection, in one zone.
func BenchmarkConnect(b *testing.B) {
	s := newStage(b, udpFlows(1), []uint32{0})
	s.src.ports = true
	s.add(tracking(1, false))
	s.run(b)
}

// A freshDevice receives TCP connections that never come again, with so many under way that each
// has its next frame after freshGroups batches: as end hosts make them, one after the other.
type freshDevice struct {
	fakeDevice
	step, group int
	made        uint32                        // connections, up to the round in hand
	frames      [2][64]byte                   // of each direction
	ahead       [4][packet.BatchMax * 64]byte // batches that were made before they are received
	at          int                           // of ahead: the next to be received
	forget      func()                        // when there are freshMax
}

// freshMax is how many connections there are before they are forgotten, and freshGroups how many batches are
// between two frames of one.
const (
	freshMax    = 1 << 20
	freshGroups = 16
)

// freshSteps are a connection from SYN to the last ACK without data.
var freshSteps = [...][2]byte{{0, 2}, {1, 18}, {0, 16}, {0, 17}, {1, 17}, {0, 16}}

func newFreshDevice() *freshDevice {
	d := &freshDevice{}
	x := ipv4{ap("10.0.0.1:1"), ap("198.51.100.1:80"), conntrack.ProtoTCP}
	copy(d.frames[0][:], x.frame(0, 6))
	copy(d.frames[1][:], x.reply().frame(0, 6))
	for range d.ahead {
		d.make()
	}
	return d
}

// make makes the next batch.
func (d *freshDevice) make() {
	dir, flags := freshSteps[d.step][0], freshSteps[d.step][1]
	addr, port := 26, 34
	if dir == 1 {
		addr, port = 30, 36
	}
	to := &d.ahead[d.at]
	d.at = (d.at + 1) % len(d.ahead)
	for i := range packet.BatchMax {
		f, n := to[64*i:64*i+64], d.made+uint32(d.group*packet.BatchMax+i)
		copy(f, d.frames[dir][:])
		f[addr+1], f[addr+2], f[addr+3] = byte(n), byte(n>>8), byte(n>>16)
		f[port], f[port+1], f[47] = byte(n>>24)+8, byte(n>>16), flags
	}
	if d.group++; d.group < freshGroups {
		return
	}
	d.group = 0
	if d.step++; d.step == len(freshSteps) {
		d.step = 0
		d.made += freshGroups * packet.BatchMax
	}
}

type freshRx freshDevice

func (d *freshDevice) Rx() []RxQueue { return []RxQueue{(*freshRx)(d)} }

func (q *freshRx) Rx(b *packet.Batch) {
	from := &q.ahead[q.at]
	for i := range packet.BatchMax {
		b.Frames[i] = packet.Frame{Off: packet.HeadRoom, HeadLen: 60, Len: 60}
		copy(b.Slot(i)[packet.HeadRoom:packet.HeadRoom+64], from[64*i:64*i+64])
	}
	b.N, b.Bytes = packet.BatchMax, 60*packet.BatchMax
	(*freshDevice)(q).make()
	if q.made%freshMax == 0 && q.step == 0 && q.group == 0 {
		q.forget()
	}
}
func (q *freshRx) Release()    {}
func (q *freshRx) Arm() bool   { return true }
func (q *freshRx) Disarm()     {}
func (q *freshRx) WakeFD() int { return wakePoll }
func (q *freshRx) Signal()     {}

// firewall are rules as ct_commit makes them: connections get another port if they would clash.
func firewall() []flowtable.Rule {
	rules := tracking(1, false)
	first := &rules[1].Actions[0]
	*first = connect(1, flowtable.CTCommit|flowtable.CTTranslate, 0, natTo(flowtable.NATSource, "0.0.0.0", 0))
	rules[1].Actions = append(rules[1].Actions, out(2))
	return rules
}

// BenchmarkFreshTCP is whole TCP connections of which none comes again: their memory is far from the core.
func BenchmarkFreshTCP(b *testing.B) {
	d := newFreshDevice()
	s := newStageOf(b, d)
	s.add(firewall())
	table, w := s.s.engine.crossing.table, s.s.workers[0]
	d.forget = func() {
		for z := range 16 {
			table.Flush(uint16(z))
		}
	}
	for range 6 * 2 * freshMax / packet.BatchMax {
		w.turn()
	}
	before := s.s.ConnectionStats()
	for range 6 * freshGroups * 32 {
		w.turn()
	}
	if st := s.s.ConnectionStats(); int(st.Created-before.Created) < 30*freshGroups*packet.BatchMax || st.Invalid != before.Invalid || st.Full != before.Full {
		b.Fatalf("%+v", st)
	}
	measure(b, w)
}
