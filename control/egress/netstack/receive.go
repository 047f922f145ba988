package netstack

import (
	"context"
	"fmt"
	"runtime"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/stack/gro"

	"millrace/dataplane/sys"
	"millrace/vhost/virtq"
)

// receiveMost is how many frames are taken before those that were put together go to
// the stack, and their buffers back to the switch.
const receiveMost = 64

// looks is how often the ring is looked at in vain before we go to sleep: the next
// frame of a stream is near, and waking us costs the switch a system call.
const looks = 8

// A receiver gives the stack the frames that have come. One goroutine has it.
type receiver struct {
	parts [][]byte
	gro   gro.GRO // puts plain frames of a stream together
	held  bool    // it may have some
}

// receive is the link's receiving goroutine. It sleeps while nothing comes.
func (l *link) receive(ctx context.Context) {
	select {
	case <-l.up:
	case <-ctx.Done():
		return
	}
	l.receiver.gro.Init(!l.forwards)
	l.receiver.gro.Dispatcher = (*toStack)(l)
	rx, vain := l.pair.Rx, 0
	var counter [8]byte
	for ctx.Err() == nil {
		if l.take() > 0 {
			vain = 0
			continue
		}
		if err := rx.Err(); err != nil {
			l.broken <- fmt.Errorf("receive ring: %w", err)
			return
		}
		if vain++; vain < looks {
			runtime.Gosched()
			continue
		}
		if !rx.Arm() {
			if _, err := l.call.Read(counter[:]); err != nil {
				return // closed
			}
		}
		rx.Disarm()
	}
}

// take gives the stack some frames, and returns how many there were.
func (l *link) take() (n int) {
	rx, r := l.pair.Rx, &l.receiver
	for ; n < receiveMost; n++ {
		parts, ok := rx.NextParts(r.parts[:0])
		if r.parts = parts; !ok {
			break
		}
		l.frame(parts)
	}
	if n == 0 {
		return 0
	}
	l.flush()
	rx.Release()
	if rx.ShouldKick() {
		_ = sys.Signal(l.pair.RxRing.Kick) // the eventfd is ours and open
	}
	return n
}

func (l *link) flush() {
	if l.receiver.held {
		l.receiver.gro.Flush()
		l.receiver.held = false
	}
}

// frame gives the stack one frame, which lies in parts with its virtio-net header.
func (l *link) frame(parts [][]byte) {
	h := parts[0][:virtq.HeaderLen]
	whole := h[hdrGSO] == 0
	sure := h[hdrFlags]&(flagNeedsSum|flagSumValid) != 0
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: copyOf(parts)})
	defer p.DecRef()
	eth, ok := p.LinkHeader().Consume(header.EthernetMinimumSize)
	if !ok {
		l.Short.Add(1)
		return
	}
	p.NetworkProtocolNumber = header.Ethernet(eth).Type()
	if to := header.Ethernet(eth).DestinationAddress(); to == header.EthernetBroadcastAddress {
		p.PktType = tcpip.PacketBroadcast
	} else if header.IsMulticastEthernetAddress(to) {
		p.PktType = tcpip.PacketMulticast
	} else if to != l.address {
		return // flooded: for others
	}
	if !sure {
		all, _ := p.Data().PullUp(p.Data().Size())
		if !sumsRight(p.NetworkProtocolNumber, all) {
			l.BadSum.Add(1)
			return
		}
	}
	p.RXChecksumValidated = true
	if whole {
		l.receiver.held = true
		l.receiver.gro.Enqueue(p)
		return
	}
	l.flush() // what came before it is before it
	(*toStack)(l).DeliverNetworkPacket(p.NetworkProtocolNumber, p)
}

// copyOf copies what lies in parts behind the virtio-net header, into memory that
// the stack gives back to a pool.
func copyOf(parts [][]byte) buffer.Buffer {
	b := buffer.MakeWithView(buffer.NewViewWithData(parts[0][virtq.HeaderLen:]))
	for _, p := range parts[1:] {
		_ = b.Append(buffer.NewViewWithData(p)) // fails beyond 2^63 bytes
	}
	return b
}

// toStack is the link as the one who delivers to the stack.
type toStack link

// DeliverNetworkPacket implements stack.NetworkDispatcher.
func (t *toStack) DeliverNetworkPacket(protocol tcpip.NetworkProtocolNumber, p *stack.PacketBuffer) {
	if d := t.dispatch.Load(); d != nil {
		(*d).DeliverNetworkPacket(protocol, p)
	}
}

// DeliverLinkPacket implements stack.NetworkDispatcher.
func (t *toStack) DeliverLinkPacket(protocol tcpip.NetworkProtocolNumber, p *stack.PacketBuffer) {
	if d := t.dispatch.Load(); d != nil {
		(*d).DeliverLinkPacket(protocol, p)
	}
}
