package conntrack

import (
	"encoding/binary"

	"millrace/dataplane/parse"
)

// Ethernet types.
const (
	typeIPv4 = 0x0800
	typeIPv6 = 0x86dd
)

// What a packet is of its datagram.
const (
	Whole         = iota
	FirstFragment // has the ports
	LaterFragment // has none
)

// chunksMax is how many chunks of an SCTP packet are looked at.
const chunksMax = 8

// A Chunk is the start of an SCTP chunk.
type Chunk struct{ Type, Flags uint8 }

// A Packet is what conntrack reads of a frame. Read fills it; the pipeline
// keeps the tuples up to date when it changes addresses and ports, so that a
// second zone sees what the first one has translated.
type Packet struct {
	Tuple        // as the packet is now
	Len   uint32 // of the frame, for the counters
	Bad   bool   // its headers cannot be right, or cannot all be seen

	Fragment   uint8 // Whole, FirstFragment or LaterFragment
	FragmentID uint32
	Offset     uint16 // of a fragment in its datagram, in bytes
	Size       uint16 // of the fragment's payload, in bytes
	Last       bool   // no fragment follows

	Error bool  // an ICMP error
	Inner Tuple // of the packet that it is about; Proto is zero if that cannot be read

	Flags         uint16 // TCP's; what follows is TCP's too
	Seq, Ack      uint32
	Window        uint32 // not scaled
	Data          uint32 // bytes behind the header
	SACK          uint32 // highest edge that is acknowledged selectively
	HasSACK       bool
	SACKPermitted bool
	Scale         int8 // of windows, in a SYN; -1 if it offers none

	Tag, InitTag uint32 // SCTP's verification tag, and that of an INIT or INIT ACK
	Chunks       [chunksMax]Chunk
	ChunkCount   uint8
}

// Read fills p from a frame: its private head, where its headers are, and its
// length in bytes. It reports whether the frame is IP, which conntrack is for.
func (p *Packet) Read(head []byte, l *parse.Layout, length uint32) bool {
	*p = Packet{Len: length, Scale: -1}
	if l.Type != typeIPv4 && l.Type != typeIPv6 {
		return false
	}
	p.Six = l.Type == typeIPv6
	if l.L3 == 0 {
		p.Bad = true
		return true
	}
	ip := head[l.L3:]
	if p.Six {
		p.read6(ip, l)
	} else {
		p.read4(ip)
	}
	p.Size = uint16(l.End-uint32(l.L3)) - p.Size
	if p.Fragment == LaterFragment || p.Bad {
		return true
	}
	p.Proto, p.Bad = l.Proto, l.Flaw != 0
	if l.L4 == 0 {
		p.Bad = p.Bad || p.Proto == ProtoTCP || p.Proto == ProtoUDP || p.Proto == ProtoSCTP || p.icmp()
		return true
	}
	if uint32(len(head)) > l.End {
		head = head[:l.End]
	}
	p.transport(head[l.L4:], l.End-uint32(l.L4))
	return true
}

// read4 reads an IPv4 header. Size is for the moment what is in front of the payload.
func (p *Packet) read4(ip []byte) {
	p.Src[1], p.Dst[1] = uint64(binary.BigEndian.Uint32(ip[12:])), uint64(binary.BigEndian.Uint32(ip[16:]))
	p.Proto, p.Size = ip[9], uint16(ip[0]&15)*4
	p.fragment(binary.BigEndian.Uint16(ip[6:])<<3, ip[6]&0x20 != 0, uint32(binary.BigEndian.Uint16(ip[4:])))
}

// read6 reads an IPv6 header and finds a fragment header.
func (p *Packet) read6(ip []byte, l *parse.Layout) {
	p.Src = Addr{binary.BigEndian.Uint64(ip[8:]), binary.BigEndian.Uint64(ip[16:])}
	p.Dst = Addr{binary.BigEndian.Uint64(ip[24:]), binary.BigEndian.Uint64(ip[32:])}
	if l.Frag == 0 {
		return
	}
	h, _ := walk6(ip)
	if h == nil {
		p.Bad = true
		return
	}
	p.Size = uint16(len(ip) - len(h) + 8)
	p.Proto = h[0]
	at := binary.BigEndian.Uint16(h[2:])
	p.fragment(at&^7, at&1 != 0, binary.BigEndian.Uint32(h[4:]))
}

// fragment notes where in its datagram a packet is.
func (p *Packet) fragment(offset uint16, more bool, id uint32) {
	switch {
	case offset != 0:
		p.Fragment = LaterFragment
	case more:
		p.Fragment = FirstFragment
	}
	p.FragmentID, p.Offset, p.Last = id, offset, !more
}

// walk6 goes through the extension headers of an IPv6 packet, and returns the
// first fragment header, or, if there is none, nil and what is behind the others:
// the protocol's number in front and its header.
func walk6(ip []byte) (fragment []byte, upper upperHeader) {
	next, rest := ip[6], ip[40:]
	for len(rest) >= 8 {
		size := (int(rest[1]) + 1) * 8
		switch next {
		case 44:
			return rest, upperHeader{}
		case 51: // authentication (RFC 4302 2.2)
			size = (int(rest[1]) + 2) * 4
		case 0, 43, 60:
		default:
			return nil, upperHeader{next, rest}
		}
		if size > len(rest) {
			break
		}
		next, rest = rest[0], rest[size:]
	}
	return nil, upperHeader{next, rest}
}

// An upperHeader is what follows IP.
type upperHeader struct {
	proto uint8
	bytes []byte
}

// transport reads the header behind IP, of which b are the bytes that are
// there and size those on the wire.
func (p *Packet) transport(b []byte, size uint32) {
	switch {
	case p.Proto == ProtoTCP:
		p.ports(b)
		p.tcp(b, size)
	case p.Proto == ProtoUDP:
		p.ports(b)
	case p.Proto == ProtoSCTP:
		p.ports(b)
		p.sctp(b)
	case p.icmp():
		p.control(b)
	}
}

// ports reads the first four bytes of most protocols.
func (p *Packet) ports(b []byte) {
	p.SrcPort, p.DstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
}

// tcp reads a TCP header (RFC 9293 3.1).
func (p *Packet) tcp(b []byte, size uint32) {
	doff := uint32(b[12]>>4) * 4
	if doff < 20 || doff > size {
		p.Bad = true
		return
	}
	p.Flags = binary.BigEndian.Uint16(b[12:]) & 0xfff
	p.Seq, p.Ack = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	p.Window, p.Data = uint32(binary.BigEndian.Uint16(b[14:])), size-doff
	if doff > 20 {
		p.options(b[20:min(int(doff), len(b))])
	}
}

// options reads TCP's options: window scale (RFC 7323), selective
// acknowledgements (RFC 2018). What is not whole ends them.
func (p *Packet) options(b []byte) {
	for len(b) > 1 && b[0] != 0 {
		if b[0] == 1 {
			b = b[1:]
			continue
		}
		size := int(b[1])
		if size < 2 || size > len(b) {
			return
		}
		switch {
		case b[0] == 3 && size == 3 && p.Flags&FlagSYN != 0:
			p.Scale = int8(min(b[2], 14))
		case b[0] == 4 && size == 2 && p.Flags&FlagSYN != 0:
			p.SACKPermitted = true
		case b[0] == 5 && size >= 10 && (size-2)%8 == 0:
			p.sacks(b[2:size])
		}
		b = b[size:]
	}
}

// sacks notes the highest edge of selective acknowledgements.
func (p *Packet) sacks(b []byte) {
	for ; len(b) >= 8; b = b[8:] {
		if edge := binary.BigEndian.Uint32(b[4:]); !p.HasSACK || after(edge, p.SACK) {
			p.SACK, p.HasSACK = edge, true
		}
	}
}

// sctp reads the common header and the starts of the chunks that are in b.
func (p *Packet) sctp(b []byte) {
	p.Tag = binary.BigEndian.Uint32(b[4:])
	for b = b[12:]; len(b) >= 4 && p.ChunkCount < chunksMax; p.ChunkCount++ {
		p.Chunks[p.ChunkCount] = Chunk{b[0], b[1]}
		if (b[0] == chunkInit || b[0] == chunkInitAck) && len(b) >= 8 {
			p.InitTag = binary.BigEndian.Uint32(b[4:])
		}
		size := (int(binary.BigEndian.Uint16(b[2:])) + 3) &^ 3
		if size < 4 || size > len(b) {
			p.ChunkCount++
			return
		}
		b = b[size:]
	}
}

// control reads an ICMP header: a query, or an error and what it is about.
func (p *Packet) control(b []byte) {
	kind, code := b[0], b[1]
	p.DstPort = uint16(kind)<<8 | uint16(code)
	switch {
	case isError(kind, p.Six):
		p.Error = true
		if len(b) > 8 {
			p.Inner, _ = innerTuple(b[8:], p.Six)
		}
	case asks(kind, p.Six) || asks(answers(kind, p.Six), p.Six):
		if len(b) < 6 {
			p.Bad = true
			return
		}
		p.SrcPort = binary.BigEndian.Uint16(b[4:])
	}
}

// isError reports whether an ICMP type is about another packet: unreachable,
// quench, redirect, time exceeded, parameter problem (RFC 792); errors of
// ICMPv6 (RFC 4443 2.1).
func isError(kind uint8, six bool) bool {
	if six {
		return kind >= 1 && kind <= 4
	}
	return kind == 3 || kind == 4 || kind == 5 || kind == 11 || kind == 12
}

// innerTuple reads the tuple of the packet that begins with b, which is cut off
// somewhere. It reports whether that is there.
func innerTuple(b []byte, six bool) (t Tuple, ok bool) {
	t.Six = six
	var rest []byte
	if six {
		if len(b) < 48 || b[0]>>4 != 6 {
			return Tuple{}, false
		}
		t.Src = Addr{binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}
		t.Dst = Addr{binary.BigEndian.Uint64(b[24:]), binary.BigEndian.Uint64(b[32:])}
		fragment, upper := walk6(b)
		if fragment != nil {
			return Tuple{}, false
		}
		t.Proto, rest = upper.proto, upper.bytes
	} else {
		size := int(b[0]&15) * 4
		if size < 20 || len(b) < size || b[0]>>4 != 4 || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return Tuple{}, false
		}
		t.Src[1], t.Dst[1] = uint64(binary.BigEndian.Uint32(b[12:])), uint64(binary.BigEndian.Uint32(b[16:]))
		t.Proto, rest = b[9], b[size:]
	}
	return t, t.innerPorts(rest)
}

// innerPorts reads the first eight bytes behind IP, all that an error must have.
func (t *Tuple) innerPorts(b []byte) bool {
	switch {
	case t.icmp():
		if len(b) < 8 || isError(b[0], t.Six) {
			t.Proto = 0
			return false
		}
		t.SrcPort, t.DstPort = binary.BigEndian.Uint16(b[4:]), uint16(b[0])<<8|uint16(b[1])
	case t.Proto == ProtoTCP || t.Proto == ProtoUDP || t.Proto == ProtoSCTP:
		if len(b) < 8 {
			t.Proto = 0
			return false
		}
		t.SrcPort, t.DstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	}
	return true
}
