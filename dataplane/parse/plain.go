package parse

import "encoding/binary"

// Plain reports whether a frame of length bytes, of which head is the beginning, is a whole
// packet of TCP or UDP behind nothing but Ethernet, a tag perhaps, and IPv4 or IPv6
// without options, and whether TCP's data begin where they can. Find and gopacket see no flaw in it.
func Plain(head []byte, length uint32) bool {
	if len(head) < etherLen+tagLen {
		return false
	}
	typ, at := binary.BigEndian.Uint16(head[12:]), etherLen
	if IsTag(typ) {
		typ, at = binary.BigEndian.Uint16(head[16:]), at+tagLen
	}
	switch typ {
	case typeIPv4:
		return plain4(head[at:], length-uint32(at))
	case typeIPv6:
		return plain6(head[at:], length-uint32(at))
	}
	return false
}

// plain4 is Plain from IPv4 on, of which there are room bytes with what follows.
func plain4(ip []byte, room uint32) bool {
	if len(ip) < ip4Len {
		return false
	}
	total := uint32(binary.BigEndian.Uint16(ip[2:]))
	first := binary.BigEndian.Uint64(ip) // version, header length, TOS, total length, id, fragment
	return (first^0x45<<56)&(0xff<<56|0x3fff) == 0 && total >= ip4Len && total <= room && plainTail(ip[9], ip[ip4Len:], total-ip4Len)
}

// plain6 is plain4 for IPv6.
func plain6(ip []byte, room uint32) bool {
	if len(ip) < ip6Len {
		return false
	}
	size := uint32(binary.BigEndian.Uint16(ip[4:]))
	return ip[0]>>4 == 6 && ip6Len+size <= room && plainTail(ip[6], ip[ip6Len:], size)
}

// plainTail is Plain from the header of proto on, of which there are size bytes with what follows.
func plainTail(proto uint8, b []byte, size uint32) bool {
	switch proto {
	case protoUDP:
		return len(b) >= udpLen && size >= udpLen
	case protoTCP:
		return len(b) >= tcpLen && b[12]>>4 >= tcpLen/4 && uint32(b[12]>>4)*4 <= size
	}
	return false
}
