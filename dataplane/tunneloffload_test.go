package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"millrace/dataplane/packet"
	"millrace/dataplane/parse/parsetest"
	"millrace/flowtable"
)

// An asked is a frame with what it asks for, and what shall come of it where nobody takes
// that: the frames that a sender without offloads would have sent.
type asked struct {
	frame, header []byte
	plain         [][]byte
}

// An askedKind says what to draw.
type askedKind struct {
	six, tcp bool
	tag      bool
	payload  int
	size     int // of a segment; 0: no super-frame
}

// draw makes a frame of a kind from station src to dst. The checksum's field has anything.
func (k askedKind) draw(r *rand.Rand, dst, src byte) asked {
	f := eth(dst, src, 0, 14)
	if k.tag {
		f = eth(dst, src, 7, 18)
	}
	net, l3, l4 := len(f), 20, 8
	if k.six {
		l3 = 40
		f[net-2], f[net-1] = 0x86, 0xdd
	}
	if k.tcp {
		l4 = 20 + 4*r.IntN(4)
	}
	f = append(f, make([]byte, l3+l4+k.payload)...)
	for i := net; i < len(f); i++ {
		f[i] = byte(r.Uint32())
	}
	ip, t := f[net:], f[net+l3:]
	proto, sum := byte(17), 6
	if k.tcp {
		proto, sum = 6, 16
		t[12], t[13] = byte(l4/4)<<4, 0x18|byte(r.IntN(2))
	}
	if k.six {
		copy(ip, []byte{0x60, 0, 0, 0, 0, 0, proto, 64})
	} else {
		copy(ip, []byte{0x45, byte(r.IntN(3))})
		ip[6], ip[7], ip[8], ip[9] = 0x40, 0, 64, proto
	}
	fixLengths(f, net, l3, k.tcp)
	h := make([]byte, packet.HeaderLen)
	h[0] = 1
	binary.LittleEndian.PutUint16(h[6:], uint16(net+l3))
	binary.LittleEndian.PutUint16(h[8:], uint16(sum))
	a := asked{f, h, nil}
	if k.size == 0 || k.payload <= k.size {
		a.plain = [][]byte{finished(f, net, l3, k.tcp)}
		return a
	}
	switch {
	case !k.tcp:
		h[1] = 5
	case k.six:
		h[1] = 4
	default:
		h[1] = 1
	}
	binary.LittleEndian.PutUint16(h[4:], uint16(k.size))
	head := net + l3 + l4
	for at := 0; at < k.payload; at += k.size {
		g := append(bytes.Clone(f[:head]), f[head+at:head+min(at+k.size, k.payload)]...)
		if !k.six {
			binary.BigEndian.PutUint16(g[net+4:], binary.BigEndian.Uint16(f[net+4:])+uint16(at/k.size))
		}
		if k.tcp {
			binary.BigEndian.PutUint32(g[net+l3+4:], binary.BigEndian.Uint32(f[net+l3+4:])+uint32(at))
			if at+k.size < k.payload {
				g[net+l3+13] &^= 0x09 // FIN and PSH are the last one's
			}
		}
		fixLengths(g, net, l3, k.tcp)
		a.plain = append(a.plain, finished(g, net, l3, k.tcp))
	}
	return a
}

// fixLengths writes lengths, and the checksum of IPv4.
func fixLengths(f []byte, net, l3 int, tcp bool) {
	ip := f[net:]
	if l3 == 40 {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
	} else {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], parsetest.Checksum(ip[:20]))
	}
	if !tcp {
		binary.BigEndian.PutUint16(ip[l3+4:], uint16(len(ip)-l3))
	}
}

// coveredToo is what the checksum of TCP or UDP is also over, and where the checksum is.
func coveredToo(f []byte, net, l3 int, tcp bool) (header []byte, at int) {
	ip, n := f[net:], len(f)-net-l3
	proto, at := byte(17), 6
	if tcp {
		proto, at = 6, 16
	}
	addresses := ip[12:20]
	if l3 == 40 {
		addresses = ip[8:40]
	}
	return append(bytes.Clone(addresses), 0, proto, byte(n>>8), byte(n)), at
}

// finished is f with the checksum of TCP or UDP.
func finished(f []byte, net, l3 int, tcp bool) []byte {
	f = bytes.Clone(f)
	t := f[net+l3:]
	all, at := coveredToo(f, net, l3, tcp)
	t[at], t[at+1] = 0, 0
	sum := parsetest.Checksum(append(all, t...))
	if sum == 0 && !tcp {
		sum = 0xffff // zero says that there is none (RFC 768); in TCP it is zero
	}
	binary.BigEndian.PutUint16(t[at:], sum)
	return f
}

// encapsulated is an inner frame in outer headers from node a to node b, written header by
// header.
func encapsulated(inner []byte, kind string, a, b int, six, sum bool, key uint32, sport uint16) []byte {
	from, to := hostMAC(a), hostMAC(b)
	f := append(append([]byte{}, to[:]...), from[:]...)
	at := 14
	if inner[12] == 0x81 {
		at = 18
	}
	tos := byte(0)
	if inner[at-2] == 0x08 {
		tos = inner[at+1] & 3 // ECN
	}
	src, dst := address(six, a).AsSlice(), address(six, b).AsSlice()
	if six {
		f = append(f, 0x86, 0xdd, 0x60, tos<<4, 0, 0, 0, 0, 17, 64)
		f = append(append(f, src...), dst...)
	} else {
		f = append(f, 8, 0, 0x45, tos, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0)
		f = append(append(f, src...), dst...)
	}
	l3 := len(f) - 14
	port := uint16(4789)
	tun := []byte{8, 0, 0, 0}
	if kind == TypeGeneve {
		port, tun = 6081, []byte{0, 0, 0x65, 0x58}
	}
	f = binary.BigEndian.AppendUint16(f, sport)
	f = binary.BigEndian.AppendUint16(f, port)
	f = append(f, 0, 0, 0, 0)
	f = append(append(f, tun...), byte(key>>16), byte(key>>8), byte(key), 0)
	f = append(f, inner...)
	fixLengths(f, 14, l3, false)
	if sum || six {
		f = finished(f, 14, l3, false)
	}
	return f
}

// anyKind draws a kind of frame whose segments fit into the tunnels of the test.
func anyKind(r *rand.Rand) askedKind {
	k := askedKind{six: r.IntN(2) == 0, tcp: r.IntN(2) == 0, tag: r.IntN(4) == 0, payload: r.IntN(3000)}
	switch r.IntN(4) {
	case 0: // a checksum only
	case 1:
		k.size, k.payload = 1+r.IntN(20), r.IntN(150)
	default:
		k.size, k.payload = 300+r.IntN(1500), r.IntN(16000)
	}
	if k.size == 0 && r.IntN(4) == 0 {
		k.payload = r.IntN(4)
	}
	return k
}

const takesAll = packet.TakesSum | packet.TakesSuper | packet.TakesECN

// push has a device receive frames.
func (d *askingDevice) push(frames ...asked) {
	for _, a := range frames {
		d.in, d.asked = append(d.in, a.frame), append(d.asked, a.header)
	}
}

// A tunnelPair is a tunnel from node a to node b, and a sender on a that leaves work to others.
type tunnelPair struct {
	a, b     *node
	src      *askingDevice
	kind     string
	six, sum bool
	want     Finished
}

// newTunnelPair makes one of 16 kinds.
func newTunnelPair(t testing.TB, i uint8) *tunnelPair {
	p := &tunnelPair{kind: []string{TypeGeneve, TypeVXLAN}[i&1], six: i&2 != 0, sum: i&4 != 0}
	direct := i&8 != 0
	p.a, p.b = newNode(t, 1, direct), newNode(t, 2, !direct)
	p.src = p.a.asking("src", takesAll, PortSpec{})
	p.a.mustTunnel("tun", p.kind, fmt.Sprintf("remote_ip=%s key=5 csum=%v", address(p.six, 2), p.sum))
	p.b.mustTunnel("tun", p.kind, fmt.Sprintf("remote_ip=%s key=5", address(p.six, 1)))
	return p
}

// check sends frames through the tunnel, and looks at the wire and at what comes out.
func (p *tunnelPair) check(t *testing.T, frames ...asked) {
	t.Helper()
	p.src.push(frames...)
	p.a.turn()
	wire := p.a.devs["wire"].out
	p.a.devs["wire"].out, p.a.devs["pod"].out = nil, nil
	var outer, plain [][]byte
	for _, f := range frames {
		p.want.Sums += uint64(len(f.plain))
		p.want.Segments += uint64(len(f.plain) - 1)
		if f.header[1] == 5 {
			p.want.UDP++
		} else if f.header[1] != 0 {
			p.want.TCP++
		}
		for _, g := range f.plain {
			plain = append(plain, g)
			n, at := len(outer), 34
			if p.six {
				at = 54
			}
			if n < len(wire) {
				outer = append(outer, encapsulated(g, p.kind, 1, 2, p.six, p.sum, 5, binary.BigEndian.Uint16(wire[n][at:])))
			}
		}
	}
	same(t, wire, outer)
	p.b.devs["wire"].in = wire
	for len(p.b.devs["wire"].in) > 0 {
		p.b.turn()
	}
	same(t, p.b.devs["pod"].out, plain)
	p.b.devs["pod"].out = nil
}

// account checks what both sides have counted.
func (p *tunnelPair) account(t *testing.T) {
	t.Helper()
	p.b.accounts()
	if tun := p.a.accounts()["tun"]; tun.Finished != p.want || tun.TxDrops.Total() != 0 {
		t.Errorf("%+v, want %+v", tun, p.want)
	}
}

// TestTunnelOffload sends frames that ask for something into tunnels of all kinds. What is
// on the wire is, byte for byte, what a sender without offloads would have sent, each
// frame in outer headers written plainly; what comes out at the other end is what it would
// have sent; and each conversion is counted.
func TestTunnelOffload(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range uint8(16) {
		t.Run(fmt.Sprintf("%d/%d", i, seed), func(t *testing.T) {
			p := newTunnelPair(t, i)
			for range 60 {
				var frames []asked
				for range 1 + r.IntN(4) {
					frames = append(frames, anyKind(r).draw(r, 2, 1))
				}
				p.check(t, frames...)
			}
			p.account(t)
		})
	}
}

// FuzzTunnelOffload has the fuzzer choose the tunnel, the frame, and where it is cut.
func FuzzTunnelOffload(f *testing.F) {
	f.Add(uint8(0), uint8(7), uint16(4000), uint16(1448), uint64(1))
	f.Add(uint8(6), uint8(1), uint16(9), uint16(1), uint64(2))
	f.Fuzz(func(t *testing.T, tunnel, bits uint8, payload, size uint16, seed uint64) {
		k := askedKind{six: bits&1 != 0, tcp: bits&2 != 0, tag: bits&4 != 0, payload: int(payload % 16000), size: int(size % 8000)}
		if k.size == 0 || k.payload/k.size > 200 {
			k.size, k.payload = 0, k.payload%8000
		}
		p := newTunnelPair(t, tunnel%16)
		p.check(t, k.draw(rand.New(rand.NewPCG(seed, 0)), 2, 1))
		p.account(t)
	})
}

// TestTunnelOffloadFlood floods frames that ask for something into two tunnels, to ports that take
// all and nothing, with a tag and without: each gets its own, whatever was made of
// the frame for the others.
func TestTunnelOffloadFlood(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	a, b, c := newNode(t, 1, false), newNode(t, 2, false), newNode(t, 3, true)
	spec := PortSpec{Bridge: "br0", Name: "to3", Type: TypeVXLAN, Options: map[string]string{"remote_ip": "10.0.0.3"}, Tag: 7}
	if _, err := a.s.AddPort(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	// The frame is cut as it came, before it is copied for a tag.
	a.mustTunnel("to2", TypeGeneve, "remote_ip=10.0.0.2 csum=true")
	src := a.asking("src", takesAll, PortSpec{Tag: 7})
	whole := a.asking("whole", takesAll, PortSpec{Trunks: []uint16{7}})
	access := a.port("access", PortSpec{Tag: 7})
	b.mustTunnel("tun", TypeGeneve, "remote_ip=10.0.0.1")
	c.mustTunnel("tun", TypeVXLAN, "remote_ip=10.0.0.1")
	for range 100 {
		k := anyKind(r)
		k.tag = false
		f := k.draw(r, 255, 1)
		src.push(f)
		a.turn()
		wire := a.devs["wire"].out
		a.devs["wire"].out, a.devs["pod"].out = nil, nil
		if len(wire) != 2*len(f.plain) {
			t.Fatalf("seed %d: %d frames on the wire, want %d", seed, len(wire), 2*len(f.plain))
		}
		for _, g := range wire {
			nd := b
			if g[33] == 3 {
				nd = c
			}
			nd.devs["wire"].in = append(nd.devs["wire"].in, g)
		}
		for len(b.devs["wire"].in)+len(c.devs["wire"].in) > 0 {
			b.turn()
			c.turn()
		}
		var tagged [][]byte
		for _, p := range f.plain {
			tagged = append(tagged, append(append(bytes.Clone(p[:12]), 0x81, 0, 0, 7), p[12:]...))
		}
		same(t, access.out, f.plain)
		same(t, c.devs["pod"].out, f.plain)
		same(t, b.devs["pod"].out, tagged)
		if len(whole.out) != 1 || whole.headers[0][1] != f.header[1] || len(whole.out[0]) != len(f.frame)+4 {
			t.Fatalf("seed %d: who takes all has %d frames, headers %x, want one of %x", seed, len(whole.out), whole.headers, f.header)
		}
		whole.out, whole.headers, access.out, b.devs["pod"].out, c.devs["pod"].out = nil, nil, nil, nil, nil
	}
	a.accounts()
}

// TestTunnelOffloadThenChanged: a rule that sends a super-frame into a tunnel, changes it and sends
// it elsewhere has sent two frames that differ: segments are cut of each.
func TestTunnelOffloadThenChanged(t *testing.T) {
	a := newNode(t, 1, false)
	a.mustTunnel("tun", TypeGeneve, "remote_ip=10.0.0.2")
	src := a.asking("src", takesAll, PortSpec{})
	if err := a.s.SetBridge("br0", BridgeSettings{Pipeline: PipelineFlows}); err != nil {
		t.Fatal(err)
	}
	out := func(port string) flowtable.Action {
		return flowtable.Action{Code: flowtable.ActOutput, Arg: a.s.ports[port].number}
	}
	x := a.s.Tables().Begin()
	if err := x.Add(&flowtable.Rule{ID: 1, Datapath: flowtable.DatapathOf("br0"), Actions: []flowtable.Action{
		out("tun"), {Code: flowtable.ActSet, Dst: flowtable.Field{Word: flowtable.WordSrc, Shift: 16, Width: 48}, Value: 0x0200000000aa}, out("pod"),
	}}); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Commit(false); err != nil {
		t.Fatal(err)
	}
	f := askedKind{tcp: true, payload: 3000, size: 1000}.draw(rand.New(rand.NewPCG(1, 2)), 2, 1)
	src.push(f)
	a.turn()
	if n := len(a.devs["wire"].out); n != 3 {
		t.Errorf("%d frames on the wire, want 3", n)
	}
	var want [][]byte
	for _, p := range f.plain {
		p = bytes.Clone(p)
		copy(p[6:], []byte{2, 0, 0, 0, 0, 0xaa})
		want = append(want, p)
	}
	same(t, a.devs["pod"].out, want)
	a.accounts()
}

// TestTunnelOffloadPatched: what has come through a patch port may leave in many outer frames, by
// segments and by tunnels, and pass another one as often: that is no loop.
func TestTunnelOffloadPatched(t *testing.T) {
	for _, direct := range []bool{false, true} {
		a := newNode(t, 1, direct)
		patch := func(x, y string) {
			a.port(x+y, PortSpec{Bridge: x, Type: TypePatch, Peer: y + x})
			a.port(y+x, PortSpec{Bridge: y, Type: TypePatch, Peer: x + y})
		}
		patch("front", "br0")
		patch("phy", "ext")
		a.port("far", PortSpec{Bridge: "ext"})
		a.mustTunnel("to2", TypeGeneve, "remote_ip=10.0.0.2")
		a.mustTunnel("to3", TypeVXLAN, "remote_ip=10.0.0.3")
		src := a.asking("src", takesAll, PortSpec{Bridge: "front"})
		r := rand.New(rand.NewPCG(1, 2))
		for _, k := range []askedKind{{tcp: true, payload: 8000, size: 100}, {payload: 100}} {
			f := k.draw(r, 255, 1)
			src.push(f)
			a.turn()
			for _, port := range []string{"wire", "far"} {
				if port == "far" && direct {
					continue // frames leave by the device, not through its bridge
				}
				if n := len(a.devs[port].out); n != 2*len(f.plain) {
					t.Errorf("direct=%v: %d frames by %s, want %d twice", direct, n, port, len(f.plain))
				}
				a.devs[port].out = nil
			}
		}
		a.accounts()
	}
}

// TestTunnelPopAsking: outer frames that the host has not finished lose their headers as if
// it had: its own tunnel device leaves the outer checksum or the inner one to the
// device below. A super-frame of outer datagrams is none that can be taken apart.
func TestTunnelPopAsking(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	b := newNode(t, 2, false)
	b.mustTunnel("tun", TypeVXLAN, "remote_ip=10.0.0.1")
	wire := b.asking("other", takesAll, PortSpec{Bridge: "phy"})
	for range 200 {
		k := anyKind(r)
		k.size, k.payload = 0, k.payload%1400
		f := k.draw(r, 2, 1)
		outer := asked{encapsulated(f.plain[0], TypeVXLAN, 1, 2, false, false, 0, 40000), f.header, nil}
		if r.IntN(2) == 0 {
			binary.BigEndian.PutUint16(outer.frame[40:], uint16(r.Uint32()))
			binary.LittleEndian.PutUint16(outer.header[6:], 34)
			binary.LittleEndian.PutUint16(outer.header[8:], 6)
		} else { // the inner one: nobody but its sender knows what it is over
			start, l3 := int(binary.LittleEndian.Uint16(f.header[6:])), 20
			if k.six {
				l3 = 40
			}
			header, at := coveredToo(f.frame, start-l3, l3, k.tcp)
			binary.BigEndian.PutUint16(f.frame[start+at:], ^parsetest.Checksum(header))
			outer.frame = encapsulated(f.frame, TypeVXLAN, 1, 2, false, false, 0, 40000)
			binary.LittleEndian.PutUint16(outer.header[6:], uint16(start+50))
		}
		wire.push(outer)
		b.turn()
		same(t, b.devs["pod"].out, f.plain)
		b.devs["pod"].out = nil
	}
	super := askedKind{payload: 3000, size: 1000}.draw(r, 2, 1)
	outer := encapsulated(super.frame, TypeVXLAN, 1, 2, false, false, 0, 40000)
	h := bytes.Clone(super.header)
	binary.LittleEndian.PutUint16(h[6:], 34)
	wire.push(asked{outer, h, nil})
	b.turn()
	if n := b.accounts()["host"].TxDrops[packet.ReasonTunnelHeader]; n != 1 || len(b.devs["pod"].out) != 0 {
		t.Errorf("%d drops, %d frames came through", n, len(b.devs["pod"].out))
	}
}

// TestTunnelOffloadBig: of a super-frame whose segments do not fit into the path, the sender is
// told once.
func TestTunnelOffloadBig(t *testing.T) {
	a := newNode(t, 1, false)
	w := a.underlay.ways[address(false, 2)]
	w.Path.MTU = 1500
	a.underlay.ways[address(false, 2)] = w
	a.mustTunnel("tun", TypeGeneve, "remote_ip=10.0.0.2")
	src := a.asking("src", takesAll, PortSpec{})
	r := rand.New(rand.NewPCG(1, 2))
	src.push(askedKind{tcp: true, payload: 20000, size: 1460}.draw(r, 2, 1))
	a.turn()
	if n := len(a.devs["wire"].out); n != 0 {
		t.Errorf("%d frames on the wire", n)
	}
	if n := len(src.out); n != 1 || src.out[0][34] != 3 {
		t.Errorf("%d messages to the sender, want one", n)
	}
	if p := a.accounts()["tun"]; p.TxDrops[packet.ReasonTunnelBig] != 1 || p.Finished.Segments != 0 {
		t.Errorf("%+v", p)
	}
	src.push(askedKind{tcp: true, payload: 20000, size: 1300}.draw(r, 2, 1))
	a.devs["wire"].out = nil
	a.turn()
	if n := len(a.devs["wire"].out); n != 16 {
		t.Errorf("%d segments that fit, want 16", n)
	}
	a.accounts()
}
