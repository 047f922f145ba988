package conntrack

import (
	"encoding/binary"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
)

// read makes a Packet of a frame as a worker would.
func read(tb testing.TB, frame []byte) (p Packet) {
	tb.Helper()
	head := frame[:min(len(frame), packet.HeadMax)]
	l := parse.Locate(head, uint32(len(frame)))
	if !p.Read(head, &l, uint32(len(frame))) {
		tb.Fatalf("%x is no IP", frame)
	}
	return p
}

// frameOf makes a frame of layers, without checksums.
func frameOf(tb testing.TB, parts ...gopacket.SerializableLayer) []byte {
	tb.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, parts...); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// Layers for frames.
var (
	ether4 = &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}
	ether6 = &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv6}
)

// ip4 is an IPv4 header.
func ip4(src, dst string, proto layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: proto, SrcIP: addr(src).IP(false).AsSlice(), DstIP: addr(dst).IP(false).AsSlice()}
}

// ip6 is an IPv6 header.
func ip6(src, dst string, proto layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: addr(src).IP(true).AsSlice(), DstIP: addr(dst).IP(true).AsSlice()}
}

// TestRelated4 has a router tell a client, which is behind SNAT to a
// load-balanced server, that the server is unreachable.
func TestRelated4(t *testing.T) {
	_, w := newTable(t, small(64))
	p := packetOf(tuple4(ProtoUDP, "10.0.0.1", 4000, "10.96.0.1", 53), 0)
	nat := &NAT{
		Src: Range{Set: true, Min: addr("192.0.2.1"), Max: addr("192.0.2.1"), PortMin: 77, PortMax: 77},
		Dst: Range{Set: true, Min: addr("10.0.0.9"), Max: addr("10.0.0.9"), PortMin: 5353, PortMax: 5353},
	}
	v, _ := commit(w, 1, p, Terms{Mark: 5, MarkMask: 15, NAT: nat}, start)
	v.Translate(&p)

	// The packet comes back within an error from a router.
	udp := &layers.UDP{SrcPort: 77, DstPort: 5353}
	inner := frameOf(t, ip4("192.0.2.1", "10.0.0.9", 17), udp)[:28]
	frame := frameOf(t, ether4, ip4("10.0.0.200", "192.0.2.1", 1), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 1)}, gopacket.Payload(inner))
	e := read(t, frame)
	if !e.Error || e.Inner != p.Tuple {
		t.Fatalf("read %+v, want inner %v", e, p.Tuple)
	}
	v = track(w, 1, e, start)
	if v.State != StateTracked|StateRelated|StateReply || v.Mark != 5 || v.Cacheable {
		t.Fatalf("got %v, mark %d, cacheable %v", v.State, v.Mark, v.Cacheable)
	}
	if r := w.Commit(1, &e, &Terms{}, start, &v); r != Unchanged {
		t.Errorf("commit: %v", r)
	}
	v.Translate(&e)
	want := tuple4(ProtoUDP, "10.0.0.1", 4000, "10.96.0.1", 53)
	if e.Dst != addr("10.0.0.1") || e.Src != addr("10.96.0.1") || e.Inner != want || v.State&(StateSrcNAT|StateDstNAT) == 0 {
		t.Errorf("became %v about %v, want to 10.0.0.1 about %v", e.Tuple, e.Inner, want)
	}
	if e.DstPort != 3<<8|1 {
		t.Errorf("type and code became %#x", e.DstPort)
	}

	// The server complains about the client's answer: the original direction.
	e = Packet{Tuple: tuple4(ProtoICMP, "10.0.0.1", 0, "10.96.0.1", 3<<8|3), Error: true, Inner: want.Inverse()}
	v = track(w, 1, e, start)
	if v.State != StateTracked|StateRelated {
		t.Fatalf("got %v", v.State)
	}
	v.Translate(&e)
	if e.Src != addr("192.0.2.1") || e.Dst != addr("10.0.0.9") || e.Inner != p.Inverse() {
		t.Errorf("became %v about %v", e.Tuple, e.Inner)
	}

	for name, bad := range map[string]Packet{
		"about nothing known":       {Tuple: e.Tuple, Error: true, Inner: tuple4(ProtoUDP, "1.1.1.1", 1, "2.2.2.2", 2)},
		"about what cannot be read": {Tuple: e.Tuple, Error: true},
		"to somebody else":          {Tuple: tuple4(ProtoICMP, "10.0.0.200", 0, "192.0.2.99", 3<<8|1), Error: true, Inner: p.Tuple},
	} {
		if v := track(w, 1, bad, start); v.State != StateTracked|StateInvalid {
			t.Errorf("%s: %v", name, v.State)
		}
	}
}

// TestRelated6 is about "packet too big" for a TCP connection.
func TestRelated6(t *testing.T) {
	_, w := newTable(t, small(64))
	tcp := Tuple{Src: addr("fd00::1"), Dst: addr("fd00::2"), SrcPort: 4000, DstPort: 80, Proto: ProtoTCP, Six: true}
	commit(w, 1, packetOf(tcp, FlagSYN), Terms{}, start)
	inner := frameOf(t, ip6("fd00::1", "fd00::2", 6), &layers.TCP{SrcPort: 4000, DstPort: 80, DataOffset: 5}, gopacket.Payload(make([]byte, 1000)))
	frame := frameOf(t, ether6, ip6("fd00::99", "fd00::1", 58), &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(2, 0)}, gopacket.Payload(make([]byte, 4)), gopacket.Payload(inner[:100]))
	e := read(t, frame)
	if !e.Error || e.Inner != tcp {
		t.Fatalf("read %+v, want inner %v", e, tcp)
	}
	if v := track(w, 1, e, start); v.State != StateTracked|StateRelated|StateReply || v.Rewrite.Set != 0 {
		t.Errorf("got %v, rewrite %x", v.State, v.Rewrite.Set)
	}
}

// TestRead reads frames of each protocol.
func TestRead(t *testing.T) {
	syn := &layers.TCP{SrcPort: 4000, DstPort: 80, SYN: true, Seq: 7, Window: 1000, Options: []layers.TCPOption{
		{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 0xb4}}, {OptionType: layers.TCPOptionKindNop},
		{OptionType: layers.TCPOptionKindWindowScale, OptionLength: 3, OptionData: []byte{7}}, {OptionType: layers.TCPOptionKindSACKPermitted, OptionLength: 2}}}
	sack := &layers.TCP{SrcPort: 4000, DstPort: 80, ACK: true, Seq: 8, Ack: 100, Window: 9, Options: []layers.TCPOption{
		{OptionType: layers.TCPOptionKindSACK, OptionLength: 18, OptionData: []byte{0, 0, 0, 200, 0, 0, 1, 44, 0, 0, 1, 144, 0, 0, 1, 244}}}}
	ip := ip4("10.0.0.1", "10.0.0.2", 6)
	p := read(t, frameOf(t, ether4, ip, syn))
	if p.Tuple != tuple4(6, "10.0.0.1", 4000, "10.0.0.2", 80) || p.Flags&0x3f != FlagSYN || p.Seq != 7 || p.Scale != 7 || !p.SACKPermitted || p.Data != 0 || p.Window != 1000 {
		t.Errorf("SYN: %+v", p)
	}
	p = read(t, frameOf(t, ether4, ip, sack, gopacket.Payload("abc")))
	if p.Flags&0x3f != FlagACK || p.Ack != 100 || p.Data != 3 || !p.HasSACK || p.SACK != 500 || p.Scale != -1 {
		t.Errorf("SACK: %+v", p)
	}
	p = read(t, frameOf(t, ether4, ip4("10.0.0.1", "10.0.0.2", 1), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 77}))
	if p.Tuple != tuple4(1, "10.0.0.1", 77, "10.0.0.2", 8<<8) || p.Bad {
		t.Errorf("ping: %+v", p)
	}
	sctp := &layers.SCTP{SrcPort: 4000, DstPort: 3868, VerificationTag: 0}
	init := []byte{1, 0, 0, 20, 0, 0, 0, 99, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 1}
	p = read(t, frameOf(t, ether4, ip4("10.0.0.1", "10.0.0.2", 132), sctp, gopacket.Payload(init)))
	if p.ChunkCount != 1 || p.Chunks[0].Type != chunkInit || p.InitTag != 99 || p.Tag != 0 {
		t.Errorf("SCTP: %+v", p)
	}
	short := frameOf(t, ether4, ip4("10.0.0.1", "10.0.0.2", 6), gopacket.Payload("abc"))
	if p := read(t, short); !p.Bad {
		t.Errorf("a TCP header of three bytes: %+v", p)
	}
	bad := frameOf(t, ether4, ip, syn)
	bad[14] = 0x4f // 60 bytes of header
	binary.BigEndian.PutUint16(bad[16:], 24)
	if p := read(t, bad); !p.Bad {
		t.Errorf("an IP header longer than the packet: %+v", p)
	}
}

// FuzzRead checks that no frame breaks the reader, and that what it reads
// breaks no table.
func FuzzRead(f *testing.F) {
	udp := &layers.UDP{SrcPort: 77, DstPort: 5353}
	inner := frameOf(f, ip4("10.0.0.2", "10.0.0.1", 17), udp)[:28]
	f.Add(frameOf(f, ether4, ip4("10.0.0.1", "10.0.0.2", 1), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 1)}, gopacket.Payload(inner)), uint8(0))
	f.Add(frameOf(f, ether4, ip4("10.0.0.1", "10.0.0.2", 17), udp), uint8(3))
	f.Add(frameOf(f, ether6, ip6("fd00::1", "fd00::2", 58), &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(2, 0)}, gopacket.Payload(make([]byte, 60))), uint8(2))
	f.Add(frameOf(f, ether4, ip4("10.0.0.1", "10.0.0.2", 132), &layers.SCTP{}, gopacket.Payload([]byte{1, 0, 0, 20, 0, 0, 0, 99, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 1})), uint8(1))
	o := small(64)
	o.Windows = true
	table, err := New(o)
	if err != nil {
		f.Fatal(err)
	}
	w := table.Worker(0)
	f.Fuzz(func(t *testing.T, frame []byte, flip uint8) {
		w.Quiet()
		for range 2 {
			head := frame[:min(len(frame), packet.HeadMax)]
			l := parse.Locate(head, uint32(len(frame)))
			var p Packet
			if !p.Read(head, &l, uint32(len(frame))) {
				return
			}
			var v Verdict
			w.Track(1, &p, start, &v)
			n := &NAT{Src: Range{Set: true, Min: Addr{1: 5}, Max: Addr{1: 6}, PortMin: 1, PortMax: 9}}
			if r := w.Commit(1, &p, &Terms{NAT: n}, start, &v); r == Created && v.State&StateNew == 0 {
				t.Fatalf("created %v", v.State)
			}
			v.Translate(&p)
			if len(frame) > int(flip) {
				frame = append([]byte(nil), frame...)
				frame[flip] ^= 0xff // something else the second time
			}
		}
		table.Flush(1)
	})
}
