package netstack

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// PortNIC is the stack's device that is the port of the switch.
const PortNIC tcpip.NICID = 1

// minRTO is the least that a segment waits before it is sent again. Ways are short
// here; peers of Linux delay acknowledgements for 40 ms.
const minRTO = 50 * time.Millisecond

// What is sent again waits no longer than maxRTO, and is given up after maxRetries, 2
// minutes. By itself the stack waits up to 2 minutes each time: what it takes for round
// trips are its own pauses after losses, each longer than the one before, so that a
// connection whose window closes amid losses stands still. Probes of a closed window
// double the same pause.
const (
	maxRTO     = time.Second
	maxRetries = 120
)

// timeWait is how long the stack remembers a connection that it has closed. One takes
// 10 KiB until then, and no budget counts it.
const timeWait = 5 * time.Second

// A Config says what a stack shall be.
type Config struct {
	Socket    string // of the vhost-user port, where the switch listens, or the stack if it shall
	Listen    bool   // the stack listens, and the switch connects
	MAC       [6]byte
	Addresses []netip.Prefix // of the stack, with the lengths of their networks
	Gateways  []netip.Addr   // ways to all other networks: one of each family at most
	MTU       int            // 1500 if 0
	Memory    int            // bytes for the buffers of connections; 512 MiB if 0
	Forwards  bool           // packets of the port are passed on: none may be longer than the MTU, or lack a checksum

	// Changed is told that the switch has the port (nil), or why no more. May be nil.
	Changed func(err error)

	tcp stack.TransportProtocolFactory // CUBIC if nil
}

// A Stack is a TCP/IP stack that is the peer of one port.
type Stack struct {
	inner  *stack.Stack
	link   *link
	budget budget
}

// New returns a stack. The switch need not be there yet: until it is, nothing is
// reached. The caller closes it.
func New(cfg Config) (*Stack, error) {
	if cfg.MTU == 0 {
		cfg.MTU = 1500
	}
	if cfg.Memory == 0 {
		cfg.Memory = 512 << 20
	}
	if cfg.Changed == nil {
		cfg.Changed = func(error) {}
	}
	if cfg.tcp == nil {
		cfg.tcp = tcp.NewProtocolCUBIC
	}
	s := &Stack{inner: newInner(cfg.tcp)}
	l, err := newLink(cfg, func(err error) {
		if err == nil {
			s.forgetNeighbours()
		}
		cfg.Changed(err)
	})
	if err != nil {
		return nil, fmt.Errorf("open the stack's device: %w", err)
	}
	s.link = l
	s.budget.left = int64(cfg.Memory)
	if err := s.configure(cfg); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// newInner is the stack without devices. It takes no address, router or route from
// messages of others.
func newInner(itsTCP stack.TransportProtocolFactory) *stack.Stack {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{arp.NewProtocol, ipv4.NewProtocol, ipv6.NewProtocolWithOptions(ipv6.Options{})},
		TransportProtocols: []stack.TransportProtocolFactory{itsTCP, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	for _, o := range []tcpip.SettableTransportProtocolOption{
		// RACK takes a loss of several super-frames at a stream's end for one of many
		// segments under way, and mends two of them in each timeout.
		ptr(tcpip.TCPSACKEnabled(true)), ptr(tcpip.TCPRecovery(0)),
		ptr(tcpip.TCPMinRTOOption(minRTO)), ptr(tcpip.TCPMaxRTOOption(maxRTO)), ptr(tcpip.TCPMaxRetriesOption(maxRetries)),
		ptr(tcpip.TCPModerateReceiveBufferOption(true)),
		ptr(tcpip.TCPTimeWaitReuseGlobal), ptr(tcpip.TCPTimeWaitTimeoutOption(timeWait)),
		&tcpip.TCPReceiveBufferSizeRangeOption{Min: bufferMin, Default: bufferFirst, Max: bufferMax},
		&tcpip.TCPSendBufferSizeRangeOption{Min: bufferMin, Default: bufferFirst, Max: bufferMax},
	} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			panic(fmt.Sprintf("netstack: option %T: %v", o, err)) // of this version of the stack
		}
	}
	return s
}

func ptr[T any](v T) *T { return &v }

// configure gives the stack its device, addresses and routes.
func (s *Stack) configure(cfg Config) error {
	if err := s.inner.CreateNIC(PortNIC, s.link); err != nil {
		return fmt.Errorf("make the stack's device: %s", err)
	}
	var routes []tcpip.Route
	for _, a := range cfg.Addresses {
		at := tcpip.ProtocolAddress{Protocol: family(a.Addr()), AddressWithPrefix: tcpip.AddressWithPrefix{Address: address(a.Addr()), PrefixLen: a.Bits()}}
		if err := s.inner.AddProtocolAddress(PortNIC, at, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("give the stack the address %s: %s", a, err)
		}
		routes = append(routes, tcpip.Route{Destination: at.AddressWithPrefix.Subnet(), NIC: PortNIC})
	}
	for _, g := range cfg.Gateways {
		all := header.IPv6EmptySubnet
		if g.Is4() {
			all = header.IPv4EmptySubnet
		}
		routes = append(routes, tcpip.Route{Destination: all, Gateway: address(g), NIC: PortNIC})
	}
	for _, r := range routes {
		s.inner.AddRoute(r)
	}
	return nil
}

// forgetNeighbours has the stack ask anew who has which address. With a switch that
// was away devices of others may have gone and come, with other Ethernet addresses.
func (s *Stack) forgetNeighbours() {
	for _, p := range []tcpip.NetworkProtocolNumber{header.IPv4ProtocolNumber, header.IPv6ProtocolNumber} {
		_ = s.inner.ClearNeighbors(PortNIC, p) // fails before there is the device
	}
}

func address(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func family(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

// Inner lends gVisor's stack, for who gives it further devices and routes.
func (s *Stack) Inner() *stack.Stack { return s.inner }

// Broken yields why the port can be used no more, if that happens: the switch has
// broken the rules, or another one offers less than the one before. A new Stack may
// do better.
func (s *Stack) Broken() <-chan error { return s.link.broken }

// Up reports whether the switch has the port.
func (s *Stack) Up() bool { return s.link.front.Up() }

// Counters lends the counts of frames that were not carried.
func (s *Stack) Counters() *Counters { return &s.link.Counters }

// Retransmits is how many segments were sent again.
func (s *Stack) Retransmits() uint64 { return s.inner.Stats().TCP.Retransmits.Value() }

// Close ends all connections, and leaves the port.
func (s *Stack) Close() error {
	s.inner.Close()
	err := s.link.shut()
	s.inner.Wait()
	return err
}
