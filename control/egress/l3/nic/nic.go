// Package nic makes a tunnel a NIC of a TCP/IP stack in process (gVisor), which
// forwards between it and its other NICs: the port of the switch.
//
// The stack takes the NIC for one that carries packets of any size. What is too big
// for the tunnel is cut or refused here, because the stack's own refusal of IPv6
// packets does not say which size would do.
package nic

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"millrace/control/egress/l3/packet"
)

const (
	batchSize = 128
	anySize   = 65535
	queued    = 1024 // packets of the stack on their way to the tunnel; more are dropped, as by any router
)

// Options say which NIC.
type Options struct {
	ID        tcpip.NICID
	MTU       int
	Addresses []netip.Addr // of the stack's own end
}

// A NIC is one of a stack, and the inner end of a tunnel.
type NIC struct {
	stack  *stack.Stack
	id     tcpip.NICID
	mtu    int
	link   *channel.Endpoint
	pieces [][]byte // of a packet that Read has cut
	events chan tun.Event
	open   context.Context
	close  func() error
}

// Add adds a NIC to a stack, and has the stack forward packets. The sender of one
// that does not fit through the tunnel is told what does.
func Add(s *stack.Stack, o Options) (*NIC, error) {
	n := &NIC{stack: s, id: o.ID, mtu: o.MTU, link: channel.New(queued, anySize, ""), events: make(chan tun.Event)}
	if err := s.CreateNIC(o.ID, n.link); err != nil {
		return nil, fmt.Errorf("add NIC %d: %s", o.ID, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.open = ctx
	n.close = sync.OnceValue(func() error {
		cancel()
		close(n.events)
		n.Route(nil)
		if err := s.RemoveNIC(o.ID); err != nil {
			return fmt.Errorf("remove NIC %d: %s", o.ID, err)
		}
		n.link.Close()
		return nil
	})
	for _, a := range o.Addresses {
		if err := s.AddProtocolAddress(o.ID, tcpip.ProtocolAddress{Protocol: protocol(a), AddressWithPrefix: tcpip.AddrFromSlice(a.AsSlice()).WithPrefix()}, stack.AddressProperties{}); err != nil {
			_ = n.close()
			return nil, fmt.Errorf("add address %s to NIC %d: %s", a, o.ID, err)
		}
	}
	for _, p := range []tcpip.NetworkProtocolNumber{ipv4.ProtocolNumber, ipv6.ProtocolNumber} {
		if err := s.SetForwardingDefaultAndAllNICs(p, true); err != nil {
			_ = n.close()
			return nil, fmt.Errorf("turn on forwarding: %s", err)
		}
	}
	return n, nil
}

func protocol(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

// Route has the stack send packets to these prefixes, and to no others, to the
// tunnel.
func (n *NIC) Route(prefixes []netip.Prefix) {
	n.stack.RemoveRoutes(func(r tcpip.Route) bool { return r.NIC == n.id })
	for _, p := range prefixes {
		subnet, err := tcpip.NewSubnet(tcpip.AddrFromSlice(p.Masked().Addr().AsSlice()), tcpip.MaskFromBytes(mask(p)))
		if err != nil {
			continue // cannot be: it is masked
		}
		n.stack.AddRoute(tcpip.Route{Destination: subnet, NIC: n.id})
	}
}

func mask(p netip.Prefix) []byte {
	b := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return b
}

// Read gives packets of the stack for the tunnel.
func (n *NIC) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	for {
		if count := n.takePieces(bufs, sizes, offset); count > 0 {
			return count, nil
		}
		p := n.link.ReadContext(n.open)
		if p == nil {
			return 0, os.ErrClosed
		}
		count := 0
		for ; p != nil; p = n.link.Read() {
			if p.Size() > n.mtu {
				n.tooBig(p)
			} else {
				sizes[count] = copyOut(bufs[count][offset:], p)
				count++
			}
			p.DecRef()
			if count == len(bufs) || len(n.pieces) > 0 {
				break
			}
		}
		if count > 0 {
			return count, nil
		}
	}
}

// takePieces gives what a packet was cut into.
func (n *NIC) takePieces(bufs [][]byte, sizes []int, offset int) (count int) {
	for ; count < len(bufs) && len(n.pieces) > 0; count++ {
		sizes[count] = copy(bufs[count][offset:], n.pieces[0])
		n.pieces = n.pieces[1:]
	}
	return count
}

// tooBig cuts a packet, or tells its sender what fits: in the name of its
// destination, for the stack takes nothing that comes in by its own names.
func (n *NIC) tooBig(p *stack.PacketBuffer) {
	b := make([]byte, p.Size())
	copyOut(b, p)
	info, ok := packet.Parse(b)
	if !ok {
		return
	}
	if n.pieces = packet.Fragments(b, n.mtu); n.pieces != nil {
		return
	}
	if e := info.TooBig(b, info.Dst, n.mtu); e != nil {
		n.inject(e)
	}
}

// copyOut copies a packet, which is not longer than b.
func copyOut(b []byte, p *stack.PacketBuffer) (size int) {
	for _, s := range p.AsSlices() {
		size += copy(b[size:], s)
	}
	return size
}

// Write gives the stack packets of the tunnel.
func (n *NIC) Write(bufs [][]byte, offset int) (int, error) {
	for _, b := range bufs {
		n.inject(b[offset:])
	}
	return len(bufs), nil
}

// inject has a packet come in by the NIC.
func (n *NIC) inject(b []byte) {
	proto := ipv6.ProtocolNumber
	if header.IPVersion(b) == header.IPv4Version {
		proto = ipv4.ProtocolNumber
	}
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	n.link.InjectInbound(proto, p)
	p.DecRef()
}

// The rest of tun.Device.

// File is none.
func (n *NIC) File() *os.File { return nil }

// MTU is that which the NIC was made with.
func (n *NIC) MTU() (int, error) { return n.mtu, nil }

// Name is the NIC's number.
func (n *NIC) Name() (string, error) { return fmt.Sprintf("nic%d", n.id), nil }

// Events never has any: the NIC is up from the beginning.
func (n *NIC) Events() <-chan tun.Event { return n.events }

// BatchSize is how many packets a call of Read or Write may have.
func (n *NIC) BatchSize() int { return batchSize }

// Close removes the NIC.
func (n *NIC) Close() error { return n.close() }
