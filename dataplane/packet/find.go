package packet

import "encoding/binary"

// Protocol numbers, types and lengths in bytes (RFC 791, 8200, 9293, 768, IEEE 802.1Q).
const (
	protoTCP, protoUDP   = 6, 17
	tcpLeast, udpLeast   = 20, 8
	tcpSum, udpSum       = 16, 6
	ip4Least, ip6Len     = 20, 40
	typeIPv4, typeIPv6   = 0x0800, 0x86dd
	typeTag, typeService = 0x8100, 0x88a8
	tagLen               = 4
)

// A place is where the TCP or UDP header of a frame is, and the IP header in which
// its checksum's addresses are. Offsets are from the frame's first byte.
type place struct {
	net, l4 int
	end     int // of the IP packet
	proto   byte
	six     bool
}

// field is the offset of the checksum.
func (p *place) field() int {
	if p.proto == protoTCP {
		return p.l4 + tcpSum
	}
	return p.l4 + udpSum
}

// find finds the headers in head of a frame of length bytes: behind up to two tags and IPv6
// options, whole and in the head. It finds none in fragments, and none behind an IPv6
// routing header, where the checksum covers another address (RFC 8200 8.1).
func find(head []byte, length int) (p place, ok bool) {
	if len(head) < FrameMin {
		return p, false
	}
	p.net = FrameMin
	kind := binary.BigEndian.Uint16(head[FrameMin-2:])
	for n := 0; n < 2 && (kind == typeTag || kind == typeService); n++ {
		p.net += tagLen
		if len(head) < p.net {
			return p, false
		}
		kind = binary.BigEndian.Uint16(head[p.net-2:])
	}
	switch {
	case kind == typeIPv4 && len(head) >= p.net+ip4Least:
		ok = p.find4(head[p.net:])
	case kind == typeIPv6 && len(head) >= p.net+ip6Len:
		ok = p.find6(head[p.net:])
	}
	least := udpLeast
	if p.proto == protoTCP {
		least = tcpLeast
	}
	return p, ok && (p.proto == protoTCP || p.proto == protoUDP) && p.l4+least <= min(len(head), p.end) && p.end <= length
}

func (p *place) find4(ip []byte) bool {
	p.proto = ip[9]
	p.l4 = p.net + int(ip[0]&15)*4
	p.end = p.net + int(binary.BigEndian.Uint16(ip[2:]))
	return ip[0]>>4 == 4 && p.l4 >= p.net+ip4Least && binary.BigEndian.Uint16(ip[6:])&0x3fff == 0
}

func (p *place) find6(ip []byte) bool {
	const hopByHop, destination = 0, 60
	p.six, p.proto = true, ip[6]
	at := ip6Len
	p.end = p.net + at + int(binary.BigEndian.Uint16(ip[4:]))
	for p.proto == hopByHop || p.proto == destination {
		if at+8 > len(ip) {
			return false
		}
		p.proto = ip[at]
		at += 8 + 8*int(ip[at+1])
	}
	p.l4 = p.net + at
	return ip[0]>>4 == 6
}
