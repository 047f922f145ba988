package dataplane

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"millrace/dataplane/conntrack"
	"millrace/dataplane/packet"
	"millrace/flowtable"
)

// retraceRules are a pipeline of two zones that writes no frame: where a packet goes shows what was
// said of it.
func retraceRules(r *rig) {
	in := func(port uint64) flowtable.Masked {
		return is(flowtable.Field{Word: flowtable.WordIn, Shift: 32, Width: 32}, port)
	}
	port := flowtable.Field{Word: flowtable.WordL4, Shift: 32, Width: 16}
	dscp := is(flowtable.Field{Word: flowtable.WordL4, Shift: 26, Width: 6}, 8)
	label := flowtable.Field{Word: flowtable.WordLabel, Width: 128}
	reg := fields("reg0")[0]
	ms := func(m ...flowtable.Masked) []flowtable.Masked { return m }
	const est, isNew, trk, bad = conntrack.StateEstablished, conntrack.StateNew, conntrack.StateTracked, conntrack.StateInvalid
	id := flowtable.RuleID(0)
	add := func(table uint8, m []flowtable.Masked, a ...flowtable.Action) {
		id++
		r.rule(id, table, m, a...)
	}
	add(0, ms(in(1)), setTo(reg, 1), connect(5, resume, 1))
	add(0, ms(in(2)), setTo(reg, 2), connect(6, resume, 4))
	add(1, ms(hasState(est|trk, 0)), next(2))
	add(1, ms(is(port, 80), hasState(isNew|trk, 0)), connect(5, flowtable.CTCommit|flowtable.CTTranslate, 0, setTo(fieldCTMark, 7), natTo(flowtable.NATSource, "0.0.0.0", 0)), next(2))
	add(1, ms(is(port, 81), hasState(isNew|trk, 0)), connect(5, committed, 2), next(2))
	add(1, ms(is(port, 82), hasState(isNew|trk, 0)), connect(5, committed, 2, natTo(flowtable.NATSource, "192.0.2.1", 0)))
	add(1, ms(hasState(bad|trk, 0)), flowtable.Action{Code: flowtable.ActDrop, Arg: flowtable.DropExplicit})
	add(2, nil, connect(6, resume|flowtable.CTTranslate, 3))
	add(3, ms(hasState(isNew|trk, 0)), connect(6, flowtable.CTCommit, 0, flowtable.Action{Code: flowtable.ActSet, Dst: label, ValueLow: 5}), out(2))
	add(3, ms(hasState(est|trk, 0)), out(2))
	add(3, ms(dscp, hasState(est|trk, 0)), connect(6, committed, 6, setTo(fieldCTMark, 9)))
	add(3, ms(flowtable.Masked{Word: flowtable.WordCT, Value: uint64(est|trk)<<32 | 9, Mask: uint64(est|trk)<<32 | 0xffffffff}, is(flowtable.Field{Word: flowtable.WordLabelLow, Width: 8}, 5)), out(3))
	add(3, ms(hasState(bad|trk, 0)), out(3))
	add(4, ms(hasState(est|trk, 0)), connect(5, resume|flowtable.CTTranslate, 5))
	add(4, ms(is(reg, 2), hasState(isNew|trk, 0)), out(3))
	add(5, ms(hasState(est|trk, 0)), out(1))
	add(5, ms(hasState(isNew|trk, 0)), connect(5, committed, 6))
	add(6, nil, out(2))
}

// retraceFrame is a random frame of a client's.
func retraceFrame(r *rand.Rand, client int, back bool) []byte {
	x := ipv4{
		netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(1000+client)),
		netip.AddrPortFrom(netip.MustParseAddr("198.51.100.1"), uint16(80+r.IntN(4))), []byte{conntrack.ProtoTCP, conntrack.ProtoTCP, conntrack.ProtoTCP, conntrack.ProtoUDP}[r.IntN(4)],
	}
	if back {
		if x = x.reply(); x.src.Port() == 82 {
			x.dst = netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), x.dst.Port())
		}
	}
	flags := []byte{2, 16, 16, 17, 17, 4, 24, 3}[r.IntN(8)]
	if back && flags == 2 {
		flags = 18
	}
	f := x.frame(flags, r.IntN(10))
	switch r.IntN(40) {
	case 0:
		f[15] = 8 << 2
	case 1:
		f = slices.Insert(f, 34, 1, 1, 1, 1)
		f[14], f[17] = 0x46, f[17]+4
	case 2:
		f = f[:len(f)-9] // not whole
	case 3:
		f[20] |= 0x20 // a fragment
	case 4:
		x.proto = conntrack.ProtoICMP
		f = x.frame(0, 8)
	case 5, 6:
		f = slices.Insert(f, 12, 0x81, 0, 0, 9)
	case 7, 8, 9, 10:
		return six(f)
	}
	return f
}

// six is an IPv4 frame's payload in IPv6.
func six(f []byte) []byte {
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, f[23], 64
	binary.BigEndian.PutUint16(h[4:], uint16(len(f)-34))
	copy(h[20:], f[26:30])
	copy(h[36:], f[30:34])
	return slices.Concat(f[:12], []byte{0x86, 0xdd}, h, f[34:])
}

// TestRetraces holds frames that are retraced to frames that are walked: of two switches of which
// one retraces nothing, with the same rules and the same frames, in batches, all that comes out, is dropped,
// is counted and is known of connections is equal, before changes of rules and after.
func TestRetraces(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 7))
	a, b := flowRig(t, "a", "b", "c"), flowRig(t, "a", "b", "c")
	for _, p := range b.s.workers[0].order {
		p.doubt = 1 << 30
	}
	rounds := 2000
	if raceOn {
		rounds = 300
	}
	for _, r := range []*rig{a, b} {
		retraceRules(r)
		r.stayLong()
	}
	for round := range rounds {
		from, back := "a", rnd.IntN(2) == 0
		if back {
			from = "b"
		}
		for _, client := range rnd.Perm(400)[:1+rnd.IntN(60)] { // each once: programs are looked up for all of a batch at first
			f := retraceFrame(rnd, client, back)
			a.devs[from].in, b.devs[from].in = append(a.devs[from].in, f), append(b.devs[from].in, f)
		}
		if rnd.IntN(100) == 0 {
			zone := uint16(5 + rnd.IntN(2))
			if x, y := a.s.FlushConnections(zone), b.s.FlushConnections(zone); x != y {
				t.Fatalf("seed %d, round %d: flushed %d, want %d", seed, round, x, y)
			}
		}
		if rnd.IntN(100) == 0 {
			for _, r := range []*rig{a, b} {
				r.rule(flowtable.RuleID(100+round), 9, nil, out(1))
			}
		}
		for _, p := range a.s.workers[0].order {
			p.doubt = 0
		}
		a.turn()
		b.turn()
		for name, d := range a.devs {
			if !reflect.DeepEqual(d.out, b.devs[name].out) {
				t.Fatalf("seed %d, round %d: out by %s\n%x\nwant\n%x", seed, round, name, d.out, b.devs[name].out)
			}
			d.out, b.devs[name].out = nil, nil
		}
	}
	x, y := a.retraceAccount(), b.retraceAccount()
	for i := range x {
		if x[i] != y[i] {
			t.Errorf("seed %d:\n got %s\nwant %s", seed, x[i], y[i])
		}
	}
	w := a.s.workers[0]
	t.Logf("%d of %d walks were retraces", w.retracings, w.stats.Walks)
	if w.retracings < w.stats.Walks/20 || b.s.workers[0].retracings != 0 {
		t.Errorf("%d of %d walks were retraces, and %d where none should", w.retracings, w.stats.Walks, b.s.workers[0].retracings)
	}
}

// retraceAccount is all that a switch has counted.
func (r *rig) retraceAccount() (all []string) {
	var list []string
	for c := range r.s.Connections() {
		c.Ref, c.Age, c.Timeout, c.Assured = 0, 0, 0, false // the switches have clocks of their own
		list = append(list, fmt.Sprintf("%+v\n", c))
	}
	slices.Sort(list)
	ids := make([]flowtable.RuleID, 18)
	for i := range ids {
		ids[i] = flowtable.RuleID(i + 1)
	}
	for _, name := range []string{"a", "b", "c"} {
		p := r.stats()[name]
		all = append(all, fmt.Sprintf("%s: rx %d %d, tx %d %d, drops %v %v\n", name, p.RxFrames, p.RxBytes, p.TxFrames, p.TxBytes, p.RxDrops, p.TxDrops))
	}
	stats := r.s.ConnectionStats()
	stats.Invalid, stats.Late = 0, 0 // follow from what the cache holds, which is not the same in both
	return append(all, fmt.Sprint(r.counts(ids...)), fmt.Sprintf("%+v", stats), fmt.Sprint(r.s.ConnectionZones()), fmt.Sprint(list))
}

// TestRetracesNoAlloc checks that frames of new connections, which are retraced, allocate nothing.
func TestRetracesNoAlloc(t *testing.T) {
	if raceOn {
		t.Skip("needs a build without the race detector, which allocates")
	}
	s := newStageOf(t, newTCPDevice())
	s.add(tracking(2, false))
	w := s.s.workers[0]
	for range 200 {
		w.turn()
	}
	before := w.retracings
	if n := testing.AllocsPerRun(200, w.turn); n != 0 {
		t.Errorf("%v allocations a turn", n)
	}
	if n := w.retracings - before; n < 200*packet.BatchMax*3/4 {
		t.Errorf("%d frames were retraced in 200 turns, want most", n)
	}
}
