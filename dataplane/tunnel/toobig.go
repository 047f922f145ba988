package tunnel

import "encoding/binary"

// Numbers of the messages that say that a packet was too long.
const (
	protoICMP   = 1
	protoICMPv6 = 58

	unreachable, fragment = 3, 4 // RFC 792, RFC 1191
	icmp6TooBig           = 2    // RFC 4443 3.2
	icmp6Errors           = 128  // ICMPv6 types below it are errors

	mtu4Least, mtu6Least = 68, 1280 // RFC 791, RFC 8200 5
	quoted               = 60       // bytes of the packet that the message has: IP and 8 bytes at least (RFC 792)
	ttlTooBig            = 64
)

// TooBig writes to dst the message that answers a frame of length bytes that starts
// with head, which does not fit into a path that carries frames of most bytes: ICMP
// "fragmentation needed" or ICMPv6 "packet too big", from the frame's destination to its
// source. It returns how long the message is: 0 if there is none for such a frame. Frames
// to groups, later fragments and errors are not answered (RFC 1122 3.2.2, RFC 4443
// 2.4). dst has room for 128 bytes, and does not overlap head.
func TooBig(dst, head []byte, length, most uint32) int {
	if len(head) < etherLen || head[0]&1 != 0 || head[6]&1 != 0 {
		return 0
	}
	at := etherLen
	kind := binary.BigEndian.Uint16(head[12:])
	if (kind == typeVLAN || kind == typeQinQ) && len(head) >= etherLen+tagLen {
		at, kind = etherLen+tagLen, binary.BigEndian.Uint16(head[16:])
	}
	if most < uint32(at) {
		return 0
	}
	copy(dst, head[6:12])
	copy(dst[6:], head[:6])
	copy(dst[12:at], head[12:])
	ip, mtu := head[at:], most-uint32(at)
	switch {
	case kind == typeIPv4 && len(ip) >= ip4Len:
		if n := tooBig4(dst[at:], ip, mtu); n != 0 {
			return at + n
		}
	case kind == typeIPv6 && len(ip) >= ip6Len:
		if n := tooBig6(dst[at:], ip, mtu); n != 0 {
			return at + n
		}
	}
	return 0
}

// tooBig4 is TooBig for an IPv4 packet.
func tooBig4(dst, ip []byte, mtu uint32) int {
	size := int(ip[0]&15) * 4
	switch {
	case ip[0]>>4 != 4 || size < ip4Len || size+8 > min(len(ip), quoted) || mtu < mtu4Least:
		return 0
	case binary.BigEndian.Uint16(ip[6:])&0x1fff != 0, ip[16]&0xf0 == 0xe0, ip[9] == protoICMP && !isQuery4(ip[size]):
		return 0
	}
	quote := ip[:min(len(ip), quoted)]
	n := ip4Len + 8 + len(quote)
	h := dst[:n]
	clear(h)
	h[0], h[8], h[9] = 0x45, ttlTooBig, protoICMP
	binary.BigEndian.PutUint16(h[2:], uint16(n))
	copy(h[12:], ip[16:20])
	copy(h[16:], ip[12:16])
	binary.BigEndian.PutUint16(h[10:], ^fold(sumWords(h[:ip4Len])))
	icmp := h[ip4Len:]
	icmp[0], icmp[1] = unreachable, fragment
	binary.BigEndian.PutUint16(icmp[6:], uint16(min(mtu, 0xffff)))
	copy(icmp[8:], quote)
	binary.BigEndian.PutUint16(icmp[2:], ^fold(sumAll(icmp)))
	return n
}

// isQuery4 reports whether an ICMP message of a type asks or answers.
func isQuery4(kind uint8) bool { return kind == 0 || kind == 8 || kind == 13 || kind == 14 }

// tooBig6 is TooBig for an IPv6 packet.
func tooBig6(dst, ip []byte, mtu uint32) int {
	if ip[0]>>4 != 6 || ip[24] == 0xff || ip[6] == protoICMPv6 && (len(ip) <= ip6Len || ip[ip6Len] < icmp6Errors) {
		return 0
	}
	quote := ip[:min(len(ip), quoted)]
	n := ip6Len + 8 + len(quote)
	h := dst[:n]
	clear(h)
	h[0], h[6], h[7] = 0x60, protoICMPv6, ttlTooBig
	binary.BigEndian.PutUint16(h[4:], uint16(n-ip6Len))
	copy(h[8:], ip[24:40])
	copy(h[24:], ip[8:24])
	icmp := h[ip6Len:]
	icmp[0] = icmp6TooBig
	binary.BigEndian.PutUint32(icmp[4:], max(mtu, mtu6Least))
	copy(icmp[8:], quote)
	sum := sumAll(icmp) + sumWords(h[8:40]) + protoICMPv6 + uint64(len(icmp))
	binary.BigEndian.PutUint16(icmp[2:], ^fold(sum))
	return n
}

// sumAll is sumWords, also of an odd number of bytes.
func sumAll(b []byte) uint64 {
	sum := sumWords(b)
	if len(b)&1 != 0 {
		sum += uint64(b[len(b)-1]) << 8
	}
	return sum
}
