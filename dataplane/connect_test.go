package dataplane

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"millrace/dataplane/conntrack"
	"millrace/flowtable"
)

// fieldCTMark is the mark of a connection.
var fieldCTMark = flowtable.Field{Name: "ct_mark", Word: flowtable.WordCT, Width: 32}

// An ipv4 makes frames of one direction of an exchange.
type ipv4 struct {
	src, dst netip.AddrPort
	proto    byte
}

// reply is the other direction, if nothing is translated.
func (x ipv4) reply() ipv4 { return ipv4{x.dst, x.src, x.proto} }

// sum is the Internet checksum of b, added to s.
func sum(s uint32, b []byte) uint32 {
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		s += uint32(b[len(b)-1]) << 8
	}
	return s
}

func folded(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// frame makes a frame: TCP with flags, UDP, or an ICMP query whose type is the destination's port.
func (x ipv4) frame(flags byte, payload int) []byte {
	var l4 []byte
	at := 0
	src, dst := x.src.Addr().As4(), x.dst.Addr().As4()
	switch x.proto {
	case conntrack.ProtoTCP:
		l4, at = make([]byte, 20+payload), 16
		l4[12], l4[13] = 5<<4, flags
	case conntrack.ProtoUDP:
		l4, at = make([]byte, 8+payload), 6
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	case conntrack.ProtoICMP:
		l4, at = make([]byte, 8+payload), 2
		l4[0] = byte(x.dst.Port())
		binary.BigEndian.PutUint16(l4[4:], x.src.Port())
	}
	s := uint32(0)
	if x.proto != conntrack.ProtoICMP {
		binary.BigEndian.PutUint16(l4, x.src.Port())
		binary.BigEndian.PutUint16(l4[2:], x.dst.Port())
		s = sum(sum(uint32(x.proto)+uint32(len(l4)), src[:]), dst[:])
	}
	for i := range payload {
		l4[len(l4)-payload+i] = byte(i)
	}
	binary.BigEndian.PutUint16(l4[at:], folded(sum(s, l4)))
	return ipFrame(x.proto, src, dst, l4)
}

// ipFrame makes a frame of an IPv4 packet.
func ipFrame(proto byte, src, dst [4]byte, l4 []byte) []byte {
	f := append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 0, 0, 1, 0, 0, 64, proto, 0, 0}, src[:]...)
	f = append(f, dst[:]...)
	binary.BigEndian.PutUint16(f[16:], uint16(20+len(l4)))
	binary.BigEndian.PutUint16(f[24:], folded(sum(0, f[14:34])))
	return append(f, l4...)
}

// read undoes frame, and reports whether all checksums are right.
func (x *ipv4) read(f []byte) (ok bool) {
	l4 := f[34:]
	x.proto = f[23]
	src, dst := netip.AddrFrom4([4]byte(f[26:30])), netip.AddrFrom4([4]byte(f[30:34]))
	s := uint32(0)
	if x.proto == conntrack.ProtoICMP {
		x.src, x.dst = netip.AddrPortFrom(src, binary.BigEndian.Uint16(l4[4:])), netip.AddrPortFrom(dst, uint16(l4[0]))
	} else {
		x.src, x.dst = netip.AddrPortFrom(src, binary.BigEndian.Uint16(l4)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(l4[2:]))
		s = sum(uint32(x.proto)+uint32(len(l4)), f[26:34])
	}
	return folded(sum(0, f[14:34])) == 0 && folded(sum(s, l4)) == 0
}

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// connect is an ActCT.
func connect(zone uint16, flags uint32, table uint8, terms ...flowtable.Action) flowtable.Action {
	return flowtable.Action{Code: flowtable.ActCT, Arg: uint32(zone)<<16 | flags, Table: table, Nested: terms}
}

// natTo is an ActNAT to an address, and a port if that is not 0.
func natTo(end uint8, to string, port uint16) flowtable.Action {
	a := conntrack.AddrOf(netip.MustParseAddr(to))
	return flowtable.Action{Code: flowtable.ActNAT, Table: end, Value: a[0], ValueLow: a[1], Arg: uint32(port)<<16 | uint32(port)}
}

// hasState matches bits of ct_state.
func hasState(set, clear conntrack.State) flowtable.Masked {
	return flowtable.Masked{Word: flowtable.WordCT, Value: uint64(set) << 32, Mask: uint64(set|clear) << 32}
}

const (
	resume    = flowtable.CTResume
	committed = flowtable.CTResume | flowtable.CTCommit
)

// twoZones makes a pipeline of two zones: a stateful firewall, which lets a's
// connections out and only answers in, and source translation of what goes out by b.
func twoZones(t testing.TB) *rig {
	r := flowRig(t, "a", "b")
	r.firewall()
	return r
}

// firewall puts the rules of twoZones in force.
func (r *rig) firewall() {
	in := func(port uint64) flowtable.Masked {
		return is(flowtable.Field{Word: flowtable.WordIn, Shift: 32, Width: 32}, port)
	}
	add := func(id flowtable.RuleID, table uint8, m []flowtable.Masked, a ...flowtable.Action) {
		r.rule(id, table, m, a...)
	}
	ms := func(m ...flowtable.Masked) []flowtable.Masked { return m }
	const est, isNew, trk = conntrack.StateEstablished, conntrack.StateNew, conntrack.StateTracked
	add(1, 0, ms(in(1)), connect(5, resume, 1))
	add(2, 0, ms(in(2)), connect(6, resume|flowtable.CTTranslate, 4))
	add(3, 1, ms(hasState(isNew|trk, 0)), connect(5, flowtable.CTCommit, 0, setTo(fieldCTMark, 7)), next(2))
	add(4, 1, ms(hasState(est|trk, conntrack.StateInvalid)), next(2))
	add(5, 2, nil, connect(6, committed|flowtable.CTTranslate, 3, natTo(flowtable.NATSource, "192.0.2.1", 0)))
	add(6, 3, ms(hasState(trk, conntrack.StateInvalid)), out(2))
	add(7, 4, nil, connect(5, resume, 5))
	add(8, 5, ms(hasState(est|trk, 0)), out(1))
}

// pass gives a frame to a port, and returns what leaves by another.
func (r *rig) pass(from, to string, f []byte) []byte {
	r.t.Helper()
	r.devs[from].in = append(r.devs[from].in, f)
	r.devs[to].out = nil
	r.turn()
	if len(r.devs[to].out) == 0 {
		return nil
	}
	return r.devs[to].out[0]
}

// TestTwoZones takes connections through two zones with translation: they are decided
// by one lookup, and come out as they should, both ways.
func TestTwoZones(t *testing.T) {
	for _, proto := range []byte{conntrack.ProtoTCP, conntrack.ProtoUDP, conntrack.ProtoICMP} {
		r := twoZones(t)
		x := ipv4{ap("10.0.0.1:1000"), ap("198.51.100.1:80"), proto}
		back := ipv4{ap("198.51.100.1:80"), ap("192.0.2.1:1000"), proto}
		const syn, ack = 2, 16
		if proto == conntrack.ProtoICMP {
			x.dst, back.src, back.dst = ap("198.51.100.1:8"), ap("198.51.100.1:1000"), ap("192.0.2.1:0")
		}
		check := func(what string, got []byte, want ipv4) {
			t.Helper()
			var x ipv4
			if got == nil || !x.read(got) || x != want {
				t.Fatalf("protocol %d: %s: got %x (%+v), want %+v", proto, what, got, x, want)
			}
		}
		outside, inside := ipv4{ap("192.0.2.1:1000"), x.dst, proto}, x.reply()
		if proto == conntrack.ProtoICMP {
			inside = ipv4{ap("198.51.100.1:1000"), ap("10.0.0.1:0"), proto}
		}
		if got := r.pass("b", "a", back.frame(syn, 10)); got != nil {
			t.Fatalf("protocol %d: let in without a connection: %x", proto, got)
		}
		check("first", r.pass("a", "b", x.frame(syn, 10)), outside)
		check("answer", r.pass("b", "a", back.frame(syn|ack, 10)), inside)
		check("third", r.pass("a", "b", x.frame(ack, 10)), outside)
		if proto == conntrack.ProtoICMP {
			continue // the identifier is in no key: each takes the long way
		}
		for range 3 { // exact entries come at the second sight
			check("data", r.pass("a", "b", x.frame(ack, 100)), outside)
			check("data back", r.pass("b", "a", back.frame(ack, 100)), inside)
		}
		slow := r.slowly(func() {
			for range 100 {
				check("established", r.pass("a", "b", x.frame(ack, 100)), outside)
				check("established back", r.pass("b", "a", back.frame(ack, 100)), inside)
			}
		})
		if slow != 0 {
			t.Errorf("protocol %d: %d of 200 frames of an established connection were walked", proto, slow)
		}
		r.connectionCounts(5, x, [2]uint64{105, 104})
		r.connectionCounts(6, x, [2]uint64{105, 104})
		if n := r.s.engine.crossing.table.Flush(6); n != 1 {
			t.Errorf("protocol %d: flushed %d connections", proto, n)
		}
		if got := r.pass("b", "a", back.frame(ack, 10)); proto == conntrack.ProtoUDP && got != nil {
			t.Errorf("protocol %d: let in by a connection that was flushed", proto)
		}
	}
}

// slowly returns how many frames take the long way while do runs.
func (r *rig) slowly(do func()) uint64 {
	c := r.s.workers[0].flow.ct
	before := c.took
	do()
	return c.took - before
}

// connectionCounts compares what a connection has counted.
func (r *rig) connectionCounts(zone uint16, x ipv4, want [2]uint64) {
	r.t.Helper()
	w := r.s.workers[0]
	for at, more := 0, true; more; more = at != 0 {
		at = w.flow.cache.Tell(at, tellPart)
	}
	tuple := conntrack.Tuple{Src: conntrack.AddrOf(x.src.Addr()), Dst: conntrack.AddrOf(x.dst.Addr()), SrcPort: x.src.Port(), DstPort: x.dst.Port(), Proto: x.proto}
	c, ok := r.s.engine.crossing.table.Lookup(zone, tuple, 1e9)
	if !ok || c.Packets != want {
		r.t.Errorf("zone %d: connection %+v (there: %v), want packets %v", zone, c, ok, want)
	}
}
