package dataplane

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
	"millrace/flowtable"
)

// A fakeUnderlay knows what a test tells it.
type fakeUnderlay struct {
	ways      map[netip.Addr]Way
	byHost    map[Host]Way
	addresses map[int][]netip.Addr
	hosts     []Host
}

func (u *fakeUnderlay) Follow(hosts []Host, _ func())    { u.hosts = hosts }
func (u *fakeUnderlay) Addresses(index int) []netip.Addr { return u.addresses[index] }
func (u *fakeUnderlay) Netns() uint64                    { return 77 }
func (u *fakeUnderlay) Way(h Host) Way {
	if w, ok := u.byHost[h]; ok {
		return w
	}
	if w, ok := u.ways[h.Remote]; ok {
		return w
	}
	return Way{Reason: "no route"}
}

// A kernelDevice is a fake network device of the kernel.
type kernelDevice struct {
	*fakeDevice
	state DeviceState
}

func (d kernelDevice) State() DeviceState { return d.state }

// A node is a switch with a bridge of tunnels, br0, and one of the underlay, phy, with
// a port to the wire and one of the host's. Its number is in its addresses.
type node struct {
	*rig
	n        int
	underlay *fakeUnderlay
}

// address is the underlay's address of a node.
func address(six bool, n int) netip.Addr {
	if six {
		return netip.AddrFrom16([16]byte{0xfd, 15: byte(n)})
	}
	return netip.AddrFrom4([4]byte{10, 0, 0, byte(n)})
}

// hostMAC is the Ethernet address of a node's host.
func hostMAC(n int) [6]byte { return [6]byte{2, 0xee, 0, 0, 0, byte(n)} }

// newNode makes a node that reaches all others. If it is direct, the host's address
// is on the device of the wire.
func newNode(t testing.TB, n int, direct bool) *node {
	t.Helper()
	nd := &node{rig: newRig(t), n: n, underlay: &fakeUnderlay{ways: map[netip.Addr]Way{}, addresses: map[int][]netip.Addr{}}}
	nd.s.opts.Underlay = nd.underlay
	device := 9
	open := func(state DeviceState) Opener {
		return func(spec PortSpec, e Env) (Device, error) {
			d := &fakeDevice{owned: 0x1000 * uintptr(len(nd.devs)+1), env: e}
			nd.devs[spec.Name] = d
			return kernelDevice{d, state}, nil
		}
	}
	nd.s.opts.Openers[TypeInternal] = open(DeviceState{Link: LinkUp, Host: HostState{Index: device, Netns: 77}})
	nd.s.opts.Openers[TypeAFXDP] = open(DeviceState{Link: LinkUp, Device: &NetDevice{Index: 5}})
	if direct {
		device = 5
	} else {
		nd.port("host", PortSpec{Bridge: "phy", Type: TypeInternal})
	}
	for _, six := range []bool{false, true} {
		nd.underlay.addresses[device] = append(nd.underlay.addresses[device], address(six, n))
		for m := range 9 {
			w := Way{Device: device, Name: "dev"}
			w.Path.Local, w.Path.MTU, w.Path.Source, w.Path.Next = address(six, n), 9100, hostMAC(n), hostMAC(m)
			nd.underlay.ways[address(six, m)] = w
		}
	}
	nd.port("wire", PortSpec{Bridge: "phy", Type: TypeAFXDP})
	nd.port("pod", PortSpec{})
	return nd
}

// tunnel adds a tunnel port to node n; options are KEY=VALUE words.
func (nd *node) tunnel(name, kind, options string) error {
	spec := PortSpec{Bridge: "br0", Name: name, Type: kind, Options: map[string]string{}}
	for _, w := range strings.Fields(options) {
		k, v, _ := strings.Cut(w, "=")
		spec.Options[k] = v
	}
	_, err := nd.s.AddPort(nd.t.Context(), spec)
	return err
}

func (nd *node) mustTunnel(name, kind, options string) {
	nd.t.Helper()
	if err := nd.tunnel(name, kind, options); err != nil {
		nd.t.Fatal(err)
	}
}

// pass gives frames to a port of node a, and what leaves by its wire to that of b. It
// returns what b sends to its pod.
func pass(a, b *node, frames ...[]byte) [][]byte {
	a.devs["pod"].in = frames
	a.turn()
	b.devs["wire"].in, a.devs["wire"].out = a.devs["wire"].out, nil
	b.turn()
	out := b.devs["pod"].out
	b.devs["pod"].out = nil
	return out
}

// inner makes a frame of n bytes of a flow of UDP.
func inner(n int, flow byte) []byte {
	f := eth(2, 1, 0, n)
	copy(f[14:], []byte{0x45, 0, byte((n - 14) >> 8), byte(n - 14), 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 1, 0, flow, 4, 1, 0, 53, byte((n - 34) >> 8), byte(n - 34), 0, 0})
	f[24], f[25] = 0, 0
	sum := uint32(0)
	for i := 14; i < 34; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(f[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(f[24:], ^uint16(sum>>16+sum))
	return f
}

// TestTunnel: frames of all sizes cross from one switch to the other and back, as they
// were, in batches, and everything is accounted for.
func TestTunnel(t *testing.T) {
	for _, kind := range []string{TypeGeneve, TypeVXLAN} {
		for _, six := range []bool{false, true} {
			for _, direct := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/six=%v/direct=%v", kind, six, direct), func(t *testing.T) {
					a, b := newNode(t, 1, direct), newNode(t, 2, direct)
					a.mustTunnel("tun", kind, fmt.Sprintf("remote_ip=%s key=5", address(six, 2)))
					b.mustTunnel("tun", kind, fmt.Sprintf("remote_ip=%s key=5 local_ip=%s csum=true", address(six, 1), address(six, 2)))
					for _, n := range []int{60, 61, 100, 128, 129, 1000, 9000} {
						var frames [][]byte
						for i := range packet.BatchMax {
							frames = append(frames, inner(n, byte(i)))
						}
						same(t, pass(a, b, frames...), frames)
						same(t, pass(b, a, frames[:3]...), frames[:3])
					}
					for _, nd := range []*node{a, b} {
						st := nd.accounts()
						if p := st["tun"]; p.RxFrames == 0 || p.TxFrames == 0 || p.RxDrops.Total()+p.TxDrops.Total() != 0 {
							t.Errorf("%+v", p)
						}
					}
				})
			}
		}
	}
}

// accounts returns the accounts of ports, which must balance.
func (nd *node) accounts() map[string]PortStats {
	nd.t.Helper()
	by := map[string]PortStats{}
	for _, p := range nd.s.Snapshot().Ports {
		if !p.Balanced() {
			nd.t.Errorf("port %s of node %d does not balance: %+v", p.Name, nd.n, p)
		}
		by[p.Name] = p
	}
	return by
}

func same(t *testing.T, got, want [][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d frames came, want %d", len(got), len(want))
	}
	for i := range got {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("frame %d:\n%x\nwant\n%x", i, got[i], want[i])
		}
	}
}

// TestTunnelFlood: a frame that goes into several tunnels and out of a port goes
// whole, and the bridge learns what is behind a tunnel.
func TestTunnelFlood(t *testing.T) {
	a := newNode(t, 1, false)
	local := a.port("local", PortSpec{})
	nodes := []*node{newNode(t, 2, false), newNode(t, 3, false), newNode(t, 4, true)}
	for _, nd := range nodes {
		a.mustTunnel(fmt.Sprint("to", nd.n), TypeVXLAN, fmt.Sprintf("remote_ip=10.0.0.%d", nd.n))
		nd.mustTunnel("tun", TypeVXLAN, "remote_ip=10.0.0.1")
	}
	f := eth(255, 1, 7, 300)
	a.devs["pod"].in = [][]byte{f}
	a.turn()
	same(t, local.out, [][]byte{f})
	sent := a.devs["wire"].out
	a.devs["wire"].out = nil
	if len(sent) != 3 {
		t.Fatalf("%d frames on the wire", len(sent))
	}
	for i, nd := range nodes {
		nd.devs["wire"].in = sent[i : i+1]
		nd.turn()
		same(t, nd.devs["pod"].out, [][]byte{f})
	}
	nodes[1].devs["wire"].out = nil
	nodes[1].devs["pod"].in = [][]byte{eth(1, 9, 7, 80)}
	nodes[1].turn()
	a.devs["wire"].in = nodes[1].devs["wire"].out
	a.turn()
	a.devs["pod"].out = nil
	a.devs["pod"].in = [][]byte{eth(9, 1, 7, 80)}
	a.turn()
	if sent := a.devs["wire"].out; len(sent) != 1 || sent[0][33] != 3 {
		t.Errorf("%d frames, want one to node 3: %x", len(sent), sent)
	}
	a.stats()
}

// TestTunnelDrops: what does not belong is dropped under its reason, and what is not
// for a tunnel goes to the host.
func TestTunnelDrops(t *testing.T) {
	for _, direct := range []bool{false, true} {
		a, b := newNode(t, 1, direct), newNode(t, 2, direct)
		a.mustTunnel("tun", TypeGeneve, "remote_ip=10.0.0.2 key=5 csum=true")
		b.mustTunnel("tun", TypeGeneve, "remote_ip=10.0.0.1 key=5")
		a.devs["pod"].in = [][]byte{inner(200, 1)}
		a.turn()
		good := a.devs["wire"].out[0]
		other := func(at int, v byte) []byte {
			f := bytes.Clone(good)
			f[at] ^= v
			if at < 14 || at >= 34 {
				return f
			}
			f[24], f[25] = 0, 0 // the IPv4 header stays right
			sum := uint32(0)
			for i := 14; i < 34; i += 2 {
				sum += uint32(binary.BigEndian.Uint16(f[i:]))
			}
			binary.BigEndian.PutUint16(f[24:], ^uint16(sum>>16+sum))
			return f
		}
		entry := b.devs["wire"]
		for why, f := range map[packet.Reason][]byte{
			packet.ReasonTunnelSum: other(150, 1), packet.ReasonTunnelUnknown: other(48, 1), packet.ReasonTunnelHeader: other(42, 0x40),
			packet.ReasonTunnelFragment: other(20, 0x60), packet.ReasonTunnelECN: other(15, 3),
		} {
			if why == packet.ReasonTunnelECN || why == packet.ReasonTunnelUnknown {
				f[40], f[41] = 0, 0 // no UDP checksum
			}
			entry.in = [][]byte{f}
			b.turn()
			st := b.accounts()
			n := st["host"].TxDrops[why]
			if direct {
				n = st["wire"].RxDrops[why]
			}
			if n != 1 {
				t.Errorf("direct=%v: %d frames dropped as %s", direct, n, why)
			}
		}
		if n := len(b.devs["pod"].out); n != 0 {
			t.Errorf("%d frames got through", n)
		}
		entry.in = [][]byte{other(37, 1), other(33, 4), good} // another UDP port, another address
		b.turn()
		if !direct && len(b.devs["host"].out) != 2 {
			t.Errorf("%d frames to the host, want 2", len(b.devs["host"].out))
		}
		if n := b.accounts()["tun"].RxFrames; n != 1 {
			t.Errorf("%d frames by the tunnel, want 1", n)
		}
	}
}

// TestTunnelFlow: rules set the key and OVN's option of what goes out, and match
// those of what comes in.
func TestTunnelFlow(t *testing.T) {
	a, b := newNode(t, 1, false), newNode(t, 2, false)
	for _, nd := range []*node{a, b} {
		if err := nd.s.SetBridge("br0", BridgeSettings{Pipeline: PipelineFlows}); err != nil {
			t.Fatal(err)
		}
		nd.mustTunnel("tun", TypeGeneve, fmt.Sprintf("remote_ip=10.0.0.%d key=flow", 3-nd.n))
	}
	number := func(nd *node, name string) uint32 { return nd.s.ports[name].number }
	set := func(name string, v uint64) flowtable.Action {
		for _, f := range flowtable.Fields() {
			if f.Name == name {
				return flowtable.Action{Code: flowtable.ActSet, Dst: f, Value: v}
			}
		}
		t.Fatal("no field " + name)
		return flowtable.Action{}
	}
	rule := func(nd *node, id uint64, port string, word, mask uint64, acts ...flowtable.Action) {
		t.Helper()
		x := nd.s.Tables().Begin()
		r := flowtable.Rule{
			ID: flowtable.RuleID(id), Datapath: flowtable.DatapathOf("br0"), Priority: uint16(id), Actions: acts,
			Match: []flowtable.Masked{{Word: flowtable.WordIn, Value: uint64(number(nd, port)) << 32, Mask: 0xffffffff << 32}},
		}
		if mask != 0 {
			r.Match = append(r.Match, flowtable.Masked{Word: flowtable.WordTunnel, Value: word, Mask: mask})
		}
		if err := x.Add(&r); err != nil {
			t.Fatal(err)
		}
		if _, err := x.Commit(false); err != nil {
			t.Fatal(err)
		}
	}
	out := func(nd *node, port string) flowtable.Action {
		return flowtable.Action{Code: flowtable.ActOutput, Arg: number(nd, port)}
	}
	rule(a, 1, "pod", 0, 0, set("tun.id", 0x1234), set("tun.flags", 1), set("tun.data", 0xabcd0001), out(a, "tun"))
	rule(b, 1, "tun", 0x1234<<40|1<<32|0xabcd0001, ^uint64(0), out(b, "pod"))
	rule(b, 2, "tun", 0x1235<<40, 0xffffff<<40)
	frames := [][]byte{inner(100, 1), inner(500, 2)}
	for range 3 {
		same(t, pass(a, b, frames...), frames)
	}
	many := make([][]byte, packet.BatchMax)
	for i := range many {
		many[i] = inner(100, byte(i))
	}
	for range 3 {
		same(t, pass(a, b, many...), many)
	}
	rule(a, 3, "pod", 0, 0, set("tun.id", 0x1235), out(a, "tun"))
	if got := pass(a, b, frames...); len(got) != 0 {
		t.Errorf("%d frames of another key came through", len(got))
	}
	if n := b.accounts()["tun"].RxDrops[packet.ReasonNotOutput]; n != 2 {
		t.Errorf("%d frames dropped by the rule for the other key, want 2", n)
	}
}

// TestTunnelState: a port says what is in its way, and frames are dropped
// meanwhile; two ports cannot be one.
func TestTunnelState(t *testing.T) {
	a := newNode(t, 1, false)
	delete(a.underlay.ways, netip.MustParseAddr("10.0.0.2"))
	a.mustTunnel("tun", TypeVXLAN, "remote_ip=10.0.0.2 key=1")
	if p, _ := a.s.Port("tun"); p.State.Link != LinkWaiting || p.State.Reason != "no route" {
		t.Errorf("%+v", p.State)
	}
	a.devs["pod"].in = [][]byte{inner(100, 1)}
	a.turn()
	if n := a.accounts()["tun"].TxDrops[packet.ReasonTunnelPath]; n != 1 {
		t.Errorf("%d frames dropped as tunnel_no_path, want 1", n)
	}
	w := Way{Device: 4, Name: "eth7"}
	w.Path.Local = address(false, 1)
	a.underlay.ways[address(false, 2)] = w
	a.s.tunnelsMoved()
	if p, _ := a.s.Port("tun"); !strings.Contains(p.State.Reason, "eth7, which is no port of this switch") {
		t.Errorf("%+v", p.State)
	}
	w.Device = 9
	a.underlay.ways[address(false, 2)] = w
	a.s.tunnelsMoved()
	if p, _ := a.s.Port("tun"); p.State.Link != LinkUp {
		t.Errorf("%+v", p.State)
	}
	for _, c := range []struct {
		kind, options string
		want          error
	}{
		{TypeVXLAN, "remote_ip=10.0.0.2 key=1", ErrExists}, {TypeGeneve, "remote_ip=10.0.0.3 dst_port=4789", ErrExists}, {TypeVXLAN, "key=1", ErrBadSpec},
		{TypeVXLAN, "remote_ip=10.0.0.2 key=2", nil}, {TypeVXLAN, "remote_ip=10.0.0.2 key=flow", nil}, {TypeVXLAN, "remote_ip=10.0.0.2 key=1 local_ip=10.0.0.1", nil},
	} {
		if err := a.tunnel(c.kind+c.options, c.kind, c.options); !errors.Is(err, c.want) {
			t.Errorf("%s %s: %v, want %v", c.kind, c.options, err, c.want)
		}
	}
	if err := a.s.DelPort(t.Context(), "tun"); err != nil {
		t.Error(err)
	}
	if err := a.s.DelPort(t.Context(), "host"); err != nil {
		t.Error(err)
	}
	if p, _ := a.s.Port("vxlanremote_ip=10.0.0.2 key=2"); p.State.Link != LinkWaiting {
		t.Errorf("%+v", p.State)
	}
	a.devs["pod"].in = [][]byte{inner(100, 1)}
	a.turn()
	a.accounts()
}

// TestTunnelLoop: bridges that send each other's frames into tunnels do not do so
// for ever, and there is no tunnel in a tunnel.
func TestTunnelLoop(t *testing.T) {
	a := newNode(t, 1, false)
	a.mustTunnel("tun", TypeVXLAN, "remote_ip=10.0.0.2")
	spec := PortSpec{Bridge: "phy", Name: "nested", Type: TypeVXLAN, Options: map[string]string{"remote_ip": "10.0.0.3"}}
	if _, err := a.s.AddPort(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	a.devs["pod"].in = [][]byte{inner(100, 1)}
	a.turn()
	if st := a.accounts(); st["nested"].TxDrops[packet.ReasonTunnelLoop] != 1 || st["wire"].TxFrames != 1 {
		t.Errorf("%+v\n%+v", st["nested"], st["wire"])
	}
}

// TestTunnelTrace: a trace goes through tunnels both ways.
func TestTunnelTrace(t *testing.T) {
	a, b := newNode(t, 1, false), newNode(t, 2, false)
	a.mustTunnel("tun", TypeGeneve, "remote_ip=10.0.0.2")
	b.mustTunnel("tun", TypeGeneve, "remote_ip=10.0.0.1")
	f := inner(400, 1)
	tr, err := a.s.Trace("pod", f)
	if err != nil || len(tr.Outputs) != 1 || tr.Outputs[0].Port != "wire" {
		t.Fatalf("%v %+v", err, tr.Outputs)
	}
	tr, err = b.s.Trace("wire", tr.Outputs[0].Frame)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, o := range tr.Outputs {
		found = found || o.Port == "pod" && bytes.Equal(o.Frame, f)
	}
	if !found {
		t.Errorf("%+v", tr.Outputs)
	}
}

// TestTunnelTraceDirect: a trace finds the end of a tunnel also where frames arrive by the port
// of the device that has the host's address, and says why one does not come out.
func TestTunnelTraceDirect(t *testing.T) {
	a, b := newNode(t, 1, true), newNode(t, 2, true)
	a.mustTunnel("tun", TypeGeneve, "remote_ip=10.0.0.2")
	b.mustTunnel("tun", TypeGeneve, "remote_ip=10.0.0.1")
	f := inner(400, 1)
	tr, err := a.s.Trace("pod", f)
	if err != nil || len(tr.Outputs) != 1 || tr.Outputs[0].Port != "wire" {
		t.Fatalf("%v %+v", err, tr.Outputs)
	}
	outer := tr.Outputs[0].Frame
	tr, err = b.s.Trace("wire", outer)
	if err != nil || len(tr.Outputs) != 1 || tr.Outputs[0].Port != "pod" || !bytes.Equal(tr.Outputs[0].Frame, f) {
		t.Errorf("%v %+v", err, tr.Outputs)
	}
	outer[29]++ // from a host that has no tunnel
	binary.BigEndian.PutUint16(outer[24:], 0)
	binary.BigEndian.PutUint16(outer[24:], folded(sum(0, outer[14:34])))
	if tr, err = b.s.Trace("wire", outer); err != nil || len(tr.Outputs) != 0 || tr.Drop != packet.ReasonTunnelUnknown {
		t.Errorf("%v %+v, drop %v", err, tr.Outputs, tr.Drop)
	}
}

// TestTunnelBesideWire: what is wired past a bridge does not take along what is for the end of a
// tunnel, however much has come before.
func TestTunnelBesideWire(t *testing.T) {
	a, b := newNode(t, 1, true), newNode(t, 2, true)
	a.mustTunnel("tun", TypeGeneve, "remote_ip=10.0.0.2")
	b.mustTunnel("tun", TypeGeneve, "remote_ip=10.0.0.1")
	b.port("other", PortSpec{Bridge: "phy"})
	if err := b.s.Wire("wire", "other"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		b.devs["wire"].in = [][]byte{eth(7, 8, 0, 60)}
		b.turn()
	}
	f := inner(400, 1)
	if got := pass(a, b, f); len(got) != 1 || !bytes.Equal(got[0], f) || len(b.devs["other"].out) != 3 {
		t.Errorf("%d frames came out of the tunnel, %d by the wire", len(got), len(b.devs["other"].out))
	}
	b.accounts()
}

// TestTunnelAllocs: tunnels allocate nothing per frame, checksums among them.
func TestTunnelAllocs(t *testing.T) {
	a, b := newNode(t, 1, false), newNode(t, 2, true)
	a.mustTunnel("tun", TypeGeneve, "remote_ip=10.0.0.2 csum=true")
	b.mustTunnel("tun", TypeGeneve, "remote_ip=10.0.0.1")
	frames := [][]byte{inner(100, 1), inner(1400, 2)}
	pass(a, b, frames...)
	a.devs["pod"].in = frames
	a.turn()
	wire := a.devs["wire"].out
	for name, f := range map[string]func(w *worker, p *workerPort){
		"out": func(w *worker, p *workerPort) {
			w.batch.Reset()
			w.batch.Add(frames[0][:100])
			w.batch.Add(frames[1][:128], packet.Seg{Addr: packet.Addr(frames[1][128:]), Len: 1400 - 128})
		},
		"in": func(w *worker, p *workerPort) {
			w.batch.Reset()
			w.batch.Add(wire[0][:128], packet.Seg{Addr: packet.Addr(wire[0][128:]), Len: uintptr(len(wire[0]) - 128)})
			w.batch.Add(wire[1][:128], packet.Seg{Addr: packet.Addr(wire[1][128:]), Len: uintptr(len(wire[1]) - 128)})
		},
	} {
		nd, port := a, "pod"
		if name == "in" {
			nd, port = b, "wire"
		}
		w := nd.s.workers[0]
		p := w.ports[nd.s.ports[port].number]
		q := w.rx[0]
		run := func() {
			f(w, p)
			w.fl = flight{src: q, out: w.fl.out[:0]}
			w.classify(p)
			for _, o := range w.fl.out {
				o.n = 0
			}
		}
		run()
		if n := testing.AllocsPerRun(100, run); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// TestTunnelTooBig: the sender of what does not fit is told, by a message that comes by
// the tunnel and goes through the bridge; not more often than is good.
func TestTunnelTooBig(t *testing.T) {
	a := newNode(t, 1, false)
	w := a.underlay.ways[address(false, 2)]
	w.Path.MTU = 1500
	a.underlay.ways[address(false, 2)] = w
	a.mustTunnel("tun", TypeGeneve, "remote_ip=10.0.0.2")
	a.devs["pod"].in = [][]byte{inner(1464, 1), inner(1465, 1)}
	a.turn()
	if n := len(a.devs["wire"].out); n != 1 || len(a.devs["wire"].out[0]) != 1514 {
		t.Fatalf("%d frames on the wire, want one of 1514 bytes", n)
	}
	out := a.devs["pod"].out
	if len(out) != 1 || out[0][23] != 1 || out[0][34] != 3 || binary.BigEndian.Uint16(out[0][40:]) != 1450 {
		t.Fatalf("%d frames to the pod, want ICMP: %x", len(out), out)
	}
	began := a.s.workers[0].now
	for range 5 {
		a.devs["pod"].in = slices.Repeat([][]byte{inner(1465, 1)}, 64)
		a.turn()
	}
	seconds := int(a.s.workers[0].now-began) + 1 // on which these turns may have come
	if n := len(a.devs["pod"].out); n > tooBigsMax*seconds || n < 64 {
		t.Errorf("%d messages in %d seconds", n, seconds)
	}
	st := a.accounts()["tun"]
	if st.TxDrops[packet.ReasonTunnelBig] != 321 || st.RxFrames != uint64(len(a.devs["pod"].out)) {
		t.Errorf("%+v", st)
	}
}

// noMemory is the address of a page that nobody may touch.
func noMemory(t *testing.T) uintptr {
	t.Helper()
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(page) })
	return packet.Addr(page)
}

// TestTunnelFault: a guest that takes its memory away while its frame is summed is cut
// off; nothing else happens.
func TestTunnelFault(t *testing.T) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	addr := noMemory(t)
	for _, way := range []string{"out", "in"} {
		a := newNode(t, 1, false)
		a.mustTunnel("tun", TypeGeneve, "remote_ip=10.0.0.2 csum=true")
		f, port := inner(1000, 1), "pod"
		if way == "in" {
			b := newNode(t, 2, false)
			b.mustTunnel("tun", TypeGeneve, "remote_ip=10.0.0.1 csum=true")
			b.devs["pod"].in = [][]byte{f}
			b.turn()
			f, port = b.devs["wire"].out[0], "wire"
		}
		w := a.s.workers[0]
		p := w.ports[a.s.ports[port].number]
		a.devs[port].owned = addr
		w.batch.Reset()
		w.batch.Add(f[:128], packet.Seg{Addr: addr, Len: uintptr(len(f) - 128)})
		w.begin(w.rx[0])
		w.fl.busy = false
		p.rxFrames++
		w.classify(p)
		var broken string
		for _, q := range []string{"host", "tun"} {
			if n := w.ports[a.s.ports[q].number].txDrops[packet.ReasonRxFault]; n == 1 {
				broken = q
			}
		}
		if a.devs[port].broken == "" || broken == "" || w.stats.Faults != 1 {
			t.Errorf("%s: broken %q, dropped at %q, %d faults", way, a.devs[port].broken, broken, w.stats.Faults)
		}
		a.turn()
		a.accounts()
	}
}
