package packet

import "encoding/binary"

// A sender may leave work to whoever has its frame next: a checksum that is not
// finished, and a super-frame that is to be cut into segments (virtio 5.1.6).
// Such a frame asks for something. It goes on as it is to whoever takes that; for
// the others a transmit queue's worker finishes it (Cut, Settle).
//
// What a frame asks for lies beside it, in Batch.asks, and counts only where
// Batch.Asking is set: batches in which no frame asks for anything, and those who
// receive or send such frames only, never look.

// A Kind says what the segments of a super-frame are.
type Kind uint8

// The kinds.
const (
	Whole Kind = iota // no super-frame
	TCP4              // TCP over IPv4
	TCP6              // TCP over IPv6
	UDP4              // datagrams of UDP over IPv4
	UDP6              // datagrams of UDP over IPv6
)

// Takes is a set of what one may ask for in a frame.
type Takes uint8

// What there is. Super-frames have the bit of their Kind.
const (
	TakesSum Takes = 1 << iota // finish the checksum
	TakesTCP4
	TakesTCP6
	TakesUDP4
	TakesUDP6
	TakesECN // TCP with CWR: only the first segment has it (RFC 3168)

	TakesSuper = TakesTCP4 | TakesTCP6 | TakesUDP4 | TakesUDP6
)

// TakesOf returns t as far as it makes sense: segments need a checksum each, so
// nothing goes without TakesSum, and ECN not without TCP.
func TakesOf(t Takes) Takes {
	if t&TakesSum == 0 {
		return 0
	}
	if t&(TakesTCP4|TakesTCP6) == 0 {
		t &^= TakesECN
	}
	return t
}

const (
	// SuperMax is the longest super-frame in bytes: an IP packet of 64 KiB behind
	// an Ethernet header with two tags.
	SuperMax = 1<<16 - 1 + FrameMin + 8

	// SuperBytes is how many bytes a batch may have before a receive queue adds no
	// other super-frame: so few of them that segments have slots.
	SuperBytes = 1 << 18

	// PiecesMax is the most segments of one super-frame. Senders of 64 KiB have
	// segments of 257 bytes or more.
	PiecesMax = 255
)

// An ask is what one frame asks for. Places are offsets in its slot, all in the
// head; they stay right when tags before them come and go.
type ask struct {
	start uint16 // first byte that is summed; 0: nothing is asked
	field uint16 // of the checksum
	net   uint16 // of the IP header, if TCP or UDP begins at start; 0: who knows what is summed
	body  uint16 // first byte behind all headers of a super-frame
	size  uint16 // most bytes of its payload that go into a segment
	kind  Kind
	ecn   bool

	cuts uint16 // segments that Cut has made of it; 0: not cut yet
	cut  uint16 // the first of them
}

// Offsets and values of the virtio-net header (virtio 5.1.6): struct
// virtio_net_hdr, little-endian.
const (
	hdrFlags = 0
	hdrGSO   = 1
	hdrLen   = 2
	hdrSize  = 4
	hdrStart = 6
	hdrField = 8

	// HeaderLen is its length in bytes, without num_buffers.
	HeaderLen = 10

	flagNeedsSum = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM

	GSOTCP4 = 1 // VIRTIO_NET_HDR_GSO_TCPV4
	GSOTCP6 = 4 // VIRTIO_NET_HDR_GSO_TCPV6
	gsoUDP  = 5 // VIRTIO_NET_HDR_GSO_UDP_L4
	gsoECN  = 0x80
)

// Judge reads what frame i asks for in the virtio-net header h, which is private
// and has HeaderLen bytes. may is what was agreed on. The frame's own headers must
// bear out what h says. Flags that are not known are ignored (virtio
// 5.1.6.2.2), and so is hdr_len, which is a hint: what counts is where the headers end.
//
// It is called for all frames of a batch, or for none. If it returns a reason, the
// frame is to be dropped.
func (b *Batch) Judge(i int, h []byte, may Takes) Reason {
	f, a := &b.Frames[i], &b.asks[i]
	*a = ask{}
	if h[hdrFlags]&flagNeedsSum == 0 && h[hdrGSO] == 0 {
		return tooLong(f.Len)
	}
	start := int(binary.LittleEndian.Uint16(h[hdrStart:]))
	field := start + int(binary.LittleEndian.Uint16(h[hdrField:]))
	if h[hdrFlags]&flagNeedsSum == 0 || may&TakesSum == 0 || start < FrameMin || field+2 > int(f.HeadLen) {
		return ReasonRxHeader
	}
	p, ok := find(b.Head(i), int(f.Len))
	own := ok && p.l4 == start && p.field() == field
	if h[hdrGSO] != 0 {
		if !own {
			return ReasonRxHeader
		}
		if why := a.super(h, &p, b.Head(i), int(f.Len), may); why != ReasonNone {
			return why
		}
	}
	if a.kind == Whole && f.Len > FrameMax {
		return ReasonRxTooLong
	}
	a.start, a.field = f.Off+uint16(start), f.Off+uint16(field)
	if own {
		a.net = f.Off + uint16(p.net)
	}
	if a.kind != Whole {
		a.body += f.Off
	}
	b.Asking = true
	return ReasonNone
}

func tooLong(n uint32) Reason {
	if n > FrameMax {
		return ReasonRxTooLong
	}
	return ReasonNone
}

// super is Judge for what is said of a super-frame of length bytes, whose headers
// are at p. One that needs no cut is none.
func (a *ask) super(h []byte, p *place, head []byte, length int, may Takes) Reason {
	kind, body := Whole, p.l4+8
	switch gso := h[hdrGSO] &^ gsoECN; {
	case gso == GSOTCP4 && p.proto == protoTCP && !p.six, gso == GSOTCP6 && p.proto == protoTCP && p.six:
		if kind = TCP4; p.six {
			kind = TCP6
		}
		body = p.l4 + int(head[p.l4+12]>>4)*4
	case gso == gsoUDP && p.proto == protoUDP:
		if kind = UDP4; p.six {
			kind = UDP6
		}
	}
	ecn, size := h[hdrGSO]&gsoECN != 0, int(binary.LittleEndian.Uint16(h[hdrSize:]))
	switch {
	case kind == Whole || may>>kind&1 == 0 || ecn && (p.proto != protoTCP || may&TakesECN == 0):
		return ReasonRxHeader
	case p.proto == protoTCP && body < p.l4+tcpLeast || body > len(head) || p.end != length || size == 0:
		return ReasonRxHeader
	case length-body <= size:
		return ReasonNone
	case body+size > FrameMax:
		return ReasonRxTooLong
	case (length-body-1)/size >= PiecesMax:
		return ReasonRxHeader
	}
	a.kind, a.ecn, a.body, a.size = kind, ecn, uint16(body), uint16(size)
	return ReasonNone
}

// A NetHeader is what a virtio-net header says of a frame (virtio 5.1.6): what is left
// to do for it. The zero value says nothing.
type NetHeader struct {
	Start, Field uint16 // of the checksum: where summing begins, and where from there it goes; 0: it is there
	GSO          uint8  // GSOTCP4, ...; 0: it is no super-frame
	Body, Size   uint16 // of a super-frame: where the payload begins, and how much of it a segment has
}

// Put writes the first HeaderLen bytes of the header.
func (n NetHeader) Put(h []byte) {
	clear(h[:HeaderLen])
	if n.Start == 0 {
		return
	}
	h[hdrFlags], h[hdrGSO] = flagNeedsSum, n.GSO
	binary.LittleEndian.PutUint16(h[hdrStart:], n.Start)
	binary.LittleEndian.PutUint16(h[hdrField:], n.Field)
	binary.LittleEndian.PutUint16(h[hdrLen:], n.Body)
	binary.LittleEndian.PutUint16(h[hdrSize:], n.Size)
}

// PutHeader writes the first HeaderLen bytes of the virtio-net header of frame i,
// for a peer that takes what the frame asks for.
func (b *Batch) PutHeader(i int, h []byte) {
	var n NetHeader
	if b.Asking && b.asks[i].start != 0 {
		n = b.asks[i].header(b.Frames[i].Off)
	}
	n.Put(h)
}

// header is what a asks for a frame that begins at off.
func (a *ask) header(off uint16) NetHeader {
	n := NetHeader{Start: a.start - off, Field: a.field - a.start}
	if a.kind == Whole {
		return n
	}
	n.GSO = [...]byte{TCP4: GSOTCP4, TCP6: GSOTCP6, UDP4: gsoUDP, UDP6: gsoUDP}[a.kind]
	if a.ecn {
		n.GSO |= gsoECN
	}
	n.Body, n.Size = a.body-off, a.size
	return n
}

// Needs is what one must take to be sent frame i as it is.
func (b *Batch) Needs(i int) (t Takes) {
	if !b.Asking {
		return 0
	}
	a := &b.asks[i]
	if a.start == 0 {
		return 0
	}
	t = TakesSum
	if a.kind != Whole {
		t |= 1 << a.kind
	}
	if a.ecn {
		t |= TakesECN
	}
	return t
}

// WireLen is the length of frame i in bytes, or of the longest segment of a
// super-frame: what an MTU limits.
func (b *Batch) WireLen(i int) uint32 {
	if b.Asking && b.asks[i].kind != Whole {
		a := &b.asks[i]
		return uint32(a.body-b.Frames[i].Off) + uint32(a.size)
	}
	return b.Frames[i].Len
}

// Line is what frame i is on a line: how many frames, which are the segments of a
// super-frame, and how many bytes these have in all.
func (b *Batch) Line(i int) (frames, bytes uint32) {
	f := &b.Frames[i&(SlotsMax-1)]
	if !b.Asking || b.asks[i&(SlotsMax-1)].kind == Whole {
		return 1, f.Len
	}
	a := &b.asks[i&(SlotsMax-1)]
	head, size := uint32(a.body-f.Off), uint32(a.size)
	frames = (f.Len - head + size - 1) / size
	return frames, f.Len + (frames-1)*head
}

// Forget makes frame i one that asks for nothing: its bytes are all there, for it was
// made anew in the slot.
func (b *Batch) Forget(i int) {
	if b.Asking {
		b.asks[i] = ask{}
	}
}
