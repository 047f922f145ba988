// Package frontend is the front end of vhost-user: the side that a virtual
// machine monitor or DPDK's virtio-user is. It owns memory and rings, and gives
// them to a back end (a switch) over a Unix socket.
//
// A [Port] has memory, rings and eventfds for its life, and one connection at a
// time. When the back end is lost and found again, the rings go on from the
// index that the lost one had published, so that no chain is used twice and none
// is forgotten; whoever sends and receives on the rings need not even notice.
//
// The packet generator, tests and fuzzers use it. It behaves; a test that wants
// to misbehave sends messages of its own through Session.Conn and writes what it
// likes into Memory.
//
// Source: docs/interop/vhost-user.rst of QEMU.
package frontend

import (
	"errors"
	"time"

	"millrace/dataplane/packet"
	"millrace/vhost/message"
	"millrace/vhost/virtq"
)

// Errors that callers tell apart.
var (
	// ErrRefused is an answer of the back end that says no.
	ErrRefused = errors.New("back end refused")

	// ErrLost is a connection that ended.
	ErrLost = errors.New("back end lost")

	// ErrChanged is a back end that does not offer any more what its
	// predecessor did: the rings' contents do not fit it.
	ErrChanged = errors.New("back end offers less than before")

	// ErrClosed is a port that was closed.
	ErrClosed = errors.New("port is closed")
)

// DefaultFeatures are those that a Port takes when they are offered.
const DefaultFeatures = message.FVersion1 | message.NetFMrgRxbuf | message.RingFIndirectDesc | message.RingFEventIdx |
	message.NetFMQ | message.NetFMTU | message.FRingReset | message.FProtocolFeatures

// DefaultProtocol are the protocol features that a Port takes when they are
// offered.
const DefaultProtocol = message.ProtocolFMQ | message.ProtocolFReplyAck | message.ProtocolFConfigureMemSlots |
	message.ProtocolFStatus | message.ProtocolFNetMTU | message.ProtocolFResetDevice

// A Config says what a port shall be. The zero value of each field but Path is
// usable.
type Config struct {
	Path   string // of the socket
	Listen bool   // the back end connects; if not, we do, and try again

	Queues   int    // queue pairs; 0 means 1
	RingSize uint16 // descriptors of a ring; 0 means 256
	TxFrame  int    // longest frame to send in bytes; 0 means packet.FrameMax
	RxBuffer int    // frame bytes that a receive buffer holds; 0 means packet.FrameMax
	Regions  int    // memory regions that the rings are spread over; 0 means 1
	Extra    uint64 // bytes of memory besides rings and buffers
	Huge     bool   // memory of reserved huge pages, as DPDK guests have

	Features  message.Features         // what to take, if offered; 0 means DefaultFeatures
	Protocol  message.ProtocolFeatures // likewise; 0 means DefaultProtocol
	Without   message.Features         // what not to take, though in Features
	MTU       uint16                   // told to the back end if it wants to know; 0: not told
	Interrupt bool                     // give call descriptors; without, the back end has nobody to signal

	// Timeout bounds the wait for an answer, 0 means 5 seconds. Retry is the
	// time between attempts to connect, 0 means 10 milliseconds.
	Timeout, Retry time.Duration

	// Attach, if set, is called on the first connection, between negotiation
	// and start, to lay drivers over the rings; without, each pair gets a
	// virtq.Receiver and a virtq.Sender. It may set Ring.Base.
	Attach func(*Port) error

	// Changed, if set, is told by Run of each connection that came up (nil) or
	// was lost (why).
	Changed func(err error)
}

// withDefaults fills in what was left out.
func (c Config) withDefaults() Config {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.Queues, 1)
	def(&c.TxFrame, packet.FrameMax)
	def(&c.RxBuffer, packet.FrameMax)
	def(&c.Regions, 1)
	if c.RingSize == 0 {
		c.RingSize = 256
	}
	if c.Features == 0 {
		c.Features = DefaultFeatures
	}
	c.Features &^= c.Without
	if c.Protocol == 0 {
		c.Protocol = DefaultProtocol
	}
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Second
	}
	if c.Retry == 0 {
		c.Retry = 10 * time.Millisecond
	}
	return c
}

// ringBytes is what one queue pair needs of memory.
func (c *Config) ringBytes() uint64 {
	n := uint64(c.RingSize)
	rings := 2 * (virtq.DescBytes(c.RingSize) + virtq.AvailBytes(c.RingSize) + virtq.UsedBytes(c.RingSize) + 3*areaAlign)
	return rings + n*uint64(virtq.Stride(c.TxFrame)+virtq.Stride(c.RxBuffer)) + 4*areaAlign
}
