package netstack

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// sumsRight reports whether the checksums of a packet that nobody vouches for are
// right: of the IPv4 header, and of TCP and UDP right behind it. What it cannot judge, a
// fragment or headers that make no sense, passes: the stack drops what it
// does not understand, and ICMP it checks itself.
func sumsRight(protocol tcpip.NetworkProtocolNumber, b []byte) bool {
	switch protocol {
	case header.IPv4ProtocolNumber:
		return sumsRight4(b)
	case header.IPv6ProtocolNumber:
		return sumsRight6(b)
	}
	return true
}

func sumsRight4(b []byte) bool {
	ip := header.IPv4(b)
	if !ip.IsValid(len(b)) {
		return true
	}
	if !ip.IsChecksumValid() {
		return false
	}
	if ip.More() || ip.FragmentOffset() != 0 {
		return true
	}
	return transportRight(ip.TransportProtocol(), ip.SourceAddress(), ip.DestinationAddress(), ip.Payload())
}

func sumsRight6(b []byte) bool {
	ip := header.IPv6(b)
	if !ip.IsValid(len(b)) {
		return true
	}
	return transportRight(ip.TransportProtocol(), ip.SourceAddress(), ip.DestinationAddress(), ip.Payload()) //nolint:staticcheck // behind extension headers nothing is judged
}

// transportRight judges TCP or UDP.
func transportRight(protocol tcpip.TransportProtocolNumber, from, to tcpip.Address, b []byte) bool {
	switch {
	case protocol == header.TCPProtocolNumber:
	case protocol != header.UDPProtocolNumber:
		return true
	case len(b) >= header.UDPMinimumSize && header.UDP(b).Checksum() == 0 && from.BitLen() == 32:
		return true // there is none (RFC 768)
	}
	return checksum.Checksum(b, header.PseudoHeaderChecksum(protocol, from, to, uint16(len(b)))) == 0xffff
}
