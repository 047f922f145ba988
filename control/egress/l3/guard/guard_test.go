package guard

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"millrace/control/egress/l3"
	"millrace/control/egress/l3/packet"
	"millrace/control/egress/policy"
)

var (
	op   = netip.MustParseAddr("10.99.0.50")
	own  = netip.MustParseAddr("10.99.0.2")
	pod  = netip.MustParseAddr("10.9.0.1")
	shy  = netip.MustParseAddr("10.9.3.1")
	web  = netip.MustParseAddr("10.96.0.1")
	host = netip.MustParseAddr("192.0.2.10")
	six  = netip.MustParseAddr("fd09::1")
	op6  = netip.MustParseAddr("fd99::50")
)

const rules = "pods=10.9.0.0/16,fd09::/64 deny=10.9.3.0/24 services=10.96.0.0/12@443 node=192.0.2.10"

const tcp, udp, gre = 6, 17, 47

// send is a packet of a protocol with ports.
func send(from, to netip.Addr, proto byte, srcPort, dstPort uint16) []byte {
	b := packet.Echo(from, to, 0, 0) // for its header
	at := len(b) - 8
	b = append(b, make([]byte, 20)...)
	if from.Is4() {
		b[3], b[9] = byte(len(b)), proto
	} else {
		b[5], b[6] = byte(len(b)-40), proto
	}
	clear(b[at:])
	binary.BigEndian.PutUint16(b[at:], srcPort)
	binary.BigEndian.PutUint16(b[at+2:], dstPort)
	return b
}

func echo(from, to netip.Addr, id uint16) []byte { return packet.Echo(from, to, id, 1) }

func reply(from, to netip.Addr, id uint16) []byte {
	b := echo(to, from, id)
	p, _ := packet.Parse(b)
	p.Answer(b)
	return b
}

// about is an ICMP error from an address about b.
func about(b []byte, from netip.Addr) []byte {
	p, _ := packet.Parse(b)
	return p.TooBig(b, from, 1280)
}

// fragment makes b one, at an offset in units of 8 bytes.
func fragment(b []byte, id, offset uint16, more bool) []byte {
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], offset)
	if more {
		b[6] |= 0x20
	}
	return b
}

func newNode(t testing.TB, rules string, outward ...netip.Prefix) *Node {
	t.Helper()
	p, err := policy.Parse(rules, false)
	if err != nil {
		t.Fatal(err)
	}
	return NewNode([]netip.Addr{own}, outward, func() *policy.Policy { return p })
}

// A step is a packet, and what becomes of it.
type step struct {
	name string
	out  bool // from the inner end
	b    []byte
	want l3.Verdict
}

func walk(t *testing.T, f l3.Filter, steps []step) {
	t.Helper()
	for _, s := range steps {
		judge := f.Inward
		if s.out {
			judge = f.Outward
		}
		v := []l3.Verdict{99}
		if judge([][]byte{s.b}, v); v[0] != s.want {
			t.Errorf("%s: %v, want %v", s.name, v[0], s.want)
		}
	}
}

// TestNode: operators begin, pods answer, the policy decides.
func TestNode(t *testing.T) {
	syn := send(op, pod, tcp, 1000, 80)
	big := send(pod, op, tcp, 80, 1000)
	walk(t, newNode(t, rules), []step{
		{"reply before the question", true, big, l3.Unsolicited},
		{"TCP to a pod", false, syn, l3.Deliver},
		{"again", false, syn, l3.Deliver},
		{"its reply", true, big, l3.Relay},
		{"from another port of the pod", true, send(pod, op, tcp, 81, 1000), l3.Unsolicited},
		{"to another port of the operator", true, send(pod, op, tcp, 80, 22), l3.Unsolicited},
		{"UDP at the same ports", true, send(pod, op, udp, 80, 1000), l3.Unsolicited},
		{"from another pod", true, send(netip.MustParseAddr("10.9.0.2"), op, tcp, 80, 1000), l3.Unsolicited},
		{"IPv6", false, send(op6, six, udp, 5, 6), l3.Deliver},
		{"its reply", true, send(six, op6, udp, 6, 5), l3.Relay},
		{"denied pod", false, send(op, shy, tcp, 1, 80), l3.Denied},
		{"service", false, send(op, web, tcp, 1, 443), l3.Deliver},
		{"service at another port", false, send(op, web, tcp, 1, 80), l3.Denied},
		{"echo to a service of one port", false, echo(op, web, 3), l3.Denied},
		{"the node's own sockets", false, send(op, host, tcp, 1, 10250), l3.Denied},
		{"somewhere", false, send(op, netip.MustParseAddr("1.1.1.1"), tcp, 1, 443), l3.Denied},
		{"echo", false, echo(op, pod, 3), l3.Deliver},
		{"its reply", true, reply(pod, op, 3), l3.Relay},
		{"reply to another echo", true, reply(pod, op, 4), l3.Unsolicited},
		{"echo of the pod", true, echo(pod, op, 3), l3.Unsolicited},
		{"reply of the operator", false, reply(op, pod, 9), l3.Unsolicited},
		{"GRE", false, send(op, pod, gre, 0, 0), l3.Deliver},
		{"back", true, send(pod, op, gre, 0, 0), l3.Relay},
		{"GRE to a service of one port", false, send(op, web, gre, 0, 0), l3.Denied},
		{"error of a router about what went there", true, about(syn, netip.MustParseAddr("10.9.0.200")), l3.Relay},
		{"error about what never went", true, about(send(op, pod, tcp, 7, 7), pod), l3.Unsolicited},
		{"error of the operator about what came back", false, about(big, op), l3.Deliver},
		{"error about what never came back", false, about(send(pod, op, tcp, 7, 7), op), l3.Unsolicited},
		{"the tunnel's own address", false, send(op, own, tcp, 1, 22), l3.Own},
		{"no packet", false, []byte{0x45, 0}, l3.Malformed},
		{"no packet", true, nil, l3.Malformed},
	})
}

// TestOutward: pods begin flows to what is named for it, and to nothing else.
func TestOutward(t *testing.T) {
	far := netip.MustParseAddr("10.8.0.1")
	walk(t, newNode(t, rules, netip.MustParsePrefix("10.8.0.0/24")), []step{
		{"answer before the question", false, send(far, netip.MustParseAddr("10.1.1.1"), tcp, 80, 1000), l3.Denied},
		{"pod begins", true, send(pod, far, tcp, 1000, 80), l3.Relay},
		{"again", true, send(pod, far, tcp, 1000, 80), l3.Relay},
		{"answer", false, send(far, pod, tcp, 80, 1000), l3.Deliver},
		{"echo", true, echo(pod, far, 4), l3.Relay},
		{"its reply", false, reply(far, pod, 4), l3.Deliver},
		{"another reply", false, reply(far, pod, 5), l3.Unsolicited},
		{"error about it", false, about(send(pod, far, tcp, 1000, 80), far), l3.Deliver},
		{"a reply begins nothing", true, reply(pod, far, 9), l3.Unsolicited},
		{"pod begins elsewhere", true, send(pod, op, tcp, 1000, 80), l3.Unsolicited},
	})
}

// TestFragments pass when the first one has.
func TestFragments(t *testing.T) {
	walk(t, newNode(t, rules), []step{
		{"later one first", false, fragment(send(op, pod, udp, 1, 2), 5, 10, true), l3.Unsolicited},
		{"first", false, fragment(send(op, pod, udp, 1, 2), 5, 0, true), l3.Deliver},
		{"later", false, fragment(send(op, pod, udp, 9, 9), 5, 10, false), l3.Deliver},
		{"later one of another packet", false, fragment(send(op, pod, udp, 1, 2), 6, 10, false), l3.Unsolicited},
		{"first of a denied one", false, fragment(send(op, web, udp, 1, 2), 7, 0, true), l3.Denied},
		{"later of a denied one", false, fragment(send(op, web, udp, 1, 2), 7, 10, false), l3.Unsolicited},
		{"first of a reply", true, fragment(send(pod, op, udp, 2, 1), 8, 0, true), l3.Relay},
		{"later of a reply", true, fragment(send(pod, op, udp, 2, 1), 8, 10, false), l3.Relay},
		{"later of no reply", true, fragment(send(pod, op, udp, 2, 1), 9, 10, false), l3.Unsolicited},
		{"first of a flow that is known", false, fragment(send(op, pod, udp, 1, 2), 11, 0, true), l3.Deliver},
		{"its later one", false, fragment(send(op, pod, udp, 1, 2), 11, 10, false), l3.Deliver},
	})
}

// TestPolicyChanges: flows of before are judged anew.
func TestPolicyChanges(t *testing.T) {
	open, _ := policy.Parse(rules, false)
	shut, _ := policy.Parse("pods=10.9.0.1@443", false)
	now := open
	n := NewNode([]netip.Addr{own}, nil, func() *policy.Policy { return now })
	syn, back := send(op, pod, tcp, 1000, 80), send(pod, op, tcp, 80, 1000)
	walk(t, n, []step{{"open", false, syn, l3.Deliver}, {"reply", true, back, l3.Relay}})
	now = shut
	walk(t, n, []step{{"reply of a flow of before", true, back, l3.Unsolicited}, {"shut", false, syn, l3.Denied}})
}

// TestServer: operators and the host begin, nodes answer.
func TestServer(t *testing.T) {
	prefixes := func(words ...string) (all []netip.Prefix) {
		for _, w := range words {
			all = append(all, netip.MustParsePrefix(w))
		}
		return all
	}
	nodes := []l3.Peer{{Name: "n1", Prefixes: prefixes("10.9.0.0/24", "10.99.0.2/32")}, {Name: "n2", Prefixes: prefixes("10.9.3.0/24")}}
	ops := []l3.Peer{{Name: "op", Prefixes: prefixes("10.99.0.50/32")}, {Name: "op2", Prefixes: prefixes("10.99.0.51/32", "10.9.0.77/32")}}
	srv := netip.MustParseAddr("10.99.0.1")
	op2 := netip.MustParseAddr("10.99.0.51")
	lan := netip.MustParseAddr("192.0.2.7")
	plain := NewServer([]netip.Addr{srv}, false)
	plain.Set(nodes, ops)
	common := []step{
		{"node begins", false, send(pod, op, tcp, 80, 1000), l3.Unsolicited},
		{"operator begins", false, send(op, pod, tcp, 1000, 80), l3.Relay},
		{"node answers", false, send(pod, op, tcp, 80, 1000), l3.Relay},
		{"node answers another operator", false, send(pod, op2, tcp, 80, 1000), l3.Unsolicited},
		{"node to node", false, send(pod, shy, tcp, 1, 2), l3.Unsolicited},
		{"operator to operator", false, send(op, op2, tcp, 1, 2), l3.Denied},
		{"operator to an address of an operator within a node's", false, send(op, netip.MustParseAddr("10.9.0.77"), tcp, 1, 2), l3.Denied},
		{"stray reply of an operator", false, reply(op, pod, 5), l3.Unsolicited},
		{"echo to the server", false, echo(op, srv, 1), l3.Own},
		{"no packet", false, nil, l3.Malformed},
	}
	walk(t, plain, append(common,
		step{"operator to nobody", false, send(op, lan, tcp, 1, 2), l3.NoRoute},
		step{"TCP to the server", false, send(op, srv, tcp, 1, 2), l3.Own},
	))
	plain.Between(true)
	walk(t, plain, []step{
		{"node to node, allowed", false, send(pod, shy, tcp, 1, 2), l3.Relay},
		{"node to itself", false, send(pod, netip.MustParseAddr("10.9.0.2"), tcp, 1, 2), l3.Unsolicited},
	})
	hosted := NewServer([]netip.Addr{srv}, true)
	hosted.Set(nodes, ops)
	walk(t, hosted, append(common,
		step{"operator to the server's sockets", false, send(op, srv, tcp, 1, 22), l3.Denied},
		step{"operator through the host", false, send(op, lan, tcp, 1, 2), l3.Denied},
		step{"node begins with the host", false, send(pod, srv, tcp, 80, 500), l3.Unsolicited},
		step{"host begins", true, send(srv, pod, tcp, 500, 80), l3.Relay},
		step{"node answers the host", false, send(pod, srv, tcp, 80, 500), l3.Deliver},
		step{"from behind the host", true, send(lan, pod, tcp, 500, 80), l3.Relay},
		step{"node answers there", false, send(pod, lan, tcp, 80, 500), l3.Deliver},
		step{"host to an operator", true, send(srv, op, tcp, 1, 2), l3.Denied},
		step{"host to nobody", true, send(srv, lan, tcp, 1, 2), l3.NoRoute},
		step{"no packet", true, nil, l3.Malformed},
	))
}

// TestMemory: keys live between life and twice as long, and are never more than
// twice the limit.
func TestMemory(t *testing.T) {
	m := newMemory(time.Minute, 100)
	start := time.Unix(1000, 0)
	k := key{id: 1}
	m.turn(start)
	m.put(k, start)
	for _, tt := range []struct {
		after time.Duration
		want  bool
	}{{59 * time.Second, true}, {118 * time.Second, true}, {237 * time.Second, true}, {360 * time.Second, false}} {
		now := start.Add(tt.after)
		m.turn(now)
		if got := m.has(k, now); got != tt.want {
			t.Errorf("after %v: %v", tt.after, got)
		}
	}
	now := start.Add(time.Hour)
	for i := range uint32(10_000) {
		m.put(key{id: i}, now)
		if n := len(m.young) + len(m.old); n > 200 {
			t.Fatalf("%d keys are remembered", n)
		}
	}
	if !m.has(key{id: 9_999}, now) || m.has(key{id: 1}, now) {
		t.Error("a flood has old ones stay and new ones go")
	}
}

// TestAllocs: judging allocates nothing.
func TestAllocs(t *testing.T) {
	n := newNode(t, rules)
	syn, back := send(op, pod, tcp, 1000, 80), send(pod, op, tcp, 80, 1000)
	in, out, v := [][]byte{syn, syn, syn}, [][]byte{back, back}, make([]l3.Verdict, 3)
	if got := testing.AllocsPerRun(100, func() {
		n.Inward(in, v)
		n.Outward(out, v)
	}); got > 2 { // those of begin, for each batch
		t.Errorf("%v allocations for two batches", got)
	}
}

func BenchmarkInward(b *testing.B) {
	n := newNode(b, rules)
	var in [][]byte
	for i := range 64 {
		in = append(in, send(op, pod, tcp, uint16(1000+i/16), 80))
	}
	v := make([]l3.Verdict, 64)
	b.ReportAllocs()
	for b.Loop() {
		n.Inward(in, v)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*64), "ns/packet")
}

// FuzzNode: whatever comes from either side, pods begin nothing: what passes to
// operators is a reply of something that went to pods.
func FuzzNode(f *testing.F) {
	f.Add(send(op, pod, tcp, 1000, 80), send(pod, op, tcp, 80, 1000))
	f.Add(echo(op, pod, 1), reply(pod, op, 1))
	f.Add(send(op, pod, tcp, 1000, 80), about(send(op, pod, tcp, 1000, 80), pod))
	f.Fuzz(func(t *testing.T, in, out []byte) {
		v := make([]l3.Verdict, 1)
		fresh := newNode(t, rules)
		if fresh.Outward([][]byte{out}, v); v[0] == l3.Relay {
			t.Fatalf("%x passes unasked", out)
		}
		n := newNode(t, rules)
		n.Inward([][]byte{in}, v)
		delivered := v[0] == l3.Deliver
		n.Outward([][]byte{out}, v)
		if v[0] == l3.Relay && !delivered {
			t.Errorf("%x passes after %x, which did not", out, in)
		}
		if p, ok := packet.Parse(in); delivered && (!ok || shyOrHost(p.Dst)) {
			t.Errorf("%x is delivered", in)
		}
	})
}

func shyOrHost(a netip.Addr) bool {
	return netip.MustParsePrefix("10.9.3.0/24").Contains(a) || a == host
}
