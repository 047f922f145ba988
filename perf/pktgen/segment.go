package pktgen

import (
	"encoding/binary"
	"math/bits"
)

// A segment is what a packet of a conversation says. TCP has its fields in the
// header; UDP has them in its payload, so that both tell the same.
type segment struct {
	Header
	flags    uint8
	seq, ack uint32
}

// Flags of TCP (RFC 9293 3.1).
const (
	flagFIN = 1 << iota
	flagSYN
	flagRST
	_
	flagACK
)

// A segment's frame, without options:
//
//	Ethernet | IPv4 | TCP | 6 bytes of padding
//	Ethernet | IPv4 | UDP | flags, 0, seq, ack | 8 bytes
const (
	segmentBytes = 60
	ipAt         = 14
	l4At         = 34
	tcpBytes     = 20
	udpPayload   = 42
	tcpWindow    = 0xffff
)

// A speaker writes the frames of one end.
type speaker struct {
	start [segmentBytes]byte // of all frames: what does not change
	sum   uint32             // of what does not change of the IPv4 header
	proto uint8
}

func newSpeaker(src, dst [6]byte, proto uint8) *speaker {
	s := &speaker{proto: proto}
	b := s.start[:]
	copy(b, dst[:])
	copy(b[6:], src[:])
	b[12] = 8
	length := segmentBytes - ipAt
	if proto == ProtoTCP {
		length = 20 + tcpBytes // the rest is padding
		b[l4At+12] = tcpBytes / 4 << 4
		binary.BigEndian.PutUint16(b[l4At+14:], tcpWindow)
	} else {
		binary.BigEndian.PutUint16(b[l4At+4:], uint16(length-20))
	}
	ip := b[ipAt:l4At]
	ip[0], ip[6], ip[8], ip[9] = 0x45, 0x40, 64, proto
	binary.BigEndian.PutUint16(ip[2:], uint16(length))
	s.sum = halves(ip)
	return s
}

// halves is the sum of the 16-bit numbers in b (RFC 1071).
func halves(b []byte) (sum uint32) {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	return sum
}

// halvesOf is the sum of the halves of v.
func halvesOf(v uint32) uint32 { return v>>16 + v&0xffff }

// say writes a segment to b.
func (s *speaker) say(b []byte, g *segment) {
	f := (*[segmentBytes]byte)(b)
	*f = s.start
	addresses := halvesOf(g.Src) + halvesOf(g.Dst)
	binary.BigEndian.PutUint16(f[ipAt+10:], fold(s.sum+addresses))
	binary.BigEndian.PutUint32(f[ipAt+12:], g.Src)
	binary.BigEndian.PutUint32(f[ipAt+16:], g.Dst)
	binary.BigEndian.PutUint16(f[l4At:], g.SrcPort)
	binary.BigEndian.PutUint16(f[l4At+2:], g.DstPort)
	if s.proto != ProtoTCP {
		f[udpPayload] = g.flags
		binary.BigEndian.PutUint32(f[udpPayload+2:], g.seq)
		binary.BigEndian.PutUint32(f[udpPayload+6:], g.ack)
		return
	}
	binary.BigEndian.PutUint32(f[l4At+4:], g.seq)
	binary.BigEndian.PutUint32(f[l4At+8:], g.ack)
	f[l4At+13] = g.flags
	sum := addresses + ProtoTCP + tcpBytes + uint32(g.SrcPort) + uint32(g.DstPort) + halvesOf(g.seq) + halvesOf(g.ack)
	sum += tcpBytes/4<<12 + uint32(g.flags) + tcpWindow
	binary.BigEndian.PutUint16(f[l4At+16:], fold(sum))
}

// hear reads a segment from a frame. It reports false for frames that are none, or
// damaged: also those whose checksums a switch has not kept right.
func (s *speaker) hear(b []byte, g *segment) bool {
	if len(b) < segmentBytes {
		return false
	}
	f := (*[segmentBytes]byte)(b)
	if f[12] != 8 || f[13] != 0 || f[ipAt] != 0x45 || f[ipAt+9] != s.proto || sum64(f[ipAt:l4At]) != 0xffff {
		return false
	}
	g.Src, g.Dst = binary.BigEndian.Uint32(f[ipAt+12:]), binary.BigEndian.Uint32(f[ipAt+16:])
	g.SrcPort, g.DstPort = binary.BigEndian.Uint16(f[l4At:]), binary.BigEndian.Uint16(f[l4At+2:])
	if s.proto != ProtoTCP {
		g.flags, g.seq, g.ack = f[udpPayload], binary.BigEndian.Uint32(f[udpPayload+2:]), binary.BigEndian.Uint32(f[udpPayload+6:])
		return f[l4At+6] == 0 && f[l4At+7] == 0 // no checksum (RFC 768)
	}
	g.seq, g.ack = binary.BigEndian.Uint32(f[l4At+4:]), binary.BigEndian.Uint32(f[l4At+8:])
	g.flags = f[l4At+13]
	pseudo := halvesOf(g.Src) + halvesOf(g.Dst) + ProtoTCP + tcpBytes
	return fold(uint32(sum64(f[l4At:l4At+tcpBytes]))+pseudo) == 0
}

// sum64 is the folded sum of the 16-bit numbers in 20 bytes.
func sum64(b []byte) uint16 {
	_ = b[19]
	s, c := bits.Add64(binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), 0)
	s, c = bits.Add64(s, uint64(binary.BigEndian.Uint32(b[16:])), c)
	s = s>>32 + s&0xffffffff + c
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s>>16 + s)
}
