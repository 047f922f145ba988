// Package packet holds the frames that a worker has in hand: their headers in
// private memory, their payload where the sender left it.
//
// A [Batch] is filled by one receive queue, decided about by the worker, read
// by any number of transmit queues, and then given back to the queue that
// filled it. So a frame needs no reference count and no pool: it lives for one
// turn of the loop.
//
// Where a frame leaves in several versions, all but one of them are copies of its
// private bytes ([Batch.Copy]) in slots behind those of received frames; the borrowed
// rest belongs to all of them.
//
// Layout of a frame:
//
//	slot (private)  | room 128 | head, at most 128 bytes |
//	segments        | borrowed memory | borrowed memory | ...
//
// The head is copied once from the sender's memory and is what everything
// looks at and what is sent: a sender that rewrites its buffer after the check
// changes nothing. The segments hold the rest. They belong to the receive
// queue until its Release.
//
// The package imports nothing of ours. It is used by one goroutine at a time.
package packet

import "fmt"

const (
	// BatchMax is the most frames in a batch.
	BatchMax = 64

	// SlotsMax is how many frames a batch holds with all copies that differ from what was
	// received. It is a power of two.
	SlotsMax = 1024

	// HeadRoom is the number of free bytes before a received frame, for
	// tags and outer headers.
	HeadRoom = 128

	// HeadMax is how many bytes of a frame are made private at receive. It
	// covers Ethernet with two tags, IPv6 with a few extension headers, and
	// TCP with all its options.
	HeadMax = 128

	// SlotSize is the private memory of one frame, in bytes.
	SlotSize = HeadRoom + HeadMax

	// FrameMax is the longest frame in bytes, without its checksum, that any
	// port carries: a jumbo frame. Super-frames are longer (SuperMax).
	FrameMax = 9728

	// FrameMin is the shortest frame that has an Ethernet header, in bytes.
	FrameMin = 14

	// SegsMax is how many segments a batch holds: a chain of one-byte
	// descriptors of a frame of FrameMax still fits.
	SegsMax = FrameMax + 256
)

// A Seg is a piece of borrowed memory, outside the Go heap or in memory that the
// batch itself keeps, which is why it may be a plain number.
type Seg struct {
	Addr uintptr
	Len  uintptr
}

// A Frame says where the bytes of one frame are. The receive queue writes it,
// Push and Pop change it.
type Frame struct {
	Off     uint16 // first byte of the head in its slot
	HeadLen uint16 // bytes in the head; the rest is in segments
	Len     uint32 // bytes in all
	Seg     uint32 // first segment in Batch.Segs
	NSeg    uint32
}

// A Batch is up to BatchMax frames from one queue.
type Batch struct {
	heads  [SlotsMax][SlotSize]byte
	Frames [SlotsMax]Frame
	N      int // frames in the batch
	Limit  int // frames that a receive queue may put into the batch; 0: BatchMax
	copies int // frames behind BatchMax that Copy and Cut have made

	Segs  [SegsMax]Seg
	NSegs int

	Bytes uint64 // of all frames, summed by the receive queue

	// Early counts, by reason, what a receive queue took from its device and
	// dropped at once, and NEarly is their sum. The worker counts them as
	// received and dropped.
	Early  [ReasonCount]uint32
	NEarly int

	// Sent and SentBytes are added to by a transmit queue at the moment that
	// it commits frames to its device, and set to zero by the worker. They
	// are right even when the queue panics on a memory fault half-way.
	Sent      int
	SentBytes uint64

	// Asking says that Judge was called for all frames of the batch, and one of them
	// asks for something.
	Asking bool

	lasting bool   // borrowed memory stays until the batch is filled again
	kept    []byte // what Keep has copied; nil until it needs some
	nKept   int    // bytes of kept in use
	made    []byte // what New has no room for in slots; nil until it needs some
	nMade   int    // bytes of made in use

	asks [SlotsMax]ask
}

// NewBatch returns an empty batch. It lives as long as its worker.
func NewBatch() *Batch { return &Batch{} }

// Max is how many frames a receive queue may put into the batch.
func (b *Batch) Max() int {
	if b.Limit > 0 && b.Limit < BatchMax {
		return b.Limit
	}
	return BatchMax
}

// Reset forgets all frames, and drops that nobody has counted.
func (b *Batch) Reset() {
	b.N, b.NSegs, b.Bytes, b.copies = 0, 0, 0, 0
	b.lasting, b.nKept, b.nMade, b.Asking = false, 0, 0, false
	if b.NEarly != 0 {
		b.Early, b.NEarly = [ReasonCount]uint32{}, 0
	}
}

// Head lends the private bytes of frame i.
func (b *Batch) Head(i int) []byte {
	f := &b.Frames[i]
	return b.heads[i][f.Off : f.Off+f.HeadLen]
}

// Slot lends all private memory of frame i.
func (b *Batch) Slot(i int) *[SlotSize]byte { return &b.heads[i] }

// Copy makes a copy of frame i, whose private bytes can be changed without
// changing those of i, and returns its number; ok is false if there is no slot left.
func (b *Batch) Copy(i int) (number int, ok bool) {
	if b.copies == SlotsMax-BatchMax {
		return 0, false
	}
	j := BatchMax + b.copies
	b.copies++
	f := b.Frames[i&(SlotsMax-1)]
	b.Frames[j&(SlotsMax-1)] = f
	copy(b.heads[j&(SlotsMax-1)][f.Off:f.Off+f.HeadLen], b.heads[i&(SlotsMax-1)][f.Off:])
	if b.Asking {
		a := &b.asks[j&(SlotsMax-1)]
		*a = b.asks[i&(SlotsMax-1)]
		a.cuts = 0 // what was cut of the original is not cut of what the copy will be
	}
	return j, true
}

// Grow moves the start of frame i by n bytes to the front and returns the new
// head. The caller writes the new bytes. n is at most HeadRoom in all.
func (b *Batch) Grow(i int, n uint16) []byte {
	f := &b.Frames[i]
	f.Off -= n
	f.HeadLen += n
	f.Len += uint32(n)
	return b.heads[i][f.Off : f.Off+f.HeadLen]
}

// Shrink drops n bytes from the front of frame i and returns the new head.
func (b *Batch) Shrink(i int, n uint16) []byte {
	f := &b.Frames[i]
	f.Off += n
	f.HeadLen -= n
	f.Len -= uint32(n)
	return b.heads[i][f.Off : f.Off+f.HeadLen]
}

// DropEarly counts a frame that its receive queue drops.
func (b *Batch) DropEarly(why Reason) {
	b.Early[why]++
	b.NEarly++
}

// Add appends a frame of private and borrowed bytes, for tests and for queues
// without a faster way. It reports whether the batch had room for it.
func (b *Batch) Add(head []byte, tail ...Seg) bool {
	if b.N >= b.Max() || len(head) > HeadMax || b.NSegs+len(tail) > SegsMax {
		return false
	}
	f := &b.Frames[b.N]
	*f = Frame{Off: HeadRoom, HeadLen: uint16(len(head)), Len: uint32(len(head)), Seg: uint32(b.NSegs), NSeg: uint32(len(tail))}
	copy(b.heads[b.N][HeadRoom:], head)
	for _, s := range tail {
		b.Segs[b.NSegs] = s
		b.NSegs++
		f.Len += uint32(s.Len)
	}
	b.Bytes += uint64(f.Len)
	b.N++
	return true
}

// Tail lends the segments of frame i.
func (b *Batch) Tail(i int) []Seg {
	f := &b.Frames[i]
	return b.Segs[f.Seg : f.Seg+f.NSeg]
}

// AppendTo appends all bytes of frame i to dst, for capture, tests and slow
// paths.
func (b *Batch) AppendTo(dst []byte, i int) []byte {
	dst = append(dst, b.Head(i)...)
	for _, s := range b.Tail(i) {
		dst = append(dst, bytesAt(s)...)
	}
	return dst
}

// A Ref names a frame of the batch in a list of frames to send.
type Ref struct {
	Frame uint16 // index in the batch
	Why   Reason // set by a transmit queue on what it leaves
}

// Reason says why a frame ended without being sent. The zero value is no
// reason. Names are stable: they are part of the API.
type Reason uint8

// The reasons. A frame is counted under exactly one.
const (
	ReasonNone           Reason = iota
	ReasonRxTooLong             // longer than FrameMax
	ReasonRxTooShort            // shorter than an Ethernet header
	ReasonRxHeader              // virtio-net header asks for what was not negotiated, or the frame has not
	ReasonNoBridgePort          // nowhere to send: no other port is a member
	ReasonVLANIngress           // VLAN not accepted by the input port
	ReasonVLANEgress            // VLAN not carried by the output port
	ReasonSourceMAC             // source address is multicast or zero
	ReasonReservedMAC           // link-local multicast that bridges do not forward
	ReasonSamePort              // destination is behind the input port
	ReasonPatchLoop             // too many patch ports in a row
	ReasonTxDown                // output port has no ready peer
	ReasonTxFull                // output ring has no room
	ReasonTxTooLong             // longer than the output port's MTU or buffers
	ReasonTxBusy                // output queue held by another worker
	ReasonTxFault               // output port's memory is gone
	ReasonRxFault               // input port's memory is gone
	ReasonRule                  // a rule says drop
	ReasonNoRule                // no rule matches
	ReasonNoEntry               // no pipeline for the input port
	ReasonTTL                   // TTL is used up
	ReasonSteps                 // too many tables
	ReasonDepth                 // too many copies and lists in each other
	ReasonOps                   // program too long
	ReasonNotOutput             // rules matched, and none delivered the frame
	ReasonOutportZero           // output to port 0
	ReasonNoBucket              // select group without a bucket
	ReasonMeter                 // beyond a meter's rate
	ReasonNoPort                // output to a port that is not there
	ReasonCopies                // more copies than a batch has room for
	ReasonSlowPath              // too many new flows at once
	ReasonRxRingFull            // kernel's receive ring was full
	ReasonRxNoBuffer            // kernel had no buffer to receive into
	ReasonCTFull                // no room for another connection
	ReasonCTLimit               // a zone has as many connections as it may have
	ReasonCTClash               // no free address and port to translate to
	ReasonCTFragment            // a fragment whose first has not been seen
	ReasonNoReply               // must not be answered
	ReasonReplyRate             // beyond the rate of replies
	ReasonTunnelPath            // other end of a tunnel not reached now
	ReasonTunnelBig             // too long for the path of a tunnel
	ReasonTunnelLoop            // tunnel in a tunnel, or too many in a row
	ReasonTunnelHeader          // outer headers are wrong
	ReasonTunnelSum             // outer UDP checksum is wrong
	ReasonTunnelFragment        // outer packet is a fragment
	ReasonTunnelUnknown         // no tunnel port for key and sender
	ReasonTunnelECN             // congested, and the inner sender cannot be told
	ReasonIngressRate           // beyond the rate of what the port's peer may send
	ReasonEgressRate            // beyond the rate of what the port's peer may be sent
	ReasonPortSecurity          // source is not one that the input port may have
	ReasonCount
)

var reasonNames = [ReasonCount]string{
	"none", "rx_too_long", "rx_too_short", "rx_bad_header", "no_output", "vlan_not_accepted", "vlan_not_carried",
	"bad_source_mac", "reserved_multicast", "same_port", "patch_loop", "tx_down", "tx_ring_full", "tx_too_long",
	"tx_busy", "tx_memory_fault", "rx_memory_fault",
	"rule_drop", "no_rule", "no_entry", "ttl_expired", "too_many_tables", "too_deep", "program_too_long", "not_output",
	"outport_zero", "no_bucket", "meter_exceeded", "no_such_port", "too_many_copies", "slow_path_busy",
	"rx_ring_full", "rx_no_buffer",
	"ct_full", "ct_zone_limit", "ct_clash", "ct_fragment",
	"no_reply", "reply_rate",
	"tunnel_no_path", "tunnel_too_big", "tunnel_loop", "tunnel_bad_header", "tunnel_bad_checksum", "tunnel_fragment", "tunnel_unknown", "tunnel_congested",
	"ingress_rate", "egress_rate", "port_security",
}

var reasonTexts = [ReasonCount]string{
	"not dropped",
	"frame is longer than 9728 bytes",
	"frame is shorter than an Ethernet header",
	"virtio-net header asks for an offload that was not negotiated, or that the frame's own headers do not bear out",
	"no other port of the bridge takes the frame",
	"VLAN of the frame is not accepted by the input port",
	"VLAN of the frame is not carried by the output port",
	"source address is multicast or zero",
	"link-local multicast (01:80:c2:00:00:0x), which bridges do not forward",
	"destination is behind the port that the frame came from",
	"more patch ports in a row than allowed",
	"output port has no peer, or its peer is not ready",
	"peer gave too few receive buffers: its ring is full",
	"frame is longer than the output port's MTU or than the peer's buffers",
	"output queue was held by another worker",
	"memory of the output port's peer was taken away",
	"memory of the input port's peer was taken away",
	"a rule of the pipeline says drop",
	"no rule of a table of the pipeline matches the frame",
	"the input port has no pipeline: it is being added or deleted",
	"TTL or hop limit is used up",
	"rules send the frame through more tables than allowed (4096): they form a loop",
	"rules make copies within copies deeper than allowed (64)",
	"rules do more with the frame than a program holds (4096 steps)",
	"rules matched the frame, and none of them output it",
	"a rule outputs to port 0: the register that names the port was not set",
	"a select group has no bucket with a weight",
	"frame is beyond the rate of a meter",
	"a rule outputs to the number of a port that is not there",
	"more copies of a batch of frames than there is room for",
	"more new flows at once from this port than the worker has time for",
	"frames came faster than the worker took them: the socket's receive ring was full",
	"frames came faster than the worker gave buffers back: the socket's fill ring was empty",
	"no room for another connection: all that there are have seen traffic both ways",
	"a zone of connection tracking has as many connections as it may have",
	"no address and port is free that a connection could be translated to",
	"a fragment came without the first of its datagram, whose ports decide about it",
	"a rule answers frames that must not be answered: errors, fragments, and what is to or from many",
	"a rule answers more frames than the rate of replies allows",
	"the tunnel's other end cannot be reached now: port show says what is missing",
	"frame with outer headers is longer than the path of the tunnel carries",
	"a tunnel in a tunnel, or too many tunnels one after the other",
	"outer headers are wrong or ask for what is not known: lengths, checksum of IPv4, flags, version, critical option",
	"outer UDP checksum is wrong",
	"outer packet is a fragment: the path carries less than its sender believes",
	"no tunnel port has this key, sender and own address",
	"congestion on the way, and the sender of the frame inside does not understand that (RFC 6040)",
	"the input port's peer sends more than its rate (ingress_policing_rate)",
	"the output port's peer is sent more than its rate (QoS egress-policer)",
	"source address of Ethernet, IP, ARP or ND is none that port-security of the input port names",
}

// String is the stable name of r.
func (r Reason) String() string {
	if r >= ReasonCount {
		return fmt.Sprintf("reason_%d", uint8(r))
	}
	return reasonNames[r]
}

// Text explains r to a person.
func (r Reason) Text() string {
	if r >= ReasonCount {
		return "unknown reason"
	}
	return reasonTexts[r]
}
