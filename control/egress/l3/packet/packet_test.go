package packet

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/ip4defrag"
	"github.com/google/gopacket/layers"
)

var (
	a4, b4 = netip.MustParseAddr("10.99.0.50"), netip.MustParseAddr("10.9.0.1")
	a6, b6 = netip.MustParseAddr("fd99::50"), netip.MustParseAddr("fd09::1")
)

// build has gopacket write a packet from a to b.
func build(t testing.TB, from, to netip.Addr, proto layers.IPProtocol, more ...gopacket.SerializableLayer) []byte {
	t.Helper()
	var ip gopacket.SerializableLayer
	if from.Is4() {
		ip = &layers.IPv4{Version: 4, IHL: 5, TTL: 9, Protocol: proto, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
	} else {
		ip = &layers.IPv6{Version: 6, HopLimit: 9, NextHeader: proto, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
	}
	for _, l := range more {
		if l, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := l.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer)); err != nil {
				t.Fatal(err)
			}
		}
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append([]gopacket.SerializableLayer{ip}, more...)...); err != nil {
		t.Fatal(err)
	}
	return slices.Clone(buf.Bytes())
}

func TestParse(t *testing.T) {
	payload := gopacket.Payload("hello")
	tcp4 := build(t, a4, b4, layers.IPProtocolTCP, &layers.TCP{SrcPort: 1000, DstPort: 80}, payload)
	first := slices.Clone(tcp4)
	first[6], first[4], first[5] = 0x20, 1, 2
	later := slices.Clone(first)
	later[6], later[7] = 0, 3
	options := slices.Concat([]byte{0x46}, tcp4[1:20], []byte{1, 1, 1, 0}, tcp4[20:])
	options[3] += 4
	routed := slices.Clone(options)
	copy(routed[20:], []byte{137, 3, 4, 0})
	hop := build(t, a6, b6, layers.IPProtocolIPv6HopByHop, gopacket.Payload([]byte{60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0, 0, 5, 0, 6, 0, 8, 0, 0}))
	frag6 := build(t, a6, b6, layers.IPProtocolIPv6Fragment, gopacket.Payload([]byte{17, 0, 0, 1, 0, 0, 0, 7, 0, 5, 0, 6, 0, 8, 0, 0}))
	later6 := slices.Clone(frag6)
	later6[42], later6[43] = 0, 8
	route6 := build(t, a6, b6, layers.IPProtocolIPv6Routing, gopacket.Payload(make([]byte, 24)))
	for _, tt := range []struct {
		name string
		b    []byte
		ok   bool
		want Info
	}{
		{"TCP", tcp4, true, Info{Src: a4, Dst: b4, Proto: tcp, SrcPort: 1000, DstPort: 80, at: 20}},
		{"with bytes behind", append(slices.Clone(tcp4), 1, 2, 3), true, Info{Src: a4, Dst: b4, Proto: tcp, SrcPort: 1000, DstPort: 80, at: 20}},
		{"UDP of IPv6", build(t, a6, b6, layers.IPProtocolUDP, &layers.UDP{SrcPort: 1, DstPort: 53}, payload), true, Info{Src: a6, Dst: b6, Proto: udp, SrcPort: 1, DstPort: 53, at: 40}},
		{"SCTP", build(t, a4, b4, layers.IPProtocolSCTP, &layers.SCTP{SrcPort: 2, DstPort: 38412}, payload), true, Info{Src: a4, Dst: b4, Proto: sctp, SrcPort: 2, DstPort: 38412, at: 20}},
		{"another protocol", build(t, a4, b4, layers.IPProtocolGRE, payload), true, Info{Src: a4, Dst: b4, Proto: 47, Kind: Other, at: 20}},
		{"options", options, true, Info{Src: a4, Dst: b4, Proto: tcp, SrcPort: 1000, DstPort: 80, at: 24}},
		{"first fragment", first, true, Info{Src: a4, Dst: b4, Proto: tcp, First: true, ID: 0x102, SrcPort: 1000, DstPort: 80, at: 20}},
		{"later fragment", later, true, Info{Src: a4, Dst: b4, Proto: tcp, Kind: Fragment, ID: 0x102, at: 20}},
		{"first fragment of IPv6", frag6, true, Info{Src: a6, Dst: b6, Proto: udp, First: true, ID: 7, SrcPort: 5, DstPort: 6, at: 48}},
		{"later fragment of IPv6", later6, true, Info{Src: a6, Dst: b6, Proto: udp, Kind: Fragment, ID: 7, at: 48}},
		{"echo", Echo(a4, b4, 77, 1), true, Info{Src: a4, Dst: b4, Proto: icmp4, Kind: EchoRequest, Echo: 77, at: 20}},
		{"echo of IPv6", Echo(a6, b6, 77, 1), true, Info{Src: a6, Dst: b6, Proto: icmp6, Kind: EchoRequest, Echo: 77, at: 40}},
		{"redirect", build(t, a4, b4, layers.IPProtocolICMPv4, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(5, 0)}), true, Info{Src: a4, Dst: b4, Proto: icmp4, Kind: Control, at: 20}},
		{"source route", routed, false, Info{}},
		{"routing header", route6, false, Info{}},
		{"hop-by-hop and destination options", hop, true, Info{Src: a6, Dst: b6, Proto: udp, SrcPort: 5, DstPort: 6, at: 56}},
		{"options longer than the packet", slices.Concat(hop[:41], []byte{200}, hop[42:]), false, Info{}},
		{"cut", tcp4[:30], false, Info{}},
		{"nothing", nil, false, Info{}},
		{"version 5", append([]byte{0x50}, tcp4[1:]...), false, Info{}},
		{"header too short", append([]byte{0x44}, tcp4[1:]...), false, Info{}},
		{"ICMPv6 in IPv4", build(t, a4, b4, layers.IPProtocolICMPv6, gopacket.Payload(make([]byte, 8))), false, Info{}},
		{"no ports", build(t, a4, b4, layers.IPProtocolTCP, gopacket.Payload([]byte{1, 2})), false, Info{}},
		{"half a TCP header", build(t, a4, b4, layers.IPProtocolTCP, gopacket.Payload(make([]byte, 10))), false, Info{}},
		{"to all", build(t, a4, netip.MustParseAddr("255.255.255.255"), layers.IPProtocolUDP, &layers.UDP{}), false, Info{}},
		{"from nobody", build(t, netip.IPv4Unspecified(), b4, layers.IPProtocolUDP, &layers.UDP{}), false, Info{}},
		{"to a group", build(t, a6, netip.MustParseAddr("ff02::1"), layers.IPProtocolUDP, &layers.UDP{}), false, Info{}},
		{"to a link", build(t, a6, netip.MustParseAddr("fe80::1"), layers.IPProtocolUDP, &layers.UDP{}), false, Info{}},
		{"IPv4 in IPv6 clothes", build(t, a6, netip.MustParseAddr("::ffff:10.0.0.1"), layers.IPProtocolUDP, &layers.UDP{}), false, Info{}},
		{"to loopback", build(t, a4, netip.MustParseAddr("127.0.0.1"), layers.IPProtocolUDP, &layers.UDP{}), false, Info{}},
	} {
		got, ok := Parse(tt.b)
		if ok != tt.ok || ok && got != tt.want {
			t.Errorf("%s: %+v, %v; want %+v, %v", tt.name, got, ok, tt.want, tt.ok)
		}
	}
}

// icmpSum checks the sums of a packet of ICMP.
func icmpSum(t *testing.T, b []byte) {
	t.Helper()
	sum := add(0, b[20:])
	if b[0]>>4 == 6 {
		sum = add(add(uint32(len(b)-40)+icmp6, b[8:40]), b[40:])
	} else if fold(add(0, b[:20])) != 0 {
		t.Errorf("the IPv4 header's sum of %x is wrong", b)
	}
	if fold(sum) != 0 {
		t.Errorf("the sum of %x is wrong", b)
	}
}

func TestAnswer(t *testing.T) {
	for _, ends := range [][2]netip.Addr{{a4, b4}, {a6, b6}} {
		b := Echo(ends[0], ends[1], 9, 500)
		icmpSum(t, b)
		p, _ := Parse(b)
		p.Answer(b)
		icmpSum(t, b)
		got, ok := Parse(b)
		if !ok || got.Kind != EchoReply || got.Src != ends[1] || got.Dst != ends[0] || got.Echo != 9 || got.Sequence(b) != 500 {
			t.Errorf("the answer is %+v, %v", got, ok)
		}
	}
}

// TestTooBig: gopacket reads what the error says, and it quotes the packet.
func TestTooBig(t *testing.T) {
	big := gopacket.Payload(make([]byte, 3000))
	for _, tt := range []struct {
		from, to, own netip.Addr
		typ           gopacket.LayerType
		most          int
	}{{a4, b4, netip.MustParseAddr("10.99.0.1"), layers.LayerTypeICMPv4, 576}, {a6, b6, netip.MustParseAddr("fd99::1"), layers.LayerTypeICMPv6, 1280}} {
		b := build(t, tt.from, tt.to, layers.IPProtocolUDP, &layers.UDP{SrcPort: 7, DstPort: 8}, big)
		p, _ := Parse(b)
		e := p.TooBig(b, tt.own, 1400)
		if len(e) > tt.most {
			t.Errorf("the error is %d bytes", len(e))
		}
		icmpSum(t, e)
		read := gopacket.NewPacket(e, map[bool]gopacket.LayerType{true: layers.LayerTypeIPv4, false: layers.LayerTypeIPv6}[tt.from.Is4()], gopacket.Default)
		l := read.Layer(tt.typ)
		if l == nil || net.IP(read.NetworkLayer().NetworkFlow().Dst().Raw()).String() != tt.from.String() {
			t.Fatalf("the error is %v", read)
		}
		if four, ok := l.(*layers.ICMPv4); ok && (four.TypeCode != layers.CreateICMPv4TypeCode(3, 4) || four.Seq != 1400) {
			t.Errorf("the error is %+v", four)
		}
		got, ok := Parse(e)
		q, quoted := got.Quoted(e)
		if !ok || !quoted || q.Src != tt.from || q.Dst != tt.to || q.SrcPort != 7 || q.DstPort != 8 {
			t.Errorf("it quotes %+v, %v %v", q, ok, quoted)
		}
		if again := got.TooBig(e, tt.own, 1400); again != nil {
			t.Error("an error is answered with an error")
		}
		if p.TooBig(b, map[bool]netip.Addr{true: a6, false: a4}[tt.from.Is4()], 1400) != nil {
			t.Error("the error is from an address of another version")
		}
	}
}

// TestFragments: gopacket puts them together again, also fragments of fragments.
func TestFragments(t *testing.T) {
	want := make([]byte, 3000)
	for i := range want {
		want[i] = byte(i * 7)
	}
	b := build(t, a4, b4, layers.IPProtocolUDP, gopacket.Payload(want))
	defrag := ip4defrag.NewIPv4Defragmenter()
	for _, f := range Fragments(b, 1400) {
		for _, g := range Fragments(f, 600) {
			if len(g) > 600 || fold(add(0, g[:20])) != 0 {
				t.Errorf("a fragment of %d bytes", len(g))
			}
			read := gopacket.NewPacket(g, layers.LayerTypeIPv4, gopacket.Default).Layer(layers.LayerTypeIPv4).(*layers.IPv4)
			whole, err := defrag.DefragIPv4(read)
			if err != nil {
				t.Fatal(err)
			}
			if whole != nil {
				if !slices.Equal(whole.Payload, want) {
					t.Error("they are another packet")
				}
				return
			}
		}
	}
	t.Error("they are no packet")
}

func TestNoFragments(t *testing.T) {
	b := build(t, a4, b4, layers.IPProtocolUDP, gopacket.Payload(make([]byte, 3000)))
	b[6] |= 0x40
	if Fragments(b, 1400) != nil {
		t.Error("a packet is cut that may not be")
	}
	if Fragments(build(t, a6, b6, layers.IPProtocolUDP, gopacket.Payload(make([]byte, 3000))), 1400) != nil {
		t.Error("a packet of IPv6 is cut")
	}
}

// FuzzParse: whatever comes is judged without a fault; what passes agrees with
// gopacket about addresses and ports, and can be answered.
func FuzzParse(f *testing.F) {
	f.Add(Echo(a4, b4, 1, 2))
	f.Add(Echo(a6, b6, 1, 2))
	f.Add(build(f, a4, b4, layers.IPProtocolTCP, &layers.TCP{SrcPort: 1000, DstPort: 80}))
	f.Add(build(f, a6, b6, layers.IPProtocolUDP, &layers.UDP{SrcPort: 1000, DstPort: 80}))
	big := build(f, a6, b6, layers.IPProtocolUDP, &layers.UDP{}, gopacket.Payload(make([]byte, 100)))
	p, _ := Parse(big)
	f.Add(p.TooBig(big, a6, 1280))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := Parse(b)
		if !ok {
			return
		}
		if p.at > Size(b) || Size(b) > len(b) {
			t.Fatalf("%+v of %x is outside it", p, b)
		}
		first := layers.LayerTypeIPv6
		if p.Src.Is4() {
			first = layers.LayerTypeIPv4
		}
		read := gopacket.NewPacket(b, first, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
		if n := read.NetworkLayer(); n == nil || netip.MustParseAddr(n.NetworkFlow().Src().String()) != p.Src || netip.MustParseAddr(n.NetworkFlow().Dst().String()) != p.Dst {
			t.Errorf("%+v: gopacket reads %v", p, read)
		}
		if u, isUDP := read.Layer(layers.LayerTypeUDP).(*layers.UDP); isUDP && read.ErrorLayer() == nil && p.Kind == Ports && p.Proto == udp && (uint16(u.SrcPort) != p.SrcPort || uint16(u.DstPort) != p.DstPort) {
			t.Errorf("%+v: gopacket reads %v", p, u)
		}
		p.Quoted(b)
		if p.Kind == EchoRequest || p.Kind == EchoReply {
			p.Sequence(b)
		}
		if p.Kind == EchoRequest {
			c := slices.Clone(b)
			p.Answer(c)
			if q, ok := Parse(c); !ok || q.Kind != EchoReply || q.Dst != p.Src {
				t.Errorf("%x is answered with %x: %+v", b, c, q)
			}
		}
		for _, own := range []netip.Addr{a4, a6} {
			if e := p.TooBig(b, own, 1400); e != nil {
				if q, ok := Parse(e); !ok || q.Kind != Error {
					t.Errorf("%x: error %x is %+v", b, e, q)
				}
			}
		}
	})
}

// add adds the 16-bit words of b (RFC 1071). Packets are too short to overflow it.
func add(sum uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
