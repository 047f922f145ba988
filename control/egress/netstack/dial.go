package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// keepAlive is how long a connection is idle before its peer is asked for a sign of
// life, and how long it may take: as for connections of the host (net.Dialer).
const keepAlive = 15 * time.Second

// DialContext connects to address, which must be one and not a name. network is
// tcp or udp, with or without a 4 or 6. While no switch has the port it waits for one,
// until ctx ends.
func (s *Stack) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial %s %s: %w", network, address, err)
	}
	to = netip.AddrPortFrom(to.Addr().Unmap().WithZone(""), to.Port())
	for {
		c, again, err := s.dial(ctx, network, to)
		if err == nil {
			return c, nil
		}
		if !again {
			return nil, fmt.Errorf("dial %s %s by the port: %w", network, address, err)
		}
	}
}

// dial tries once, when a switch has the port. again: what it has met is that the switch was
// another before the end, which forgets who was asked for an Ethernet address.
func (s *Stack) dial(ctx context.Context, network string, to netip.AddrPort) (c net.Conn, again bool, err error) {
	count, err := s.link.switches.await(ctx)
	if err != nil {
		return nil, false, err
	}
	if strings.HasPrefix(network, "udp") {
		c, err = s.dialUDP(to)
	} else {
		c, err = s.dialTCP(ctx, to)
	}
	again = errors.Is(err, syscall.EHOSTUNREACH) && s.link.switches.changes() != count
	return c, again, err
}

func full(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{Addr: address(a.Addr()), Port: a.Port()}
}

func (s *Stack) dialUDP(to netip.AddrPort) (net.Conn, error) {
	remote := full(to)
	c, err := gonet.DialUDP(s.inner, nil, &remote, family(to.Addr()))
	if err != nil {
		return nil, err
	}
	return c, nil
}

// A conn is a connection that gives back its share of the budget.
type conn struct {
	*gonet.TCPConn
	ep   tcpip.Endpoint
	over func()
}

// Retransmits is how many segments of the connection were sent again.
func (c *conn) Retransmits() uint64 {
	if s, ok := c.ep.Stats().(*tcp.Stats); ok {
		return s.SendErrors.Retransmits.Value()
	}
	return 0
}

// Close closes the connection. What was written is sent.
func (c *conn) Close() error {
	c.over()
	return c.TCPConn.Close()
}

func (s *Stack) dialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	share, err := s.budget.share()
	if err != nil {
		return nil, err
	}
	var queue waiter.Queue
	ep, terr := s.inner.NewEndpoint(tcp.ProtocolNumber, family(to.Addr()), &queue)
	if terr != nil {
		return nil, failure(terr)
	}
	prepare(ep, share)
	if err := connect(ctx, ep, &queue, full(to)); err != nil {
		ep.Close()
		return nil, err
	}
	got, err := s.budget.take(share)
	if err != nil {
		ep.Close()
		return nil, err
	}
	if got < share {
		setBuffers(ep, got)
	}
	return &conn{gonet.NewTCPConn(&queue, ep), ep, sync.OnceFunc(func() { s.budget.give(got) })}, nil
}

// setBuffers gives a connection its share: half of it for each direction.
func setBuffers(ep tcpip.Endpoint, share int64) {
	ep.SocketOptions().SetReceiveBufferSize(share/2, true)
	ep.SocketOptions().SetSendBufferSize(share/2, true)
}

// prepare sets the options of a connection.
func prepare(ep tcpip.Endpoint, share int64) {
	setBuffers(ep, share)
	ep.SocketOptions().SetKeepAlive(true)
	idle, every := tcpip.KeepaliveIdleOption(keepAlive), tcpip.KeepaliveIntervalOption(keepAlive)
	_ = ep.SetSockOpt(&idle) // TCP has both
	_ = ep.SetSockOpt(&every)
}

// connect waits until a connection is there, has failed, or ctx ends.
func connect(ctx context.Context, ep tcpip.Endpoint, queue *waiter.Queue, to tcpip.FullAddress) error {
	entry, done := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	err := ep.Connect(to)
	if _, started := err.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-done:
		}
		err = ep.LastError()
	}
	return failure(err)
}

// failure is an error of the stack as the kernel would have it: who asks looks for
// those, and for their words.
func failure(err tcpip.Error) error {
	switch err.(type) {
	case nil:
		return nil
	case *tcpip.ErrConnectionRefused:
		return syscall.ECONNREFUSED
	case *tcpip.ErrConnectionReset, *tcpip.ErrConnectionAborted:
		return syscall.ECONNRESET
	case *tcpip.ErrHostUnreachable, *tcpip.ErrHostDown, *tcpip.ErrNoNet:
		return syscall.EHOSTUNREACH
	case *tcpip.ErrNetworkUnreachable:
		return syscall.ENETUNREACH
	case *tcpip.ErrTimeout:
		return syscall.ETIMEDOUT
	}
	return errors.New(err.String())
}

// Listen takes TCP connections at address, which is one of the stack's.
func (s *Stack) Listen(at netip.AddrPort) (net.Listener, error) {
	l, err := gonet.ListenTCP(s.inner, full(at), family(at.Addr()))
	if err != nil {
		return nil, fmt.Errorf("listen at %s of the port: %w", at, err)
	}
	return l, nil
}
