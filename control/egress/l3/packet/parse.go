package packet

import (
	"encoding/binary"
	"net/netip"
)

// A Kind says what a packet is to those who decide where it may go.
type Kind uint8

// Kinds.
const (
	Ports       Kind = iota // of a protocol with ports: TCP, UDP, SCTP
	EchoRequest             // of ICMP or ICMPv6; Echo is its identifier
	EchoReply
	Error    // of ICMP or ICMPv6; it quotes a packet (see Quoted)
	Control  // other ICMP: of one link, or of no use
	Fragment // one that is not the first: nothing but addresses and ID are known
	Other    // of another protocol
)

// IP protocols.
const (
	icmp4, tcp, udp, icmp6, sctp = 1, 6, 17, 58, 132

	hopByHop, routing, fragment, destination, noNext = 0, 43, 44, 60, 59
)

// headers are the lengths of headers of protocols with ports.
var headers = [256]int{tcp: 20, udp: 8, sctp: 12}

// TCP is the IP protocol of that name.
const TCP = tcp

// An Info is what the headers of a packet say.
type Info struct {
	Src, Dst         netip.Addr
	Proto            uint8 // that follows the IP headers
	Kind             Kind
	First            bool   // of several fragments
	SrcPort, DstPort uint16 // of Ports
	Echo             uint16 // identifier of an echo
	ID               uint32 // of a fragmented packet
	at               int    // where Proto's header is
}

// Parse reads a packet. Bytes behind its end are ignored. It reports whether the
// packet may go further: it is whole, its addresses are those of two hosts, and no
// header of it asks routers to send it elsewhere.
func Parse(b []byte) (Info, bool) {
	p, b, ok := parse(b, true)
	if !ok || !host(p.Src) || !host(p.Dst) {
		return p, false
	}
	return p, p.transport(b, true)
}

// Quoted reads the packet that an ICMP error b quotes: who sent it is told that it
// did not arrive. Only its beginning need be there.
func (p *Info) Quoted(b []byte) (Info, bool) {
	const header = 8 // RFC 792, RFC 4443 2.1
	if p.Kind != Error || len(b) < p.at+header {
		return Info{}, false
	}
	q, inner, ok := parse(b[p.at+header:], false)
	return q, ok && q.transport(inner, false) && q.Kind != Error
}

// Size is the length of the packet at the beginning of b, by its header.
func Size(b []byte) int {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return int(binary.BigEndian.Uint16(b[2:]))
	case len(b) >= 40 && b[0]>>4 == 6:
		return 40 + int(binary.BigEndian.Uint16(b[4:]))
	}
	return 0
}

// Destination is the address that a packet, which is whole, goes to.
func Destination(b []byte) netip.Addr {
	if b[0]>>4 == 4 {
		return netip.AddrFrom4([4]byte(b[16:20]))
	}
	return netip.AddrFrom16([16]byte(b[24:40]))
}

// host reports whether an address is one host's, on some network.
func host(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.Is4In6() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// parse reads the IP headers, and returns the packet without what is behind it.
// whole says that all of it must be there.
func parse(b []byte, whole bool) (p Info, packet []byte, ok bool) {
	size := Size(b)
	if size == 0 || whole && size > len(b) {
		return p, nil, false
	}
	b = b[:min(size, len(b))]
	if b[0]>>4 == 4 {
		return p, b, p.parse4(b)
	}
	return p, b, p.parse6(b)
}

// parse4 reads an IPv4 header (RFC 791 3.1).
func (p *Info) parse4(b []byte) bool {
	p.at = int(b[0]&0xf) * 4
	if p.at < 20 || p.at > len(b) || sourceRouted(b[20:p.at]) {
		return false
	}
	p.Proto = b[9]
	p.Src, p.Dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	where := binary.BigEndian.Uint16(b[6:])
	p.fragmented(where&0x1fff != 0, where&0x2000 != 0, uint32(binary.BigEndian.Uint16(b[4:])))
	return true
}

// sourceRouted reports whether options hold a source route (RFC 791 3.1), or are
// not to be read.
func sourceRouted(options []byte) bool {
	for len(options) > 0 {
		switch options[0] {
		case 0: // end
			return false
		case 1: // none
			options = options[1:]
			continue
		case 131, 137: // loose and strict source route
			return true
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			return true
		}
		options = options[options[1]:]
	}
	return false
}

// parse6 reads an IPv6 header and those that extend it (RFC 8200 4).
func (p *Info) parse6(b []byte) bool {
	p.Src, p.Dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	p.Proto, p.at = b[6], 40
	for range 8 { // more headers have no honest use
		switch p.Proto {
		case hopByHop, destination:
			if len(b) < p.at+8 {
				return false
			}
			p.Proto, p.at = b[p.at], p.at+8+int(b[p.at+1])*8
		case fragment:
			if len(b) < p.at+8 {
				return false
			}
			where := binary.BigEndian.Uint16(b[p.at+2:])
			p.fragmented(where&0xfff8 != 0, where&1 != 0, binary.BigEndian.Uint32(b[p.at+4:]))
			p.Proto, p.at = b[p.at], p.at+8
			if p.Kind == Fragment {
				return true
			}
		case routing:
			return false
		default:
			return p.at <= len(b)
		}
	}
	return false
}

func (p *Info) fragmented(later, more bool, id uint32) {
	if later {
		p.Kind = Fragment
	}
	if p.First = !later && more; later || more {
		p.ID = id
	}
}

// transport reads what follows the IP headers. whole says that the header there
// must be: ports and flags in a fragment of their own have no honest use.
func (p *Info) transport(b []byte, whole bool) bool {
	if p.Kind == Fragment {
		return true
	}
	b = b[p.at:]
	switch p.Proto {
	case tcp, udp, sctp:
		if p.Kind = Ports; len(b) < 4 || whole && len(b) < headers[p.Proto] {
			return false
		}
		p.SrcPort, p.DstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	case icmp4, icmp6:
		if len(b) < 8 || (p.Proto == icmp4) != p.Src.Is4() {
			return false
		}
		p.Kind = kindOf(p.Proto, b[0])
		if p.Kind == EchoRequest || p.Kind == EchoReply {
			p.Echo = binary.BigEndian.Uint16(b[4:])
		}
	default:
		p.Kind = Other
	}
	return true
}

// kindOf is the kind of a type of ICMP (RFC 792) or ICMPv6 (RFC 4443).
func kindOf(proto, typ uint8) Kind {
	switch {
	case proto == icmp4 && typ == 8, proto == icmp6 && typ == 128:
		return EchoRequest
	case proto == icmp4 && typ == 0, proto == icmp6 && typ == 129:
		return EchoReply
	case proto == icmp4 && (typ == 3 || typ == 11 || typ == 12), proto == icmp6 && 1 <= typ && typ <= 4:
		return Error
	}
	return Control
}
