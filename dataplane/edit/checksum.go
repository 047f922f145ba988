package edit

import "encoding/binary"

// fix corrects the checksum at off by the sum of what changed under it
// (RFC 1624, equation 3).
func (e *editor) fix(off uint16, delta uint64) {
	at := e.head[off : off+2]
	binary.BigEndian.PutUint16(at, corrected(binary.BigEndian.Uint16(at), delta))
}

// corrected is checksum sum after a change of delta.
func corrected(sum uint16, delta uint64) uint16 {
	s := uint64(^sum) + delta
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// fixL4 corrects the checksum of TCP, UDP, ICMP and ICMPv6.
func (e *editor) fixL4(delta uint64) {
	if e.at.L4 == 0 {
		return
	}
	switch e.at.Proto {
	case protoTCP:
		e.fix(e.at.L4+16, delta)
	case protoUDP:
		e.fixUDP(delta)
	case protoICMP, protoICMPv6:
		e.fix(e.at.L4+2, delta)
	}
}

// fixAddress corrects the checksums that cover the addresses of IP, the
// pseudo-header: all but ICMP's.
func (e *editor) fixAddress(delta uint64) {
	if e.at.Proto != protoICMP {
		e.fixL4(delta)
	}
}

// fixUDP corrects UDP's checksum, of which zero means that there is none
// (RFC 768).
func (e *editor) fixUDP(delta uint64) {
	at := e.head[e.at.L4+6 : e.at.L4+8]
	sum := binary.BigEndian.Uint16(at)
	if sum == 0 {
		return
	}
	if sum = corrected(sum, delta); sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(at, sum)
}

// fixSCTP corrects SCTP's CRC32c (RFC 9260 6.8) when the bits of change, in
// the first four bytes of the packet, have been inverted. The CRC is
// linear: it differs by that of a packet which has these bits and else zeros, without inversions.
func (e *editor) fixSCTP(change uint32) {
	at := e.head[e.at.L4+8 : e.at.L4+12]
	crc := binary.LittleEndian.Uint32(at) ^ times(change, power(e.at.End-uint32(e.at.L4)))
	binary.LittleEndian.PutUint32(at, crc)
}

// castagnoli is CRC32c's polynomial, its bits reflected: bit 31 is the
// coefficient of x^0. x^32 is left out.
const castagnoli = 0x82f63b78

// times multiplies two polynomials modulo castagnoli.
func times(a, b uint32) (p uint32) {
	for ; a != 0; a <<= 1 {
		if a>>31 != 0 {
			p ^= b
		}
		b = b>>1 ^ castagnoli&-(b&1)
	}
	return p
}

// power is x^(8n): what n further bytes do to a CRC.
func power(n uint32) (p uint32) {
	p = 1 << 31
	for square := uint32(1 << 23); n != 0; n >>= 1 {
		if n&1 != 0 {
			p = times(p, square)
		}
		square = times(square, square)
	}
	return p
}
