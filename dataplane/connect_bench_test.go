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
