package parse

import (
	"encoding/binary"

	"millrace/flowtable"
)

// Ethernet types.
const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeRARP = 0x8035
	typeVLAN = 0x8100
	typeIPv6 = 0x86dd
	typeQinQ = 0x88a8

	// typeMin is the least Ethernet type; below it is a length (IEEE 802.3 3.2.6).
	typeMin = 0x0600

	// NoType is the Ethernet type in the key of a frame that has none.
	NoType = 0x05ff
)

// IP protocols and IPv6 extension headers.
const (
	protoHopByHop = 0
	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoRouting  = 43
	protoFragment = 44
	protoAH       = 51
	protoICMPv6   = 58
	protoOptions  = 60
	protoSCTP     = 132
)

// Lengths of headers in bytes.
const (
	etherLen = 14
	tagLen   = 4
	snapLen  = 8
	ip4Len   = 20
	ip6Len   = 40
	arpLen   = 28
	tcpLen   = 20
	udpLen   = 8
	sctpLen  = 12
	icmpLen  = 8
	icmp6Len = 4
	ndLen    = 24 // ICMPv6 header, reserved word and target
)

// Values of Layout.Frag, as in the key.
const (
	fragAny   = 1
	fragLater = 2
)

// A Flaw says what kept headers of a frame from being read.
type Flaw uint8

// The flaws. The zero value is none.
const (
	// Bad: a header is longer than the frame, or its lengths cannot be.
	Bad Flaw = iota + 1
	// Deep: a header goes on beyond the private bytes of the frame.
	Deep
)

// String is what a tool shows.
func (f Flaw) String() string {
	switch f {
	case Bad:
		return "headers contradict the length of the frame"
	case Deep:
		return "headers go beyond the bytes that are looked at"
	}
	return "none"
}

// A Layout says which headers a frame has. Offsets are in bytes from the
// start of the head; zero means that the frame does not have the header, or
// that it is not sound and whole in the head.
type Layout struct {
	Type  uint16 // Ethernet type behind the tag, or NoType
	Tag   uint16 // first tag
	L3    uint16 // IPv4, IPv6, ARP or RARP header, by Type
	L4    uint16 // TCP, UDP, SCTP, ICMP or ICMPv6 header, by Proto
	ND    uint16 // target address of a neighbour message
	SLL   uint16 // source link-layer address (six bytes) in its options
	TLL   uint16 // target link-layer address in its options
	End   uint32 // end of the IP packet, which may be beyond the head
	Proto uint8  // IP protocol
	Frag  uint8  // as ip.frag
	// Routed: an IPv6 routing header names destinations still to come, so
	// that the checksum of L4 does not cover the header's destination (RFC 8200 8.1).
	Routed bool
	Flaw   Flaw
}

// Shift accounts for n bytes put between the Ethernet addresses and the type,
// or taken out there if n is negative.
func (l *Layout) Shift(n int) {
	for _, p := range [...]*uint16{&l.L3, &l.L4, &l.ND, &l.SLL, &l.TLL} {
		if *p != 0 {
			*p = uint16(int(*p) + n)
		}
	}
	l.End = uint32(int(l.End) + n)
}

// Locate finds the headers of a frame of length bytes that starts with head.
func Locate(head []byte, length uint32) (l Layout) {
	l.Find(head, length)
	return l
}

// Find is Locate into l. To copy a Layout that has just been made costs more
// than to make it, since its parts were not stored as they are loaded.
func (l *Layout) Find(head []byte, length uint32) {
	*l = Layout{}
	if uint32(len(head)) > length {
		head = head[:length]
	}
	if !l.has(head, 0, etherLen, length) {
		return
	}
	off := etherLen
	l.Type = binary.BigEndian.Uint16(head[12:])
	if IsTag(l.Type) {
		if !l.has(head, off, tagLen, length) {
			return
		}
		l.Tag = etherLen - 2
		l.Type = binary.BigEndian.Uint16(head[16:])
		off += tagLen
	}
	if l.Type < typeMin {
		l.Type = snapType(head[off:])
		off += snapLen
	}
	switch l.Type {
	case typeIPv4:
		l.ip4(head, off, length)
	case typeIPv6:
		l.ip6(head, off, length)
	case typeARP, typeRARP:
		l.arp(head, off, length)
	}
}

// IsTag reports whether Ethernet type t is that of a tag that is looked into.
func IsTag(t uint16) bool { return t == typeVLAN || t == typeQinQ }

// snapType is the type in the SNAP header that llc starts with, or NoType
// (RFC 1042).
func snapType(llc []byte) uint16 {
	if len(llc) < snapLen || string(llc[:6]) != "\xaa\xaa\x03\x00\x00\x00" {
		return NoType
	}
	if t := binary.BigEndian.Uint16(llc[6:]); t >= typeMin {
		return t
	}
	return NoType
}

// has reports whether n bytes at off are in the head, and notes a flaw if they
// are not. What they belong to ends at end.
func (l *Layout) has(head []byte, off, n int, end uint32) bool {
	switch {
	case uint32(off+n) > end:
		l.Flaw = Bad
	case off+n > len(head):
		l.Flaw = Deep
	default:
		return true
	}
	return false
}

// arp looks at an ARP packet (RFC 826).
func (l *Layout) arp(head []byte, off int, length uint32) {
	if !l.has(head, off, arpLen, length) {
		return
	}
	if binary.BigEndian.Uint64(head[off:])>>16 == 1<<32|typeIPv4<<16|6<<8|4 {
		l.L3 = uint16(off)
	}
}

// ip4 looks at an IPv4 packet (RFC 791 3.1).
func (l *Layout) ip4(head []byte, off int, length uint32) {
	if !l.has(head, off, ip4Len, length) {
		return
	}
	h := head[off:]
	size, total := int(h[0]&15)*4, uint32(binary.BigEndian.Uint16(h[2:]))
	if h[0]>>4 != 4 || size < ip4Len || total < uint32(size) || total > length-uint32(off) {
		l.Flaw = Bad
		return
	}
	l.L3, l.Proto, l.End = uint16(off), h[9], uint32(off)+total
	frag := binary.BigEndian.Uint16(h[6:])
	if frag&0x3fff != 0 {
		l.Frag = fragAny
	}
	if frag&0x1fff != 0 {
		l.Frag |= fragLater
		return
	}
	l.transport(head, off+size)
}

// ip6 looks at an IPv6 packet (RFC 8200 3).
func (l *Layout) ip6(head []byte, off int, length uint32) {
	if !l.has(head, off, ip6Len, length) {
		return
	}
	h := head[off:]
	end := uint32(off+ip6Len) + uint32(binary.BigEndian.Uint16(h[4:]))
	if h[0]>>4 != 6 || end > length {
		l.Flaw = Bad
		return
	}
	l.L3, l.Proto, l.End = uint16(off), h[6], end
	if off, ok := l.extensions(head, off+ip6Len); ok {
		l.transport(head, off)
	}
}

// extensions walks the extension headers that begin at off, and returns where
// they end. It reports whether what follows is there to be read. Each header
// has eight bytes at least, so the head bounds their number.
func (l *Layout) extensions(head []byte, off int) (end int, ok bool) {
	for {
		size := 8
		switch l.Proto {
		case protoHopByHop, protoOptions, protoRouting, protoAH, protoFragment:
		default:
			return off, true
		}
		if !l.has(head, off, size, l.End) {
			return 0, false
		}
		switch l.Proto {
		case protoFragment:
			if l.fragment(head[off:]) {
				return 0, false
			}
		case protoAH: // RFC 4302 2.2
			size = (int(head[off+1]) + 2) * 4
		default:
			size = (int(head[off+1]) + 1) * 8
		}
		if !l.has(head, off, size, l.End) {
			return 0, false
		}
		if l.Proto == protoRouting && head[off+3] != 0 {
			l.Routed = true
		}
		l.Proto = head[off]
		off += size
	}
}

// fragment looks at a fragment header (RFC 8200 4.5), and reports whether the
// packet is a later fragment, whose payload begins with no header.
func (l *Layout) fragment(h []byte) (later bool) {
	offset := binary.BigEndian.Uint16(h[2:])
	if offset&0xfff9 != 0 {
		l.Frag = fragAny
	}
	if offset&0xfff8 != 0 {
		l.Frag |= fragLater
		return true
	}
	return false
}

// transport looks at the header behind IP, at off.
func (l *Layout) transport(head []byte, off int) {
	size := 0
	switch l.Proto {
	case protoTCP:
		size = tcpLen
	case protoUDP:
		size = udpLen
	case protoSCTP:
		size = sctpLen
	case protoICMP:
		if l.Type == typeIPv4 {
			size = icmpLen
		}
	case protoICMPv6:
		if l.Type == typeIPv6 {
			size = icmp6Len
		}
	}
	if size == 0 || !l.has(head, off, size, l.End) {
		return
	}
	l.L4 = uint16(off)
	if l.Proto == protoICMPv6 && (head[off] == 135 || head[off] == 136) && head[off+1] == 0 {
		l.neighbour(head, off)
	}
}

// neighbour looks at a neighbour solicitation or advertisement at off
// (RFC 4861 4.3, 4.4) and its options (4.6).
func (l *Layout) neighbour(head []byte, off int) {
	if !l.has(head, off, ndLen, l.End) {
		return
	}
	l.ND = uint16(off + ndLen - 16)
	for off += ndLen; uint32(off)+8 <= l.End; {
		if !l.has(head, off, 8, l.End) {
			l.ND, l.SLL, l.TLL = 0, 0, 0
			return
		}
		size := int(head[off+1]) * 8
		if size == 0 || !l.option(head[off], size, off+2) || uint32(off+size) > l.End {
			l.ND, l.SLL, l.TLL, l.Flaw = 0, 0, 0, Bad
			return
		}
		off += size
	}
}

// option notes an option of size bytes whose content is at off. It reports
// whether it may be there.
func (l *Layout) option(kind uint8, size, off int) bool {
	p := &l.SLL
	switch {
	case size != 8 || kind != 1 && kind != 2:
		return true
	case kind == 2:
		p = &l.TLL
	}
	if *p != 0 {
		return false
	}
	*p = uint16(off)
	return true
}

// fill writes all fields of the frame into k, whose words are zero.
func (l *Layout) fill(k *flowtable.Key, head []byte, port uint32) {
	k[flowtable.WordIn] = uint64(port)<<32 | uint64(l.Type)
	if len(head) < etherLen {
		return
	}
	if l.Tag != 0 {
		tci := binary.BigEndian.Uint16(head[l.Tag+2:])
		k[flowtable.WordIn] |= uint64(tci|flowtable.TagPresent) << 16
	}
	k[flowtable.WordDst] = binary.BigEndian.Uint64(head) &^ 0xffff
	k[flowtable.WordSrc] = binary.BigEndian.Uint64(head[6:]) &^ 0xffff
	if l.L3 == 0 {
		return
	}
	h := head[l.L3:]
	switch l.Type {
	case typeIPv4:
		fill4(k, h)
	case typeIPv6:
		fill6(k, h)
	default:
		fillARP(k, h)
		return
	}
	k[flowtable.WordSrc] |= uint64(l.Proto) << 8
	k[flowtable.WordL4] |= uint64(l.Frag) << 16
	if l.L4 != 0 {
		l.fillL4(k, head)
	}
}

// fill4 writes what an IPv4 header says but for the protocol.
func fill4(k *flowtable.Key, h []byte) {
	k[flowtable.WordSrc] |= uint64(h[8])
	k[flowtable.WordIP4] = binary.BigEndian.Uint64(h[12:])
	k[flowtable.WordL4] = uint64(h[1]) << 24
}

// fill6 writes what an IPv6 header says but for the protocol.
func fill6(k *flowtable.Key, h []byte) {
	first := binary.BigEndian.Uint32(h)
	k[flowtable.WordSrc] |= uint64(h[7])
	k[flowtable.WordIP4] = uint64(first & 0xfffff)
	k[flowtable.WordL4] = uint64(first>>20&0xff) << 24
	k[flowtable.WordIP6Src] = binary.BigEndian.Uint64(h[8:])
	k[flowtable.WordIP6SrcLow] = binary.BigEndian.Uint64(h[16:])
	k[flowtable.WordIP6Dst] = binary.BigEndian.Uint64(h[24:])
	k[flowtable.WordIP6DstLow] = binary.BigEndian.Uint64(h[32:])
}

// fillARP writes what an ARP packet says.
func fillARP(k *flowtable.Key, h []byte) {
	k[flowtable.WordL4] = uint64(binary.BigEndian.Uint16(h[6:])) << 48
	k[flowtable.WordSHA] = address(h[8:])
	k[flowtable.WordIP4] = uint64(binary.BigEndian.Uint32(h[14:]))<<32 | uint64(binary.BigEndian.Uint32(h[24:]))
	k[flowtable.WordTHA] = address(h[18:])
}

// fillL4 writes what the header behind IP says.
func (l *Layout) fillL4(k *flowtable.Key, head []byte) {
	h := head[l.L4:]
	switch l.Proto {
	case protoICMP, protoICMPv6:
		k[flowtable.WordL4] |= uint64(h[0])<<48 | uint64(h[1])<<32
	case protoTCP:
		k[flowtable.WordDst] |= uint64(binary.BigEndian.Uint16(h[12:]) & 0xfff)
		fallthrough
	default:
		k[flowtable.WordL4] |= uint64(binary.BigEndian.Uint32(h)) << 32
	}
	if l.ND == 0 {
		return
	}
	k[flowtable.WordND] = binary.BigEndian.Uint64(head[l.ND:])
	k[flowtable.WordNDLow] = binary.BigEndian.Uint64(head[l.ND+8:])
	if l.SLL != 0 {
		k[flowtable.WordSHA] = address(head[l.SLL:])
	}
	if l.TLL != 0 {
		k[flowtable.WordTHA] = address(head[l.TLL:])
	}
}

// address reads an Ethernet address.
func address(b []byte) uint64 {
	return uint64(binary.BigEndian.Uint16(b))<<32 | uint64(binary.BigEndian.Uint32(b[2:]))
}
