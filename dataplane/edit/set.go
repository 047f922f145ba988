package edit

import (
	"encoding/binary"

	"millrace/flowtable"
)

// Ethernet types and IP protocols whose fields can be set.
const (
	typeIPv4 = 0x0800
	typeIPv6 = 0x86dd

	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
	protoSCTP   = 132
)

// priorityAndID are the bits of a TCI that can be set.
const priorityAndID = 0xffff &^ flowtable.TagPresent

// set writes the bits of mask in word of the key, as value has them, to the
// fields of the frame.
func (e *editor) set(word uint8, value, mask uint64) {
	if mask == 0 {
		return
	}
	switch word {
	case flowtable.WordIn:
		if m := uint16(mask>>16) & priorityAndID; m != 0 && e.tags != 0 && !e.none {
			e.swap16(etherLen, uint16(value>>16), m)
		}
	case flowtable.WordDst:
		e.swap48(0, value>>16, mask>>16)
	case flowtable.WordSrc:
		e.swap48(6, value>>16, mask>>16)
		if uint8(mask) != 0 && e.at.L3 != 0 {
			e.setTTL(uint8(value), uint8(mask))
		}
	default:
		if e.at.L3 != 0 {
			e.setL3(word, value, mask)
		}
	}
}

// setL3 is set for words of what is behind the Ethernet header.
func (e *editor) setL3(word uint8, value, mask uint64) {
	switch e.at.Type {
	case typeIPv4:
		switch word {
		case flowtable.WordIP4:
			delta := e.swap64(e.at.L3+12, value, mask)
			e.fix(e.at.L3+10, delta)
			e.fixAddress(delta)
		case flowtable.WordL4:
			if m := uint8(mask >> 24); m != 0 {
				e.fix(e.at.L3+10, e.swap16(e.at.L3, uint16(value>>24&0xff), uint16(m)))
			}
			e.setL4(value, mask)
		}
	case typeIPv6:
		e.setIP6(word, value, mask)
	default:
		e.setARP(word, value, mask)
	}
}

// ttl is the TTL or hop limit, if the frame has one.
func (e *editor) ttl() (ttl uint8, ok bool) {
	switch {
	case e.at.L3 == 0:
		return 0, false
	case e.at.Type == typeIPv4:
		return e.head[e.at.L3+8], true
	case e.at.Type == typeIPv6:
		return e.head[e.at.L3+7], true
	}
	return 0, false
}

// setTTL writes bits of the TTL or hop limit.
func (e *editor) setTTL(value, mask uint8) {
	switch e.at.Type {
	case typeIPv4:
		e.fix(e.at.L3+10, e.swap16(e.at.L3+8, uint16(value)<<8, uint16(mask)<<8))
	case typeIPv6:
		at := &e.head[e.at.L3+7]
		*at = *at&^mask | value&mask
	}
}

// setIP6 writes fields of an IPv6 header and of what follows it.
func (e *editor) setIP6(word uint8, value, mask uint64) {
	switch word {
	case flowtable.WordIP4:
		e.swap32(e.at.L3, uint32(value), uint32(mask)&0xfffff)
	case flowtable.WordL4:
		e.swap32(e.at.L3, uint32(value>>24&0xff)<<20, uint32(mask>>24&0xff)<<20)
		e.setL4(value, mask)
	case flowtable.WordIP6Src, flowtable.WordIP6SrcLow:
		e.fixAddress(e.swap64(e.at.L3+8+8*uint16(word-flowtable.WordIP6Src), value, mask))
	case flowtable.WordIP6Dst, flowtable.WordIP6DstLow:
		delta := e.swap64(e.at.L3+24+8*uint16(word-flowtable.WordIP6Dst), value, mask)
		if !e.at.Routed {
			e.fixAddress(delta)
		}
	case flowtable.WordND, flowtable.WordNDLow:
		if e.at.ND != 0 {
			e.fixL4(e.swap64(e.at.ND+8*uint16(word-flowtable.WordND), value, mask))
		}
	case flowtable.WordSHA:
		if e.at.SLL != 0 {
			e.fixL4(e.swap48(e.at.SLL, value, mask))
		}
	case flowtable.WordTHA:
		if e.at.TLL != 0 {
			e.fixL4(e.swap48(e.at.TLL, value, mask))
		}
	}
}

// setL4 writes ports, or ICMP's type, code and identifier.
func (e *editor) setL4(value, mask uint64) {
	if e.at.L4 == 0 || mask>>32 == 0 && uint16(mask) == 0 {
		return
	}
	switch e.at.Proto {
	case protoTCP, protoUDP:
		e.fixL4(e.swap32(e.at.L4, uint32(value>>32), uint32(mask>>32)))
	case protoSCTP:
		old := binary.LittleEndian.Uint32(e.head[e.at.L4:])
		e.swap32(e.at.L4, uint32(value>>32), uint32(mask>>32))
		e.fixSCTP(old ^ binary.LittleEndian.Uint32(e.head[e.at.L4:]))
	case protoICMP, protoICMPv6:
		e.fixL4(e.swap16(e.at.L4, kindAndCode(value), kindAndCode(mask)))
		if m := uint16(mask); m != 0 && int(e.at.L4)+6 <= len(e.head) && uint32(e.at.L4)+6 <= e.at.End {
			e.fixL4(e.swap16(e.at.L4+4, uint16(value), m))
		}
	}
}

// kindAndCode is ICMP's first two bytes from where they are in WordL4.
func kindAndCode(w uint64) uint16 { return uint16(w>>48&0xff<<8 | w>>32&0xff) }

// setARP writes fields of an ARP packet.
func (e *editor) setARP(word uint8, value, mask uint64) {
	switch word {
	case flowtable.WordL4:
		e.swap16(e.at.L3+6, uint16(value>>48), uint16(mask>>48))
	case flowtable.WordSHA:
		e.swap48(e.at.L3+8, value, mask)
	case flowtable.WordTHA:
		e.swap48(e.at.L3+18, value, mask)
	case flowtable.WordIP4:
		e.swap32(e.at.L3+14, uint32(value>>32), uint32(mask>>32))
		e.swap32(e.at.L3+24, uint32(value), uint32(mask))
	}
}

// swap16 writes the bits of mask in the two bytes at off, and returns what that adds to
// the sum of all 16-bit words (RFC 1624: the complement of what was, plus what is).
func (e *editor) swap16(off, value, mask uint16) (delta uint64) {
	at := e.head[off : off+2]
	old := binary.BigEndian.Uint16(at)
	is := old&^mask | value&mask
	binary.BigEndian.PutUint16(at, is)
	return uint64(^old) + uint64(is)
}

// swap32 is swap16 of four bytes. Folded, its result is the sum of two words'.
func (e *editor) swap32(off uint16, value, mask uint32) (delta uint64) {
	at := e.head[off : off+4]
	old := binary.BigEndian.Uint32(at)
	is := old&^mask | value&mask
	binary.BigEndian.PutUint32(at, is)
	return uint64(^old) + uint64(is)
}

// swap48 is swap16 of six bytes, an Ethernet address.
func (e *editor) swap48(off uint16, value, mask uint64) (delta uint64) {
	if mask<<16 == 0 {
		return 0
	}
	return e.swap16(off, uint16(value>>32), uint16(mask>>32)) + e.swap32(off+2, uint32(value), uint32(mask))
}

// swap64 is swap16 of eight bytes.
func (e *editor) swap64(off uint16, value, mask uint64) (delta uint64) {
	return e.swap32(off, uint32(value>>32), uint32(mask>>32)) + e.swap32(off+4, uint32(value), uint32(mask))
}
