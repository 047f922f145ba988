// Package tunnel knows the outer headers of Geneve (RFC 8926) and VXLAN (RFC
// 7348) over UDP and IPv4 or IPv6: what a port is told ([Config]), headers made
// ready for a path ([Header]), and what those of a received frame say ([Outer]).
//
//	Ethernet 14 | IPv4 20, IPv6 40 | UDP 8 | VXLAN 8, Geneve 8 + options | inner frame
//
// It has no state and knows neither ports nor routes: package dataplane has both.
//
// # What is accepted
//
// IPv4 with options, IPv6 without extension headers, no tag; the caller's rules
// have taken tags off. Lengths must fit, with padding behind the datagram
// allowed; the IPv4 header checksum must be right, and so must UDP's, if there is
// one, which the caller sums with [Outer.Sum]: it alone needs the payload. IPv6 may
// have none (RFC 6935).
//
// VXLAN must have its flag I and no other: those of extensions change what other
// fields mean. Geneve must be of version 0 and carry Ethernet; control packets
// and critical options that are not known are refused, reserved bits ignored. The
// one option that is known is OVN's (class 0x0102, type 0x80): its 4 bytes are
// the data of a tunnel word.
//
// # Tunnel word
//
// What rules see of a tunnel is one word of the key (flowtable.WordTunnel): the
// network identifier in bits 40..63, flags in 32..39 ([HasData]), data in 0..31.
package tunnel
