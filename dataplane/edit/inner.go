package edit

import (
	"encoding/binary"

	"millrace/flowtable"
)

// icmpLen is the length of what is before the packet that an ICMP error quotes.
const icmpLen = 8

// An inner is the packet that an ICMP error quotes, as far as it is there.
type inner struct {
	ip, l4 uint16 // offsets in the head; l4 is 0 if it is not there
	end    uint16 // of what is there
	six    bool
	proto  uint8
}

// quoted finds the packet that an ICMP error quotes.
func (e *editor) quoted() (n inner, ok bool) {
	n.six = e.at.Type == typeIPv6
	if e.at.L4 == 0 || n.six && e.at.Proto != protoICMPv6 || !n.six && e.at.Proto != protoICMP {
		return n, false
	}
	n.ip, n.end = e.at.L4+icmpLen, uint16(min(uint32(len(e.head)), e.at.End))
	if n.six {
		return n, n.find6(e.head)
	}
	return n, n.find4(e.head)
}

// find4 finds the headers of a quoted IPv4 packet.
func (n *inner) find4(head []byte) bool {
	if int(n.ip)+ip4Len > int(n.end) {
		return false
	}
	h := head[n.ip:]
	size := uint16(h[0]&15) * 4
	if h[0]>>4 != 4 || size < ip4Len || n.ip+size > n.end {
		return false
	}
	n.proto = h[9]
	if n.ip+size+8 <= n.end && binary.BigEndian.Uint16(h[6:])&0x1fff == 0 {
		n.l4 = n.ip + size
	}
	return true
}

// ip6Len is the length of an IPv6 header.
const ip6Len = 40

// find6 finds the headers of a quoted IPv6 packet: behind options and routing headers
// too (RFC 8200 4.1).
func (n *inner) find6(head []byte) bool {
	if int(n.ip)+ip6Len > int(n.end) || head[n.ip]>>4 != 6 {
		return false
	}
	n.proto = head[n.ip+6]
	off := n.ip + ip6Len
	for off+8 <= n.end {
		size := (uint16(head[off+1]) + 1) * 8
		switch n.proto {
		case 0, 43, 60:
		case 51:
			size = (uint16(head[off+1]) + 2) * 4
		default:
			n.l4 = off
			return true
		}
		n.proto = head[off]
		off += size
	}
	return true
}

// inner is set for the packet that an ICMP error quotes. All its checksums that are there
// stay right, and so does the error's own.
func (e *editor) inner(word uint8, value, mask uint64) {
	n, ok := e.quoted()
	if !ok {
		return
	}
	switch {
	case word == flowtable.WordIP4 && !n.six:
		delta := e.swap64(n.ip+12, value, mask)
		e.fixL4(delta + e.refix(n.ip+10, delta))
		if n.proto != protoICMP {
			e.fixL4(e.fixQuoted(&n, delta))
		}
	case word >= flowtable.WordIP6Src && word <= flowtable.WordIP6DstLow && n.six:
		delta := e.swap64(n.ip+8+8*uint16(word-flowtable.WordIP6Src), value, mask)
		e.fixL4(delta)
		e.fixL4(e.fixQuoted(&n, delta))
	case word == flowtable.WordL4 && n.l4 != 0:
		e.innerL4(&n, value, mask)
	}
}

// innerL4 writes ports or an identifier.
func (e *editor) innerL4(n *inner, value, mask uint64) {
	delta := uint64(0)
	switch n.proto {
	case protoTCP, protoUDP, protoSCTP: // SCTP's checksum cannot be put right: the packet is cut off
		delta = e.swap32(n.l4, uint32(value>>32), uint32(mask>>32))
	case protoICMP, protoICMPv6:
		delta = e.swap16(n.l4+4, uint16(value), uint16(mask))
	}
	e.fixL4(delta)
	e.fixL4(e.fixQuoted(n, delta))
}

// fixQuoted corrects the checksum of the quoted packet's transport header, if it is
// there, and returns what that adds to the sum of all words.
func (e *editor) fixQuoted(n *inner, delta uint64) uint64 {
	at := n.l4
	switch {
	case n.l4 == 0:
		return 0
	case n.proto == protoTCP:
		at += 16
	case n.proto == protoUDP:
		if at += 6; binary.BigEndian.Uint16(e.head[at:]) == 0 {
			return 0
		}
	case n.proto == protoICMP, n.proto == protoICMPv6:
		at += 2
	default:
		return 0
	}
	if at+2 > n.end {
		return 0
	}
	change := e.refix(at, delta)
	if n.proto == protoUDP && e.head[at]|e.head[at+1] == 0 { // that would say that there is none (RFC 768)
		e.head[at], e.head[at+1] = 0xff, 0xff // which adds nothing to a sum
	}
	return change
}

// refix is fix, and returns what it adds to the sum of all words.
func (e *editor) refix(off uint16, delta uint64) uint64 {
	at := e.head[off : off+2]
	old := binary.BigEndian.Uint16(at)
	is := corrected(old, delta)
	binary.BigEndian.PutUint16(at, is)
	return uint64(^old) + uint64(is)
}
