package conntrack

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// second is a second of the clock that tests give the table.
const second = uint64(1e9)

// start is when the clock of tests begins.
const start = 1000 * second

// small returns options of a table for tests.
func small(capacity int) Options {
	return Options{Capacity: capacity, Fragments: 64, Held: 64 << 10, Affinity: 64}
}

// newTable makes a table that is closed with the test, and a worker of it.
func newTable(tb testing.TB, o Options) (*Table, *Worker) {
	tb.Helper()
	t, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := t.Close(); err != nil {
			tb.Error(err)
		}
	})
	w := t.Worker(0)
	w.Quiet()
	return t, w
}

// addr is the address of a text.
func addr(s string) Addr { return AddrOf(netip.MustParseAddr(s)) }

// tuple4 is an IPv4 tuple.
func tuple4(proto uint8, src string, sport uint16, dst string, dport uint16) Tuple {
	return Tuple{Src: addr(src), Dst: addr(dst), SrcPort: sport, DstPort: dport, Proto: proto}
}

// packetOf is a packet of a tuple, with TCP flags.
func packetOf(t Tuple, flags uint16) Packet {
	return Packet{Tuple: t, Len: 100, Flags: flags, Scale: -1}
}

// track is Track.
func track(w *Worker, zone uint16, p Packet, now uint64) (v Verdict) {
	w.Track(zone, &p, now, &v)
	return v
}

// commit tracks and commits a packet.
func commit(w *Worker, zone uint16, p Packet, c Terms, now uint64) (Verdict, Result) {
	var v Verdict
	w.Track(zone, &p, now, &v)
	r := w.Commit(zone, &p, &c, now, &v)
	return v, r
}

// count returns how many connections Dump shows.
func count(t *Table) (n int) {
	for range t.Dump(start) {
		n++
	}
	return n
}

// sweep lets the table look at all connections once.
func sweep(t *Table, now uint64) int { return t.Expire(now, 1<<30) }

// TestStates checks the bits of ct_state over the life of connections.
func TestStates(t *testing.T) {
	const trk = StateTracked
	udp := tuple4(ProtoUDP, "10.0.0.1", 1000, "10.0.0.2", 53)
	tcp := tuple4(ProtoTCP, "10.0.0.1", 1000, "10.0.0.2", 80)
	echo := tuple4(ProtoICMP, "10.0.0.1", 77, "10.0.0.2", 8<<8)
	other := tuple4(47, "10.0.0.1", 0, "10.0.0.2", 0)
	type step struct {
		p      Packet
		commit bool
		want   State
	}
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"UDP", []step{
			{packetOf(udp, 0), false, trk | StateNew},
			{packetOf(udp.Inverse(), 0), false, trk | StateNew}, // nothing was committed
			{packetOf(udp, 0), true, trk | StateNew},
			{packetOf(udp, 0), false, trk | StateNew},
			{packetOf(udp.Inverse(), 0), false, trk | StateEstablished | StateReply},
			{packetOf(udp, 0), false, trk | StateEstablished},
		}},
		{"ping", []step{
			{packetOf(echo.Inverse(), 0), true, trk | StateInvalid},
			{packetOf(echo, 0), true, trk | StateNew},
			{packetOf(echo.Inverse(), 0), false, trk | StateEstablished | StateReply},
			{packetOf(echo, 0), false, trk | StateEstablished},
		}},
		{"GRE", []step{
			{packetOf(other, 0), true, trk | StateNew},
			{packetOf(other.Inverse(), 0), false, trk | StateEstablished | StateReply},
		}},
		{"TCP", []step{
			{packetOf(tcp, FlagSYN|FlagFIN), true, trk | StateInvalid},
			{packetOf(tcp, FlagSYN), true, trk | StateNew},
			{packetOf(tcp, FlagACK), false, trk | StateInvalid}, // nobody has answered
			{packetOf(tcp, FlagSYN), false, trk | StateNew},
			{packetOf(tcp.Inverse(), FlagSYN|FlagACK), false, trk | StateEstablished | StateReply},
			{packetOf(tcp, FlagACK), false, trk | StateEstablished},
			{packetOf(tcp, FlagACK|FlagFIN), false, trk | StateEstablished},
			{packetOf(tcp.Inverse(), FlagACK|FlagFIN), false, trk | StateEstablished | StateReply},
			{packetOf(tcp, FlagACK), false, trk | StateEstablished},
			{packetOf(tcp, FlagSYN), false, trk | StateNew}, // another one
			{packetOf(tcp.Inverse(), FlagSYN|FlagACK), false, trk | StateInvalid},
		}},
		{"TCP picked up", []step{
			{packetOf(tcp, FlagACK), true, trk | StateNew},
			{packetOf(tcp.Inverse(), FlagACK), false, trk | StateEstablished | StateReply},
			{packetOf(tcp.Inverse(), FlagACK), false, trk | StateEstablished | StateReply},
		}},
		{"TCP refused", []step{
			{packetOf(tcp, FlagSYN), true, trk | StateNew},
			{packetOf(tcp.Inverse(), FlagRST|FlagACK), false, trk | StateEstablished | StateReply},
			{packetOf(tcp.Inverse(), FlagRST|FlagACK), false, trk | StateInvalid}, // it is gone
			{packetOf(tcp, FlagSYN), false, trk | StateNew},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, w := newTable(t, small(64))
			for i, s := range tt.steps {
				v := track(w, 5, s.p, start)
				if v.State != s.want {
					t.Fatalf("step %d: got %v, want %v", i, v.State, s.want)
				}
				if s.commit {
					w.Commit(5, &s.p, &Terms{}, start, &v)
				}
				if elsewhere := track(w, 6, s.p, start); elsewhere.State&(StateEstablished|StateReply) != 0 {
					t.Fatalf("step %d: another zone knows the connection: %v", i, elsewhere.State)
				}
			}
		})
	}
}

// TestMark checks that marks and labels are set by bits, and that whoever has
// the connection's cell as guard hears of it.
func TestMark(t *testing.T) {
	table, w := newTable(t, small(64))
	p := packetOf(tuple4(ProtoUDP, "10.0.0.1", 1, "10.0.0.2", 2), 0)
	commit(w, 1, p, Terms{Mark: 0xff, MarkMask: 0x0f, Label: [2]uint64{1, 2}, LabelMask: [2]uint64{0, 3}}, start)
	v := track(w, 1, p, start)
	if v.Mark != 0x0f || v.Label != [2]uint64{0, 2} || !v.Cacheable {
		t.Fatalf("got mark %#x, label %x, cacheable %v", v.Mark, v.Label, v.Cacheable)
	}
	if r := w.Commit(1, &p, &Terms{Mark: 3, MarkMask: 3}, start, &v); r != Unchanged || !v.Cacheable {
		t.Errorf("the same mark again: %v, cacheable %v", r, v.Cacheable)
	}
	if table.cell(v.Cell) != v.Want {
		t.Errorf("the cell moved for nothing")
	}
	if r := w.Commit(1, &p, &Terms{Mark: 0x10, MarkMask: 0x11, Label: [2]uint64{9, 9}, LabelMask: [2]uint64{1, 1}}, start, &v); r != Changed || v.Cacheable {
		t.Errorf("another mark: %v, cacheable %v", r, v.Cacheable)
	}
	if table.cell(v.Cell) == v.Want {
		t.Errorf("the cell did not move with the mark")
	}
	if v := track(w, 1, p, start); v.Mark != 0x1e || v.Label != [2]uint64{1, 3} {
		t.Errorf("got mark %#x, label %x", v.Mark, v.Label)
	}
}

// TestLabel changes a label more often than its version can count.
func TestLabel(t *testing.T) {
	_, w := newTable(t, small(64))
	p := packetOf(tuple4(ProtoUDP, "10.0.0.1", 1, "10.0.0.2", 2), 0)
	commit(w, 1, p, Terms{}, start)
	for i := range uint64(1000) {
		want := [2]uint64{i % 3, ^i}
		commit(w, 1, p, Terms{Label: want, LabelMask: [2]uint64{^uint64(0), ^uint64(0)}}, start)
		if v := track(w, 1, p, start); v.Label != want {
			t.Fatalf("change %d: got %x, want %x", i, v.Label, want)
		}
	}
}

// TestGuards checks that a cacheable verdict's cell moves before the verdict
// changes, for each way in which it may.
func TestGuards(t *testing.T) {
	udp := tuple4(ProtoUDP, "10.0.0.1", 1000, "10.0.0.2", 53)
	tcp := tuple4(ProtoTCP, "10.0.0.1", 1000, "10.0.0.2", 80)
	established := func(w *Worker) {
		commit(w, 1, packetOf(tcp, FlagSYN), Terms{}, start)
		track(w, 1, packetOf(tcp.Inverse(), FlagSYN|FlagACK), start)
		for range 2 { // data both ways: it is young no more
			track(w, 1, packetOf(tcp, FlagACK), start)
			track(w, 1, packetOf(tcp.Inverse(), FlagACK), start)
		}
	}
	for _, tt := range []struct {
		name   string
		before func(w *Worker)
		p      Packet
		change func(w *Worker)
	}{
		{"created", func(*Worker) {}, packetOf(udp, 0), func(w *Worker) { commit(w, 1, packetOf(udp, 0), Terms{}, start) }},
		{"created from the other side", func(*Worker) {}, packetOf(udp.Inverse(), 0), func(w *Worker) { commit(w, 1, packetOf(udp, 0), Terms{}, start) }},
		{"invalid, then created", func(*Worker) {}, packetOf(tcp.Inverse(), FlagSYN|FlagACK), func(w *Worker) { commit(w, 1, packetOf(tcp, FlagSYN), Terms{}, start) }},
		{"answered", func(w *Worker) { commit(w, 1, packetOf(udp, 0), Terms{}, start) }, packetOf(udp, 0),
			func(w *Worker) { track(w, 1, packetOf(udp.Inverse(), 0), start) }},
		{"flushed", func(w *Worker) { commit(w, 1, packetOf(udp, 0), Terms{}, start) }, packetOf(udp, 0), func(w *Worker) { w.t.Flush(1) }},
		{"tuple flushed", func(w *Worker) { commit(w, 1, packetOf(udp, 0), Terms{}, start) }, packetOf(udp, 0), func(w *Worker) { w.t.FlushTuple(1, udp) }},
		{"expired", func(w *Worker) { commit(w, 1, packetOf(udp, 0), Terms{}, start) }, packetOf(udp, 0), func(w *Worker) { sweep(w.t, start+31*second) }},
		{"FIN", established, packetOf(tcp, FlagACK), func(w *Worker) { track(w, 1, packetOf(tcp.Inverse(), FlagACK|FlagFIN), start) }},
		{"RST", established, packetOf(tcp, FlagACK), func(w *Worker) { track(w, 1, packetOf(tcp, FlagRST), start) }},
		{"forced", established, packetOf(tcp.Inverse(), FlagACK), func(w *Worker) { commit(w, 1, packetOf(tcp.Inverse(), FlagACK), Terms{Force: true}, start) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table, w := newTable(t, small(64))
			tt.before(w)
			v := track(w, 1, tt.p, start)
			if !v.Cacheable {
				t.Fatalf("not cacheable: %+v", v)
			}
			if again := track(w, 1, tt.p, start); again != v {
				t.Fatalf("got\n%+v, then\n%+v", v, again)
			}
			tt.change(w)
			if table.cell(v.Cell) == v.Want {
				t.Errorf("the guard of %v holds still", v.State)
			}
		})
	}
}

// TestTouch checks that packets which composed programs carried keep a connection
// alive and are counted, and that those of one that has gone are told apart.
func TestTouch(t *testing.T) {
	table, w := newTable(t, small(64))
	udp := tuple4(ProtoUDP, "10.0.0.1", 1000, "10.0.0.2", 53)
	v, _ := commit(w, 1, packetOf(udp, 0), Terms{}, start)
	track(w, 1, packetOf(udp.Inverse(), 0), start)
	if !w.Touch(v.Ref, true, 7, 700, start+20*second) || !w.Touch(v.Ref, false, 5, 500, start+25*second) {
		t.Fatal("the connection is not there")
	}
	sweep(table, start+50*second) // unassured would be over by now, were it not a stream
	c, ok := table.Lookup(1, udp.Inverse(), start+50*second)
	if !ok || c.Packets != [2]uint64{6, 8} || c.Bytes != [2]uint64{600, 800} || !c.Assured || c.Timeout != 95 {
		t.Errorf("got %+v, %v", c, ok)
	}
	sweep(table, start+146*second) // over: its cell moves
	if !w.Touch(v.Ref, false, 1, 1, start+146*second) {
		t.Fatal("not kept for a late touch")
	}
	if sweep(table, start+149*second) != 0 {
		t.Error("expired although it was touched")
	}
	sweep(table, start+270*second)
	if sweep(table, start+273*second) != 1 {
		t.Error("did not expire")
	}
	if w.Touch(v.Ref, false, 3, 3, start+273*second) || table.Stats().Late != 3 {
		t.Errorf("touched what is gone: %+v", table.Stats())
	}
	w.Quiet()
	w2, _ := commit(w, 1, packetOf(udp, 0), Terms{}, start+273*second)
	if w2.Ref == v.Ref {
		t.Error("a new connection has the name of an old one")
	}
}

// TestZoneLimit checks that a zone's limit binds it alone.
func TestZoneLimit(t *testing.T) {
	table, w := newTable(t, small(64))
	table.SetZoneLimit(7, 3)
	results := map[Result]int{}
	for i := range 5 {
		for _, zone := range []uint16{7, 8} {
			_, r := commit(w, zone, packetOf(tuple4(ProtoUDP, "10.0.0.1", uint16(i), "10.0.0.2", 53), 0), Terms{}, start)
			results[r]++
		}
	}
	if results[Created] != 8 || results[Limited] != 2 || table.Zone(7).Count != 3 || table.Zone(7).Refused != 2 || table.Zone(8).Count != 5 {
		t.Errorf("got %v, %+v, %+v", results, table.Zone(7), table.Zone(8))
	}
	if n := table.Flush(7); n != 3 || table.Zone(7).Count != 0 {
		t.Errorf("flushed %d, %d are left", n, table.Zone(7).Count)
	}
	if _, r := commit(w, 7, packetOf(tuple4(ProtoUDP, "10.0.0.1", 1, "10.0.0.2", 53), 0), Terms{}, start); r != Created {
		t.Errorf("after the flush: %v", r)
	}
}

// TestFlush flushes one zone of several, with more connections than a step takes.
func TestFlush(t *testing.T) {
	table, w := newTable(t, small(4096))
	for i := range 600 {
		for zone := range uint16(3) {
			commit(w, zone, packetOf(tuple4(ProtoUDP, "10.0.0.1", uint16(i), "10.0.0.2", 53), 0), Terms{}, start)
		}
	}
	if n := table.Flush(1); n != 600 || count(table) != 1200 {
		t.Errorf("flushed %d, %d are left", n, count(table))
	}
	for c := range table.Dump(start) {
		if c.Zone == 1 {
			t.Errorf("%v was flushed", c.Original)
		}
	}
	if v := track(w, 1, packetOf(tuple4(ProtoUDP, "10.0.0.1", 5, "10.0.0.2", 53), 0), start); v.Ref != 0 {
		t.Error("a flushed connection is found")
	}
	if s := table.Stats(); s.Flushed != 600 || s.Connections != 1200 {
		t.Errorf("got %+v", s)
	}
}

// TestEviction fills a table beyond its capacity: unassured connections give
// way, assured ones stay, and when only these are left nothing is created.
func TestEviction(t *testing.T) {
	table, w := newTable(t, small(1024))
	now := start
	assure := func(i int) Result {
		tcp := tuple4(ProtoTCP, "10.0.0.1", uint16(i), "10.0.0.2", 80)
		_, r := commit(w, 1, packetOf(tcp, FlagSYN), Terms{}, now)
		track(w, 1, packetOf(tcp.Inverse(), FlagSYN|FlagACK), now)
		track(w, 1, packetOf(tcp, FlagACK), now)
		w.Quiet()
		return r
	}
	for i := range 500 {
		if r := assure(i); r != Created {
			t.Fatalf("connection %d: %v", i, r)
		}
	}
	failed := 0
	for i := range 20000 { // a flood; each is answered by nobody
		now += second / 10000
		syn := packetOf(tuple4(ProtoTCP, "10.9.0.1", uint16(i), "10.0.0.2", uint16(i>>8)), FlagSYN)
		if _, r := commit(w, 1, syn, Terms{}, now); r != Created {
			failed++
		}
		w.Quiet()
		if i%100 == 0 {
			if r := assure(500 + i/100); r != Created {
				t.Fatalf("a proper connection in the flood: %v, %+v", r, table.Stats())
			}
		}
	}
	if failed != 0 {
		t.Errorf("%d of the flood were not created though others could give way", failed)
	}
	s := table.Stats()
	if n := count(table); n > 1024 || s.Evicted == 0 || s.Connections != n {
		t.Errorf("%d connections, %+v", n, s)
	}
	for i := range 700 {
		if v := track(w, 1, packetOf(tuple4(ProtoTCP, "10.0.0.1", uint16(i), "10.0.0.2", 80), FlagACK), now); v.State&StateEstablished == 0 {
			t.Fatalf("assured connection %d was lost: %v", i, v.State)
		}
	}
	full := 0
	for i := 700; i < 1300; i++ {
		if r := assure(i); r == Full {
			full++
		}
	}
	if full == 0 || table.Stats().Full == 0 {
		t.Error("more assured connections than there is room for")
	}
}

// TestExpiry checks each timeout of the default policy: a connection is there
// before its time, and gone two seconds after.
func TestExpiry(t *testing.T) {
	tcp := tuple4(ProtoTCP, "10.0.0.1", 1000, "10.0.0.2", 80)
	udp := tuple4(ProtoUDP, "10.0.0.1", 1000, "10.0.0.2", 53)
	icmp := tuple4(ProtoICMP, "10.0.0.1", 77, "10.0.0.2", 8<<8)
	type at struct {
		p   Packet
		sec uint64
	}
	syn, synack, ack, fin := packetOf(tcp, FlagSYN), packetOf(tcp.Inverse(), FlagSYN|FlagACK), packetOf(tcp, FlagACK), packetOf(tcp, FlagFIN|FlagACK)
	finBack := packetOf(tcp.Inverse(), FlagFIN|FlagACK)
	for _, tt := range []struct {
		name    string
		packets []at
		want    uint64 // seconds after the last packet
	}{
		{"SYN", []at{{syn, 0}}, 120},
		{"SYN ACK", []at{{syn, 0}, {synack, 1}}, 60},
		{"established", []at{{syn, 0}, {synack, 1}, {ack, 2}}, 432000},
		{"FIN", []at{{syn, 0}, {synack, 1}, {ack, 2}, {fin, 3}}, 120},
		{"half closed", []at{{syn, 0}, {synack, 1}, {ack, 2}, {fin, 3}, {packetOf(tcp.Inverse(), FlagACK), 4}}, 60},
		{"both FINs", []at{{syn, 0}, {synack, 1}, {ack, 2}, {fin, 3}, {finBack, 4}}, 30},
		{"time wait", []at{{syn, 0}, {synack, 1}, {ack, 2}, {fin, 3}, {finBack, 4}, {ack, 5}}, 120},
		{"RST", []at{{syn, 0}, {synack, 1}, {ack, 2}, {packetOf(tcp, FlagRST), 3}}, 10},
		{"picked up", []at{{ack, 0}}, 300},
		{"UDP", []at{{packetOf(udp, 0), 0}}, 30},
		{"UDP answered at once", []at{{packetOf(udp, 0), 0}, {packetOf(udp.Inverse(), 0), 1}}, 30},
		{"UDP stream", []at{{packetOf(udp, 0), 0}, {packetOf(udp.Inverse(), 0), 1}, {packetOf(udp, 0), 4}}, 120},
		{"ping", []at{{packetOf(icmp, 0), 0}}, 30},
		{"GRE", []at{{packetOf(tuple4(47, "10.0.0.1", 0, "10.0.0.2", 0), 0), 0}}, 600},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table, w := newTable(t, small(64))
			now := uint64(0)
			for i, p := range tt.packets {
				now = start + p.sec*second
				if i == 0 {
					commit(w, 1, p.p, Terms{}, now)
				} else {
					track(w, 1, p.p, now)
				}
			}
			sweep(table, now+tt.want*second-second/2)
			sweep(table, now+tt.want*second-second/2)
			if count(table) != 1 {
				t.Fatal("gone before its time")
			}
			sweep(table, now+tt.want*second+second/2)
			if sweep(table, now+tt.want*second+3*second) != 1 || count(table) != 0 {
				t.Error("did not go in time")
			}
		})
	}
}

// TestBudget checks that a sweep does no more than its budget allows, whatever it finds: with the
// smallest one, one removal. Many such sweeps remove everything.
func TestBudget(t *testing.T) {
	const n = 2000
	table, w := newTable(t, small(4096))
	for i := range n {
		commit(w, 1, packetOf(tuple4(ProtoUDP, "10.0.0.1", uint16(i), "10.0.0.2", 53), 0), Terms{}, start)
	}
	for _, tt := range []struct {
		now    uint64
		budget int
		most   int // removals
	}{{start, 1000, 0}, {start + 40*second, removeCost, 0}, {start + 50*second, removeCost, 1}, {start + 50*second, 4096, 4096/removeCost + 1}} {
		seen, total := 0, 0
		for calls := 0; seen < n && calls < 2*n; calls++ {
			looked, removed := w.Expire(tt.now, tt.budget)
			w.Quiet()
			if removed > tt.most || looked > tt.budget {
				t.Fatalf("with a budget of %d one call has looked at %d, and removed %d", tt.budget, looked, removed)
			}
			if seen, total = seen+looked, total+removed; total == n/2 {
				break // the rest is for the next budget
			}
		}
		if total == 0 && tt.most > 0 {
			t.Errorf("with a budget of %d nothing is removed in a pass", tt.budget)
		}
	}
	if count(table) != 0 {
		t.Errorf("%d are left", count(table))
	}
}

// TestMayGo checks who makes room when every connection is assured: those that are about to end,
// as in Linux, and no others.
func TestMayGo(t *testing.T) {
	table, w := newTable(t, small(1024))
	life := func(port int, opening string) Result {
		tcp := tuple4(ProtoTCP, "10.0.0.1", uint16(port), "10.0.0.2", 80)
		var r Result
		for i, s := range segmentsOf(opening) {
			p := packetOf(tcp, s.flags)
			if s.dir == 1 {
				p = packetOf(tcp.Inverse(), s.flags)
			}
			if i == 0 {
				_, r = commit(w, 1, p, Terms{}, start)
			} else {
				track(w, 1, p, start)
			}
		}
		w.Quiet()
		return r
	}
	state := func(port int) string {
		c, _ := table.Lookup(1, tuple4(ProtoTCP, "10.0.0.1", uint16(port), "10.0.0.2", 80), start)
		return c.State
	}
	ends := map[string]string{"FIN_WAIT": " >FA", "CLOSE_WAIT": " >FA <A", "LAST_ACK": " >FA <FA", "TIME_WAIT": " >FA <FA >A", "CLOSE": " <R"}
	const open, closing = 300, 500
	for i := range open {
		life(i, ">S <SA >A")
	}
	i := open
	for i < open+closing {
		for want, end := range ends {
			life(i, ">S <SA >A"+end)
			if got := state(i); got != want {
				t.Fatalf("behind %q: %s", end, got)
			}
			i++
		}
	}
	left := func(from, to int) (n int) {
		for i := from; i < to; i++ {
			if state(i) != "" {
				n++
			}
		}
		return n
	}
	for n := range 600 {
		if r := life(20000+n, ">S <SA >A"); r != Created {
			t.Fatalf("proper connection %d: %v, %+v", n, r, table.Stats())
		}
	}
	if n := left(0, open); n != open {
		t.Errorf("%d of %d open connections are left", n, open)
	}
	if n := left(20000, 20600); n != 600 {
		t.Errorf("%d of 600 new connections are left", n)
	}
}

// TestForce checks that a reply can begin a connection of its own.
func TestForce(t *testing.T) {
	table, w := newTable(t, small(64))
	udp := tuple4(ProtoUDP, "10.0.0.1", 1000, "10.0.0.2", 53)
	commit(w, 1, packetOf(udp, 0), Terms{Mark: 7, MarkMask: 7}, start)
	v, r := commit(w, 1, packetOf(udp.Inverse(), 0), Terms{Force: true}, start)
	if r != Created || v.State != StateTracked|StateNew || v.Mark != 0 || v.Original != udp.Inverse() {
		t.Errorf("%v: %+v", r, v)
	}
	if v := track(w, 1, packetOf(udp, 0), start); v.State != StateTracked|StateEstablished|StateReply || count(table) != 1 {
		t.Errorf("the other side is %v, of %d connections", v.State, count(table))
	}
	if _, r := commit(w, 1, packetOf(udp.Inverse(), 0), Terms{Force: true}, start); r != Unchanged {
		t.Errorf("again: %v", r)
	}
}

// TestPolicy checks that a zone's timeouts are its own.
func TestPolicy(t *testing.T) {
	table, w := newTable(t, small(64))
	p := DefaultPolicy()
	p[UDPFirst] = 5
	if err := table.SetZonePolicy(3, 9); err == nil {
		t.Error("a zone got a policy that nobody made")
	}
	if err := table.SetPolicy(9, p); err != nil {
		t.Fatal(err)
	}
	if err := table.SetZonePolicy(3, 9); err != nil {
		t.Fatal(err)
	}
	if err := table.SetPolicy(1, Policy{}); err == nil {
		t.Error("timeouts of zero were taken")
	}
	udp := packetOf(tuple4(ProtoUDP, "10.0.0.1", 1, "10.0.0.2", 2), 0)
	for _, zone := range []uint16{3, 4} {
		commit(w, zone, udp, Terms{}, start)
	}
	commit(w, 5, udp, Terms{Policy: 9}, start)
	sweep(table, start+6*second)
	if n := sweep(table, start+9*second); n != 2 || table.Zone(4).Count != 1 {
		t.Errorf("%d have expired, %d are left in the other zone", n, table.Zone(4).Count)
	}
}

// TestMemory holds a table to what it may take for each connection.
func TestMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("needs a build without the race detector, whose arrays are others")
	}
	o := DefaultOptions(24 << 30)
	o.Capacity = 1 << 20
	table, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	}()
	each := float64(table.Stats().Bytes-o.Held) / float64(o.Capacity)
	t.Logf("%.1f bytes for each connection", each)
	if each > 256 {
		t.Errorf("%.1f bytes for each connection, want 256 at most", each)
	}
	for machine, want := range map[uint64]int{24 << 30: 4 << 20, 2 << 30: 512 << 10, 64 << 20: 16 << 10} {
		if got := DefaultOptions(machine).Capacity; got != want {
			t.Errorf("%d bytes of machine: %d connections, want %d", machine, got, want)
		}
	}
}

// TestOptions checks that what cannot be is refused.
func TestOptions(t *testing.T) {
	for _, o := range []Options{{}, {Capacity: -1}, {Capacity: CapacityMax + 1}, {Capacity: 64, Held: -1}, {Capacity: 64, Cells: make([]uint32, 10)}} {
		if table, err := New(o); err == nil {
			t.Errorf("%+v was taken", o)
			_ = table.Close()
		}
	}
	o := small(64)
	o.Cells = make([]uint32, CellsNeeded(o))
	_, w := newTable(t, o)
	udp := packetOf(tuple4(ProtoUDP, "10.0.0.1", 1, "10.0.0.2", 2), 0)
	commit(w, 1, udp, Terms{}, start)
	v := track(w, 1, udp, start) // that may be cached
	before := o.Cells[v.Cell]
	track(w, 1, packetOf(tuple4(ProtoUDP, "10.0.0.2", 2, "10.0.0.1", 1), 0), start)
	if o.Cells[v.Cell] == before {
		t.Error("the cells are not the caller's")
	}
}

// TestNoAllocs checks that looking up, creating and touching need no garbage.
func TestNoAllocs(t *testing.T) {
	table, w := newTable(t, small(1024))
	r := rand.New(rand.NewPCG(1, 2))
	tcp := tuple4(ProtoTCP, "10.0.0.1", 1000, "10.0.0.2", 80)
	p, back := packetOf(tcp, FlagACK), packetOf(tcp.Inverse(), FlagACK)
	var v Verdict
	var terms Terms
	nat := NAT{Src: Range{Set: true, Min: addr("1.1.1.1"), Max: addr("1.1.1.9")}}
	commit(w, 1, p, terms, start)
	n := testing.AllocsPerRun(1000, func() {
		w.Track(1, &p, start, &v)
		w.Commit(1, &p, &terms, start, &v)
		w.Track(1, &back, start, &v)
		w.Touch(v.Ref, true, 1, 1, start)
	})
	if n != 0 {
		t.Errorf("an established packet allocates %v times", n)
	}
	n = testing.AllocsPerRun(2000, func() {
		q := packetOf(tcp, FlagSYN)
		q.SrcPort, q.Src[1] = uint16(r.Uint32()), uint64(r.Uint32())
		terms.NAT = &nat
		w.Track(1, &q, start, &v)
		w.Commit(1, &q, &terms, start, &v)
		v.Translate(&q)
		w.Expire(start, 64)
		w.Quiet()
	})
	if n != 0 {
		t.Errorf("a new connection allocates %v times", n)
	}
	if table.Stats().Evicted == 0 {
		t.Error("nothing was evicted")
	}
}

// TestHalfFull checks that the index has a place for every key of a full table, whose connections come and
// go, and that few keys are not in their first bucket.
func TestHalfFull(t *testing.T) {
	capacity := 1 << 17
	if raceEnabled {
		capacity = 1 << 15
	}
	table, w := newTable(t, small(capacity))
	n := capacity - int(table.reserve()) - 2*workerStock - 64 // 64 wait for the worker to be quiet
	r := rand.New(rand.NewPCG(5, 6))
	ports := make([]Tuple, 0, n)
	next := func(i int) Tuple {
		return Tuple{Src: Addr{1: r.Uint64() & allBits}, Dst: Addr{1: uint64(i)}, SrcPort: uint16(i), DstPort: 53, Proto: ProtoUDP}
	}
	for i := range 6 * n {
		tuple := next(i)
		if len(ports) == n {
			at := r.IntN(n)
			table.FlushTuple(1, ports[at])
			ports[at] = ports[n-1]
			ports = ports[:n-1]
			if i%64 == 0 {
				w.Quiet()
			}
		}
		if _, got := commit(w, 1, packetOf(tuple, 0), Terms{}, start); got != Created {
			t.Fatalf("connection %d: %v; %+v", i, got, table.Stats())
		}
		ports = append(ports, tuple)
	}
	away, stuck := 0, 0
	for b := range table.index.buckets {
		n := int(table.index.buckets[b][0].Load() & awayBits >> awayShift)
		away += n
		if n == awayMost {
			stuck++
		}
	}
	t.Logf("of %d keys %d are in their second bucket; %d buckets do not know", 2*n, away, stuck)
	if away == 0 || away > 2*n/5 || stuck > len(table.index.buckets)/500 {
		t.Errorf("of %d keys %d are in their second bucket; %d buckets do not know", 2*n, away, stuck)
	}
	checkWhole(t, table)
}
