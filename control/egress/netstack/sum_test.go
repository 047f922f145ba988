package netstack

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// TestSums has checksums of another implementation judged, and each bit of them
// turned round.
func TestSums(t *testing.T) {
	for name, b := range packets(t) {
		protocol := header.IPv4ProtocolNumber
		if b[0]>>4 == 6 {
			protocol = header.IPv6ProtocolNumber
		}
		if !sumsRight(protocol, b) {
			t.Errorf("%s: taken for wrong", name)
		}
		first := 8 // of the addresses, behind lengths and protocol
		if protocol == header.IPv4ProtocolNumber {
			first = 12
		}
		for i := 8 * first; i < 8*len(b); i++ {
			b[i/8] ^= 1 << (i % 8)
			if sumsRight(protocol, b) && !(name == "UDP over IPv4" && binary.BigEndian.Uint16(b[26:]) == 0) {
				t.Errorf("%s: bit %d is turned round, and nobody sees", name, i)
			}
			b[i/8] ^= 1 << (i % 8)
		}
		padded := append(append([]byte{}, b...), 1, 2, 3)
		if !sumsRight(protocol, padded) {
			t.Errorf("%s: padding is taken for payload", name)
		}
	}
	if !sumsRight(header.ARPProtocolNumber, []byte{1, 2, 3}) || !sumsRight(header.IPv4ProtocolNumber, nil) {
		t.Error("what has no checksum is taken for wrong")
	}
}

// packets makes one of each kind, of odd length.
func packets(t *testing.T) map[string][]byte {
	t.Helper()
	ip4 := &layers.IPv4{Version: 4, TTL: 64, SrcIP: netip.MustParseAddr("10.9.0.1").AsSlice(), DstIP: netip.MustParseAddr("10.9.0.2").AsSlice()}
	ip6 := &layers.IPv6{Version: 6, HopLimit: 64, SrcIP: netip.MustParseAddr("fd09::1").AsSlice(), DstIP: netip.MustParseAddr("fd09::2").AsSlice()}
	made := map[string][]byte{}
	for name, l := range map[string][]gopacket.SerializableLayer{
		"TCP over IPv4": {ip4, &layers.TCP{SrcPort: 1, DstPort: 2, ACK: true}},
		"UDP over IPv4": {ip4, &layers.UDP{SrcPort: 1, DstPort: 2}},
		"TCP over IPv6": {ip6, &layers.TCP{SrcPort: 1, DstPort: 2, ACK: true}},
		"UDP over IPv6": {ip6, &layers.UDP{SrcPort: 1, DstPort: 2}},
	} {
		net := l[0].(gopacket.NetworkLayer)
		switch tr := l[1].(type) {
		case *layers.TCP:
			ip4.Protocol, ip6.NextHeader = layers.IPProtocolTCP, layers.IPProtocolTCP
			_ = tr.SetNetworkLayerForChecksum(net)
		case *layers.UDP:
			ip4.Protocol, ip6.NextHeader = layers.IPProtocolUDP, layers.IPProtocolUDP
			_ = tr.SetNetworkLayerForChecksum(net)
		}
		buf := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, l[0], l[1], gopacket.Payload("seven b")); err != nil {
			t.Fatal(err)
		}
		made[name] = append([]byte{}, buf.Bytes()...)
	}
	return made
}
