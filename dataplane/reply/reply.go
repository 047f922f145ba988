package reply

import (
	"encoding/binary"

	"millrace/dataplane/parse"
	"millrace/flowtable"
)

// Lengths in bytes.
const (
	addrLen  = 6
	etherLen = 14
	tagLen   = 4
	ip4Len   = 20
	ip6Len   = 40
	icmpLen  = 8
	tcpLen   = 20
	sctpLen  = 12
	chunkLen = 4

	icmp4Max = 576  // an IPv4 packet that any host takes (RFC 791 3.1)
	icmp6Max = 1280 // an IPv6 packet that any link takes (RFC 8200 5)

	// Max is the longest frame that Make makes.
	Max = etherLen + tagLen + icmp6Max
	// Quoted is how many bytes of a frame, from its start, Make looks at.
	Quoted = Max
)

// Ethernet types, and IP protocols.
const (
	typeIPv4 = 0x0800
	typeIPv6 = 0x86dd

	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
	protoSCTP   = 132
)

// An Order is what is to be made.
type Order struct {
	Kind   uint8  // flowtable.ReplyICMP4 and its kin
	Turned bool   // addresses are exchanged
	MTU    uint32 // in an ICMP error
}

// A maker has one reply in hand.
type maker struct {
	Order
	frame []byte // that is answered, as far as it is there
	l     parse.Layout
	out   []byte
	six   bool
	l3    int // of out
}

// Make writes the reply to a frame into dst, which has room for Max bytes, and returns its length,
// or 0 if there is none to such a frame. frame is its beginning, length what it has in all.
func Make(dst, frame []byte, length uint32, o Order) int {
	var m maker
	m.Order, m.frame, m.out = o, frame, dst[:0]
	m.l.Find(frame, length)
	if m.l.End < uint32(len(frame)) {
		m.frame = frame[:m.l.End] // without padding
	}
	if m.six = m.l.Type == typeIPv6; !m.can() {
		return 0
	}
	m.ether()
	switch o.Kind {
	case flowtable.ReplyTCP:
		m.reset()
	case flowtable.ReplySCTP:
		if !m.abort() {
			return 0
		}
	default:
		m.icmp()
	}
	return len(m.out)
}

// can reports whether the frame has the headers that the reply is made of.
func (m *maker) can() bool {
	l := &m.l
	if l.L3 == 0 || l.Frag&2 != 0 || !m.six && l.Type != typeIPv4 {
		return false
	}
	switch m.Kind {
	case flowtable.ReplyICMP4, flowtable.ReplyICMP4Error:
		return !m.six
	case flowtable.ReplyICMP6, flowtable.ReplyICMP6Error:
		return m.six
	case flowtable.ReplyTCP:
		return l.Proto == protoTCP && l.L4 != 0 && l.Frag == 0 && m.dataOffset() >= tcpLen && uint32(l.L4)+m.dataOffset() <= l.End
	case flowtable.ReplySCTP:
		return l.Proto == protoSCTP && l.L4 != 0 && l.Frag == 0
	}
	return false
}

// dataOffset is the length of the frame's TCP header.
func (m *maker) dataOffset() uint32 { return uint32(m.frame[m.l.L4+12]>>4) * 4 }

// Length is how long the reply to a frame of a layout is, with all that it may quote.
func (o Order) Length(l *parse.Layout) uint32 {
	head, most := uint32(etherLen+ip4Len), uint32(icmp4Max)
	if l.Type == typeIPv6 {
		head, most = etherLen+ip6Len, icmp6Max
	}
	if l.Tag != 0 {
		head += tagLen
	}
	switch o.Kind {
	case flowtable.ReplyTCP:
		return head + tcpLen
	case flowtable.ReplySCTP:
		return head + sctpLen + chunkLen
	}
	return min(head+icmpLen+l.End-uint32(l.L3), head-ipLen(l.Type == typeIPv6)+most)
}

// ipLen is the length of an IP header of ours.
func ipLen(six bool) uint32 {
	if six {
		return ip6Len
	}
	return ip4Len
}

// ether writes the Ethernet header: that of the packet, with the tag that rules see. A length and
// SNAP become a type.
func (m *maker) ether() {
	dst, src := m.frame[:addrLen], m.frame[addrLen:2*addrLen]
	if m.Turned {
		dst, src = src, dst
	}
	m.out = append(append(m.out, dst...), src...)
	if m.l.Tag != 0 {
		m.out = append(m.out, m.frame[m.l.Tag:m.l.Tag+tagLen]...)
	}
	m.out = binary.BigEndian.AppendUint16(m.out, m.l.Type)
	m.l3 = len(m.out)
}

// ip writes the IP header of a reply whose payload has n bytes.
func (m *maker) ip(proto, hops uint8, n int) {
	ip := m.frame[m.l.L3:]
	if m.six {
		class := binary.BigEndian.Uint32(ip) >> 22 & 0x3f << 22 // differentiated services
		m.out = binary.BigEndian.AppendUint32(m.out, 6<<28|class)
		m.out = binary.BigEndian.AppendUint16(m.out, uint16(n))
		m.out = append(m.out, proto, hops)
		m.addresses(ip[8:24], ip[24:40])
		return
	}
	m.out = append(m.out, 0x45, ip[1]&^3)
	m.out = binary.BigEndian.AppendUint16(m.out, uint16(ip4Len+n))
	m.out = append(m.out, 0, 0, 0x40, 0, hops, proto, 0, 0) // not to be fragmented, so without an identification (RFC 6864 4.1)
	m.addresses(ip[12:16], ip[16:20])
	binary.BigEndian.PutUint16(m.out[m.l3+10:], fold(sum(0, m.out[m.l3:])))
}

// addresses writes the addresses.
func (m *maker) addresses(src, dst []byte) {
	if m.Turned {
		src, dst = dst, src
	}
	m.out = append(append(m.out, src...), dst...)
}

// seal computes the checksum of the payload, which begins at l4, at offset at in it. With
// pseudo, it covers the addresses (RFC 9293 3.1, RFC 8200 8.1).
func (m *maker) seal(l4, at int, proto uint8, pseudo bool) {
	s, n := uint32(0), len(m.out)-l4
	if pseudo {
		addresses := m.out[m.l3+12 : m.l3+20]
		if m.six {
			addresses = m.out[m.l3+8 : m.l3+40]
		}
		s = sum(uint32(proto)+uint32(n), addresses)
	}
	binary.BigEndian.PutUint16(m.out[l4+at:], fold(sum(s, m.out[l4:])))
}

// icmp writes an ICMP error. What is nested may give it another type and code.
func (m *maker) icmp() {
	proto, most := uint8(protoICMP), icmp4Max-ip4Len-icmpLen
	if m.six {
		proto, most = protoICMPv6, icmp6Max-ip6Len-icmpLen
	}
	quote := m.frame[m.l.L3:]
	quote = quote[:min(len(quote), most)]
	m.ip(proto, flowtable.ReplyTTLICMP, icmpLen+len(quote))
	l4 := len(m.out)
	kind, code := m.unreachable()
	m.out = append(m.out, kind, code, 0, 0)
	m.out = binary.BigEndian.AppendUint32(m.out, m.MTU) // of IPv4, the lower half (RFC 1191 4)
	m.out = append(m.out, quote...)
	m.seal(l4, 2, proto, m.six)
}

// unreachable is why the packet cannot be delivered, in ICMP's numbers: RFC 792, RFC 4443
// 3.1. UDP learns that nobody is at its port.
func (m *maker) unreachable() (kind, code uint8) {
	udp := m.l.Proto == protoUDP
	switch {
	case m.Kind == flowtable.ReplyICMP4 && udp:
		return 3, 3
	case !m.six:
		return 3, 1
	case m.Kind == flowtable.ReplyICMP6 && udp:
		return 1, 4
	}
	return 1, 1
}

// TCP flags.
const (
	tcpFIN = 1
	tcpSYN = 1 << 1
	tcpRST = 1 << 2
	tcpACK = 1 << 4
)

// reset writes what a host sends that has no such connection (RFC 9293 3.10.7.1): with the
// sequence number that the other end expects, or, if it has said none, an acknowledgement of its segment.
func (m *maker) reset() {
	l, tcp := &m.l, m.frame[m.l.L4:]
	flags := tcp[13]
	seq, ack, set := binary.BigEndian.Uint32(tcp[8:]), uint32(0), uint8(tcpRST)
	if flags&tcpACK == 0 {
		data := l.End - uint32(l.L4) - m.dataOffset()
		if flags&tcpSYN != 0 {
			data++
		}
		if flags&tcpFIN != 0 {
			data++
		}
		seq, ack, set = 0, binary.BigEndian.Uint32(tcp[4:])+data, tcpRST|tcpACK
	}
	m.ip(protoTCP, flowtable.ReplyTTL, tcpLen)
	l4 := len(m.out)
	m.out = append(append(m.out, tcp[2:4]...), tcp[:2]...)
	m.out = binary.BigEndian.AppendUint32(m.out, seq)
	m.out = binary.BigEndian.AppendUint32(m.out, ack)
	m.out = append(m.out, tcpLen/4<<4, set, 0, 0, 0, 0, 0, 0)
	m.seal(l4, 16, protoTCP, true)
}
