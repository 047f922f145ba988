package dataplane

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"millrace/dataplane/packet"
	"millrace/flowtable"
)

// A Source is a station that frames which come in by a port may be from (port security, as
// in ovn-nb(5)).
type Source struct {
	MAC       [6]byte
	Addresses []netip.Prefix // of its packets; none: any. With bits behind the prefix: that address, without: all
}

// equal reports whether two sources are the same.
func (s Source) equal(o Source) bool {
	return s.MAC == o.MAC && slices.Equal(s.Addresses, o.Addresses)
}

// Port security is two tables of a learning bridge, which frames of ports with sources
// pass between admit and check:
//
//	secure  Ethernet and IP source, and who has no address yet: DHCP, address detection
//	sender  sender fields of ARP and of neighbour discovery
//
// A source with addresses sends nothing but IP and ARP. What cannot be judged because
// headers go beyond those that are looked at is dropped, and so is a second tag: whoever
// receives the frame may look further.

// Fields of headers behind that of Ethernet.
var (
	fieldInPort = flowtable.Field{Name: "in_port", Word: flowtable.WordIn, Shift: 32, Width: 32}
	fieldType   = flowtable.Field{Name: "eth.type", Word: flowtable.WordIn, Width: 16}
	fieldProto  = flowtable.Field{Name: "ip.proto", Word: flowtable.WordSrc, Shift: 8, Width: 8}
	fieldIP4Src = flowtable.Field{Name: "ip4.src", Word: flowtable.WordIP4, Shift: 32, Width: 32}
	fieldIP4Dst = flowtable.Field{Name: "ip4.dst", Word: flowtable.WordIP4, Width: 32}
	fieldL4     = flowtable.Field{Name: "ports", Word: flowtable.WordL4, Shift: 32, Width: 32}
	fieldICMP   = flowtable.Field{Name: "icmp.type", Word: flowtable.WordL4, Shift: 48, Width: 8}
	fieldIP6Src = flowtable.Field{Name: "ip6.src", Word: flowtable.WordIP6Src, Width: 128}
	fieldIP6Dst = flowtable.Field{Name: "ip6.dst", Word: flowtable.WordIP6Dst, Width: 128}
	fieldSHA    = flowtable.Field{Name: "arp.sha", Word: flowtable.WordSHA, Width: 48}
	fieldTHA    = flowtable.Field{Name: "arp.tha", Word: flowtable.WordTHA, Width: 48}
	fieldTarget = flowtable.Field{Name: "nd.target", Word: flowtable.WordND, Width: 128}
)

// Values of these fields.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherQinQ = 0x88a8
	etherIPv6 = 0x86dd

	ipUDP    = 17
	ipICMPv6 = 58

	portsDHCP = 68<<16 | 67

	icmpMLD      = 131 // report
	icmpMLD2     = 143
	icmpSolicit  = 135 // neighbour solicitation
	icmpNeighbor = 136 // neighbour advertisement
)

// headers is what a rule wants of a frame's headers, by word of the key.
type headers [flowtable.KeyWords]struct{ value, mask uint64 }

// with is h with a field that must have a value.
func (h headers) with(f flowtable.Field, value uint64) headers {
	mask, _ := f.Bits()
	h[f.Word].value |= value << f.Shift
	h[f.Word].mask |= mask
	return h
}

// within is h with an address that must be in a prefix, or be the one that it names.
func (h headers) within(f flowtable.Field, p netip.Prefix) headers {
	bits := p.Bits()
	if p != p.Masked() {
		bits = p.Addr().BitLen()
	}
	if p.Addr().Is4() {
		a := p.Addr().As4()
		mask := ^uint64(0) << (32 - bits) & (1<<32 - 1)
		h[f.Word].value |= uint64(binary.BigEndian.Uint32(a[:])) & mask << f.Shift
		h[f.Word].mask |= mask << f.Shift
		return h
	}
	a := p.Addr().As16()
	for i, mask := range [2]uint64{^uint64(0) << max(0, 64-bits), ^uint64(0) << min(64, 128-bits)} {
		h[int(f.Word)+i].value |= binary.BigEndian.Uint64(a[8*i:]) & mask
		h[int(f.Word)+i].mask |= mask
	}
	return h
}

// match is h as rules have it.
func (h headers) match() (out []flowtable.Masked) {
	for word, m := range h {
		if m.mask != 0 {
			out = append(out, flowtable.Masked{Word: uint8(word), Value: m.value, Mask: m.mask})
		}
	}
	return out
}

// linkLocal is the address that a station gives itself (RFC 4291, appendix A).
func linkLocal(mac [6]byte) netip.Prefix {
	a := [16]byte{0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]}
	return netip.PrefixFrom(netip.AddrFrom16(a), 128)
}

var (
	unspecified4 = netip.PrefixFrom(netip.IPv4Unspecified(), 32)
	unspecified6 = netip.PrefixFrom(netip.IPv6Unspecified(), 128)
	onLink6      = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xff, 2}), 16)
)

// secure are the rules that a port's frames are from sources.
func (r *rulebook) secure(number uint32, sources []Source) {
	port := headers{}.with(fieldInPort, uint64(number))
	six := port.with(fieldType, etherIPv6)
	icmp := six.with(fieldProto, ipICMPv6)
	refuse := func(table uint8, priority uint16, h headers) {
		r.add(table, priority, h.match(), nil, dropFor(packet.ReasonPortSecurity))
	}
	refuse(tableSecure, 0, port)
	refuse(tableSecure, 100, port.with(fieldType, etherVLAN))
	refuse(tableSecure, 100, port.with(fieldType, etherQinQ))
	for _, header := range []uint64{0, 43, 51, 60} { // of extension, and what is behind is not read
		refuse(tableSecure, 100, six.with(fieldProto, header))
	}
	refuse(tableSecure, 100, icmp.with(fieldICMP, 0)) // the same: nobody has this type
	refuse(tableSender, 50, port.with(fieldType, etherARP))
	refuse(tableSender, 50, icmp.with(fieldICMP, icmpSolicit))
	refuse(tableSender, 50, icmp.with(fieldICMP, icmpNeighbor))
	r.add(tableSender, 0, port.match(), nil, next(tableCheck))
	for _, s := range sources {
		from := port.with(fieldSrc, stationOf(s.MAC))
		r.secureIP(from, s)
		r.secureARP(from, s)
		r.secureND(from, s)
	}
}

// stationOf is an address as fields have it.
func stationOf(mac [6]byte) uint64 {
	return uint64(binary.BigEndian.Uint16(mac[:]))<<32 | uint64(binary.BigEndian.Uint32(mac[2:]))
}

// families are the addresses of a source by family, and whether it may have any.
func (s *Source) families() (v4, v6 []netip.Prefix, all bool) {
	for _, a := range s.Addresses {
		if a.Addr().Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	if len(v6) > 0 {
		v6 = append(v6, linkLocal(s.MAC))
	}
	return v4, v6, len(s.Addresses) == 0
}

// secureIP lets pass the packets of a source.
func (r *rulebook) secureIP(from headers, s Source) {
	v4, v6, all := s.families()
	pass := func(h headers, to uint8) { r.add(tableSecure, 90, h.match(), nil, next(to)) }
	if all {
		pass(from, tableSender)
		return
	}
	four, six := from.with(fieldType, etherIPv4), from.with(fieldType, etherIPv6)
	for _, a := range v4 {
		pass(four.within(fieldIP4Src, a), tableCheck)
	}
	if len(v4) > 0 {
		pass(four.with(fieldIP4Src, 0).with(fieldIP4Dst, 1<<32-1).with(fieldProto, ipUDP).with(fieldL4, portsDHCP), tableCheck)
	}
	for _, a := range v6 {
		pass(six.within(fieldIP6Src, a), tableSender)
	}
	if len(v6) == 0 {
		return
	}
	nobody := six.within(fieldIP6Src, unspecified6).within(fieldIP6Dst, onLink6).with(fieldProto, ipICMPv6)
	pass(nobody.with(fieldICMP, icmpMLD), tableCheck)
	pass(nobody.with(fieldICMP, icmpMLD2), tableCheck)
	pass(nobody.with(fieldICMP, icmpSolicit), tableSender)
}

// secureARP lets pass ARP of a source: with an address of its own, or with none, which is
// how one looks whether somebody has it (RFC 5227 2.1.1).
func (r *rulebook) secureARP(from headers, s Source) {
	v4, _, all := s.families()
	arp := from.with(fieldType, etherARP)
	if !all {
		r.add(tableSecure, 90, arp.match(), nil, next(tableSender))
	}
	own := arp.with(fieldSHA, stationOf(s.MAC))
	if all {
		r.add(tableSender, 90, own.match(), nil, next(tableCheck))
		return
	}
	for _, a := range append(v4, unspecified4) {
		r.add(tableSender, 90, own.within(fieldIP4Src, a).match(), nil, next(tableCheck))
	}
}

// secureND lets pass neighbour messages of a source that are whole: an option may be
// missing, but the target is there.
func (r *rulebook) secureND(from headers, s Source) {
	_, v6, all := s.families()
	icmp := from.with(fieldType, etherIPv6).with(fieldProto, ipICMPv6)
	whole := []flowtable.Pred{{Kind: flowtable.NotEqual, Field: fieldTarget, Mask: ^uint64(0), MaskLow: ^uint64(0)}}
	for _, mac := range []uint64{0, stationOf(s.MAC)} {
		r.add(tableSender, 90, icmp.with(fieldICMP, icmpSolicit).with(fieldSHA, mac).match(), whole, next(tableCheck))
		tell := icmp.with(fieldICMP, icmpNeighbor).with(fieldTHA, mac)
		if all {
			r.add(tableSender, 90, tell.match(), whole, next(tableCheck))
		}
		for _, a := range v6 {
			r.add(tableSender, 90, tell.within(fieldTarget, a).match(), nil, next(tableCheck))
		}
	}
}
