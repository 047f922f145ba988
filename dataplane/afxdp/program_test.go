package afxdp

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"millrace/dataplane/netnstest"
)

// TestObjectIsCurrent: the committed object is of the source beside it.
func TestObjectIsCurrent(t *testing.T) {
	source, err := os.ReadFile("bpf/steer.c")
	if err != nil {
		t.Fatal(err)
	}
	built, err := os.ReadFile("bpf/built")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(source)
	if want, _, _ := strings.Cut(string(built), "\n"); hex.EncodeToString(sum[:]) != want {
		t.Error("bpf/steer.c has changed: run go generate ./dataplane/afxdp (needs clang llvm libbpf-dev)")
	}
}

// Frames of the tests of steering.
const (
	hostIP4, hostIP6   = "10.9.0.100", "fd09::100"
	otherIP4, otherIP6 = "10.9.0.2", "fd09::2"
)

// frame builds a frame of layers, padded to 60 bytes.
func frame(t *testing.T, stack ...gopacket.SerializableLayer) []byte {
	t.Helper()
	out := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(out, gopacket.SerializeOptions{FixLengths: true}, stack...); err != nil {
		t.Fatal(err)
	}
	f := out.Bytes()
	for len(f) < 60 {
		f = append(f, 0)
	}
	return f
}

func ether(kind layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, EthernetType: kind}
}

func vlanTag(id uint16, kind layers.EthernetType) *layers.Dot1Q {
	return &layers.Dot1Q{VLANIdentifier: id, Type: kind}
}

func ip4(dst string, proto layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: proto, SrcIP: net.IP{10, 9, 0, 1}, DstIP: net.ParseIP(dst).To4()}
}

func ip6(dst string, proto layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: net.ParseIP("fd09::1"), DstIP: net.ParseIP(dst)}
}

func udpTo(port int) *layers.UDP {
	return &layers.UDP{SrcPort: 1000, DstPort: layers.UDPPort(port), Length: 8}
}

func arpFor(dst string) *layers.ARP {
	return &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPRequest,
		SourceHwAddress: make([]byte, 6), SourceProtAddress: []byte{10, 9, 0, 1}, DstHwAddress: make([]byte, 6), DstProtAddress: net.ParseIP(dst).To4(),
	}
}

// solicit asks who has an IPv6 address.
func solicit(dst string) gopacket.SerializableLayer {
	return gopacket.Payload(append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, net.ParseIP(dst)...))
}

// TestSteer gives the program frames, and finds each with the port or with the
// kernel as the selection says.
func TestSteer(t *testing.T) {
	netnstest.Need(t)
	needXDP(t)
	netnstest.NewPod(t, "pa", 1)
	d, err := look("pa")
	if err != nil {
		t.Fatal(err)
	}
	s, err := openSocket(d.index, 0, binding{multi: true, needWakeup: true}, chunkSmall, func(*socket, error) {})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	eth4, eth6, q := layers.EthernetTypeIPv4, layers.EthernetTypeIPv6, layers.EthernetTypeDot1Q
	udp, tcp, icmp6 := layers.IPProtocolUDP, layers.IPProtocolTCP, layers.IPProtocolICMPv6
	withOptions := ip4(otherIP4, udp)
	withOptions.Options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 1}}
	fragment := ip4(otherIP4, udp)
	fragment.FragOffset = 100
	none, macs := Selection{}, Selection{MACs: [][6]byte{{2, 0, 0, 0, 0, 2}, {2, 0, 0, 0, 0, 9}}}
	vlans, ports := Selection{VLANs: []uint16{7, 64, 4094}}, Selection{Ports: []uint16{4789, 6081, 65535}}
	both := Selection{VLANs: []uint16{0}, Ports: []uint16{6081}}
	for _, tt := range []struct {
		name  string
		sel   Selection
		frame []byte
		ours  bool
	}{
		{"to another host", none, frame(t, ether(eth4), ip4(otherIP4, tcp)), true},
		{"to the host", none, frame(t, ether(eth4), ip4(hostIP4, tcp)), false},
		{"to the host, in a VLAN", none, frame(t, ether(q), vlanTag(7, eth4), ip4(hostIP4, tcp)), false},
		{"to the host, in two VLANs", none, frame(t, ether(q), vlanTag(7, q), vlanTag(8, eth4), ip4(hostIP4, tcp)), false},
		{"to the host, IPv6", none, frame(t, ether(eth6), ip6(hostIP6, tcp)), false},
		{"to another host, IPv6", none, frame(t, ether(eth6), ip6(otherIP6, tcp)), true},
		{"ARP for the host", none, frame(t, ether(layers.EthernetTypeARP), arpFor(hostIP4)), false},
		{"ARP for another host", none, frame(t, ether(layers.EthernetTypeARP), arpFor(otherIP4)), true},
		{"ND for the host", none, frame(t, ether(eth6), ip6("ff02::1:ff00:100", icmp6), solicit(hostIP6)), false},
		{"ND for another host", none, frame(t, ether(eth6), ip6("ff02::1:ff00:2", icmp6), solicit(otherIP6)), true},
		{"no IP", none, frame(t, ether(0x88b5)), true},
		{"address", macs, frame(t, ether(eth4), ip4(hostIP4, tcp)), true},
		{"another address", Selection{MACs: macs.MACs[1:]}, frame(t, ether(eth4), ip4(otherIP4, tcp)), false},
		{"VLAN", vlans, frame(t, ether(q), vlanTag(7, eth4), ip4(hostIP4, tcp)), true},
		{"last VLAN", vlans, frame(t, ether(q), vlanTag(4094, eth4)), true},
		{"VLAN of the second word", vlans, frame(t, ether(q), vlanTag(64, eth4)), true},
		{"another VLAN", vlans, frame(t, ether(q), vlanTag(8, eth4)), false},
		{"inner VLAN", vlans, frame(t, ether(q), vlanTag(8, q), vlanTag(7, eth4)), false},
		{"no VLAN", vlans, frame(t, ether(eth4), ip4(otherIP4, tcp)), false},
		{"port", ports, frame(t, ether(eth4), ip4(hostIP4, udp), udpTo(6081)), true},
		{"port, in a VLAN", ports, frame(t, ether(q), vlanTag(9, eth4), ip4(hostIP4, udp), udpTo(4789)), true},
		{"port, IPv6", ports, frame(t, ether(eth6), ip6(hostIP6, udp), udpTo(65535)), true},
		{"port behind options", ports, frame(t, ether(eth4), withOptions, udpTo(6081)), true},
		{"another port", ports, frame(t, ether(eth4), ip4(hostIP4, udp), udpTo(6082)), false},
		{"port of TCP", ports, frame(t, ether(eth4), ip4(hostIP4, tcp), udpTo(6081)), false},
		{"a later fragment", ports, frame(t, ether(eth4), fragment, udpTo(6081)), false},
		{"either: port", both, frame(t, ether(q), vlanTag(7, eth4), ip4(hostIP4, udp), udpTo(6081)), true},
		{"either: VLAN", both, frame(t, ether(eth4), ip4(hostIP4, tcp)), true},
		{"neither", both, frame(t, ether(q), vlanTag(7, eth4), ip4(hostIP4, udp), udpTo(53)), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			prog, err := loadProgram(d.index, &tt.sel, false, true, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer prog.close()
			if err := prog.steer(s); err != nil {
				t.Fatal(err)
			}
			hosts := map[netip.Addr]struct{}{netip.MustParseAddr(hostIP4): {}, netip.MustParseAddr(hostIP6): {}}
			if err := prog.setHosts(hosts); err != nil {
				t.Fatal(err)
			}
			const pass, redirect = 2, 4
			got, _, err := prog.main().Test(tt.frame)
			if err != nil {
				t.Skipf("needs test runs of programs: %v", err)
			}
			want := map[bool]uint32{true: redirect, false: pass}[tt.ours]
			if got != want {
				t.Errorf("action %d, want %d", got, want)
			}
			n, err := prog.counts(0)
			if err != nil || n.Steered+n.Passed != 1 || (n.Steered == 1) != tt.ours {
				t.Errorf("counts %+v (%v)", n, err)
			}
		})
	}
}

// counts are what became of a queue's frames (struct count).
type counts struct{ Steered, Passed, Lost uint64 }

// counts are what became of the frames of queue q.
func (p *program) counts(q uint32) (sum counts, err error) {
	var each []counts
	if err := p.objs.Maps["counts"].Lookup(q, &each); err != nil {
		return sum, fmt.Errorf("read counters of queue %d: %w", q, err)
	}
	for _, c := range each {
		sum.Steered += c.Steered
		sum.Passed += c.Passed
		sum.Lost += c.Lost
	}
	return sum, nil
}
