package afxdp

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"millrace/dataplane/packet"
)

// built is a frame with checksums that gopacket made: of tcp4, tcp6, udp4, udp6,
// sctp4 or sctp6, with or without a tag, and n bytes of payload.
func built(t testing.TB, kind string, tagged bool, n int) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}}
	stack := []gopacket.SerializableLayer{eth}
	next := &eth.EthernetType
	if tagged {
		eth.EthernetType = layers.EthernetTypeDot1Q
		tag := &layers.Dot1Q{VLANIdentifier: 7}
		next = &tag.Type
		stack = append(stack, tag)
	}
	proto := map[byte]layers.IPProtocol{'t': layers.IPProtocolTCP, 'u': layers.IPProtocolUDP, 's': layers.IPProtocolSCTP}[kind[0]]
	var network gopacket.NetworkLayer
	if kind[len(kind)-1] == '4' {
		*next = layers.EthernetTypeIPv4
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: net.IP{10, 1, 2, 3}, DstIP: net.IP{10, 9, 8, 7}}
		network, stack = ip, append(stack, ip)
	} else {
		*next = layers.EthernetTypeIPv6
		ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: net.ParseIP("fd09::1"), DstIP: net.ParseIP("fd09::dead:beef")}
		network, stack = ip, append(stack, ip)
	}
	switch kind[0] {
	case 't':
		tcp := &layers.TCP{SrcPort: 1000, DstPort: 80, Seq: 1, Window: 1000, ACK: true, Options: []layers.TCPOption{{OptionType: 1}, {OptionType: 1}, {OptionType: 8, OptionLength: 10, OptionData: make([]byte, 8)}}}
		if err := tcp.SetNetworkLayerForChecksum(network); err != nil {
			t.Fatal(err)
		}
		stack = append(stack, tcp)
	case 'u':
		udp := &layers.UDP{SrcPort: 1000, DstPort: 80}
		if err := udp.SetNetworkLayerForChecksum(network); err != nil {
			t.Fatal(err)
		}
		stack = append(stack, udp)
	case 's':
		stack = append(stack, &layers.SCTP{SrcPort: 1000, DstPort: 80, VerificationTag: 9})
		n &^= 3
	}
	payload := make([]byte, n)
	r := rand.New(rand.NewPCG(uint64(n), uint64(kind[0])<<8|uint64(kind[len(kind)-1])))
	for i := range payload {
		payload[i] = byte(r.Uint32())
	}
	out := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(out, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append(stack, gopacket.Payload(payload))...); err != nil {
		t.Fatal(err)
	}
	frame := out.Bytes()
	if kind[0] == 's' {
		at := bytes.Index(frame, []byte{1000 >> 8, 1000 & 255, 0, 80})
		sctp := frame[at : at+12+n]
		copy(sctp[8:], []byte{0, 0, 0, 0})
		binary.LittleEndian.PutUint32(sctp[8:], crc32.Checksum(sctp, crc32.MakeTable(crc32.Castagnoli)))
	}
	return frame
}

// undo makes a frame what its sender would have left to its device: plainly,
// from the headers.
func undo(frame []byte) []byte {
	f := bytes.Clone(frame)
	at := 14
	if f[12] == 0x81 {
		at += 4
	}
	var addrs []byte
	var proto byte
	var size uint16
	if f[at]>>4 == 4 {
		addrs, proto, size = f[at+12:at+20], f[at+9], binary.BigEndian.Uint16(f[at+2:])-20
		at += 20
	} else {
		addrs, proto, size = f[at+8:at+40], f[at+6], binary.BigEndian.Uint16(f[at+4:])
		at += 40
	}
	sum := uint32(proto) + uint32(size)
	for i := 0; i < len(addrs); i += 2 {
		sum += uint32(addrs[i])<<8 + uint32(addrs[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	switch proto {
	case protoTCP:
		binary.BigEndian.PutUint16(f[at+16:], uint16(sum))
	case protoUDP:
		binary.BigEndian.PutUint16(f[at+6:], uint16(sum))
	case protoSCTP:
		copy(f[at+8:], []byte{0, 0, 0, 0})
	}
	return f
}

// unfinished is a frame whose sender left the checksum to its device.
func unfinished(t testing.TB, kind string, n int) []byte { return undo(built(t, kind, false, n)) }

// TestCompleteChecksum finishes what senders leave unfinished, to what gopacket
// makes of the same frame, and leaves finished frames alone.
func TestCompleteChecksum(t *testing.T) {
	b := packet.NewBatch()
	for _, kind := range []string{"tcp4", "tcp6", "udp4", "udp6", "sctp4", "sctp6"} {
		for _, tagged := range []bool{false, true} {
			for _, n := range []int{0, 1, 2, 3, 39, 40, 61, 62, 63, 64, 65, 100, 1000, 1399, 1400, 9000} {
				want := built(t, kind, tagged, n)
				for pieces := 1; pieces <= 4; pieces++ {
					for name, f := range map[string][]byte{"unfinished": undo(want), "finished": bytes.Clone(want)} {
						b.Reset()
						add(b, f, pieces)
						completeChecksum(b, 0)
						if got := b.AppendTo(nil, 0); !bytes.Equal(got, want) {
							t.Fatalf("%s %s, tag %v, %d bytes in %d pieces:\n%x\nwant\n%x", name, kind, tagged, n, pieces, got[:min(80, len(got))], want[:min(80, len(want))])
						}
					}
				}
			}
		}
	}
}

// TestZeroChecksum: what comes out as zero is written as zero in TCP (RFC 1624), and as its other form in UDP, where
// zero says that there is none.
func TestZeroChecksum(t *testing.T) {
	for kind, want := range map[string]uint16{"tcp4": 0, "tcp6": 0, "udp4": 0xffff, "udp6": 0xffff} {
		const payload = 20 // more than frames are padded to
		f := unfinished(t, kind, payload)
		at, l4 := len(f)-2, len(f)-payload-udpLeast+udpSum
		if kind[0] == 't' {
			l4 = len(f) - payload - 32 + tcpSum // 12 bytes of options
		}
		seen := 0
		b := packet.NewBatch()
		for n := range 1 << 16 {
			binary.BigEndian.PutUint16(f[at:], uint16(n))
			b.Reset()
			add(b, f, 1)
			completeChecksum(b, 0)
			if sum := binary.BigEndian.Uint16(b.Head(0)[l4:]); sum == 0 || sum == 0xffff {
				if seen++; sum != want {
					t.Errorf("%s: %#x, want %#x", kind, sum, want)
				}
			}
		}
		if seen == 0 {
			t.Errorf("%s: no payload has such a sum", kind)
		}
	}
}

// TestWrongChecksum: a checksum that is wrong is not made right.
func TestWrongChecksum(t *testing.T) {
	for _, kind := range []string{"tcp4", "udp6", "sctp4"} {
		f := built(t, kind, false, 100)
		f[len(f)-1] ^= 0x55
		b := packet.NewBatch()
		add(b, f, 1)
		completeChecksum(b, 0)
		if !bytes.Equal(b.AppendTo(nil, 0), f) {
			t.Errorf("%s: frame with a wrong checksum was changed", kind)
		}
	}
}

// TestFragments are left alone: their checksum is that of the whole packet.
func TestFragments(t *testing.T) {
	f := unfinished(t, "udp4", 100)
	for _, bits := range []uint16{0x2000, 0x0001, 0x2004} {
		binary.BigEndian.PutUint16(f[14+6:], bits)
		b := packet.NewBatch()
		add(b, f, 1)
		completeChecksum(b, 0)
		if !bytes.Equal(b.AppendTo(nil, 0), f) {
			t.Errorf("fragment %#x was changed", bits)
		}
	}
}

// FuzzCompleteChecksum gives it anything: at most the bytes of a checksum
// change.
func FuzzCompleteChecksum(f *testing.F) {
	f.Add(unfinished(f, "tcp4", 50), uint8(1))
	f.Add(unfinished(f, "udp6", 300), uint8(3))
	f.Add(unfinished(f, "sctp6", 64), uint8(2))
	f.Fuzz(func(t *testing.T, frame []byte, pieces uint8) {
		if len(frame) == 0 || len(frame) > packet.FrameMax {
			return
		}
		b := packet.NewBatch()
		before := bytes.Clone(frame)
		add(b, frame, 1+int(pieces%8))
		completeChecksum(b, 0)
		got := b.AppendTo(nil, 0)
		changed := 0
		for i := range got {
			if got[i] != before[i] {
				changed++
			}
		}
		if len(got) != len(before) || changed > 4 {
			t.Fatalf("%d bytes of %d changed", changed, len(before))
		}
	})
}

func BenchmarkCompleteChecksum(b *testing.B) {
	for _, tt := range []struct {
		name  string
		frame []byte
	}{{"finished", built(b, "tcp4", false, 1400)}, {"unfinished", unfinished(b, "tcp4", 1400)}, {"ack", unfinished(b, "tcp4", 0)}} {
		b.Run(tt.name, func(b *testing.B) {
			batch := packet.NewBatch()
			add(batch, tt.frame, 1)
			field := bytes.Clone(batch.Head(0))
			for b.Loop() {
				copy(batch.Head(0), field)
				completeChecksum(batch, 0)
			}
		})
	}
}

// TestTunnelChecksum finishes what is in a tunnel, and with it the outer checksum,
// which was made for the finished one.
func TestTunnelChecksum(t *testing.T) {
	for _, port := range []layers.UDPPort{4789, 6081, 8472, 5000} {
		for _, kind := range []string{"tcp4", "tcp6", "udp4", "udp6"} {
			inner := built(t, kind, false, 100)
			eth := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 3}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 4}, EthernetType: layers.EthernetTypeIPv4}
			ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.IP{10, 1, 2, 3}, DstIP: net.IP{10, 9, 8, 7}}
			udp := &layers.UDP{SrcPort: 40000, DstPort: port}
			if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
				t.Fatal(err)
			}
			header := []byte{8, 0, 0, 0, 0, 0, 7, 0}
			if port == 6081 {
				header = []byte{1, 0, 0x65, 0x58, 0, 0, 7, 0, 0, 0, 0, 0}
			}
			out := gopacket.NewSerializeBuffer()
			if err := gopacket.SerializeLayers(out, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, udp, gopacket.Payload(append(header, inner...))); err != nil {
				t.Fatal(err)
			}
			want := out.Bytes()
			got := bytes.Clone(want)
			copy(got[len(got)-len(inner):], undo(inner))
			if bytes.Equal(got, want) {
				t.Fatal("nothing is unfinished")
			}
			b := packet.NewBatch()
			head := got[:min(len(got), packet.HeadMax)]
			b.Add(head, packet.Seg{Addr: packet.Addr(got[len(head):]), Len: uintptr(len(got) - len(head))})
			completeChecksum(b, 0)
			if port == 5000 {
				want = got
			}
			if got := b.AppendTo(nil, 0); !bytes.Equal(got, want) {
				t.Errorf("%s by port %d:\n%x\nwant\n%x", kind, port, got, want)
			}
		}
	}
}
