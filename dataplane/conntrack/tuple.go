package conntrack

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// IP protocols that have more than addresses.
const (
	ProtoICMP   = 1
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoICMPv6 = 58
	ProtoSCTP   = 132
)

// An Addr is an IPv6 address, high half first, or an IPv4 address in the low
// 32 bits of the second word. These are the words of the flow table's key.
type Addr [2]uint64

// AddrOf returns a as Addr.
func AddrOf(a netip.Addr) Addr {
	if a.Is4() {
		b := a.As4()
		return Addr{1: uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return Addr{binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:])}
}

// IP returns a as the address of a family.
func (a Addr) IP(six bool) netip.Addr {
	if !six {
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(a[1]))))
	}
	return netip.AddrFrom16([16]byte(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, a[0]), a[1])))
}

// A Tuple is what one direction of a connection looks like. For ICMP queries
// SrcPort is the identifier and DstPort the type (high byte) and code; other
// protocols without ports have zeros.
type Tuple struct {
	Src, Dst         Addr
	SrcPort, DstPort uint16
	Proto            uint8
	Six              bool
}

// Inverse is the tuple of the other direction, if nothing is translated.
func (t Tuple) Inverse() Tuple {
	t.Src, t.Dst = t.Dst, t.Src
	if t.icmp() {
		t.DstPort = t.DstPort&0xff | uint16(answers(uint8(t.DstPort>>8), t.Six))<<8
	} else {
		t.SrcPort, t.DstPort = t.DstPort, t.SrcPort
	}
	return t
}

// icmp tells ICMP for either family.
func (t *Tuple) icmp() bool {
	if t.Six {
		return t.Proto == ProtoICMPv6
	}
	return t.Proto == ProtoICMP
}

// String shows a tuple as proto src:port>dst:port.
func (t Tuple) String() string {
	return fmt.Sprintf("%d %s:%d>%s:%d", t.Proto, t.Src.IP(t.Six), t.SrcPort, t.Dst.IP(t.Six), t.DstPort)
}

// queries are the ICMP types that ask, with those that answer them: echo,
// timestamp, information and mask (RFC 792, RFC 950), echo and node information
// (RFC 4443, RFC 4620).
var (
	queries4 = [...][2]uint8{{8, 0}, {13, 14}, {15, 16}, {17, 18}}
	queries6 = [...][2]uint8{{128, 129}, {139, 140}}
)

// answers returns the ICMP type that goes the other way: the answer to a query,
// the query of an answer, and any other type itself.
func answers(kind uint8, six bool) uint8 {
	list := queries4[:]
	if six {
		list = queries6[:]
	}
	for _, q := range list {
		switch kind {
		case q[0]:
			return q[1]
		case q[1]:
			return q[0]
		}
	}
	return kind
}

// asks reports whether an ICMP type is a query.
func asks(kind uint8, six bool) bool {
	list := queries4[:]
	if six {
		list = queries6[:]
	}
	for _, q := range list {
		if kind == q[0] {
			return true
		}
	}
	return false
}

// A key is a tuple in a zone, as words: source, destination, and source port
// (48..63), destination port (32..47), zone (16..31), protocol (8..15), IPv6 (0).
type key [5]uint64

// key packs a tuple.
func (t *Tuple) key(zone uint16) key {
	k := key{t.Src[0], t.Src[1], t.Dst[0], t.Dst[1],
		uint64(t.SrcPort)<<48 | uint64(t.DstPort)<<32 | uint64(zone)<<16 | uint64(t.Proto)<<8}
	if t.Six {
		k[4] |= 1
	}
	return k
}

// tuple unpacks a key.
func (k *key) tuple() Tuple {
	return Tuple{Src: Addr{k[0], k[1]}, Dst: Addr{k[2], k[3]}, SrcPort: uint16(k[4] >> 48), DstPort: uint16(k[4] >> 32), Proto: k.proto(), Six: k[4]&1 != 0}
}

// inverse writes the key of the other direction, of TCP or UDP that nobody translates.
func (k *key) inverse(to *key) {
	to[0], to[1], to[2], to[3], to[4] = k[2], k[3], k[0], k[1], k.inverseLast()
}

// inverseLast is the last word of inverse.
func (k *key) inverseLast() uint64 { return k[4]>>48<<32 | k[4]>>32<<48 | k[4]&0xffffffff }

// same compares without a call, which the comparison of arrays is.
func (k *key) same(o *key) bool {
	return k[0]^o[0]|k[1]^o[1]|k[2]^o[2]|k[3]^o[3]|k[4]^o[4] == 0
}

func (k *key) zone() uint16 { return uint16(k[4] >> 16) }
func (k *key) proto() uint8 { return uint8(k[4] >> 8) }
