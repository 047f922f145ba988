package netstack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
	"millrace/vhost/frontend"
	"millrace/vhost/message"
)

// Rings of a link. A receive buffer holds any plain frame, and a super-frame takes a
// few of them; a frame that is sent is in one.
const (
	ringSize = 256
	rxBuffer = 16 << 10
	txFrame  = packet.SuperMax
)

// features are what a link takes if the switch offers it.
const features = frontend.DefaultFeatures | message.NetFCsum | message.NetFGuestCsum |
	message.NetFHostTSO4 | message.NetFHostTSO6 | message.NetFGuestTSO4 | message.NetFGuestTSO6

// A link is the stack's Ethernet device: the guest's end of a vhost-user port. It
// implements stack.LinkEndpoint and stack.GSOEndpoint.
type link struct {
	mtu      atomic.Uint32
	forwards bool // packets are passed on as they are
	address  tcpip.LinkAddress
	front    *frontend.Port
	pair     *frontend.Pair
	call     *os.File // the receive ring's call descriptor, for the runtime's poller

	switches switches                         // that the port has had
	up       chan struct{}                    // closed when there are drivers, on the first connection
	features atomic.Pointer[message.Features] // agreed on then; nil before

	dispatch atomic.Pointer[stack.NetworkDispatcher]
	receiver receiver

	sending sync.Mutex // of what follows, and the transmit ring
	closed  bool

	stop    context.CancelFunc
	running sync.WaitGroup
	broken  chan error // has room for who ends first
	Counters
}

// Counters count frames that a link did not carry.
type Counters struct {
	BadSum atomic.Uint64 // received with a wrong checksum
	Short  atomic.Uint64 // received without a whole header
	Full   atomic.Uint64 // not sent: the ring stayed full
	Down   atomic.Uint64 // not sent: there was no switch yet
}

// newLink returns a link to the switch that listens at cfg.Socket, or will, or that
// connects there.
func newLink(cfg Config, changed func(error)) (*link, error) {
	l := &link{forwards: cfg.Forwards, address: tcpip.LinkAddress(cfg.MAC[:]), up: make(chan struct{}), broken: make(chan error, 2)}
	l.mtu.Store(uint32(cfg.MTU))
	want := features
	if cfg.Forwards {
		want = frontend.DefaultFeatures
	}
	l.switches.init()
	var once sync.Once
	front, err := frontend.Open(frontend.Config{
		Path: cfg.Socket, Listen: cfg.Listen, RingSize: ringSize, TxFrame: txFrame, RxBuffer: rxBuffer, Interrupt: true, Features: want, MTU: uint16(cfg.MTU),
		Changed: func(err error) {
			if err == nil {
				once.Do(l.attached)
				l.wake()
			}
			changed(err)
			l.switches.changed(err == nil)
		},
	})
	if err != nil {
		return nil, err
	}
	l.front, l.pair = front, front.Pairs()[0]
	if l.call, err = pollable(l.pair.RxRing.Call.Int()); err != nil {
		return nil, errors.Join(err, front.Kill())
	}
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	l.running.Go(func() {
		if err := front.Run(ctx); err != nil {
			l.broken <- err
		}
	})
	l.running.Go(func() { l.receive(ctx) })
	return l, nil
}

// pollable returns a file of eventfd n, for which reading waits without a thread.
func pollable(n int) (*os.File, error) {
	dup, err := unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate an eventfd: %w", err)
	}
	return os.NewFile(uintptr(dup), "call"), nil // non-blocking, as the eventfd is
}

// attached notes what the first connection agreed on. It holds for all.
func (l *link) attached() {
	f := l.front.Features()
	l.features.Store(&f)
	close(l.up)
}

// wake has both ends look at the rings. A switch that was killed may have used
// buffers without telling us, or have been told of frames that it did not take; the
// next one signals only what comes after.
func (l *link) wake() {
	for _, e := range []sys.FD{l.pair.RxRing.Call, l.pair.RxRing.Kick, l.pair.TxRing.Kick} {
		_ = sys.Signal(e) // the eventfd is ours and open
	}
}

func (l *link) has(f message.Features) bool {
	agreed := l.features.Load()
	return agreed != nil && agreed.Has(f)
}

// shut ends the link. The stack does not use it any more.
func (l *link) shut() error {
	l.sending.Lock()
	l.closed = true
	l.sending.Unlock()
	l.stop()
	err := l.call.Close()
	l.running.Wait()
	return errors.Join(err, l.front.Close())
}

// MTU implements stack.LinkEndpoint.
func (l *link) MTU() uint32 { return l.mtu.Load() }

// SetMTU implements stack.LinkEndpoint.
func (l *link) SetMTU(mtu uint32) { l.mtu.Store(mtu) }

// MaxHeaderLength implements stack.LinkEndpoint.
func (l *link) MaxHeaderLength() uint16 { return header.EthernetMinimumSize }

// LinkAddress implements stack.LinkEndpoint.
func (l *link) LinkAddress() tcpip.LinkAddress { return l.address }

// SetLinkAddress implements stack.LinkEndpoint. The address is the port's: it stays.
func (l *link) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities implements stack.LinkEndpoint. Received frames have been checked when
// the stack gets them. TCP leaves checksums to us all the same, as it does to whoever
// takes super-frames; other protocols do not.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityResolutionRequired | stack.CapabilityRXChecksumOffload
}

// GSOMaxSize implements stack.GSOEndpoint.
func (l *link) GSOMaxSize() uint32 { return 1 << 16 }

// SupportedGSO implements stack.GSOEndpoint.
func (l *link) SupportedGSO() stack.SupportedGSO {
	if l.has(message.NetFCsum | message.NetFHostTSO4 | message.NetFHostTSO6) {
		return stack.HostGSOSupported
	}
	return stack.GSONotSupported
}

// Attach implements stack.LinkEndpoint.
func (l *link) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		l.dispatch.Store(nil)
		return
	}
	l.dispatch.Store(&d)
}

// IsAttached implements stack.LinkEndpoint.
func (l *link) IsAttached() bool { return l.dispatch.Load() != nil }

// Wait implements stack.LinkEndpoint. Stack.Close waits.
func (l *link) Wait() {}

// Close implements stack.LinkEndpoint. Stack.Close closes.
func (l *link) Close() {}

// SetOnCloseAction implements stack.LinkEndpoint.
func (l *link) SetOnCloseAction(func()) {}

// ARPHardwareType implements stack.LinkEndpoint.
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// AddHeader implements stack.LinkEndpoint.
func (l *link) AddHeader(p *stack.PacketBuffer) {
	header.Ethernet(p.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: l.address, DstAddr: p.EgressRoute.RemoteLinkAddress, Type: p.NetworkProtocolNumber,
	})
}

// ParseHeader implements stack.LinkEndpoint.
func (l *link) ParseHeader(p *stack.PacketBuffer) bool {
	_, ok := p.LinkHeader().Consume(header.EthernetMinimumSize)
	return ok
}
