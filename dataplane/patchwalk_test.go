package dataplane

import (
	"encoding/binary"
	"testing"

	"millrace/dataplane/conntrack"
	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/flowtable"
)

// patched is a rig whose port a is in a bridge that learns, behind which, by patch ports, is
// one of rules, with port b.
func patched(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	r.port("a", PortSpec{})                                          // 1
	r.port("x", PortSpec{Type: TypePatch, Peer: "y"})                // 2
	r.port("y", PortSpec{Type: TypePatch, Peer: "x", Bridge: "br1"}) // 3
	r.port("b", PortSpec{Bridge: "br1"})                             // 4
	if err := r.s.SetBridge("br1", BridgeSettings{Pipeline: PipelineFlows}); err != nil {
		t.Fatal(err)
	}
	return r
}

// behind puts a rule of br1 in force.
func (r *rig) behind(id flowtable.RuleID, table uint8, m []flowtable.Masked, actions ...flowtable.Action) {
	r.t.Helper()
	r.commit(func(x *flowtable.Txn) error {
		return x.Add(&flowtable.Rule{ID: id, Table: table, Priority: uint16(10 * len(m)), Datapath: flowtable.DatapathOf("br1"), Match: m, Actions: actions})
	})
}

// TestWalksBehindPatchPorts: frames that are known where they come in, and new behind a patch
// port, cost the queue that they came by; what comes after them is decided about as ever.
func TestWalksBehindPatchPorts(t *testing.T) {
	r := patched(t)
	for i := range uint8(10) {
		r.behind(flowtable.RuleID(1+i), i, nil, next(i+1), next(i+1))
	}
	f := fields("tp.src", "eth.type")
	r.behind(100, 10, []flowtable.Masked{is(f[1], 0x0800), is(f[0], 1)}, flowtable.Action{Code: flowtable.ActDrop})
	frame := func(station, flow uint64) []byte {
		return parse.Build(flowtable.Key{flowtable.WordIn: 0x0800, flowtable.WordDst: 0x0200000000ff << 16,
			flowtable.WordSrc: (0x020000000000|station)<<16 | 17<<8, flowtable.WordL4: flow << 48})
	}
	a, w := r.devs["a"], r.s.workers[0]
	for i := range uint64(100) {
		a.in = [][]byte{frame(1, 100+i)}
		r.turn()
	}
	if w.visited != 0 || w.spent != 0 || w.missed != 0 {
		t.Errorf("%d rules, %d ticks and %d walks are nobody's", w.visited, w.spent, w.missed)
	}
	if w.rx[0].debt == 0 {
		t.Error("the walks cost nobody anything")
	}
	a.in = [][]byte{frame(2, 1)} // new at its own port, too
	r.turn()
	if st := r.stats(); st["a"].RxDrops[packet.ReasonSlowPath] != 0 || st["y"].RxFrames != 101 {
		t.Errorf("%d frames came through, drops %v", st["y"].RxFrames, st["a"].RxDrops)
	}
}

// TestFragmentsBehindPatchPorts: a first fragment that is known where it comes in lets go on
// those that wait behind a patch port.
func TestFragmentsBehindPatchPorts(t *testing.T) {
	r := patched(t)
	r.behind(1, 0, nil, connect(5, resume, 1))
	r.behind(2, 1, nil, out(4))
	x := ipv4{ap("10.0.0.1:1000"), ap("198.51.100.1:80"), conntrack.ProtoUDP}
	r.send("a", "b", false, x.frame(0, 8), x.frame(0, 8), x.frame(0, 8))
	pieces := fragmented(x.frame(0, 1992), 1, 1000)
	if got := r.send("a", "b", false, pieces[1]); len(got) != 0 {
		t.Fatalf("a fragment without its first leaves: %x", got)
	}
	got := r.send("a", "b", false, pieces[0])
	if len(got) != 2 || binary.BigEndian.Uint16(got[1][20:])&0x1fff != 125 {
		t.Errorf("%d leave: %x", len(got), got)
	}
	r.stats()
	if frames := r.s.workers[0].stats.Frames; frames != 5 {
		t.Errorf("the worker says that it received %d frames, want 5", frames)
	}
}
