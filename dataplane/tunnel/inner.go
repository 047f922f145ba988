package tunnel

import "encoding/binary"

// An inner is what outer headers take from the frame inside.
type inner struct {
	hash uint32 // the same for all frames of a flow
	tos  uint8  // 0 if it is not IP
	ttl  uint8  // 0 if it is not IP
}

// look reads the head of an inner frame.
func look(f []byte) (in inner) {
	if len(f) < etherLen {
		return in
	}
	at, kind := etherLen, binary.BigEndian.Uint16(f[12:])
	if (kind == typeVLAN || kind == typeQinQ) && len(f) >= etherLen+tagLen {
		at, kind = etherLen+tagLen, binary.BigEndian.Uint16(f[16:])
	}
	switch ip := f[at:]; {
	case kind == typeIPv4 && len(ip) >= ip4Len:
		in.look4(ip)
	case kind == typeIPv6 && len(ip) >= ip6Len:
		in.look6(ip)
	default:
		in.hash = mix(binary.BigEndian.Uint64(f), uint64(binary.BigEndian.Uint32(f[8:])))
	}
	return in
}

// look4 reads an IPv4 packet.
func (in *inner) look4(ip []byte) {
	in.tos, in.ttl = ip[1], ip[8]
	rest := uint64(ip[9])
	size := int(ip[0]&15) * 4
	if binary.BigEndian.Uint16(ip[6:])&0x3fff == 0 && size >= ip4Len && len(ip) >= size+4 {
		rest |= ports(ip[9], ip[size:])
	}
	in.hash = mix(binary.BigEndian.Uint64(ip[12:]), rest)
}

// look6 reads an IPv6 packet. What has extension headers is told apart by its
// flow label.
func (in *inner) look6(ip []byte) {
	first := binary.BigEndian.Uint32(ip)
	in.tos, in.ttl = uint8(first>>20), ip[7]
	rest := uint64(ip[6]) | uint64(first&0xfffff)<<8
	if len(ip) >= ip6Len+4 {
		rest ^= ports(ip[6], ip[ip6Len:])
	}
	from := binary.BigEndian.Uint64(ip[8:]) ^ binary.BigEndian.Uint64(ip[16:])*0x9e3779b97f4a7c15
	to := binary.BigEndian.Uint64(ip[24:]) ^ binary.BigEndian.Uint64(ip[32:])*0xc2b2ae3d27d4eb4f
	in.hash = mix(from+to*3, rest)
}

// ports are those of a protocol that has some, above the low 32 bits.
func ports(proto uint8, l4 []byte) uint64 {
	if proto == protoTCP || proto == protoUDP || proto == protoSCTP {
		return uint64(binary.BigEndian.Uint32(l4)) << 32
	}
	return 0
}

// mix makes a hash of two words. Who collides shares a source port: no more.
func mix(a, b uint64) uint32 {
	h := (a ^ b*0xff51afd7ed558ccd) * 0x9e3779b97f4a7c15
	h = (h ^ h>>29) * 0xbf58476d1ce4e5b9
	return uint32(h >> 32)
}
