package dataplane

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"millrace/dataplane/conntrack"
	"millrace/dataplane/packet"
	"millrace/flowtable"
)

// A plainFirewall is what twoZones is meant to be for UDP, too simple to be wrong: who was
// spoken to may answer, and sources are translated to 192.0.2.1, with the first
// one's port kept.
type plainFirewall struct {
	out  map[ipv4]netip.AddrPort // by what came from inside: the source outside
	back map[ipv4]netip.AddrPort // by what comes from outside: the destination inside
}

// leave is a packet from inside: it always leaves. The port that a clash leads to is
// the switch's choice, got.
func (p *plainFirewall) leave(x, got ipv4) error {
	from, known := p.out[x]
	if !known {
		from = netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), x.src.Port())
		if _, taken := p.back[ipv4{x.dst, from, x.proto}]; taken {
			from = netip.AddrPortFrom(from.Addr(), got.src.Port())
		}
		if _, taken := p.back[ipv4{x.dst, from, x.proto}]; taken {
			return fmt.Errorf("%+v became %+v, which is another one's", x, got)
		}
		p.out[x], p.back[ipv4{x.dst, from, x.proto}] = from, x.src
	}
	if want := (ipv4{from, x.dst, x.proto}); got != want {
		return fmt.Errorf("%+v became %+v, want %+v", x, got, want)
	}
	return nil
}

// TestAgainstPlainFirewall sends packets of few clients and servers, which meet, through
// two zones, with flushes in between, and finds what a plain firewall lets through.
func TestAgainstPlainFirewall(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 1))
	r := twoZones(t)
	p := &plainFirewall{map[ipv4]netip.AddrPort{}, map[ipv4]netip.AddrPort{}}
	n, flushes := 20000, 0
	if raceOn {
		n = 2000
	}
	address := func(format string, hosts, ports int) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf(format, 1+rnd.IntN(hosts))), uint16(1000+rnd.IntN(ports)))
	}
	for i := range n {
		server := address("198.51.100.%d", 3, 2)
		if rnd.IntN(500) == 0 {
			flushes++
			r.s.engine.crossing.table.Flush(5)
			r.s.engine.crossing.table.Flush(6)
			clear(p.out)
			clear(p.back)
		}
		var got ipv4
		if rnd.IntN(2) == 0 {
			x := ipv4{address("10.0.0.%d", 4, 3), server, conntrack.ProtoUDP}
			f := r.pass("a", "b", x.frame(0, rnd.IntN(30)))
			if f == nil || !got.read(f) {
				t.Fatalf("seed %d, packet %d: %+v became %x", seed, i, x, f)
			}
			if err := p.leave(x, got); err != nil {
				t.Fatalf("seed %d, packet %d: %v", seed, i, err)
			}
			continue
		}
		x := ipv4{server, address("192.0.2.%d", 1, 4), conntrack.ProtoUDP}
		f := r.pass("b", "a", x.frame(0, rnd.IntN(30)))
		to, known := p.back[x]
		if known != (f != nil) {
			t.Fatalf("seed %d, packet %d: %+v let in: %v, want %v", seed, i, x, f != nil, known)
		}
		if want := (ipv4{x.src, to, x.proto}); known && (!got.read(f) || got != want) {
			t.Fatalf("seed %d, packet %d: %+v became %+v, want %+v", seed, i, x, got, want)
		}
	}
	// All that these hosts can say to each other takes the long way some 200 times, at first and after a flush.
	if took := r.s.workers[0].flow.ct.took; int(took) > 250*(1+flushes) {
		t.Errorf("seed %d: %d of %d packets took the long way, with %d flushes", seed, took, n, flushes)
	}
}

// TestRelated sends an ICMP error about a translated connection: it comes in, and quotes
// what the client has sent.
func TestRelated(t *testing.T) {
	r := twoZones(t)
	r.rule(9, 5, []flowtable.Masked{hasState(conntrack.StateRelated|conntrack.StateTracked, 0)}, out(1))
	x := ipv4{ap("10.0.0.1:1000"), ap("198.51.100.1:53"), conntrack.ProtoUDP}
	outside := r.pass("a", "b", x.frame(0, 20))
	if outside == nil {
		t.Fatal("nothing left")
	}
	icmp := append([]byte{3, 1, 0, 0, 0, 0, 0, 0}, outside[14:]...)
	binary.BigEndian.PutUint16(icmp[2:], folded(sum(0, icmp)))
	router, host := [4]byte{203, 0, 113, 9}, [4]byte{192, 0, 2, 1}
	got := r.pass("b", "a", ipFrame(conntrack.ProtoICMP, router, host, icmp))
	if got == nil {
		t.Fatal("the error did not come in")
	}
	var quoted ipv4
	inner := append(make([]byte, 14), got[42:]...)
	if !quoted.read(inner) || quoted != x {
		t.Errorf("quotes %+v, want %+v (%x)", quoted, x, got)
	}
	if folded(sum(0, got[34:])) != 0 || folded(sum(0, got[14:34])) != 0 || netip.AddrFrom4([4]byte(got[30:34])) != x.src.Addr() {
		t.Errorf("error %x", got)
	}
}

// TestBalance sends connections to a VIP: each stays with its backend, all get some, and
// answers come from the VIP.
func TestBalance(t *testing.T) {
	r := flowRig(t, "a", "b")
	in := flowtable.Field{Word: flowtable.WordIn, Shift: 32, Width: 32}
	backends := []string{"10.1.0.1", "10.1.0.2", "10.1.0.3"}
	r.commit(func(x *flowtable.Txn) error {
		s := flowtable.Select{ID: 1, Fields: fields("ip4.src", "ip4.dst", "ip.proto", "tp.src", "tp.dst")}
		for i, b := range backends {
			s.Buckets = append(s.Buckets, flowtable.Bucket{ID: uint32(i), Weight: 1, Actions: []flowtable.Action{
				connect(7, committed|flowtable.CTTranslate, 2, natTo(flowtable.NATDestination, b, 8080), setTo(fieldCTMark, 2))}})
		}
		return x.SetSelect(&s)
	})
	r.rule(1, 0, match(in, 1), connect(7, resume|flowtable.CTTranslate, 1))
	r.rule(2, 0, match(in, 2), connect(7, resume|flowtable.CTTranslate, 3))
	r.rule(3, 1, []flowtable.Masked{hasState(conntrack.StateNew|conntrack.StateTracked, 0)}, flowtable.Action{Code: flowtable.ActSelect, Arg: 1})
	r.rule(4, 1, nil, next(2))
	r.rule(5, 2, []flowtable.Masked{is(fieldCTMark, 2)}, out(2))
	r.rule(6, 3, []flowtable.Masked{is(fieldCTMark, 2), hasState(conntrack.StateReply, 0)}[:1], out(1))
	vip, seen := ap("192.0.2.80:80"), map[string]int{}
	for i := range 60 {
		x := ipv4{netip.AddrPortFrom(netip.MustParseAddr("10.0.0.7"), uint16(2000+i)), vip, conntrack.ProtoTCP}
		var first, got ipv4
		if f := r.pass("a", "b", x.frame(2, 0)); f == nil || !first.read(f) || first.src != x.src || first.dst.Port() != 8080 {
			t.Fatalf("%+v became %+v (%x)", x, first, f)
		}
		seen[first.dst.Addr().String()]++
		back := first.reply()
		if f := r.pass("b", "a", back.frame(18, 0)); f == nil || !got.read(f) || got != x.reply() {
			t.Fatalf("%+v became %+v", back, got)
		}
		for range 3 {
			if f := r.pass("a", "b", x.frame(16, 9)); f == nil || !got.read(f) || got != first {
				t.Fatalf("%+v went to %+v, before to %+v", x, got, first)
			}
		}
	}
	for _, b := range backends {
		if seen[b] == 0 {
			t.Errorf("backends %v", seen)
		}
	}
}

// TestTraceConnections traces frames through two zones: what would happen is told, and
// nothing does.
func TestTraceConnections(t *testing.T) {
	r := twoZones(t)
	x := ipv4{ap("10.0.0.1:1000"), ap("198.51.100.1:80"), conntrack.ProtoTCP}
	trace := func(port string, f []byte) (got ipv4, left bool) {
		t.Helper()
		tr, err := r.s.Trace(port, f)
		if err != nil {
			t.Fatal(err)
		}
		return got, len(tr.Outputs) == 1 && got.read(tr.Outputs[0].Frame)
	}
	for range 2 {
		if _, ok := trace("a", x.frame(2, 0)); !ok {
			t.Fatal("a connection's first packet does not leave")
		}
	}
	if n := r.s.engine.crossing.table.Stats().Connections; n != 0 {
		t.Errorf("a trace has made %d connections", n)
	}
	back := ipv4{x.dst, ap("192.0.2.1:1000"), x.proto}
	if _, ok := trace("b", back.frame(18, 0)); ok {
		t.Error("an answer to nothing comes in")
	}
	if r.pass("a", "b", x.frame(2, 0)) == nil {
		t.Fatal("nothing left")
	}
	if _, ok := trace("b", back.frame(18, 0)); !ok {
		t.Error("an answer does not come in")
	}
	r.connectionCounts(5, x, [2]uint64{1, 0})
}

// TestConnectNoAlloc: frames of established connections and new ones cost no allocation.
func TestConnectNoAlloc(t *testing.T) {
	if raceOn {
		t.Skip("needs a build without the race detector")
	}
	r := twoZones(t)
	w := r.s.workers[0]
	c := w.flow.ct
	x := ipv4{ap("10.0.0.1:1000"), ap("198.51.100.1:80"), conntrack.ProtoUDP}
	f := x.frame(0, 10)
	b := w.batch
	b.Reset()
	b.Add(f)
	var key flowtable.Key
	key[flowtable.WordIn], key[flowtable.WordSrc] = 1<<32|0x800, conntrack.ProtoUDP<<8|64
	key[flowtable.WordIP4], key[flowtable.WordL4] = binary.BigEndian.Uint64(f[26:]), uint64(binary.BigEndian.Uint32(f[34:]))<<32
	port, k := uint64(0), new(flowtable.Key)
	walk := func() {
		port++
		*k = key
		k[flowtable.WordL4] += port << 48
		c.begin(b.Head(0), uint32(len(f)))
		w.flow.walker.Walk(k, uint32(len(f)), 1)
	}
	walk()
	if n := testing.AllocsPerRun(200, walk); n != 0 {
		t.Errorf("%v allocations for a new connection", n)
	}
}

// TestConnections lists connections with what they have counted, limits a zone, and
// forgets those of a bridge that goes.
func TestConnections(t *testing.T) {
	r := twoZones(t)
	own := uint16(r.s.FlowBridges()[0].FDB*flowtable.ZonesOfBridge + flowtable.ZonePlain)
	r.rule(20, 0, match(fieldSrc, 0x020000000009), connect(own, committed, 3))
	list := func() (zones map[uint16]uint64) {
		zones = map[uint16]uint64{}
		for c := range r.s.Connections() {
			zones[c.Zone] += c.Packets[0] + c.Packets[1]
		}
		return zones
	}
	x := ipv4{ap("10.0.0.1:1000"), ap("198.51.100.1:80"), conntrack.ProtoUDP}
	for range 7 {
		r.pass("a", "b", x.frame(0, 10))
	}
	if got, want := fmt.Sprint(list()), "map[5:7 6:7]"; got != want {
		t.Errorf("connections %s, want %s", got, want)
	}
	r.s.SetConnectionLimit(5, 1)
	x.src = ap("10.0.0.1:1001")
	if r.pass("a", "b", x.frame(0, 10)) != nil || r.s.ConnectionZone(5).Refused != 1 || r.stats()["a"].RxDrops[packet.ReasonCTLimit] != 1 {
		t.Errorf("beyond the limit: %+v", r.s.ConnectionZone(5))
	}
	tuple := conntrack.Tuple{Src: conntrack.AddrOf(x.src.Addr()), Dst: conntrack.AddrOf(x.dst.Addr()), SrcPort: 1000, DstPort: 80, Proto: conntrack.ProtoUDP}
	if !r.s.FlushConnection(6, tuple) || r.s.FlushConnection(6, tuple) || r.s.FlushConnections(5) != 1 {
		t.Error("what is flushed was not there, or stays")
	}
	f := x.frame(0, 10)
	f[11] = 9
	if r.pass("a", "b", f) == nil || r.s.ConnectionZone(own).Count != 1 {
		t.Errorf("zone of the bridge: %+v", r.s.ConnectionZone(own))
	}
	for _, p := range []string{"a", "b"} {
		if err := r.s.DelPort(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	r.forgotten()
	if n := r.s.ConnectionZone(own).Count; n != 0 || r.s.ConnectionStats().Connections != 0 {
		t.Errorf("%d connections are left of a bridge that is gone", n)
	}
}

// TestCommitBehindTranslation changes the mark of a connection by packets that the same zone
// has just translated: it is this connection's mark, and there is no second connection.
func TestCommitBehindTranslation(t *testing.T) {
	r := flowRig(t, "a", "b")
	in := flowtable.Field{Word: flowtable.WordIn, Shift: 32, Width: 32}
	r.rule(1, 0, match(in, 1), connect(5, committed|flowtable.CTTranslate, 1, natTo(flowtable.NATSource, "192.0.2.1", 0)))
	r.rule(2, 0, match(in, 2), connect(5, resume|flowtable.CTTranslate, 2))
	r.rule(3, 1, nil, out(2))
	r.rule(4, 2, nil, connect(5, committed, 3, setTo(fieldCTMark, 7)))
	r.rule(5, 3, match(fieldCTMark, 7), out(1))
	x := ipv4{ap("10.0.0.1:1000"), ap("198.51.100.1:80"), conntrack.ProtoUDP}
	back := ipv4{x.dst, ap("192.0.2.1:1000"), x.proto}
	if r.pass("a", "b", x.frame(0, 10)) == nil {
		t.Fatal("nothing left")
	}
	for range 3 {
		var got ipv4
		if f := r.pass("b", "a", back.frame(0, 10)); f == nil || !got.read(f) || got != x.reply() {
			t.Fatalf("an answer became %x (%+v), want %+v", f, got, x.reply())
		}
	}
	n := 0
	for c := range r.s.Connections() {
		n++
		if c.Mark != 7 {
			t.Errorf("connection %+v, want mark 7", c)
		}
	}
	if n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}
