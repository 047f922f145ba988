package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"millrace/dataplane/packet"
	"millrace/flowtable"
)

// A flowNode is a node whose bridge of tunnels is one of rules.
type flowNode struct{ *node }

func newFlowNode(t *testing.T, n int, direct bool) flowNode {
	nd := flowNode{newNode(t, n, direct)}
	nd.s.engine.wants.stir = func() {} // the test has control look
	if err := nd.s.SetBridge("br0", BridgeSettings{Pipeline: PipelineFlows}); err != nil {
		t.Fatal(err)
	}
	return nd
}

// rule makes a rule for what comes in by a port.
func (nd flowNode) rule(id uint64, port string, match []flowtable.Masked, acts ...flowtable.Action) {
	nd.t.Helper()
	x := nd.s.Tables().Begin()
	r := flowtable.Rule{
		ID: flowtable.RuleID(id), Datapath: flowtable.DatapathOf("br0"), Priority: uint16(id), Actions: acts,
		Match: append([]flowtable.Masked{{Word: flowtable.WordIn, Value: uint64(nd.s.ports[port].number) << 32, Mask: 0xffffffff << 32}}, match...),
	}
	if err := x.Add(&r); err != nil {
		nd.t.Fatal(err)
	}
	if _, err := x.Commit(false); err != nil {
		nd.t.Fatal(err)
	}
}

func (nd flowNode) out(port string) flowtable.Action {
	return flowtable.Action{Code: flowtable.ActOutput, Arg: nd.s.ports[port].number}
}

// endWords is an address in the words of a context.
func endWords(a netip.Addr) (high, low uint64) {
	if a.Is4() {
		b := a.As4()
		return 0, uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	return binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:])
}

var (
	tunSrc = flowtable.Field{Name: "tun.src", Word: flowtable.WordTunSrc, Width: 128}
	tunDst = flowtable.Field{Name: "tun.dst", Word: flowtable.WordTunDst, Width: 128}
	tunID  = flowtable.Field{Name: "tun.id", Word: flowtable.WordTunnel, Shift: 40, Width: 24}
)

func setEnd(f flowtable.Field, a netip.Addr) flowtable.Action {
	high, low := endWords(a)
	return flowtable.Action{Code: flowtable.ActSet, Dst: f, Value: high, ValueLow: low}
}

func isEndOf(f flowtable.Field, a netip.Addr) []flowtable.Masked {
	high, low := endWords(a)
	return []flowtable.Masked{{Word: f.Word, Value: high, Mask: ^uint64(0)}, {Word: f.Word + 1, Value: low, Mask: ^uint64(0)}}
}

// TestTunnelNamed has one port for all other hosts: rules say where to, by which key and with which
// option, and match who has sent what came; over IPv4 and IPv6, from an internal port and
// from the device. What no host is known of is dropped, and control is told.
func TestTunnelNamed(t *testing.T) {
	for _, six := range []bool{false, true} {
		for _, direct := range []bool{false, true} {
			a, b, c := newFlowNode(t, 1, direct), newNode(t, 2, !direct), newNode(t, 3, direct)
			a.mustTunnel("tun", TypeGeneve, "remote_ip=flow local_ip=flow key=flow csum=true")
			b.mustTunnel("tun", TypeGeneve, fmt.Sprintf("remote_ip=%s key=2", address(six, 1)))
			c.mustTunnel("tun", TypeGeneve, fmt.Sprintf("remote_ip=%s key=3", address(six, 1)))
			to := func(n int) flowtable.Action { return setEnd(tunDst, address(six, n)) }
			key := func(n uint64) flowtable.Action {
				return flowtable.Action{Code: flowtable.ActSet, Dst: tunID, Value: n}
			}
			a.rule(1, "pod", nil, to(2), key(2), a.out("tun"), to(3), key(3), a.out("tun"))
			a.rule(2, "tun", isEndOf(tunSrc, address(six, 2)), a.out("pod"))
			a.rule(3, "tun", append(isEndOf(tunSrc, address(six, 3)), isEndOf(tunDst, address(six, 1))...),
				flowtable.Action{Code: flowtable.ActMove, Dst: tunDst, Src: tunSrc}, key(3), a.out("tun"))
			f := inner(300, 1)
			a.devs["pod"].in = [][]byte{f}
			a.turn()
			if st := a.accounts()["tun"]; st.TxDrops[packet.ReasonTunnelPath] != 2 {
				t.Errorf("no way is known: %+v", st)
			}
			a.s.tunnelsMoved()
			if p, _ := a.s.Port("tun"); p.State.Link != LinkUp || !strings.Contains(p.State.How, "2 of 2") {
				t.Errorf("%+v", p.State)
			}
			for range 3 { // walked, kept, found
				a.devs["pod"].in = [][]byte{f, f}
				a.turn()
				wire := a.devs["wire"].out
				a.devs["wire"].out = nil
				for _, g := range wire {
					nd := b
					if g[5] == 3 { // of the host's Ethernet address
						nd = c
					}
					nd.devs["wire"].in = append(nd.devs["wire"].in, g)
				}
				for _, nd := range []*node{b, c} {
					nd.turn()
					same(t, nd.devs["pod"].out, [][]byte{f, f})
					nd.devs["pod"].out = nil
					nd.devs["pod"].in = [][]byte{eth(255, byte(10*nd.n), 0, 100)}
					nd.turn()
					a.devs["wire"].in = append(a.devs["wire"].in, nd.devs["wire"].out...)
					nd.devs["wire"].out = nil
				}
				a.turn()
				same(t, a.devs["pod"].out, [][]byte{eth(255, 20, 0, 100)}) // that of b
				a.devs["pod"].out = nil
				c.devs["wire"].in, a.devs["wire"].out = a.devs["wire"].out, nil
				c.turn()
				same(t, c.devs["pod"].out, [][]byte{eth(255, 30, 0, 100)}) // its own, sent back
				c.devs["pod"].out = nil
			}
			for _, nd := range []*node{a.node, b, c} {
				nd.accounts()
			}
		}
	}
}

// TestTunnelNamedInParts: rules set the address of a host in parts, from a register or to a number.
func TestTunnelNamedInParts(t *testing.T) {
	a := newFlowNode(t, 1, false)
	a.mustTunnel("tun", TypeGeneve, "remote_ip=flow")
	part := func(shift, width uint8) flowtable.Field {
		return flowtable.Field{Word: flowtable.WordTunDst + 1, Shift: shift, Width: width}
	}
	reg0 := flowtable.Field{Word: flowtable.WordReg0, Shift: 32, Width: 32}
	a.rule(1, "pod", nil, setTo(reg0, 10<<24|2), flowtable.Action{Code: flowtable.ActMove, Dst: part(0, 32), Src: reg0}, a.out("tun"),
		setTo(part(0, 8), 3), a.out("tun"))
	for range 3 {
		a.devs["wire"].out = nil
		a.devs["pod"].in = [][]byte{inner(100, 1)}
		a.turn()
		a.s.tunnelsMoved()
	}
	if out := a.devs["wire"].out; len(out) != 2 || out[0][33] != 2 || out[1][33] != 3 {
		t.Errorf("%d frames: %x", len(out), out)
	}
	a.accounts()
}

// TestTunnelNamedLocal: rules choose the source address; without one it is that of the way.
func TestTunnelNamedLocal(t *testing.T) {
	a := newFlowNode(t, 1, false)
	a.mustTunnel("tun", TypeVXLAN, "remote_ip=10.0.0.2 local_ip=flow")
	own := netip.MustParseAddr("10.0.0.77")
	w := a.underlay.ways[address(false, 2)]
	w.Path.Local = own
	a.underlay.byHost = map[Host]Way{{address(false, 2), own}: w}
	a.rule(1, "pod", nil, a.out("tun"), setEnd(tunSrc, own), a.out("tun"))
	for range 2 {
		a.devs["wire"].out = nil
		a.devs["pod"].in = [][]byte{inner(100, 1)}
		a.turn()
		a.s.tunnelsMoved()
	}
	if out := a.devs["wire"].out; len(out) != 2 || out[0][29] != 1 || out[1][29] != 77 {
		t.Errorf("%d frames: %x", len(out), out)
	}
	a.accounts()
}

// TestTunnelNamedMany: more senders than there are numbers for, and more hosts than a port
// keeps, cost what was kept, and nothing else.
func TestTunnelNamedMany(t *testing.T) {
	a, b := newFlowNode(t, 1, true), newNode(t, 2, true)
	a.mustTunnel("tun", TypeVXLAN, "remote_ip=flow")
	b.mustTunnel("tun", TypeVXLAN, "remote_ip=10.0.0.1")
	a.rule(1, "tun", isEndOf(tunSrc, netip.MustParseAddr("10.0.8.9")), a.out("pod"))
	b.devs["pod"].in = [][]byte{inner(100, 1)}
	b.turn()
	f := b.devs["wire"].out[0]
	const senders = pairsMax + 500
	for i := range senders {
		g := bytes.Clone(f)
		g[28], g[29] = byte(i>>8), byte(i)
		fixLengths(g, 14, 20, false)
		a.devs["wire"].in = append(a.devs["wire"].in, g)
	}
	for len(a.devs["wire"].in) > 0 {
		a.turn()
	}
	if n := len(a.devs["pod"].out); n != 1 {
		t.Errorf("%d frames to the pod, want that of one sender", n)
	}
	st := a.accounts()
	if n := st["tun"].RxFrames + st["wire"].RxDrops[packet.ReasonSlowPath]; n != senders || st["wire"].RxDrops[packet.ReasonSlowPath] > packet.BatchMax {
		t.Errorf("%d of %d frames came: %+v", n, senders, st["wire"])
	}
	tun := a.s.ports["tun"].tunnel
	for i := range hostsMax + 100 {
		x := endPair{}
		x.dst.Low = 0xffff<<32 | 10<<24 | uint64(i+1)
		a.s.engine.wants.list = append(a.s.engine.wants.list, want{a.s.ports["tun"].number, x})
	}
	a.s.mu.Lock()
	more := a.s.takeWants()
	a.s.mu.Unlock()
	if n := len(tun.named.pairs); !more || n != hostsMax {
		t.Errorf("%d hosts are kept", n)
	}
}

// TestTunnelNamedAllocs: what is sent to and comes from hosts that are known allocates nothing.
func TestTunnelNamedAllocs(t *testing.T) {
	a, b := newFlowNode(t, 1, false), newNode(t, 2, false)
	a.mustTunnel("tun", TypeGeneve, "remote_ip=flow")
	b.mustTunnel("tun", TypeGeneve, "remote_ip=10.0.0.1")
	a.rule(1, "pod", nil, setEnd(tunDst, address(false, 2)), a.out("tun"))
	a.rule(2, "tun", isEndOf(tunSrc, address(false, 2)), a.out("pod"))
	pass(a.node, b, inner(100, 1))
	a.s.tunnelsMoved()
	b.devs["pod"].in = [][]byte{inner(100, 1)}
	b.turn()
	for port, f := range map[string][]byte{"pod": inner(100, 1), "wire": b.devs["wire"].out[0]} {
		w := a.s.workers[0]
		p := w.ports[a.s.ports[port].number]
		run := func() {
			w.batch.Reset()
			w.batch.Add(f[:100], packet.Seg{Addr: packet.Addr(f), Len: uintptr(len(f) - 100)})
			w.begin(w.rx[0])
			w.classify(p)
			if len(w.fl.out) != 1 {
				t.Fatalf("%s: the frame goes to %d ports", port, len(w.fl.out))
			}
			w.fl.out[0].n, w.fl.busy = 0, false
		}
		for range 3 {
			run()
		}
		if n := testing.AllocsPerRun(100, run); n != 0 {
			t.Errorf("%s: %v allocations", port, n)
		}
	}
}

// TestTunnelFragments has fragments of inner frames come out of a tunnel in the wrong order: the
// one that waits for the first goes on as what came by that tunnel, with its key and from its sender.
func TestTunnelFragments(t *testing.T) {
	for _, remote := range []string{"10.0.0.2", "flow"} {
		a, b := newFlowNode(t, 1, false), newNode(t, 2, false)
		a.mustTunnel("tun", TypeGeneve, "key=flow remote_ip="+remote)
		b.mustTunnel("tun", TypeGeneve, "remote_ip=10.0.0.1 key=7")
		match := []flowtable.Masked{{Word: flowtable.WordTunnel, Value: 7 << 40, Mask: 0xffffff << 40}}
		if remote == "flow" {
			match = append(match, isEndOf(tunSrc, address(false, 2))...)
		}
		a.rule(1, "tun", match, connect(5, resume, 1))
		a.rig.rule(2, 1, nil, a.out("pod"))
		pieces := fragmented(inner(2034, 1), 9, 1000)
		for i := len(pieces) - 1; i >= 0; i-- {
			b.devs["pod"].in = pieces[i : i+1]
			b.turn()
			a.devs["wire"].in, b.devs["wire"].out = b.devs["wire"].out, nil
			a.turn()
		}
		a.turn()
		same(t, a.devs["pod"].out, pieces)
		if s := a.s.ConnectionStats(); s.FragmentsHeld != 1 || s.FragmentsReleased != 1 {
			t.Errorf("held %d, released %d", s.FragmentsHeld, s.FragmentsReleased)
		}
		a.accounts()
	}
}
