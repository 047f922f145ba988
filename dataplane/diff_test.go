package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/flowtable"
	"millrace/flowtable/flowcache"
)

// named are all fields by name.
var named = func() map[string]flowtable.Field {
	m := map[string]flowtable.Field{}
	for _, f := range flowtable.Fields() {
		m[f.Name] = f
	}
	return m
}()

// fields are some fields by name.
func fields(names ...string) (out []flowtable.Field) {
	for _, n := range names {
		out = append(out, named[n])
	}
	return out
}

// A mill throws random frames at a switch with random rules, and the same at a plain
// switch.
type mill struct {
	t     *testing.T
	seed  uint64
	rnd   *rand.Rand
	r     *rig
	plain *plainSwitch
	ports []string
	next  flowtable.RuleID
	match []flowtable.Field
	meta  []flowtable.Field
	set   []flowtable.Field
	learn bool // rules may learn: then batches are of one frame
	dps   []uint64
	fdbs  []uint32

	frames, sent, dropped int
	rounds, short         int // short: in which the switch may do less than a plain one
	reasons               map[packet.Reason]int
}

// newMill makes a switch of two bridges, with some workers and a cache of some
// size.
func newMill(t *testing.T, seed uint64) *mill {
	m := &mill{t: t, seed: seed, rnd: rand.New(rand.NewPCG(seed, 7)), next: 1, reasons: map[packet.Reason]int{}}
	size := func() int { return 4 << m.rnd.IntN(9) }
	m.r = newRigWith(t, &flowcache.CacheOptions{Exact: size(), ExactWide: size(), Wild: size(), WildWide: size(), Seen: size(),
		ProgramBytes: 1 << (14 + m.rnd.IntN(6)), Masks: 1 + m.rnd.IntN(flowcache.MasksMax)})
	for id := 1; id < 1+m.rnd.IntN(3); id++ {
		w, err := newWorker(id, id, PollBusy, m.r.s.engine, 2)
		if err != nil {
			t.Fatal(err)
		}
		close(w.stopped)
		m.r.s.workers = append(m.r.s.workers, w)
	}
	m.learn = m.rnd.IntN(4) == 0
	m.match = fields("eth.type", "ip.proto", "eth.dst", "eth.src", "ip4.src", "ip4.dst", "tp.src", "tp.dst", "vlan.tci", "ip.ttl", "ip.dscp", "in_port", "ip.frag", "tcp.flags")
	m.meta = fields("reg0", "reg1", "outport", "inport", "flags", "xreg1")
	m.set = fields("vlan.tci", "eth.dst", "eth.src", "ip4.src", "ip4.dst", "tp.src", "tp.dst", "ip.dscp", "ip.ttl")
	m.plain = &plainSwitch{rules: map[flowtable.RuleID]*flowtable.Rule{}, sets: map[flowtable.SetID]map[flowtable.Member]bool{}, groups: map[flowtable.GroupID][]uint64{},
		selects: map[flowtable.SelectID]*flowtable.Select{}, floods: map[uint32][]uint32{}, entries: map[uint32]uint64{}, fdb: map[uint32]map[uint64]uint32{},
		peers: map[uint32]uint32{}, names: map[uint32]string{}}
	m.addPorts()
	m.found()
	return m
}

// addPorts adds three ports to each of two bridges, and a pair of patch ports.
func (m *mill) addPorts() {
	specs := []PortSpec{
		{Name: "a0"}, {Name: "b0", Bridge: "br1"}, {Name: "a1"}, {Name: "b1", Bridge: "br1"}, {Name: "a2"}, {Name: "b2", Bridge: "br1"},
		{Name: "pa", Type: TypePatch, Peer: "pb"}, {Name: "pb", Bridge: "br1", Type: TypePatch, Peer: "pa"},
	}
	if m.learn {
		// A program learns where it says so, and a walk also when it comes there. That one
		// could tell by what programs behind patch ports find in between.
		specs = specs[:6]
	}
	for _, s := range specs {
		d := m.r.port(s.Name, s)
		if s.Type != TypePatch {
			m.ports = append(m.ports, s.Name)
			d.Rx()
		}
	}
	for _, br := range m.r.s.FlowBridges() {
		if err := m.r.s.SetBridge(br.Name, BridgeSettings{Pipeline: PipelineFlows}); err != nil {
			m.t.Fatal(err)
		}
		m.dps = append(m.dps, br.Datapath)
		m.fdbs = append(m.fdbs, br.FDB)
		m.plain.fdb[br.FDB] = map[uint64]uint32{}
		for _, p := range m.r.s.bridges[br.Name].ports {
			m.plain.floods[br.Flood] = append(m.plain.floods[br.Flood], p.number)
			m.plain.names[p.number] = p.spec.Name
			m.plain.entries[p.number] = br.Datapath
			if o := m.r.s.peerOf(p); o != nil {
				m.plain.peers[p.number] = o.number
			}
		}
	}
	m.dps = append(m.dps, 7)
}

// found makes what rules refer to.
func (m *mill) found() {
	x := m.r.s.Tables().Begin()
	for i, width := range []uint8{32, 16} {
		id := flowtable.SetID(i + 1)
		m.must(x, x.SetSet(flowtable.Set{ID: id, Width: width}, nil))
		m.plain.sets[id] = map[flowtable.Member]bool{}
	}
	m.must(x, x.SetMeter(&flowtable.Meter{ID: 1, Packets: true, Rate: 1 << 30, Burst: 1 << 30}))
	m.must(x, x.SetGroup(1, m.dps[:2]))
	m.plain.groups[1] = m.dps[:2]
	for range 12 + m.rnd.IntN(30) {
		m.change(x)
	}
	m.commit(x)
}

func (m *mill) must(x *flowtable.Txn, err error) {
	m.t.Helper()
	if err != nil {
		x.Abort() // or the switch's end waits for it
		m.t.Fatalf("seed %d: %v", m.seed, err)
	}
}

func (m *mill) commit(x *flowtable.Txn) {
	m.t.Helper()
	if _, err := x.Commit(false); err != nil {
		m.t.Fatalf("seed %d: %v", m.seed, err)
	}
	m.plain.sorted = nil
}

func pickOf[T any](r *rand.Rand, of []T) T { return of[r.IntN(len(of))] }

// outport is mostly a port with a device, seldom a patch port, nobody or 0.
func (m *mill) outport() uint32 {
	if m.rnd.IntN(8) > 0 {
		return uint32(1 + m.rnd.IntN(6))
	}
	return uint32(m.rnd.IntN(10))
}

// value is one of few values of a field.
func (m *mill) value(f flowtable.Field) uint64 {
	switch f.Name {
	case "eth.type":
		return pickOf(m.rnd, []uint64{0x0800, 0x86dd, 0x0806})
	case "ip.proto":
		return pickOf(m.rnd, []uint64{6, 17, 132})
	case "eth.dst", "eth.src":
		return 0x020000000000 | uint64(m.rnd.IntN(3))
	case "outport":
		return uint64(m.outport())
	case "tcp.flags":
		return pickOf(m.rnd, []uint64{2, 0x10, 0x12, 0x11, 4, 0})
	case "vlan.tci":
		return pickOf(m.rnd, []uint64{0, 0x1001, 0x1002, 0xb001})
	case "ip.ttl":
		return uint64(m.rnd.IntN(4))
	case "in_port", "inport":
		return uint64(1 + m.rnd.IntN(8))
	}
	v := uint64(m.rnd.IntN(3))
	if m.rnd.IntN(4) == 0 && f.Width < 64 {
		v |= 1 << (f.Width - 1)
	}
	return v & (1<<f.Width - 1)
}

// change makes one change of rules or sets in both switches.
func (m *mill) change(x *flowtable.Txn) {
	p := m.plain
	switch k := m.rnd.IntN(12); {
	case k < 7 || len(p.rules) < 8:
		r := m.rule(m.next * 7919 % 65537)
		m.next++
		m.must(x, x.Add(&r))
		p.rules[r.ID] = &r
	case k < 10:
		id := pickOf(m.rnd, slices.Sorted(maps.Keys(p.rules)))
		m.must(x, x.Remove(id))
		delete(p.rules, id)
	case k < 11:
		id := flowtable.SetID(1 + m.rnd.IntN(2))
		v := flowtable.Member{Low: uint64(m.rnd.IntN(3)), MaskLow: []uint64{0, 0xffffffff, 0xffff}[id]}
		if p.sets[id][v] {
			m.must(x, x.DelMembers(id, v))
			delete(p.sets[id], v)
		} else {
			m.must(x, x.AddMembers(id, v))
			p.sets[id][v] = true
		}
	default:
		s := &flowtable.Select{ID: 1, Fields: fields("ip4.src", "tp.src")}
		for i := range 1 + m.rnd.IntN(3) {
			s.Buckets = append(s.Buckets, flowtable.Bucket{ID: uint32(i), Weight: uint16(m.rnd.IntN(3)), Actions: []flowtable.Action{
				{Code: flowtable.ActSet, Dst: fields("ip4.dst")[0], Value: uint64(m.rnd.IntN(3))}, {Code: flowtable.ActOutput, Arg: uint32(1 + m.rnd.IntN(9))}}})
		}
		m.must(x, x.SetSelect(s))
		p.selects[1] = s
	}
}

const millTables = 4

// rule is a random rule. Mostly it has something to match that frames have.
func (m *mill) rule(id flowtable.RuleID) flowtable.Rule {
	r := flowtable.Rule{ID: id, Table: uint8(m.rnd.IntN(millTables)), Priority: uint16(m.rnd.IntN(4)), Datapath: pickOf(m.rnd, m.dps)}
	if m.rnd.IntN(3) == 0 {
		r.Datapath, r.Group = 0, 1
	}
	words := map[uint8]*flowtable.Masked{}
	for range m.rnd.IntN(3) {
		f := pickOf(m.rnd, m.match)
		if m.rnd.IntN(3) == 0 {
			f = pickOf(m.rnd, m.meta)
		}
		mask, _ := f.Bits()
		if m.rnd.IntN(5) == 0 {
			mask &^= mask >> 1
		}
		w := words[f.Word]
		if w == nil {
			w = &flowtable.Masked{Word: f.Word}
			words[f.Word] = w
		}
		w.Value = w.Value&^mask | m.value(f)<<f.Shift&mask
		w.Mask |= mask
	}
	for _, w := range slices.Sorted(maps.Keys(words)) {
		r.Match = append(r.Match, *words[w])
	}
	if m.rnd.IntN(4) == 0 {
		r.Preds = append(r.Preds, m.pred())
	}
	r.Actions = m.actions(r.Table, 0)
	return r
}

func (m *mill) pred() flowtable.Pred {
	switch m.rnd.IntN(4) {
	case 0:
		f := pickOf(m.rnd, fields("tp.src", "ip.ttl", "reg0"))
		return flowtable.Pred{Kind: flowtable.InRange, Field: f, Low: uint64(m.rnd.IntN(2)), High: uint64(1 + m.rnd.IntN(3))}
	case 1:
		f := pickOf(m.rnd, fields("eth.src", "tp.dst", "ip4.dst"))
		return flowtable.Pred{Kind: flowtable.NotEqual, Field: f, Low: m.value(f), Mask: 1<<f.Width - 1}
	case 2:
		return flowtable.Pred{Kind: flowtable.NotInSet, Field: pickOf(m.rnd, fields("tp.src", "tp.dst")), Set: 2}
	}
	return flowtable.Pred{Kind: flowtable.InSet, Field: pickOf(m.rnd, fields("ip4.src", "ip4.dst", "reg0")), Set: 1}
}

// actions are random actions of a rule in a table.
func (m *mill) actions(table uint8, depth int) (out []flowtable.Action) {
	for range m.rnd.IntN(4) {
		out = append(out, m.action(table, depth))
	}
	switch m.rnd.IntN(5) {
	case 0, 1:
		return append(out, flowtable.Action{Code: flowtable.ActOutput, Arg: max(m.outport(), 1)})
	case 2:
		return append(out, flowtable.Action{Code: flowtable.ActOutput, Dst: fieldOutport})
	}
	return append(out, flowtable.Action{Code: flowtable.ActNext, Table: table + 1 + uint8(m.rnd.IntN(2))})
}

func (m *mill) action(table uint8, depth int) flowtable.Action {
	dst := pickOf(m.rnd, m.set)
	if m.rnd.IntN(2) == 0 {
		dst = pickOf(m.rnd, m.meta)
	}
	same := func(of []flowtable.Field) flowtable.Field {
		return pickOf(m.rnd, slices.DeleteFunc(slices.Clone(of), func(f flowtable.Field) bool { return f.Width != dst.Width }))
	}
	switch m.rnd.IntN(17) {
	case 0:
		return flowtable.Action{Code: flowtable.ActMove, Dst: dst, Src: same(slices.Concat(m.set, m.meta))}
	case 1:
		return flowtable.Action{Code: flowtable.ActExchange, Dst: dst, Src: same(slices.Concat(m.set, m.meta))}
	case 2:
		return flowtable.Action{Code: flowtable.ActNext, Table: table + 1}
	case 3, 4:
		if depth < 2 {
			return flowtable.Action{Code: flowtable.ActClone, Nested: m.actions(table, depth+1)}
		}
	case 5:
		return flowtable.Action{Code: flowtable.ActDatapath, Value: pickOf(m.rnd, m.dps), Arg: uint32(m.rnd.IntN(4)), Table: uint8(m.rnd.IntN(millTables))}
	case 6:
		return flowtable.Action{Code: flowtable.ActPushVLAN, Arg: pickOf(m.rnd, []uint32{0x8100, 0x88a8})}
	case 7:
		return flowtable.Action{Code: flowtable.ActPopVLAN}
	case 8:
		return flowtable.Action{Code: flowtable.ActDecTTL}
	case 9:
		if m.plain.selects[1] != nil {
			return flowtable.Action{Code: flowtable.ActSelect, Arg: 1}
		}
	case 10:
		return flowtable.Action{Code: flowtable.ActLarger, Arg: uint32(60 + 20*m.rnd.IntN(3)), Dst: fields("reg1")[0]}
	case 11:
		return flowtable.Action{Code: flowtable.ActGetFDB, Arg: pickOf(m.rnd, m.fdbs), Dst: fieldOutport, Src: fieldDst}
	case 12:
		if m.learn {
			return flowtable.Action{Code: flowtable.ActPutFDB, Arg: pickOf(m.rnd, m.fdbs), Src: fieldSrc, Src2: fieldInport}
		}
		return flowtable.Action{Code: flowtable.ActLookupFDB, Arg: pickOf(m.rnd, m.fdbs), Dst: fields("reg0")[0], Src: fieldSrc, Src2: fieldInport}
	case 13:
		if m.rnd.IntN(3) > 0 {
			break
		}
		return flowtable.Action{Code: flowtable.ActFlood, Arg: pickOf(m.rnd, slices.Sorted(maps.Keys(m.plain.floods)))}
	case 15:
		if depth < 2 {
			return flowtable.Action{Code: flowtable.ActReply, Table: uint8(m.rnd.IntN(flowtable.ReplySCTP + 1)), Arg: 1, Value: uint64(m.rnd.IntN(2) * 1400), Nested: m.actions(table, depth+1)}
		}
	case 14:
		return flowtable.Action{Code: flowtable.ActDrop, Arg: uint32(m.rnd.IntN(2))}
	}
	return flowtable.Action{Code: flowtable.ActSet, Dst: dst, Value: m.value(dst)}
}

// frame is a random frame.
func (m *mill) frame() []byte {
	var k flowtable.Key
	put := func(names ...string) {
		for _, f := range fields(names...) {
			k[f.Word] |= m.value(f) << f.Shift
		}
	}
	put("eth.type", "eth.src", "eth.dst")
	switch uint16(k[flowtable.WordIn]) {
	case 0x0800:
		put("ip.proto", "ip4.src", "ip4.dst", "tp.src", "tp.dst", "ip.ttl", "ip.dscp")
		if k[flowtable.WordSrc]>>8&0xff == 6 {
			put("tcp.flags")
		}
		if m.rnd.IntN(8) == 0 {
			k[flowtable.WordL4] |= 1 << 16
		}
	case 0x86dd:
		k[flowtable.WordSrc] |= 17 << 8
		k[flowtable.WordIP6DstLow] = uint64(m.rnd.IntN(3))
		put("tp.src", "tp.dst", "ip.ttl")
	default:
		put("ip4.src", "ip4.dst")
		k[flowtable.WordL4] |= 1 << 48
	}
	f := parse.Build(k)
	f = append(f, make([]byte, pickOf(m.rnd, []int{0, 0, 20, 21, 100}))...)
	if m.rnd.IntN(3) == 0 {
		tag := []byte{0x81, 0, byte(m.rnd.IntN(2) * 0xb0), byte(m.rnd.IntN(3))}
		f = slices.Concat(f[:12], tag, f[12:])
	}
	return f
}

// traced is how many frames there are for one that is traced: a trace, which says each step
// in words, costs more than all else that is done with a frame.
const traced = 4

// round sends some frames in by one port, and compares.
func (m *mill) round() {
	port := pickOf(m.rnd, m.ports)
	p := m.r.s.ports[port]
	n := 1
	if !m.learn {
		n = 1 + m.rnd.IntN(2*packet.BatchMax)
	}
	d := m.r.devs[port]
	var want []plainEvent
	m.plain.learned = 0
	before := m.r.stats()
	many := m.frame()
	for range n {
		f := many
		if m.rnd.IntN(3) > 0 {
			f = m.frame()
		}
		d.in = append(d.in, bytes.Clone(f))
		events := m.plain.forward(p.number, frameOf(f))
		if m.frames++; n == 1 || m.frames%traced == 0 {
			// Learning has changed the plain switch already.
			t, err := m.r.s.Trace(port, f)
			if err != nil {
				m.t.Fatalf("seed %d: %v", m.seed, err)
			}
			m.compareTrace(f, t, events)
		}
		want = append(want, events...)
	}
	for range 2 {
		for _, w := range m.r.s.workers {
			w.turn()
		}
	}
	m.rounds++
	if 2*m.plain.learned > learnMax { // a plain switch learns without a pause, and not once more when it carries out a program
		m.short++
		m.relearn()
		return
	}
	m.compare(port, before, want)
}

// relearn has the plain switch know what the other has learned, and forgets what
// that has sent.
func (m *mill) relearn() {
	for _, br := range m.r.s.bridges {
		clear(m.plain.fdb[br.number])
		for e := range br.table.Dump(0) {
			mac := e.Key.MAC()
			m.plain.fdb[br.number][uint64(binary.BigEndian.Uint16(mac[:]))<<32|uint64(binary.BigEndian.Uint32(mac[2:]))] = e.Port
		}
	}
	for _, d := range m.r.devs {
		d.out = nil
	}
}

// compare compares what left by each port, and drops.
func (m *mill) compare(in string, before map[string]PortStats, want []plainEvent) {
	out, drops := map[string][]string{}, map[string]uint64{}
	for _, e := range want {
		name := m.plain.names[e.port]
		switch {
		case e.why == 0:
			out[name] = append(out[name], e.frame)
			m.sent++
		case e.rx:
			drops[fmt.Sprint(name, " in ", e.why)]++
			m.dropped++
		default:
			drops[fmt.Sprint(name, " out ", e.why)]++
		}
		m.reasons[e.why]++
	}
	got := map[string]uint64{}
	for name, s := range m.r.stats() {
		was := before[name]
		for r := range packet.ReasonCount {
			if n := s.RxDrops[r] - was.RxDrops[r]; n > 0 {
				got[fmt.Sprint(name, " in ", r)] = n
			}
			if n := s.TxDrops[r] - was.TxDrops[r]; n > 0 {
				got[fmt.Sprint(name, " out ", r)] = n
			}
		}
	}
	for name := range m.plain.names {
		if got[fmt.Sprint(m.plain.names[name], " in ", packet.ReasonCopies)] > 0 {
			m.short++ // a plain switch has room for any number of copies
			for _, d := range m.r.devs {
				d.out = nil
			}
			return
		}
	}
	if !maps.Equal(got, drops) {
		m.t.Fatalf("seed %d, in by %s: dropped %v, want %v", m.seed, in, got, drops)
	}
	for name, d := range m.r.devs {
		got := make([]string, len(d.out))
		for i, f := range d.out {
			got[i] = string(f)
		}
		if !slices.Equal(got, out[name]) {
			i := 0
			for i < min(len(got), len(out[name])) && got[i] == out[name][i] {
				i++
			}
			m.t.Fatalf("seed %d, in by %s: %s got %d frames, want %d; from number %d on\n%x, want\n%x", m.seed, in, name, len(got), len(out[name]),
				i, got[i:min(i+2, len(got))], out[name][i:min(i+2, len(out[name]))])
		}
		d.out = nil
	}
}

// compareTrace compares what a trace says with what becomes of the frame.
func (m *mill) compareTrace(frame []byte, t *Trace, want []plainEvent) {
	var got []plainEvent
	number := func(name string) uint32 { return m.r.s.ports[name].number }
	for _, o := range t.Outputs {
		e := plainEvent{number(o.Port), string(o.Frame), o.Drop, false}
		if o.Drop != 0 {
			e.frame, e.rx = "", m.r.s.ports[o.Port].dev == nil
		}
		got = append(got, e)
	}
	if t.Drop != 0 {
		got = append(got, plainEvent{uint32(t.Key[flowtable.WordIn] >> 32), "", t.Drop, true})
	}
	// Outputs to nobody are counted, and not among a trace's outputs.
	want = slices.DeleteFunc(slices.Clone(want), func(e plainEvent) bool { return e.why == packet.ReasonNoPort })
	if !slices.Equal(got, want) {
		m.t.Fatalf("seed %d: trace of %x:\n%s, want\n%s\n%+v", m.seed, frame, show(got), show(want), t.Composed.Ops)
	}
}

// show is events in words.
func show(events []plainEvent) (s string) {
	for _, e := range events {
		s += fmt.Sprintf("  port %d: %v (rx %v) %x\n", e.port, e.why, e.rx, e.frame)
	}
	return s
}

// millFrames is how many frames the differential test sends: n, or what
// MILLRACE_DIFF_PACKETS says.
func millFrames(t *testing.T, n int) int {
	if s := os.Getenv("MILLRACE_DIFF_PACKETS"); s != "" {
		v, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if raceOn {
		return n / 50
	}
	return n
}

// TestAgainstPlainSwitch sends random frames through random rules, which change
// under them, and finds the same to leave by the same ports as from a switch that
// looks at each rule for each frame, and the same reasons for drops; and traces to say the
// same.
func TestAgainstPlainSwitch(t *testing.T) {
	total, frames, sent, dropped, rounds, short := millFrames(t, 1_000_000), 0, 0, 0, 0, 0
	reasons := map[packet.Reason]int{}
	first := uint64(1)
	switch s := os.Getenv("MILLRACE_DIFF_SEED"); {
	case s != "":
		first, _ = strconv.ParseUint(s, 10, 64)
	case os.Getenv("MILLRACE_DIFF_PACKETS") != "":
		first = rand.Uint64()
	}
	for seed := first; frames < total; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := newMill(t, seed)
			for round := range 60 {
				m.round()
				if round%4 == 0 {
					x := m.r.s.Tables().Begin()
					for range m.rnd.IntN(4) {
						m.change(x)
					}
					m.commit(x)
				}
			}
			frames += m.frames
			sent += m.sent
			dropped += m.dropped
			rounds, short = rounds+m.rounds, short+m.short
			for r, n := range m.reasons {
				reasons[r] += n
			}
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%d frames, %d outputs, %d dropped, %d of %d rounds without room for copies; by reason %v", frames, sent, dropped, short, rounds, reasons)
	// Of the 600 rounds under the race detector some 30 are short, and that is the bound: they
	// are judged by the full run.
	if sent < frames/4 || dropped < frames/10 || !raceOn && short > rounds/20 {
		t.Errorf("of %d frames came %d outputs and %d drops: the test does not test much", frames, sent, dropped)
	}
}
