package parse

import (
	"encoding/binary"
	"hash/crc32"

	"millrace/flowtable"
)

// buildMin is the length of the shortest frame that Build makes: the least of
// Ethernet, without the frame check sequence.
const buildMin = 60

// Build makes a frame of which One says k, with right lengths and checksums and
// no payload. It can if k is consistent: if it is the key of some frame without
// flaws. Otherwise the frame has what k's Ethernet type and protocol have room
// for. In port and tunnel are not in the frame.
func Build(k flowtable.Key) []byte {
	f := make([]byte, 0, 128)
	f = append48(f, k[flowtable.WordDst]>>16)
	f = append48(f, k[flowtable.WordSrc]>>16)
	if tci := uint16(k[flowtable.WordIn] >> 16); tci&flowtable.TagPresent != 0 {
		f = binary.BigEndian.AppendUint16(f, typeVLAN)
		f = binary.BigEndian.AppendUint16(f, tci&^flowtable.TagPresent)
	}
	kind := uint16(k[flowtable.WordIn])
	if kind < typeMin {
		f = append(f, 0, 3, 0x42, 0x42, 3) // LLC of the spanning tree protocol
		return pad(f)
	}
	f = binary.BigEndian.AppendUint16(f, kind)
	switch kind {
	case typeIPv4:
		f = append4(f, &k)
	case typeIPv6:
		f = append6(f, &k)
	case typeARP, typeRARP:
		f = appendARP(f, &k)
	}
	return pad(f)
}

// pad makes f as long as Ethernet wants it.
func pad(f []byte) []byte {
	for len(f) < buildMin {
		f = append(f, 0)
	}
	return f
}

// append48 appends an Ethernet address.
func append48(f []byte, a uint64) []byte {
	f = binary.BigEndian.AppendUint16(f, uint16(a>>32))
	return binary.BigEndian.AppendUint32(f, uint32(a))
}

// appendARP appends an ARP packet.
func appendARP(f []byte, k *flowtable.Key) []byte {
	f = append(f, 0, 1, 8, 0, 6, 4)
	f = binary.BigEndian.AppendUint16(f, uint16(k[flowtable.WordL4]>>48))
	f = append48(f, k[flowtable.WordSHA])
	f = binary.BigEndian.AppendUint32(f, uint32(k[flowtable.WordIP4]>>32))
	f = append48(f, k[flowtable.WordTHA])
	return binary.BigEndian.AppendUint32(f, uint32(k[flowtable.WordIP4]))
}

// append4 appends an IPv4 packet.
func append4(f []byte, k *flowtable.Key) []byte {
	proto, frag := uint8(k[flowtable.WordSrc]>>8), k[flowtable.WordL4]>>16
	var payload []byte
	offset := uint16(0)
	switch {
	case frag&fragLater != 0:
		offset = 185 // of 8 bytes: behind a fragment of a frame of 1500
	case frag&fragAny != 0:
		offset = 0x2000
		fallthrough
	default:
		payload = l4(k, proto, false)
	}
	start := len(f)
	f = append(f, 0x45, byte(k[flowtable.WordL4]>>24))
	f = binary.BigEndian.AppendUint16(f, uint16(ip4Len+len(payload)))
	f = append(f, 0, 0)
	f = binary.BigEndian.AppendUint16(f, offset)
	f = append(f, byte(k[flowtable.WordSrc]), proto, 0, 0)
	f = binary.BigEndian.AppendUint64(f, k[flowtable.WordIP4])
	binary.BigEndian.PutUint16(f[start+10:], ^fold(sum(f[start:])))
	pseudo := sum(f[start+12:]) + uint64(proto) + uint64(len(payload))
	putChecksum(payload, proto, pseudo)
	return append(f, payload...)
}

// append6 appends an IPv6 packet.
func append6(f []byte, k *flowtable.Key) []byte {
	proto, frag := uint8(k[flowtable.WordSrc]>>8), k[flowtable.WordL4]>>16
	next := proto
	var fragment, payload []byte
	if frag&fragAny != 0 {
		next, fragment = protoFragment, []byte{proto, 0, 0, 1, 0, 0, 0, 1}
	}
	if frag&fragLater != 0 {
		fragment = []byte{protoUDP, 0, 5, 0xa8, 0, 0, 0, 1}
	} else {
		payload = l4(k, proto, true)
	}
	class := uint32(k[flowtable.WordL4] >> 24 & 0xff)
	f = binary.BigEndian.AppendUint32(f, 6<<28|class<<20|uint32(k[flowtable.WordIP4])&0xfffff)
	f = binary.BigEndian.AppendUint16(f, uint16(len(fragment)+len(payload)))
	f = append(f, next, byte(k[flowtable.WordSrc]))
	start := len(f)
	for w := flowtable.WordIP6Src; w <= flowtable.WordIP6DstLow; w++ {
		f = binary.BigEndian.AppendUint64(f, k[w])
	}
	pseudo := sum(f[start:]) + uint64(proto) + uint64(len(payload))
	putChecksum(payload, proto, pseudo)
	return append(append(f, fragment...), payload...)
}

// l4 makes the header behind IP, its checksum zero.
func l4(k *flowtable.Key, proto uint8, six bool) []byte {
	ports := binary.BigEndian.AppendUint32(nil, uint32(k[flowtable.WordL4]>>32))
	kind := []byte{byte(k[flowtable.WordL4] >> 48), byte(k[flowtable.WordL4] >> 32), 0, 0, 0, 0, 0, 0}
	switch {
	case proto == protoTCP:
		h := append(ports, make([]byte, 16)...)
		binary.BigEndian.PutUint16(h[12:], 5<<12|uint16(k[flowtable.WordDst])&0xfff)
		return h
	case proto == protoUDP:
		return append(ports, 0, 8, 0, 0)
	case proto == protoSCTP:
		return append(ports, make([]byte, 8)...)
	case proto == protoICMP && !six:
		return kind
	case proto == protoICMPv6 && six:
		if kind[1] != 0 || kind[0] != 135 && kind[0] != 136 {
			return kind
		}
		return neighbour(kind, k)
	}
	return nil
}

// neighbour completes a neighbour message whose first 8 bytes are h.
func neighbour(h []byte, k *flowtable.Key) []byte {
	h = binary.BigEndian.AppendUint64(h, k[flowtable.WordND])
	h = binary.BigEndian.AppendUint64(h, k[flowtable.WordNDLow])
	if sll := k[flowtable.WordSHA]; sll != 0 {
		h = append48(append(h, 1, 1), sll)
	}
	if tll := k[flowtable.WordTHA]; tll != 0 {
		h = append48(append(h, 2, 1), tll)
	}
	return h
}

// putChecksum writes the checksum of payload; pseudo is the sum of IP's pseudo-header.
func putChecksum(payload []byte, proto uint8, pseudo uint64) {
	if len(payload) == 0 {
		return
	}
	at := 2
	switch proto {
	case protoICMP:
		pseudo = 0
	case protoTCP:
		at = 16
	case protoUDP:
		at = 6
	case protoSCTP: // RFC 9260 appendix A
		binary.LittleEndian.PutUint32(payload[8:], crc32.Checksum(payload, crc32.MakeTable(crc32.Castagnoli)))
		return
	}
	c := ^fold(pseudo + sum(payload))
	if c == 0 && proto == protoUDP {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(payload[at:], c)
}

// sum adds the 16-bit words of b (RFC 1071); len(b) is even.
func sum(b []byte) (s uint64) {
	for ; len(b) >= 2; b = b[2:] {
		s += uint64(binary.BigEndian.Uint16(b))
	}
	return s
}

// fold brings a sum of 16-bit words to 16 bits.
func fold(s uint64) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
