package conntrack

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// A model is conntrack that is too simple to be wrong: a list of connections
// that is searched from the start, one packet after the other.
type model struct {
	list     []*modelConn
	policies map[uint16]Policy
	limits   map[uint16]int
	strict   bool
}

// A modelConn is one connection.
type modelConn struct {
	zone           uint16
	tuples         [2]Tuple
	state          string // of TCP
	replied        bool
	assured        bool
	crossed        bool // SYNs in both directions
	dying          bool
	created        uint32
	deadline       uint32
	mark           uint32
	packets, bytes [2]uint64
}

// find returns the connection that a tuple belongs to, and its direction.
func (m *model) find(zone uint16, t Tuple) (*modelConn, int) {
	for _, c := range m.list {
		for dir := range c.tuples {
			if c.zone == zone && c.tuples[dir] == t {
				return c, dir
			}
		}
	}
	return nil, 0
}

// drop takes a connection out.
func (m *model) drop(c *modelConn) {
	for i := range m.list {
		if m.list[i] == c {
			m.list = append(m.list[:i], m.list[i+1:]...)
			return
		}
	}
}

// tcpModel says what a packet does to a TCP connection, state by state.
// It returns the state after it; "bad", "ignore", "again" and "gone" are not states.
func tcpModel(state string, reply, replied, crossed bool, flags uint16) string {
	syn, ack, fin, rst := flags&FlagSYN != 0, flags&FlagACK != 0, flags&FlagFIN != 0, flags&FlagRST != 0
	switch {
	case syn && (fin || rst), fin && rst, fin && !ack, !syn && !fin && !rst && !ack,
		rst && flags&FlagURG != 0, syn && ack && flags&FlagURG != 0:
		return "bad"
	case rst && !replied:
		return "gone"
	case rst:
		return "close"
	case syn && !ack && !reply:
		switch state {
		case "syn sent":
			return "syn sent"
		case "syn sent 2":
			return "syn sent 2"
		case "time wait", "close":
			return "again"
		}
		return "ignore"
	case syn && !ack:
		switch state {
		case "syn sent", "syn sent 2":
			return "syn sent 2"
		case "time wait":
			return "again"
		}
		return "bad"
	case syn && !reply:
		if state == "syn recv" || state == "syn sent 2" {
			return "syn recv"
		}
		return "bad"
	case syn:
		if state == "syn sent" || state == "syn sent 2" {
			return "syn recv"
		}
		return "ignore"
	}
	switch state {
	case "syn sent", "syn sent 2":
		if reply && !fin {
			return "ignore"
		}
		return "bad"
	case "syn recv":
		if fin {
			return "fin wait"
		}
		if reply && !crossed {
			return "syn recv"
		}
		return "established"
	case "established":
		if fin {
			return "fin wait"
		}
	case "fin wait", "close wait":
		if fin {
			return "last ack"
		}
		return "close wait"
	case "last ack":
		if !fin {
			return "time wait"
		}
	}
	return state
}

// track is Track.
func (m *model) track(zone uint16, p *Packet, now uint32) (s State, c *modelConn, dir int) {
	c, dir = m.find(zone, p.Tuple)
	if c == nil {
		if !m.begins(p) {
			return StateTracked | StateInvalid, nil, 0
		}
		return StateTracked | StateNew, nil, 0
	}
	refresh := true
	if p.Proto == ProtoTCP {
		next := tcpModel(c.state, dir == 1, c.replied, c.crossed, p.Flags)
		switch next {
		case "bad":
			return StateTracked | StateInvalid, nil, 0
		case "again":
			m.drop(c)
			return m.track(zone, p, now)
		case "ignore":
			refresh = false
			defer func() { c.replied = c.replied || dir == 1 }()
		default:
			if next == "established" && c.replied {
				c.assured = true
			}
			if next == "gone" {
				m.drop(c)
			}
			c.state, c.crossed = next, c.crossed || next == "syn sent 2"
		}
	}
	s = StateTracked
	switch {
	case dir == 1:
		s |= StateEstablished | StateReply
	case c.replied:
		s |= StateEstablished
	default:
		s |= StateNew
	}
	c.packets[dir]++
	c.bytes[dir] += uint64(p.Len)
	if refresh {
		if p.Proto == ProtoUDP && c.replied && now-c.created > 30 {
			c.assured = true
		}
		c.replied = c.replied || dir == 1
		c.dying = false
		c.deadline = now + m.timeout(c)
	}
	return s, c, dir
}

// begins tells a packet that may begin a connection.
func (m *model) begins(p *Packet) bool {
	switch {
	case p.Proto == ProtoTCP:
		next := tcpModel("established", false, true, false, p.Flags)
		syn := p.Flags&(FlagSYN|FlagACK|FlagRST|FlagFIN) == FlagSYN
		return syn || next == "established" && !m.strict
	case p.icmp():
		kind := p.DstPort >> 8
		return p.Six && (kind == 128 || kind == 139) || !p.Six && (kind == 8 || kind == 13 || kind == 15 || kind == 17)
	}
	return true
}

// timeout returns how many ticks a connection has.
func (m *model) timeout(c *modelConn) uint32 {
	p := DefaultPolicy()
	if special, ok := m.policies[c.zone]; ok {
		p = special
	}
	seconds := p[OtherFirst]
	switch t := &c.tuples[0]; {
	case t.Proto == ProtoTCP:
		seconds = map[string]uint32{"syn sent": p[TCPSynSent], "syn recv": p[TCPSynRecv], "established": p[TCPEstablished], "fin wait": p[TCPFinWait],
			"close wait": p[TCPCloseWait], "last ack": p[TCPLastAck], "time wait": p[TCPTimeWait], "close": p[TCPClose], "syn sent 2": p[TCPSynSent2], "gone": 1}[c.state]
		if c.state == "established" && !c.replied {
			seconds = p[TCPUnacknowledged]
		}
	case t.Proto == ProtoUDP && c.assured:
		seconds = p[UDPStream]
	case t.Proto == ProtoUDP:
		seconds = p[UDPFirst]
	case t.icmp():
		seconds = p[ICMPQuery]
	case c.replied:
		seconds = p[OtherReplied]
	}
	return uint32((uint64(seconds)*1e9 + 1<<26 - 1) / (1 << 26))
}

// commit is Commit. The reply's tuple is what the table has chosen.
func (m *model) commit(zone uint16, p *Packet, answer Tuple, mark, mask uint32, now uint32, s State) Result {
	if s&StateInvalid != 0 {
		return NotValid
	}
	if c, _ := m.find(zone, p.Tuple); c != nil {
		old := c.mark
		c.mark = c.mark&^mask | mark&mask
		if c.mark != old {
			return Changed
		}
		return Unchanged
	}
	if other, _ := m.find(zone, answer); other != nil {
		return Clash
	}
	if limit := m.limits[zone]; limit != 0 && m.held(zone) >= limit {
		return Limited
	}
	c := &modelConn{zone: zone, tuples: [2]Tuple{p.Tuple, answer}, created: now, mark: mark & mask, packets: [2]uint64{1}, bytes: [2]uint64{uint64(p.Len)}}
	c.state = "established"
	if p.Flags&FlagSYN != 0 {
		c.state = "syn sent"
	}
	c.deadline = now + m.timeout(c)
	m.list = append(m.list, c)
	return Created
}

// held returns how many connections a zone has.
func (m *model) held(zone uint16) (n int) {
	for _, c := range m.list {
		if c.zone == zone {
			n++
		}
	}
	return n
}

// sweep is Expire over all connections.
func (m *model) sweep(now uint32) {
	kept := m.list[:0]
	for _, c := range m.list {
		switch {
		case now < c.deadline:
		case !c.dying:
			c.dying, c.deadline = true, now+30
		default:
			continue
		}
		kept = append(kept, c)
	}
	m.list = kept
}

// flush is Flush.
func (m *model) flush(zone uint16) (n int) {
	kept := m.list[:0]
	for _, c := range m.list {
		if c.zone != zone {
			kept = append(kept, c)
		} else {
			n++
		}
	}
	m.list = kept
	return n
}

// A source gives a test its choices: random numbers, or a fuzzer's bytes.
type source func(n int) int

// modelNAT are the translations that tests use. They are so small that ports run
// out.
var modelNAT = []*NAT{
	nil, nil,
	{Src: Range{Set: true, Min: Addr{1: 0xc0000201}, Max: Addr{1: 0xc0000202}, PortMin: 1, PortMax: 3}},
	{Src: Range{Set: true, Min: Addr{1: 0xc0000201}, Max: Addr{1: 0xc0000201}}, Random: true},
	{Dst: Range{Set: true, Min: Addr{1: 0x0a000001}, Max: Addr{1: 0x0a000003}}},
	{Dst: Range{Set: true, Min: Addr{1: 0x0a000002}, Max: Addr{1: 0x0a000002}, PortMin: 2, PortMax: 3}, Persistent: true},
	{Src: Range{Set: true}},
}

// runModel takes steps through the table and the model and compares them.
func runModel(t *testing.T, steps int, strict bool, choose source) (seen map[string]int) {
	t.Helper()
	o := small(4096)
	o.Strict = strict
	table, w := newTable(t, o)
	m := &model{policies: map[uint16]Policy{2: DefaultPolicy()}, limits: map[uint16]int{1: 8}, strict: strict}
	p := m.policies[2]
	p[UDPFirst], p[TCPSynSent], p[TCPEstablished] = 3, 5, 40
	m.policies[2] = p
	if err := table.SetPolicy(4, p); err != nil {
		t.Fatal(err)
	}
	if err := table.SetZonePolicy(2, 4); err != nil {
		t.Fatal(err)
	}
	table.SetZoneLimit(1, 8)
	now := start
	seen = map[string]int{}
	for step := range steps {
		w.Quiet()
		zone := uint16(choose(3))
		switch op := choose(64); {
		case op == 0:
			now += uint64(choose(60)) * second
			sweep(table, now)
			m.sweep(tickOf(now))
		case op == 1 && choose(4) == 0:
			if got, want := table.Flush(zone), m.flush(zone); got != want {
				t.Fatalf("step %d: flushed %d of zone %d, want %d", step, got, zone, want)
			}
		default:
			now += uint64(choose(3)) * second / 4
			modelPacket(t, step, w, m, zone, now, choose, seen)
		}
		if step%64 == 0 {
			compareAll(t, step, table, m, now)
		}
	}
	compareAll(t, steps, table, m, now)
	return seen
}

// modelPacket takes one packet through both.
func modelPacket(t *testing.T, step int, w *Worker, m *model, zone uint16, now uint64, choose source, seen map[string]int) {
	p := Packet{Len: uint32(60 + choose(4)), Scale: -1}
	p.Proto = []uint8{ProtoTCP, ProtoTCP, ProtoTCP, ProtoUDP, ProtoICMP, 47}[choose(6)]
	if len(m.list) > 0 && choose(3) == 0 { // of a connection that there is
		c := m.list[choose(len(m.list))]
		zone, p.Tuple = c.zone, c.tuples[choose(2)]
	} else {
		p.Src, p.Dst = Addr{1: uint64(0x0a000001 + choose(3))}, Addr{1: uint64(0x0a000001 + choose(3))}
		switch p.Proto {
		case ProtoICMP:
			p.SrcPort, p.DstPort = uint16(choose(3)), []uint16{8 << 8, 0, 13 << 8, 9 << 8}[choose(4)]
		case ProtoTCP, ProtoUDP:
			p.SrcPort, p.DstPort = uint16(1+choose(3)), uint16(1+choose(3))
		}
	}
	if p.Proto == ProtoTCP {
		p.Flags = []uint16{FlagSYN, FlagSYN | FlagACK, FlagACK, FlagACK, FlagACK | FlagPSH, FlagFIN | FlagACK, FlagRST, FlagRST | FlagACK, FlagFIN, 0, FlagSYN | FlagFIN, FlagACK | FlagURG, FlagRST | FlagURG}[choose(13)]
	}
	var v Verdict
	w.Track(zone, &p, now, &v)
	s, c, dir := m.track(zone, &p, tickOf(now))
	what := fmt.Sprintf("step %d, zone %d, %v flags %#x", step, zone, p.Tuple, p.Flags)
	if v.State != s {
		t.Fatalf("%s: got %v, want %v (%+v)", what, v.State, s, c)
	}
	seen[s.String()]++
	if c != nil && c.state != "gone" && v.Ref == 0 || c == nil && v.Ref != 0 {
		t.Fatalf("%s: ref %x, want %+v", what, v.Ref, c)
	}
	if c != nil {
		if v.Mark != c.mark {
			t.Fatalf("%s: mark %x, want %x", what, v.Mark, c.mark)
		}
		q := p
		v.Translate(&q)
		if want := c.tuples[1-dir].Inverse(); q.Tuple != want {
			t.Fatalf("%s: became %v, want %v", what, q.Tuple, want)
		}
		v.State = s
		if c.state == "gone" {
			return
		}
	}
	if choose(2) == 0 {
		return
	}
	n := modelNAT[choose(len(modelNAT))]
	terms := Terms{Mark: uint32(choose(16)), MarkMask: uint32(choose(16)), NAT: n}
	got := w.Commit(zone, &p, &terms, now, &v)
	seen[got.String()]++
	answer := p.Inverse()
	if got == Created {
		made, ok := w.t.Lookup(zone, p.Tuple, now)
		if !ok {
			t.Fatalf("%s: created and not there", what)
		}
		answer = made.Answer
		checkTranslated(t, what, &p.Tuple, answer.Inverse(), n)
	}
	if got == NoPort && n != nil {
		return // what is possible is the business of TestPorts
	}
	if got == Limited && m.held(zone) >= m.limits[zone] {
		return // it would have been translated to an answer that nobody has told
	}
	want := m.commit(zone, &p, answer, terms.Mark, terms.MarkMask, tickOf(now), s)
	if got != want {
		t.Fatalf("%s: commit %v, want %v; nat %+v", what, got, want, n)
	}
	if got == Created && v.Cacheable {
		t.Fatalf("%s: created and cacheable", what)
	}
}

// checkTranslated checks that o became what n allows.
func checkTranslated(t *testing.T, what string, o *Tuple, became Tuple, n *NAT) {
	t.Helper()
	if n == nil {
		n = &NAT{}
	}
	want := *o
	if n.Src.Set && !n.Src.keepsAddress() && !n.Src.in(became.Src) || n.Src.Set && o.ported() && !n.Src.hasPort(became.SrcPort) {
		t.Fatalf("%s: source became %v", what, became)
	}
	if n.Dst.Set && (!n.Dst.in(became.Dst) || o.ported() && !o.icmp() && !n.Dst.hasPort(became.DstPort)) {
		t.Fatalf("%s: destination became %v", what, became)
	}
	if n.Src.Set {
		want.SrcPort = became.SrcPort
		if !n.Src.keepsAddress() {
			want.Src = became.Src
		}
	}
	if n.Dst.Set {
		want.Dst, want.DstPort = became.Dst, became.DstPort
	}
	if became != want {
		t.Fatalf("%s: became %v, which %+v does not say", what, became, n)
	}
}

// compareAll compares all connections.
func compareAll(t *testing.T, step int, table *Table, m *model, now uint64) {
	t.Helper()
	n := 0
	there := map[*modelConn]bool{}
	for c := range table.Dump(now) {
		n++
		want, dir := m.find(c.Zone, c.Original)
		if want == nil || dir != 0 || want.tuples[1] != c.Answer {
			t.Fatalf("step %d: %v is not in the model: %+v", step, c, want)
		}
		there[want] = true
		if c.Packets != want.packets || c.Bytes != want.bytes || c.Mark != want.mark || c.Assured != want.assured || c.SeenReply != want.replied {
			t.Fatalf("step %d: got %+v, want %+v", step, c, want)
		}
		var left uint32
		if d := tickOf(now); want.deadline > d {
			left = secondsOf(want.deadline - d)
		}
		if c.Timeout != left {
			t.Fatalf("step %d: %v has %d seconds, want %d: %+v", step, c, c.Timeout, left, want)
		}
	}
	for _, c := range m.list {
		if !there[c] {
			t.Fatalf("step %d: %+v is not in the table", step, c)
		}
	}
	if n != len(m.list) || table.Stats().Connections != n {
		t.Fatalf("step %d: %d connections, stats say %d, want %d", step, n, table.Stats().Connections, len(m.list))
	}
}

// TestModel takes random packets of few addresses and ports, so that
// connections meet, through the table and the model.
func TestModel(t *testing.T) {
	runs, steps := 40, 10000
	if testing.Short() || raceEnabled {
		runs = 4
	}
	total := map[string]int{}
	for run := range runs {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 1))
		t.Logf("seed %d", seed)
		for what, n := range runModel(t, steps, run%4 == 0, r.IntN) {
			total[what] += n
		}
	}
	for _, what := range []string{"created", "changed", "unchanged", "clash", "no port", "zone limit", "invalid", "new|trk", "est|trk", "est|rpl|trk", "inv|trk"} {
		if total[what] == 0 {
			t.Errorf("no %q among %v", what, total)
		}
	}
}

// FuzzPackets has a fuzzer choose the packets of TestModel.
func FuzzPackets(f *testing.F) {
	f.Add([]byte("\x01\x20\x03\x04\x05\x06\x07\x08\x09\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x20"))
	f.Fuzz(func(t *testing.T, script []byte) {
		at := 0
		runModel(t, min(len(script)/4, 400), false, func(n int) int {
			if at >= len(script) {
				return 0
			}
			at++
			return int(script[at-1]) % n
		})
	})
}
