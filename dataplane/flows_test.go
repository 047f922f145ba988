package dataplane

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/dataplane/sys"
	"millrace/flowtable"
	"millrace/flowtable/flowcache"
)

// flowRig is a rig whose bridge br0 is made of rules.
func flowRig(t testing.TB, ports ...string) *rig {
	r := newRig(t)
	for _, p := range ports {
		r.port(p, PortSpec{})
	}
	if err := r.s.SetBridge("br0", BridgeSettings{Pipeline: PipelineFlows}); err != nil {
		t.Fatal(err)
	}
	return r
}

// commit makes a transaction.
func (r *rig) commit(do func(x *flowtable.Txn) error) {
	r.t.Helper()
	x := r.s.Tables().Begin()
	if err := do(x); err != nil {
		x.Abort() // or the switch's end waits for it
		r.t.Fatal(err)
	}
	if _, err := x.Commit(false); err != nil {
		r.t.Fatal(err)
	}
}

// rule puts a rule of br0 in force.
func (r *rig) rule(id flowtable.RuleID, table uint8, match []flowtable.Masked, actions ...flowtable.Action) {
	r.t.Helper()
	r.commit(func(x *flowtable.Txn) error {
		return x.Add(&flowtable.Rule{ID: id, Table: table, Priority: uint16(10 * len(match)), Datapath: flowtable.DatapathOf("br0"), Match: match, Actions: actions})
	})
}

func out(port uint32) flowtable.Action { return flowtable.Action{Code: flowtable.ActOutput, Arg: port} }

func match(f flowtable.Field, value uint64) []flowtable.Masked {
	return []flowtable.Masked{is(f, value)}
}

func setTo(f flowtable.Field, value uint64) flowtable.Action {
	return flowtable.Action{Code: flowtable.ActSet, Dst: f, Value: value}
}

// counts returns the counters of rules by id.
func (r *rig) counts(ids ...flowtable.RuleID) []RuleCount {
	r.t.Helper()
	handles := make([]uint32, len(ids))
	for i, id := range ids {
		b, ok := r.s.Tables().Brief(id)
		if !ok {
			r.t.Fatalf("no rule %d", id)
		}
		handles[i] = b.Handle
	}
	return r.s.RuleCounts(handles)
}

// TestPipelines changes what decides about a bridge, to and fro.
func TestPipelines(t *testing.T) {
	r := newRig(t)
	a, b, c := r.port("a", PortSpec{}), r.port("b", PortSpec{Trunks: []uint16{0, 7}}), r.port("c", PortSpec{Tag: 7})
	want := FlowBridge{Name: "br0", Datapath: flowtable.DatapathOf("br0"), Pipeline: PipelineLearning}
	got := r.s.FlowBridges()
	if len(got) != 1 || got[0].FDB == 0 || got[0].Flood == 0 {
		t.Fatalf("bridges: %+v", got)
	}
	if want.FDB, want.Flood = got[0].FDB, got[0].Flood; got[0] != want {
		t.Errorf("bridge %+v, want %+v", got[0], want)
	}
	own := 0
	r.s.Tables().EachBrief(func(b flowtable.Brief) bool {
		own++
		if !r.s.OwnRule(b) {
			t.Errorf("rule %+v is not the switch's own", b)
		}
		return true
	})
	if own == 0 {
		t.Error("a learning bridge without rules")
	}
	r.rule(1, 0, match(fieldDst, 0x020000000002), out(3))
	if brief, _ := r.s.Tables().Brief(1); r.s.OwnRule(brief) {
		t.Error("a client's rule is the switch's own")
	}
	send := func(f []byte) { a.in = append(a.in, f, bytes.Clone(f)); r.turn() }
	send(eth(2, 1, 0, 60)) // learning: flooded
	if len(b.out) != 2 || len(c.out) != 0 {
		t.Fatalf("learning: b has %d frames, c %d", len(b.out), len(c.out))
	}
	if err := r.s.SetBridge("br0", BridgeSettings{Pipeline: PipelineFlows}); err != nil {
		t.Fatal(err)
	}
	if i := r.s.Bridges()[0]; i.Pipeline != PipelineFlows || r.s.FlowBridges()[0].Pipeline != PipelineFlows {
		t.Errorf("pipeline %q", i.Pipeline)
	}
	r.s.Tables().EachBrief(func(b flowtable.Brief) bool {
		if b.ID != 1 {
			t.Errorf("rule %+v is left", b)
		}
		return true
	})
	send(eth(2, 1, 0, 60))
	send(eth(3, 1, 0, 60))
	if len(b.out) != 2 || len(c.out) != 2 {
		t.Errorf("flows: b has %d frames, c %d", len(b.out), len(c.out))
	}
	if st := r.stats()["a"]; st.RxDrops[packet.ReasonNoRule] != 2 {
		t.Errorf("drops %v, want 2 for want of a rule", st.RxDrops)
	}
	if err := r.s.SetBridge("br0", BridgeSettings{}); err != nil {
		t.Fatal(err)
	}
	send(eth(2, 1, 0, 60))
	if len(b.out) != 4 || len(c.out) != 2 {
		t.Errorf("learning again: b has %d frames, c %d", len(b.out), len(c.out))
	}
	if err := r.s.SetBridge("br0", BridgeSettings{Pipeline: "other"}); !errors.Is(err, ErrBadSpec) {
		t.Errorf("pipeline of another name: %v", err)
	}
	r.stats()
	for _, name := range []string{"a", "b", "c"} {
		if err := r.s.DelPort(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.s.Tables().Rules(); n != 1 {
		t.Errorf("%d rules are left of all ports and bridges", n-1)
	}
}

// TestRuleCounts counts frames of rules while they are in caches and after, also
// when workers have ended, and hits of stations.
func TestRuleCounts(t *testing.T) {
	r := flowRig(t, "a", "b")
	a := r.devs["a"]
	r.rule(1, 0, match(fieldSrc, 0x020000000001), next(1))
	r.rule(2, 1, nil, out(2))
	r.rule(3, 0, match(fieldSrc, 0x020000000003), flowtable.Action{Code: flowtable.ActDrop})
	for i := range 3 {
		for range 10 + i {
			a.in = append(a.in, eth(9, 1, 0, 60), eth(9, 3, 0, 100))
		}
		r.turn()
	}
	want := []RuleCount{{33, 33 * 60}, {33, 33 * 60}, {33, 33 * 100}}
	for range 2 {
		if got := r.counts(1, 2, 3); !slices.Equal(got, want) {
			t.Errorf("counts %v, want %v", got, want)
		}
	}
	r.rule(4, 0, match(fieldSrc, 0x020000000009), out(2)) // programs are looked over
	a.in = [][]byte{eth(9, 1, 0, 60)}
	r.turn()
	want[0], want[1] = RuleCount{34, 34 * 60}, RuleCount{34, 34 * 60}
	if got := r.counts(1, 2, 3); !slices.Equal(got, want) {
		t.Errorf("after a change: counts %v, want %v", got, want)
	}
	old := r.s.workers[0]
	w, err := newWorker(1, 1, PollBusy, r.s.engine, 1)
	if err != nil {
		t.Fatal(err)
	}
	close(w.stopped)
	r.s.exchange([]*worker{old, w}) // what SetWorkers does, without goroutines
	if err := r.s.equip(2); err != nil {
		t.Fatal(err)
	}
	r.s.teach([]*worker{w})
	r.s.moveQueues([]int{1}, Loads{})
	r.s.retire([]*worker{old})
	if got := r.counts(1, 2, 3); !slices.Equal(got, want) {
		t.Errorf("after the worker's end: counts %v, want %v", got, want)
	}
}

// TestCached lists programs with their keys.
func TestCached(t *testing.T) {
	r := flowRig(t, "a", "b")
	a := r.devs["a"]
	r.rule(1, 0, match(fieldDst, 0x020000000002), setTo(fieldDst, 0x0200000000ff), out(2))
	r.rule(2, 0, match(fieldDst, 0x020000000003), flowtable.Action{Code: flowtable.ActDrop, Arg: 77})
	for i := range byte(4) {
		a.in = append(a.in, eth(2+i%2, 10+i, 0, 60))
	}
	r.turn()
	handle := func(id flowtable.RuleID) uint32 { b, _ := r.s.Tables().Brief(id); return b.Handle }
	list := func(port string, most int) (out []CachedProgram) {
		if err := r.s.Cached(port, most, func(p *CachedProgram) bool { out = append(out, *p); return true }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	programs := list("a", 8)
	if len(programs) != 2 || len(list("", 8)) != 2 || len(list("b", 8)) != 0 {
		t.Fatalf("programs: %+v", programs)
	}
	for _, p := range programs {
		if p.Packets != 2 || p.Bytes != 120 || p.NEntries != 1 || len(p.Entries) != 1 || p.Stale || p.Entries[0].Exact || len(p.Rules) != 1 {
			t.Errorf("program %+v", p)
		}
		e := p.Entries[0]
		if e.Mask[flowtable.WordDst] != 0xffffffffffff<<16 || e.Mask[flowtable.WordSrc] != 0 || e.Key[flowtable.WordIn]>>32 != 1 {
			t.Errorf("entry %x under %x", e.Key, e.Mask)
		}
		switch p.Rules[0] {
		case handle(1):
			if len(p.Ops) != 2 || p.Ops[1] != (flowtable.Op{Code: flowtable.OpOutput, Arg: 2}) {
				t.Errorf("ops %+v", p.Ops)
			}
		case handle(2):
			if len(p.Ops) != 0 || p.Drop != 77 {
				t.Errorf("a drop: %+v", p)
			}
		default:
			t.Errorf("a program of rules %v", p.Rules)
		}
	}
	r.rule(3, 0, nil, out(2))
	if p := list("a", 0); len(p) != 2 || len(p[0].Entries) != 0 || !p[0].Stale || !p[1].Stale {
		t.Errorf("after a change that concerns all: %+v", p)
	}
	if err := r.s.Cached("none", 1, nil); !errors.Is(err, ErrNoPort) {
		t.Errorf("programs of no port: %v", err)
	}
	n := 0
	if err := r.s.Cached("", 1, func(*CachedProgram) bool { n++; return false }); err != nil || n != 1 {
		t.Errorf("%d programs told to who wants one, %v", n, err)
	}
}

// TestTraceLearning follows frames through a learning bridge and a patch, and finds
// that nothing has come of it.
func TestTraceLearning(t *testing.T) {
	r := newRig(t)
	r.port("a", PortSpec{})
	b := r.port("b", PortSpec{Tag: 5, MTU: 100})
	r.port("pa", PortSpec{Type: TypePatch, Peer: "pb"})
	r.port("pb", PortSpec{Type: TypePatch, Peer: "pa", Bridge: "br1"})
	r.port("c", PortSpec{Bridge: "br1", Trunks: []uint16{5}})
	b.in = [][]byte{eth(9, 2, 0, 60)}
	r.turn()
	before := r.stats()
	group := eth(2, 1, 0, 60)
	group[6] = 3
	for _, tt := range []struct {
		name, port string
		frame      []byte
		want       []TraceOutput
		drop       packet.Reason
		early      packet.Reason
	}{
		{name: "flood", port: "a", frame: eth(9, 1, 5, 70), want: []TraceOutput{
			{"b", slices.Concat(eth(9, 1, 5, 70)[:12], eth(9, 1, 5, 70)[16:]), 0}, {"c", eth(9, 1, 5, 70), 0}}},
		{name: "known", port: "a", frame: eth(2, 1, 5, 70), want: []TraceOutput{{"b", slices.Concat(eth(2, 1, 5, 70)[:12], eth(2, 1, 5, 70)[16:]), 0}}},
		{name: "too long", port: "a", frame: eth(2, 1, 5, 300), want: []TraceOutput{{"b", slices.Concat(eth(2, 1, 5, 300)[:12], eth(2, 1, 5, 300)[16:]), packet.ReasonTxTooLong}}},
		{name: "to itself", port: "a", frame: eth(7, 7, 5, 70), drop: packet.ReasonSamePort},
		{name: "same port", port: "b", frame: eth(2, 3, 0, 70), drop: packet.ReasonSamePort},
		{name: "ingress", port: "b", frame: eth(2, 3, 6, 70), drop: packet.ReasonVLANIngress},
		{name: "group source", port: "a", frame: group, drop: packet.ReasonSourceMAC},
		{name: "behind the patch", port: "a", frame: eth(9, 1, 6, 70), want: []TraceOutput{{"pb", eth(9, 1, 6, 70), packet.ReasonNoBridgePort}}},
		{name: "short tag", port: "a", frame: eth(9, 1, 6, 0)[:17], early: packet.ReasonRxTooShort},
		{name: "short", port: "a", frame: make([]byte, 13), early: packet.ReasonRxTooShort},
		{name: "long", port: "a", frame: make([]byte, packet.FrameMax+1), early: packet.ReasonRxTooLong},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr, err := r.s.Trace(tt.port, tt.frame)
			if err != nil {
				t.Fatal(err)
			}
			same := func(a, b TraceOutput) bool {
				return a.Port == b.Port && a.Drop == b.Drop && bytes.Equal(a.Frame, b.Frame)
			}
			if !slices.EqualFunc(tr.Outputs, tt.want, same) || tr.Drop != tt.drop || tr.Early != tt.early {
				t.Errorf("got %x, drop %v, early %v", tr.Outputs, tr.Drop, tr.Early)
			}
			if tt.early == 0 && (len(tr.Steps) < 2 || len(tr.Composed.Rules) == 0 || tr.Key[flowtable.WordDst] == 0) {
				t.Errorf("trace %+v", tr)
			}
		})
	}
	after := r.stats()
	for name, s := range after {
		if s != before[name] {
			t.Errorf("account of %s: %+v, was %+v", name, s, before[name])
		}
	}
	if macs, _ := r.s.MACs(""); len(macs) != 2 || macs[0].Hits+macs[1].Hits != 0 { // station 2 on both bridges
		t.Errorf("addresses %+v", macs)
	}
	if _, err := r.s.Trace("none", eth(1, 2, 0, 60)); !errors.Is(err, ErrNoPort) {
		t.Errorf("trace from nowhere: %v", err)
	}
}

// TestMeters lets as many frames of one batch pass as the bucket holds, and goes on
// behind the copy that the meter is in.
func TestMeters(t *testing.T) {
	r := flowRig(t, "a", "b", "c")
	a, b, c := r.devs["a"], r.devs["b"], r.devs["c"]
	r.commit(func(x *flowtable.Txn) error {
		return errors.Join(x.SetMeter(&flowtable.Meter{ID: 1, Packets: true, Rate: 1, Burst: 5}), x.SetMeter(&flowtable.Meter{ID: 2, Rate: 1, Burst: 16}))
	})
	meter := func(id uint32) flowtable.Action { return flowtable.Action{Code: flowtable.ActMeter, Arg: id} }
	r.rule(1, 0, match(fieldDst, 0x020000000001), meter(1), out(2))
	r.rule(2, 0, match(fieldDst, 0x020000000002), flowtable.Action{Code: flowtable.ActClone, Nested: []flowtable.Action{meter(2), out(2)}}, out(3))
	r.turn() // a worker's clock is that of its last turn
	for range 60 {
		a.in = append(a.in, eth(1, 9, 0, 60))
	}
	r.turn()
	if st := r.stats()["a"]; len(b.out) != 5 || st.RxDrops[packet.ReasonMeter] != 55 {
		t.Errorf("%d frames by a meter of 5, %d dropped", len(b.out), st.RxDrops[packet.ReasonMeter])
	}
	b.out = nil
	for range 60 {
		a.in = append(a.in, eth(2, 9, 0, 1000)) // 8 kbit: two fit
	}
	r.turn()
	if st := r.stats()["a"]; len(b.out) != 2 || len(c.out) != 60 || st.RxDrops[packet.ReasonMeter] != 55 {
		t.Errorf("%d frames by a meter of two frames, %d past it; drops %v", len(b.out), len(c.out), st.RxDrops)
	}
	r.commit(func(x *flowtable.Txn) error {
		return x.SetMeter(&flowtable.Meter{ID: 1, Packets: true, Rate: 1e9, Burst: 1e9})
	})
	b.out = nil
	for range 60 {
		a.in = append(a.in, eth(1, 9, 0, 60))
	}
	r.turn()
	if len(b.out) != 60 {
		t.Errorf("%d frames by a wider meter", len(b.out))
	}
}

// TestCopies sends copies with different changes to several ports and to one port
// many times, of frames whose payload stays where it is.
func TestCopies(t *testing.T) {
	r := flowRig(t, "a", "b", "c")
	a, b, c := r.devs["a"], r.devs["b"], r.devs["c"]
	clone := func(n uint64, port uint32) flowtable.Action {
		return flowtable.Action{Code: flowtable.ActClone, Nested: []flowtable.Action{setTo(fieldSrc, 0x0200000000a0+n), {Code: flowtable.ActPushVLAN, Arg: 0x8100}, out(port)}}
	}
	r.rule(1, 0, nil, out(2), clone(1, 2), clone(2, 3), clone(3, 2), setTo(fieldDst, 0x0200000000ee), out(3))
	for i := range byte(60) {
		a.in = append(a.in, eth(1, i, 0, 1400))
	}
	r.turn()
	change := func(f []byte, dst, src byte, tag bool) []byte {
		f = bytes.Clone(f)
		if f[11] = src; tag {
			f = slices.Concat(f[:12], []byte{0x81, 0, 0, 0}, f[12:])
		}
		f[5] = dst
		return f
	}
	var wantB, wantC [][]byte
	for i := range byte(60) {
		f := eth(1, i, 0, 1400)
		wantB = append(wantB, f, change(f, 1, 0xa1, true), change(f, 1, 0xa3, true))
		wantC = append(wantC, change(f, 1, 0xa2, true), change(f, 0xee, i, false))
	}
	if !slices.EqualFunc(b.out, wantB, bytes.Equal) || !slices.EqualFunc(c.out, wantC, bytes.Equal) {
		t.Errorf("b has %d frames, want %d; c %d, want %d", len(b.out), len(wantB), len(c.out), len(wantC))
	}
	if st := r.stats()["a"]; st.Copies != 4*60 || st.Outputs != 5*60 {
		t.Errorf("account of a: %+v", st)
	}
}

// TestDirect: what is decided by the port alone costs no look at frames, until a
// rule wants one.
func TestDirect(t *testing.T) {
	r := flowRig(t, "a", "b", "c")
	a, b, c := r.devs["a"], r.devs["b"], r.devs["c"]
	r.rule(1, 0, nil, out(2))
	send := func(direct bool) {
		t.Helper()
		for range 3 {
			a.in = append(a.in, eth(1, 2, 0, 60), eth(3, 2, 0, 60))
			r.turn()
		}
		if got := r.s.workers[0].ports[1].direct.program != 0; got != direct {
			t.Errorf("direct: %v", got)
		}
	}
	send(true)
	r.rule(2, 0, match(fieldDst, 0x020000000003), out(3))
	send(false)
	if len(b.out) != 9 || len(c.out) != 3 {
		t.Errorf("b has %d frames, c %d", len(b.out), len(c.out))
	}
	r.commit(func(x *flowtable.Txn) error { return x.Remove(2) })
	r.commit(func(x *flowtable.Txn) error { return x.Remove(1) })
	for range 3 { // so that nobody asks for what the rule wanted to know any more
		r.turn()
		r.s.Tables().Reclaim()
	}
	send(true)
	if got := r.stats()["a"].RxDrops[packet.ReasonNoRule]; got != 6 {
		t.Errorf("%d drops for want of a rule", got)
	}
}

// TestSlowPathBound: rules that send each frame through a thousand tables do not
// hold up the worker: what is too much for a batch is dropped under its reason.
func TestSlowPathBound(t *testing.T) {
	r := flowRig(t, "a", "b")
	a := r.devs["a"]
	for i := range uint8(10) {
		r.rule(flowtable.RuleID(1+i), i, nil, next(i+1), next(i+1))
	}
	f := fields("tp.src", "eth.type")
	for i := range uint64(4) { // so that flows differ
		r.rule(flowtable.RuleID(100+i), 10, []flowtable.Masked{is(f[1], 0x0800), is(f[0], i)}, flowtable.Action{Code: flowtable.ActDrop})
	}
	for i := range 64 {
		a.in = append(a.in, parse.Build(flowtable.Key{flowtable.WordIn: 0x0800, flowtable.WordSrc: 17 << 8, flowtable.WordL4: uint64(i) << 48}))
	}
	r.turn()
	st := r.stats()["a"]
	if n := st.RxDrops[packet.ReasonSlowPath]; n == 0 || n > 60 || st.RxDrops.Total() != 64 {
		t.Errorf("drops %v", st.RxDrops)
	}
}

// TestLengthsThatDoNotFit: a program that would divide a port's frames into too many classes of lengths
// leaves those that there are as they are, and what is kept by them.
func TestLengthsThatDoNotFit(t *testing.T) {
	r := flowRig(t, "a", "b")
	w := r.s.workers[0]
	p := w.ports[1]
	for n := range uint32(stepsMax - 1) {
		if !w.divide(p, &flowtable.Composed{LenMin: 100 * (n + 1), LenMax: math.MaxUint32}) {
			t.Fatalf("no room for step %d", n)
		}
	}
	steps, plan := slices.Clone(p.steps), p.plan
	if w.divide(p, &flowtable.Composed{LenMin: 110, LenMax: 120}) || !slices.Equal(p.steps, steps) || p.plan != plan {
		t.Errorf("steps %v were %v", p.steps, steps)
	}
	if !w.divide(p, &flowtable.Composed{LenMin: 100, LenMax: 199}) || p.plan != plan {
		t.Error("steps that are there are not enough")
	}
	if !w.divide(p, &flowtable.Composed{LenMin: 100, LenMax: 149}) || len(p.steps) != stepsMax || !slices.IsSorted(p.steps) || p.plan == plan {
		t.Errorf("steps %v", p.steps)
	}
}

// TestFairness: a port that sends only new flows takes a small part of the worker's
// time from one that sends known ones without a pause, and all of it when that stops.
func TestFairness(t *testing.T) {
	r := newRig(t)
	victim, attacker := &streamDevice{frames: make([]byte, 64)}, &streamDevice{frames: make([]byte, 64), ports: true}
	frame := parse.Build(flowtable.Key{flowtable.WordIn: 0x0800, flowtable.WordDst: 0x020000000002 << 16, flowtable.WordSrc: 0x020000000001<<16 | 17<<8 | 64, flowtable.WordIP4: 10<<56 | 1, flowtable.WordL4: 1 << 32})
	copy(victim.frames, frame)
	copy(attacker.frames, frame)
	sink := &nullDevice{}
	for name, d := range map[string]Device{"victim": victim, "attacker": attacker, "sink": sink} {
		r.s.opts.Openers[name] = func(PortSpec, Env) (Device, error) { return d, nil }
	}
	for _, name := range []string{"victim", "attacker", "sink"} { // 1, 2, 3
		r.port(name, PortSpec{Type: name})
	}
	if err := r.s.SetBridge("br0", BridgeSettings{Pipeline: PipelineFlows}); err != nil {
		t.Fatal(err)
	}
	f := fields("eth.type", "ip4.src", "ip4.dst", "tp.src", "tp.dst")
	for i := range 5 {
		r.rule(flowtable.RuleID(i+1), uint8(i), nil, next(uint8(i+1)))
		for j, mask := range []flowtable.Field{f[1], f[2], f[3]} { // rules that tell addresses and ports apart
			m := []flowtable.Masked{is(f[0], 0x0800), is(mask, 1)}
			r.rule(flowtable.RuleID(100*i+10+j), uint8(i), m, next(uint8(i+1)))
		}
	}
	r.rule(1000, 5, nil, out(3))
	w := r.s.workers[0]
	for range 300 {
		w.turn()
	}
	st := r.stats()
	v, a := st["victim"].RxFrames, st["attacker"].RxFrames
	if v < 250*packet.BatchMax || a == 0 || a > v/4 {
		t.Errorf("victim sent %d frames, attacker %d", v, a)
	}
	if masks := w.flow.cache.Usage().Masks; masks > 2*24+8 {
		t.Errorf("%d masks", masks)
	}
	victim.broken = "silent"
	silent := w.live
	w.live = slices.DeleteFunc(slices.Clone(silent), func(q *rxQueue) bool { return q.port.name == "victim" })
	for range 50 {
		w.turn()
	}
	if more := r.stats()["attacker"].RxFrames - a; more != 50*packet.BatchMax {
		t.Errorf("alone, the attacker sent %d frames in 50 turns", more)
	}
}

// TestFlowsDoNotAllocate: not for a miss, nor for programs of every kind.
func TestFlowsDoNotAllocate(t *testing.T) {
	r := newRig(t)
	src := &streamDevice{frames: make([]byte, 64)}
	frame := parse.Build(flowtable.Key{flowtable.WordIn: 0x0800, flowtable.WordDst: 0x020000000002 << 16, flowtable.WordSrc: 0x020000000001<<16 | 17<<8 | 64, flowtable.WordIP4: 10<<56 | 1, flowtable.WordL4: 1 << 32})
	copy(src.frames, frame)
	r.s.opts.Openers["src"] = func(PortSpec, Env) (Device, error) { return src, nil }
	r.s.opts.Openers["sink"] = func(PortSpec, Env) (Device, error) { return &nullDevice{}, nil }
	r.port("src", PortSpec{Type: "src"})
	r.port("sink", PortSpec{Type: "sink"})
	r.port("pa", PortSpec{Type: TypePatch, Peer: "pb"})
	r.port("pb", PortSpec{Type: TypePatch, Peer: "pa", Bridge: "br1"})
	r.port("sink2", PortSpec{Type: "sink", Bridge: "br1"})
	if err := r.s.SetBridge("br0", BridgeSettings{Pipeline: PipelineFlows}); err != nil {
		t.Fatal(err)
	}
	r.commit(func(x *flowtable.Txn) error {
		return x.SetMeter(&flowtable.Meter{ID: 1, Packets: true, Rate: 1000, Burst: 5})
	})
	flood := r.s.FlowBridges()[0].Flood
	f := fields("ip4.src", "tp.src", "ip.ttl")
	for i, acts := range [][]flowtable.Action{
		{out(2)},
		{setTo(f[0], 1), out(2)},
		{{Code: flowtable.ActClone, Nested: []flowtable.Action{setTo(f[0], 1), {Code: flowtable.ActPushVLAN, Arg: 0x8100}, out(2)}}, {Code: flowtable.ActDecTTL}, out(2)},
		{{Code: flowtable.ActMeter, Arg: 1}, out(2)},
		{{Code: flowtable.ActFlood, Arg: flood}},
		{out(3)},
		{{Code: flowtable.ActPutFDB, Arg: 1, Src: fieldSrc, Src2: fieldInport}, {Code: flowtable.ActGetFDB, Arg: 1, Dst: fieldOutport, Src: fieldDst}, out(2)},
	} {
		for _, ports := range []bool{false, true} {
			t.Run(fmt.Sprint(i, " new flows: ", ports), func(t *testing.T) {
				id := flowtable.RuleID(1)
				r.commit(func(x *flowtable.Txn) error {
					r := &flowtable.Rule{ID: id, Priority: 1, Datapath: flowtable.DatapathOf("br0"), Match: []flowtable.Masked{is(fields("ip.proto")[0], 17)}, Actions: acts}
					e := &flowtable.Rule{ID: 2, Priority: 2, Datapath: flowtable.DatapathOf("br0"), Match: []flowtable.Masked{is(fields("eth.type")[0], 0x0800), is(f[1], 9)}, Actions: []flowtable.Action{{Code: flowtable.ActDrop}}}
					return errors.Join(x.Replace(r), x.Replace(e))
				})
				src.ports = ports
				w := r.s.workers[0]
				for range 200 {
					w.turn()
				}
				if n := testing.AllocsPerRun(100, w.turn); n != 0 {
					t.Errorf("a turn allocates %v times", n)
				}
			})
		}
	}
	r.stats()
}

// TestCacheMemory: the caches of all workers together keep to what they may take, and
// by default to a part of the machine's memory.
func TestCacheMemory(t *testing.T) {
	half := (&engine{cacheMemory: 64 << 20}).cacheOptions(2)
	if want := flowcache.CacheOptionsWithin(64<<20, 2); half.Wild != want.Wild || half.Idle == 0 || half.Masks != flowcache.MasksMax {
		t.Errorf("of 64 MiB, one of two workers gets %+v, want %+v", half, want)
	}
	if o, want := (&engine{}).cacheOptions(2), flowcache.DefaultCacheOptions(sys.Memory(), 2); o.Wild != want.Wild {
		t.Errorf("by default it gets %+v, want %+v", o, want)
	}
	sizes := &flowcache.CacheOptions{Wild: 8}
	if o := (&engine{cache: sizes, cacheMemory: 64 << 20}).cacheOptions(2); o.Wild != 8 {
		t.Errorf("with sizes that are told it gets %+v", o)
	}
}

// TestMemoryUse tells of all parts.
func TestMemoryUse(t *testing.T) {
	r := flowRig(t, "a", "b")
	r.rule(1, 0, nil, out(2))
	r.devs["a"].in = [][]byte{eth(1, 2, 0, 60)}
	r.turn()
	used := map[string]uint64{}
	for _, m := range r.s.Memory() {
		used[m.Part] = m.Used
		if m.Bytes == 0 && m.Capacity != 0 {
			t.Errorf("%+v", m)
		}
	}
	if used["flow table: rules"] != 1 || used["wildcard cache of CPU 0"] != 1 || used["programs of CPU 0"] == 0 {
		t.Errorf("memory: %v", used)
	}
	if _, ok := used["forwarding database br0"]; !ok {
		t.Errorf("memory: %v", used)
	}
}

// TestDropTexts: each code of the tables has a reason of its own.
func TestDropTexts(t *testing.T) {
	seen := map[packet.Reason]uint32{}
	for _, code := range []uint32{flowtable.DropExplicit, flowtable.DropNoRule, flowtable.DropTTL, flowtable.DropSteps, flowtable.DropDepth, flowtable.DropNoOutput,
		flowtable.DropNoPort, flowtable.DropNoEntry, flowtable.DropOps, flowtable.DropNoBucket, ownDrop | uint32(packet.ReasonSamePort)} {
		why := dropReason(code)
		if other, twice := seen[why]; twice || why == packet.ReasonNone || DropText(code) != why.Text() {
			t.Errorf("code %d: %v, as %d has", code, why, other)
		}
		seen[why] = code
	}
	if got := DropText(7); got != packet.ReasonRule.Text()+" (7)" || dropReason(ownDrop|uint32(packet.ReasonRxFault)) != packet.ReasonRule {
		t.Errorf("a client's code: %q", got)
	}
	for r := packet.ReasonNone; r < packet.ReasonCount; r++ {
		if r.String() == "" || r.Text() == "" {
			t.Errorf("reason %d has no name", r)
		}
	}
}

// TestTellTogether: counts are there for all of many who ask at the same time, and
// those who wait are served by one round.
func TestTellTogether(t *testing.T) {
	r := flowRig(t, "a", "b")
	a := r.devs["a"]
	r.rule(1, 0, match(fieldSrc, 0x020000000001), out(2))
	for range 5 {
		a.in = append(a.in, eth(9, 1, 0, 60))
	}
	r.turn()
	want := []RuleCount{{5, 300}}
	rule, _ := r.s.Tables().Brief(1)
	const askers = 8
	got := make(chan []RuleCount, askers)
	r.s.telling.mu.Lock() // as if a round were on
	for range askers {
		go func() { got <- r.s.RuleCounts([]uint32{rule.Handle}) }()
	}
	time.Sleep(20 * time.Millisecond) // most of them ask before it is over
	r.s.telling.mu.Unlock()
	for range askers {
		if c := <-got; !slices.Equal(c, want) {
			t.Errorf("counts %v, want %v", c, want)
		}
	}
	before := r.s.telling.begun.Load()
	if before < 1 || before > askers {
		t.Errorf("%d rounds for %d who ask", before, askers)
	}
	a.in = append(a.in, eth(9, 1, 0, 60))
	r.turn()
	if c := r.counts(1); c[0].Packets != 6 || r.s.telling.begun.Load() != before+1 {
		t.Errorf("counts %v in round %d, want 6 packets in round %d: who asks later wants what came later", c, r.s.telling.begun.Load(), before+1)
	}
}
