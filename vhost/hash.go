package vhost

import (
	"encoding/binary"
	"math/bits"
)

const (
	macsLen = 12
	tagLen  = 4

	typeVLAN = 0x8100 // 802.1Q
	typeQinQ = 0x88a8 // 802.1ad
	typeIPv4 = 0x0800
	typeIPv6 = 0x86dd

	protoTCP  = 6
	protoUDP  = 17
	protoSCTP = 132
)

// isTagged reports whether a frame that begins with head has an 802.1Q or
// 802.1ad tag.
func isTagged(head []byte) bool {
	if len(head) < macsLen+2 {
		return false
	}
	t := binary.BigEndian.Uint16(head[macsLen:])
	return t == typeVLAN || t == typeQinQ
}

// flowHash hashes what names the flow of a frame that begins with head: its IP
// addresses, and the ports of TCP, UDP or SCTP; the addresses alone for
// fragments, of which only the first has ports; for what is not IP its MAC
// addresses. Tags, up to two, count for nothing: a VLAN's flows differ by their
// addresses.
func flowHash(head []byte) uint64 {
	at := macsLen
	if len(head) < at+2 {
		return 0
	}
	t := binary.BigEndian.Uint16(head[at:])
	for range 2 {
		if (t == typeVLAN || t == typeQinQ) && len(head) >= at+tagLen+2 {
			at += tagLen
			t = binary.BigEndian.Uint16(head[at:])
		}
	}
	ip := head[at+2:]
	switch {
	case t == typeIPv4 && len(ip) >= 20:
		return hashIPv4(ip)
	case t == typeIPv6 && len(ip) >= 40:
		return hashIPv6(ip)
	}
	return mix(binary.LittleEndian.Uint64(head), uint64(binary.LittleEndian.Uint32(head[8:])))
}

// hashIPv4 hashes a header of at least 20 bytes and what follows.
func hashIPv4(ip []byte) uint64 {
	ports := uint64(0)
	fragment := binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 // more to come, or not the first
	if l := int(ip[0]&15) * 4; !fragment && l >= 20 && len(ip) >= l {
		ports = portsOf(ip[9], ip[l:])
	}
	return mix(binary.LittleEndian.Uint64(ip[12:]), ports)
}

// hashIPv6 hashes a header of at least 40 bytes and what follows. Behind
// extension headers, among them the one of fragments, ports are not looked for.
func hashIPv6(ip []byte) uint64 {
	src := mix(binary.LittleEndian.Uint64(ip[8:]), binary.LittleEndian.Uint64(ip[16:]))
	dst := mix(binary.LittleEndian.Uint64(ip[24:]), binary.LittleEndian.Uint64(ip[32:]))
	return mix(src+bits.RotateLeft64(dst, 32), portsOf(ip[6], ip[40:]))
}

// portsOf returns the two ports at the start of l4, with a bit that says that
// there are any.
func portsOf(proto byte, l4 []byte) uint64 {
	if len(l4) < 4 || proto != protoTCP && proto != protoUDP && proto != protoSCTP {
		return 0
	}
	return uint64(binary.LittleEndian.Uint32(l4)) | uint64(proto)<<32
}

// mix folds a and b into one word, of which every bit depends on all of theirs.
func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^0x9e3779b97f4a7c15, b^0xd1b54a32d192ed03)
	h := hi ^ lo
	hi, lo = bits.Mul64(h^0x8bb84b93962eacc9, 0x9e3779b97f4a7c15)
	return hi ^ lo
}
