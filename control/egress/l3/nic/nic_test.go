package nic

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"

	"millrace/control/egress/l3/packet"
)

// A rig is a stack with a port, NIC 1, and a tunnel, NIC 2.
type rig struct {
	port *channel.Endpoint
	nic  *NIC
}

func newRig(t *testing.T) *rig {
	t.Helper()
	s := stack.New(stack.Options{NetworkProtocols: []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol}, TransportProtocols: []stack.TransportProtocolFactory{icmp.NewProtocol4, icmp.NewProtocol6}})
	t.Cleanup(s.Destroy)
	r := &rig{port: channel.New(64, 9000, "")}
	if err := s.CreateNIC(1, r.port); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"10.9.0.200/24", "fd09::200/64"} {
		p := netip.MustParsePrefix(a)
		if err := s.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: protocol(p.Addr()), AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(p.Addr().AsSlice()), PrefixLen: p.Bits()}}, stack.AddressProperties{}); err != nil {
			t.Fatal(err)
		}
		subnet, _ := tcpip.NewSubnet(tcpip.AddrFromSlice(p.Masked().Addr().AsSlice()), tcpip.MaskFromBytes(mask(p)))
		s.AddRoute(tcpip.Route{Destination: subnet, NIC: 1})
	}
	var err error
	r.nic, err = Add(s, Options{ID: 2, MTU: 1280, Addresses: []netip.Addr{netip.MustParseAddr("10.99.0.2"), netip.MustParseAddr("fd99::2")}})
	if err != nil {
		t.Fatal(err)
	}
	r.nic.Route([]netip.Prefix{netip.MustParsePrefix("10.99.0.0/24"), netip.MustParsePrefix("fd99::/64")})
	return r
}

// inject has a packet come by the port.
func (r *rig) inject(b []byte) {
	proto := ipv6.ProtocolNumber
	if b[0]>>4 == 4 {
		proto = ipv4.ProtocolNumber
	}
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	r.port.InjectInbound(proto, p)
	p.DecRef()
}

// out is the next packet that leaves by the port.
func (r *rig) out(t *testing.T) []byte {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if p := r.port.Read(); p != nil {
			b := make([]byte, 9000)
			b = b[:copyOut(b, p)]
			p.DecRef()
			return b
		}
	}
	t.Fatal("nothing leaves by the port")
	return nil
}

// read is the next packet for the tunnel.
func (r *rig) read(t *testing.T) []byte {
	t.Helper()
	bufs, sizes := [][]byte{make([]byte, 2000)}, make([]int, 1)
	if n, err := r.nic.Read(bufs, sizes, 16); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	return bufs[0][16:][:sizes[0]]
}

func (r *rig) write(t *testing.T, b []byte) {
	t.Helper()
	if n, err := r.nic.Write([][]byte{append(make([]byte, 16), b...)}, 16); n != 1 || err != nil {
		t.Fatal(n, err)
	}
}

var ends = [][4]string{{"10.99.0.50", "10.9.0.1", "10.99.0.2", "10.9.0.200"}, {"fd99::50", "fd09::1", "fd99::2", "fd09::200"}}

// TestForwards: what an operator sends leaves by the port, and what a pod sends by
// the tunnel; the stack answers for itself.
func TestForwards(t *testing.T) {
	for _, e := range ends {
		r := newRig(t)
		op, pod, own := netip.MustParseAddr(e[0]), netip.MustParseAddr(e[1]), netip.MustParseAddr(e[2])
		r.write(t, packet.Echo(op, pod, 1, 2))
		b := r.out(t)
		if p, ok := packet.Parse(b); !ok || p.Kind != packet.EchoRequest || p.Src != op || p.Dst != pod || hops(b) != 63 {
			t.Errorf("%+v leaves by the port, hops %d", p, hops(b))
		}
		r.inject(packet.Echo(pod, op, 3, 4))
		if p, ok := packet.Parse(r.read(t)); !ok || p.Src != pod || p.Dst != op {
			t.Errorf("%+v leaves by the tunnel", p)
		}
		r.write(t, packet.Echo(op, own, 5, 6))
		if p, ok := packet.Parse(r.read(t)); !ok || p.Kind != packet.EchoReply || p.Src != own {
			t.Errorf("%+v is the stack's answer", p)
		}
		if err := r.nic.Close(); err != nil {
			t.Error(err)
		}
	}
}

func hops(b []byte) byte {
	if b[0]>>4 == 4 {
		return b[8]
	}
	return b[7]
}

// TestPathMTU: a pod that sends more than the tunnel takes is told so.
func TestPathMTU(t *testing.T) {
	for _, e := range ends {
		r := newRig(t)
		op, pod := netip.MustParseAddr(e[0]), netip.MustParseAddr(e[1])
		big := append(packet.Echo(pod, op, 1, 2), make([]byte, 1400)...)
		if pod.Is4() {
			binary.BigEndian.PutUint16(big[2:], uint16(len(big)))
			big[6] = 0x40 // do not fragment
			seal(big)
		} else {
			binary.BigEndian.PutUint16(big[4:], uint16(len(big)-40))
		}
		read := make(chan error)
		go func() {
			_, err := r.nic.Read([][]byte{make([]byte, 2000)}, make([]int, 1), 0)
			read <- err
		}()
		r.inject(big)
		b := r.out(t)
		p, ok := packet.Parse(b)
		q, quoted := p.Quoted(b)
		if !ok || p.Kind != packet.Error || p.Dst != pod || !quoted || q.Dst != op {
			t.Errorf("the pod is told %+v about %+v", p, q)
		}
		mtu := binary.BigEndian.Uint16(b[26:])
		if pod.Is6() {
			mtu = binary.BigEndian.Uint16(b[46:])
		}
		if mtu != 1280 {
			t.Errorf("the MTU that the pod is told is %d", mtu)
		}
		if err := r.nic.Close(); err != nil {
			t.Error(err)
		}
		if err := <-read; !errors.Is(err, os.ErrClosed) {
			t.Errorf("it went through, too: %v", err)
		}
	}
}

// TestCuts: an IPv4 packet that may be cut is.
func TestCuts(t *testing.T) {
	r := newRig(t)
	pod, op := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.99.0.50")
	big := append(packet.Echo(pod, op, 1, 2), make([]byte, 3000)...)
	binary.BigEndian.PutUint16(big[2:], uint16(len(big)))
	seal(big)
	r.inject(big)
	got := 0
	for got < len(big)-20 {
		b := r.read(t)
		p, ok := packet.Parse(b)
		if !ok || len(b) > 1280 || (got > 0) != (p.Kind == packet.Fragment) || int(binary.BigEndian.Uint16(b[6:])&0x1fff)*8 != got {
			t.Fatalf("after %d bytes: %+v of %d bytes", got, p, len(b))
		}
		got += len(b) - 20
	}
	if err := r.nic.Close(); err != nil {
		t.Error(err)
	}
}

// seal writes the sum of an IPv4 header.
func seal(b []byte) {
	b[10], b[11] = 0, 0
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum+sum>>16))
}

// TestClose: Read ends, and the stack has no route to the tunnel any more.
func TestClose(t *testing.T) {
	r := newRig(t)
	done := make(chan error)
	go func() {
		_, err := r.nic.Read([][]byte{make([]byte, 2000)}, make([]int, 1), 0)
		done <- err
	}()
	if err := r.nic.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-done:
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("Read ends with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Read does not end")
	}
	for _, route := range r.nic.stack.GetRouteTable() {
		if route.NIC == 2 {
			t.Errorf("route %v is left", route)
		}
	}
	if _, err := Add(r.nic.stack, Options{ID: 2, MTU: 1280}); err != nil {
		t.Errorf("another NIC of that number: %v", err)
	}
	if _, err := Add(r.nic.stack, Options{ID: 2, MTU: 1280}); err == nil {
		t.Error("two NICs of one number")
	}
}
