package tunnel

import (
	"encoding/binary"
	"net/netip"

	"millrace/dataplane/packet"
)

// An Address is an IPv4 address as IPv6 has it (RFC 4291 2.5.5.2), or an IPv6
// address, in two words.
type Address struct{ High, Low uint64 }

// AddressOf is a as an Address.
func AddressOf(a netip.Addr) Address {
	b := a.As16()
	return Address{binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:])}
}

// FromWords is the address that two words of a flow's context have: IPv6, or IPv4 in the
// low 32 bits.
func FromWords(high, low uint64) Address {
	if high == 0 && low>>32 == 0 && low != 0 {
		low |= 0xffff << 32
	}
	return Address{high, low}
}

// Words undoes FromWords.
func (a Address) Words() (high, low uint64) {
	if a.High == 0 && a.Low>>32 == 0xffff {
		return 0, uint64(uint32(a.Low))
	}
	return a.High, a.Low
}

// Addr is a as a netip.Addr. It is invalid if no end of a tunnel can have it.
func (a Address) Addr() netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], a.High)
	binary.BigEndian.PutUint64(b[8:], a.Low)
	if addr := netip.AddrFrom16(b).Unmap(); isEnd(addr) {
		return addr
	}
	return netip.Addr{}
}

// mapped is an IPv4 address in an Address.
func mapped(b []byte) Address {
	return Address{Low: 0xffff<<32 | uint64(binary.BigEndian.Uint32(b))}
}

// An Outer is what the outer headers of a frame say.
type Outer struct {
	Src, Dst Address
	Port     uint16 // UDP destination
	Len      uint16 // of all headers together
	End      uint32 // end of the inner frame: what is behind it in the outer frame is padding
	Word     uint64 // tunnel word
	Sum      bool   // there is a UDP checksum
	TOS      uint8
	l4       uint16 // where UDP begins
}

// Key is the network identifier.
func (o *Outer) Key() uint32 { return uint32(o.Word >> keyShift) }

// To reads where a frame goes that begins with head, if it is UDP over IP without a
// tag, and reports whether it is the first fragment of a packet.
func (o *Outer) To(head []byte) (fragment, ok bool) {
	if len(head) < etherLen+ip4Len+udpLen {
		return false, false
	}
	ip := head[etherLen:]
	switch binary.BigEndian.Uint16(head[12:]) {
	case typeIPv4:
		size := int(ip[0]&15) * 4
		frag := binary.BigEndian.Uint16(ip[6:]) & 0x3fff
		if ip[0]>>4 != 4 || size < ip4Len || ip[9] != protoUDP || frag&0x1fff != 0 || len(ip) < size+udpLen {
			return false, false
		}
		o.Src, o.Dst, o.TOS, o.l4, fragment = mapped(ip[12:]), mapped(ip[16:]), ip[1], uint16(etherLen+size), frag != 0
	case typeIPv6:
		if ip[0]>>4 != 6 || ip[6] != protoUDP || len(ip) < ip6Len+udpLen {
			return false, false
		}
		o.Src = Address{binary.BigEndian.Uint64(ip[8:]), binary.BigEndian.Uint64(ip[16:])}
		o.Dst = Address{binary.BigEndian.Uint64(ip[24:]), binary.BigEndian.Uint64(ip[32:])}
		o.TOS, o.l4 = uint8(binary.BigEndian.Uint16(ip)>>4), etherLen+ip6Len
	default:
		return false, false
	}
	o.Port = binary.BigEndian.Uint16(head[o.l4+2:])
	return fragment, true
}

// Read reads the rest of the headers, behind To and of a kind. It returns why the
// frame is to be dropped, or ReasonNone.
func (o *Outer) Read(kind Kind, head []byte, length uint32) packet.Reason {
	if !o.lengths(head, length) {
		return packet.ReasonTunnelHeader
	}
	at := int(o.l4) + udpLen
	if len(head) < at+baseLen || uint32(at+baseLen) > o.End {
		return packet.ReasonTunnelHeader
	}
	t, n := head[at:], baseLen
	o.Word = uint64(binary.BigEndian.Uint32(t[4:])>>8) << keyShift
	if kind == VXLAN {
		if t[0] != vxlanFlags {
			return packet.ReasonTunnelHeader
		}
	} else {
		size := int(t[0]&0x3f) * 4
		if t[0]>>6 != 0 || t[1]&controlFlag != 0 || binary.BigEndian.Uint16(t[2:]) != typeBridge || len(t) < n+size || !o.options(t[n:n+size]) {
			return packet.ReasonTunnelHeader
		}
		n += size
	}
	o.Len = uint16(at + n)
	if o.End < uint32(o.Len)+packet.FrameMin {
		return packet.ReasonTunnelHeader
	}
	return packet.ReasonNone
}

// lengths checks the lengths of IP and UDP, and the IPv4 header's checksum.
func (o *Outer) lengths(head []byte, length uint32) bool {
	ip, udp := head[etherLen:], head[o.l4:]
	end := uint32(etherLen) + uint32(binary.BigEndian.Uint16(ip[2:]))
	if ip[0]>>4 == 4 {
		if fold(sumWords(ip[:o.l4-etherLen])) != 0xffff {
			return false
		}
	} else {
		end = uint32(o.l4) + uint32(binary.BigEndian.Uint16(ip[4:]))
	}
	o.End = uint32(o.l4) + uint32(binary.BigEndian.Uint16(udp[4:]))
	o.Sum = udp[6]|udp[7] != 0
	return end <= length && o.End <= end && o.End >= uint32(o.l4)+udpLen
}

// options reads Geneve options, and reports whether all may be carried on.
func (o *Outer) options(b []byte) bool {
	for len(b) > 0 {
		if len(b) < 4 {
			return false
		}
		class, kind, size := binary.BigEndian.Uint16(b), b[2], 4+int(b[3]&31)*4
		if size > len(b) {
			return false
		}
		switch {
		case class == ovnClass && kind == ovnType:
			if size != optionLen {
				return false
			}
			o.Word |= HasData<<flagsShift | uint64(binary.BigEndian.Uint32(b[4:]))
		case kind&criticalType != 0:
			return false
		}
		b = b[size:]
	}
	return true
}

// SumRight reports whether the UDP checksum of frame i is right. It reads the
// payload.
func (o *Outer) SumRight(b *packet.Batch, i int) bool {
	ip := b.Head(i)[etherLen:]
	n := o.End - uint32(o.l4)
	return fold(uint64(b.SumTo(i, int(o.l4), int(o.End)))+pseudo(ip, ip[0]>>4 == 4, n)) == 0xffff
}

// Congest gives an inner frame the congestion mark of its outer header (RFC 6040
// 4.2), and reports whether it can go on: its sender must be one that is told of
// congestion. The IPv4 checksum stays right.
func Congest(f []byte, tos uint8) bool {
	if tos&ecnMask != ecnCE || len(f) < etherLen {
		return true
	}
	at, kind := etherLen, binary.BigEndian.Uint16(f[12:])
	if (kind == typeVLAN || kind == typeQinQ) && len(f) >= etherLen+tagLen {
		at, kind = etherLen+tagLen, binary.BigEndian.Uint16(f[16:])
	}
	ip := f[at:]
	switch {
	case kind == typeIPv4 && len(ip) >= ip4Len:
		old := binary.BigEndian.Uint16(ip)
		ip[1] |= ecnCE
		sum := uint64(^binary.BigEndian.Uint16(ip[10:])) + uint64(^old) + uint64(binary.BigEndian.Uint16(ip)) // RFC 1624
		binary.BigEndian.PutUint16(ip[10:], ^fold(sum))
		return old&ecnMask != 0
	case kind == typeIPv6 && len(ip) >= ip6Len:
		old := ip[1]
		ip[1] |= ecnCE << 4
		return old>>4&ecnMask != 0
	}
	return true
}
