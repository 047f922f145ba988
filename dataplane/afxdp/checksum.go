package afxdp

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"

	"millrace/dataplane/packet"
)

// A sender on the same machine, at the other end of a veth, leaves checksums to
// its device, which is memory: TCP and UDP frames come with the sum of their
// pseudo header in place of the checksum, SCTP frames with zero. Nothing beside
// the frame tells so. The kernel's own receivers never look; everybody else
// would drop the frame.
//
// A field that holds just what an unfinished one would is finished. If it held
// that by chance and was right, finishing it gives the same value.

// Protocol numbers and header offsets (RFC 791, 8200, 9293, 768, 9260).
const (
	protoTCP, protoUDP, protoSCTP = 6, 17, 132
	tcpSum, udpSum, sctpSum       = 16, 6, 8
	tcpLeast, udpLeast, sctpLeast = 20, 8, 12
	etherIPv4, etherIPv6          = 0x0800, 0x86dd
	ipv4Least, ipv6Least          = 20, 40
)

// castagnoli is the table of SCTP's CRC32c (RFC 9260, appendix A).
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// An l4 says where the payload of an IP packet is in a frame.
type l4 struct {
	at     int // first byte, from the start of the frame
	len    int // bytes
	proto  byte
	pseudo uint64 // sum of the addresses, not folded
}

// completeChecksum finishes the checksum of frame i, if its sender has not.
func completeChecksum(b *packet.Batch, i int) { complete(b, i, 0) }

// complete is completeChecksum for a frame that begins at byte from of frame i: frame
// i itself, or what is in a tunnel. The sender's device would finish the inner one, and the
// outer one is right when it is.
func complete(b *packet.Batch, i, from int) {
	head := b.Head(i)
	p, ok := payload(head[from:])
	p.at += from
	if !ok || p.at+p.len > int(b.Frames[i].Len) {
		return
	}
	var field, least int
	switch p.proto {
	case protoTCP:
		field, least = tcpSum, tcpLeast
	case protoUDP:
		field, least = udpSum, udpLeast
		if at := inside(head, p); from == 0 && at != 0 {
			complete(b, i, at)
		}
	case protoSCTP:
		if p.len >= sctpLeast && p.at+sctpSum+4 <= len(head) {
			completeSCTP(b, i, p, head[p.at+sctpSum:])
		}
		return
	default:
		return
	}
	if p.len < least || p.at+field+2 > len(head) {
		return
	}
	sum := head[p.at+field:]
	pseudo := packet.Fold(p.pseudo + uint64(p.proto) + uint64(p.len))
	if binary.BigEndian.Uint16(sum) != pseudo {
		return
	}
	// The field is part of what is summed: it stands for the pseudo header.
	v := ^packet.Fold(sumOf(b, i, p))
	if v == 0 && p.proto == protoUDP {
		v = 0xffff // zero says that there is none (RFC 768); elsewhere it is zero (RFC 1624)
	}
	binary.BigEndian.PutUint16(sum, v)
}

// UDP ports of tunnels (RFC 8926, RFC 7348, Linux's own for VXLAN).
const geneve, vxlan, vxlanLinux = 6081, 4789, 8472

// inside returns where the frame in a tunnel begins, or 0.
func inside(head []byte, udp l4) int {
	at := udp.at + udpLeast
	if udp.len < udpLeast+8 || len(head) < at+8 {
		return 0
	}
	switch binary.BigEndian.Uint16(head[udp.at+2:]) {
	case geneve:
		at += int(head[at]&0x3f) * 4
	case vxlan, vxlanLinux:
	default:
		return 0
	}
	if at += 8; at > len(head) {
		return 0
	}
	return at
}

// payload finds the payload of a frame's IP packet, unless that is a fragment:
// a packet's checksum is finished before it is taken apart.
func payload(head []byte) (l4, bool) {
	if len(head) < packet.FrameMin {
		return l4{}, false
	}
	at, kind := packet.FrameMin, binary.BigEndian.Uint16(head[12:])
	for n := 0; n < 2 && (kind == 0x8100 || kind == 0x88a8); n++ {
		if len(head) < at+tagLen {
			return l4{}, false
		}
		kind = binary.BigEndian.Uint16(head[at+2:])
		at += tagLen
	}
	switch ip := head[at:]; {
	case kind == etherIPv4 && len(ip) >= ipv4Least:
		size := int(ip[0]&15) * 4
		total := int(binary.BigEndian.Uint16(ip[2:]))
		if size < ipv4Least || total < size || binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 {
			return l4{}, false
		}
		return l4{at + size, total - size, ip[9], sumWords(ip[12:20])}, true
	case kind == etherIPv6 && len(ip) >= ipv6Least:
		return behind(ip, l4{at + ipv6Least, int(binary.BigEndian.Uint16(ip[4:])), ip[6], sumWords(ip[8:40])}, at)
	}
	return l4{}, false
}

// behind moves past the options headers of an IPv6 packet (RFC 8200, 4).
func behind(ip []byte, p l4, at int) (l4, bool) {
	for range 4 {
		const hopByHop, destination = 0, 60
		if p.proto != hopByHop && p.proto != destination {
			return p, true
		}
		h := p.at - at
		if h+8 > len(ip) {
			return l4{}, false
		}
		size := 8 + 8*int(ip[h+1])
		if size > p.len {
			return l4{}, false
		}
		p.proto, p.at, p.len = ip[h], p.at+size, p.len-size
	}
	return l4{}, false
}

// sumWords adds up the 16-bit words of s, which has an even number of bytes up
// to 2^32.
func sumWords(s []byte) uint64 {
	var sum uint64
	for ; len(s) >= 2; s = s[2:] {
		sum += uint64(binary.BigEndian.Uint16(s))
	}
	return sum
}

// pieces calls fn for the bytes of p in frame i, piece by piece.
func (p l4) pieces(b *packet.Batch, i int, fn func(s []byte)) {
	skip, left := p.at, p.len
	piece := func(s []byte) {
		if skip >= len(s) {
			skip -= len(s)
			return
		}
		s = s[skip:]
		skip = 0
		s = s[:min(len(s), left)]
		left -= len(s)
		fn(s)
	}
	piece(b.Head(i))
	for _, s := range b.Tail(i) {
		if left == 0 {
			return
		}
		piece(bytesAt(s.Addr, s.Len))
	}
}

// sumOf adds up the payload of frame i as 16-bit words.
func sumOf(b *packet.Batch, i int, p l4) uint64 {
	var sum uint64
	odd := false
	p.pieces(b, i, func(s []byte) {
		v := packet.Sum16(s)
		if odd {
			v = bits.ReverseBytes16(v)
		}
		odd = odd != (len(s)%2 == 1)
		sum += uint64(v)
	})
	return sum
}

// completeSCTP finishes a CRC32c that is zero. field is where it is.
func completeSCTP(b *packet.Batch, i int, p l4, field []byte) {
	if binary.LittleEndian.Uint32(field) != 0 {
		return
	}
	crc := uint32(0)
	p.pieces(b, i, func(s []byte) { crc = crc32.Update(crc, castagnoli, s) })
	binary.LittleEndian.PutUint32(field, crc)
}
