package vhost

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// frameWith builds the start of a frame: tags, then an EtherType and a payload.
func frameWith(tags []uint16, etherType uint16, payload ...byte) []byte {
	f := []byte("\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02")
	for _, t := range tags {
		f = binary.BigEndian.AppendUint16(f, t)
		f = append(f, 0, 7)
	}
	f = binary.BigEndian.AppendUint16(f, etherType)
	return append(f, payload...)
}

func ipv4(proto byte, frag uint16, options int, l4 ...byte) []byte {
	h := make([]byte, 20+options)
	h[0] = 0x40 | byte(len(h)/4)
	h[8] = 64
	h[9] = proto
	binary.BigEndian.PutUint16(h[6:], frag)
	copy(h[12:], "\x0a\x00\x00\x01\x0a\x00\x00\x02")
	return append(h, l4...)
}

func ipv6(next byte, l4 ...byte) []byte {
	h := make([]byte, 40)
	h[0] = 0x60
	h[6] = next
	h[8], h[23], h[24], h[39] = 0xfd, 1, 0xfd, 2
	return append(h, l4...)
}

func with(b []byte, at int, v byte) []byte {
	b = bytes.Clone(b)
	b[at] = v
	return b
}

// TestFlowHash compares pairs of frames that are of one flow, or are not.
func TestFlowHash(t *testing.T) {
	ports := []byte{0x10, 0x01, 0x20, 0x02, 1, 2, 3, 4}
	other := []byte{0x10, 0x01, 0x20, 0x03, 1, 2, 3, 4}
	payload := []byte{0x10, 0x01, 0x20, 0x02, 5, 6, 7, 8}
	udp := frameWith(nil, typeIPv4, ipv4(protoUDP, 0, 0, ports...)...)
	udp6 := frameWith(nil, typeIPv6, ipv6(protoUDP, ports...)...)
	arp := frameWith(nil, 0x0806, 0, 1, 8, 0)
	for _, tt := range []struct {
		name string
		a, b []byte
		same bool
	}{
		{"payload", udp, frameWith(nil, typeIPv4, ipv4(protoUDP, 0, 0, payload...)...), true},
		{"ports", udp, frameWith(nil, typeIPv4, ipv4(protoUDP, 0, 0, other...)...), false},
		{"protocols", udp, frameWith(nil, typeIPv4, ipv4(protoTCP, 0, 0, ports...)...), false},
		{"addresses", udp, with(udp, 14+12, 11), false},
		{"direction", udp, with(with(udp, 14+15, 2), 14+19, 1), false},
		{"ttl", udp, with(udp, 14+8, 63), true},
		{"macs of one flow", udp, with(udp, 5, 9), true},
		{"options", udp, frameWith(nil, typeIPv4, ipv4(protoUDP, 0, 8, ports...)...), true},
		{"tag", udp, frameWith([]uint16{typeVLAN}, typeIPv4, ipv4(protoUDP, 0, 0, ports...)...), true},
		{"two tags", udp, frameWith([]uint16{typeQinQ, typeVLAN}, typeIPv4, ipv4(protoUDP, 0, 0, ports...)...), true},
		{"fragments", frameWith(nil, typeIPv4, ipv4(protoUDP, 0x2000, 0, ports...)...), frameWith(nil, typeIPv4, ipv4(protoUDP, 0x00b9, 0, other...)...), true},
		{"no fragment", udp, frameWith(nil, typeIPv4, ipv4(protoUDP, 0x4000, 0, ports...)...), true},
		{"icmp", frameWith(nil, typeIPv4, ipv4(1, 0, 0, ports...)...), frameWith(nil, typeIPv4, ipv4(1, 0, 0, other...)...), true},
		{"ipv6 payload", udp6, frameWith(nil, typeIPv6, ipv6(protoUDP, payload...)...), true},
		{"ipv6 ports", udp6, frameWith(nil, typeIPv6, ipv6(protoUDP, other...)...), false},
		{"ipv6 addresses", udp6, with(udp6, 14+39, 3), false},
		{"ipv6 fragments", frameWith(nil, typeIPv6, ipv6(44, ports...)...), frameWith(nil, typeIPv6, ipv6(44, other...)...), true},
		{"arp", arp, with(arp, 15, 2), true},
		{"arp macs", arp, with(arp, 11, 3), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := flowHash(tt.a) == flowHash(tt.b); got != tt.same {
				t.Errorf("same hash: %v, want %v", got, tt.same)
			}
		})
	}
}

// TestFlowHashSpread draws many flows: every number of queues gets its share.
func TestFlowHashSpread(t *testing.T) {
	const flows = 4096
	for n := 2; n <= 8; n++ {
		got := make([]int, n)
		for i := range flows {
			f := frameWith(nil, typeIPv4, ipv4(protoUDP, 0, 0, byte(i>>8), byte(i), 0, 53, 0, 0, 0, 0)...)
			got[pick(flowHash(f), n)]++
		}
		for q, c := range got {
			if c < flows/n*3/4 || c > flows/n*5/4 {
				t.Errorf("%d of %d flows by queue %d of %d", c, flows, q, n)
			}
		}
	}
}

// FuzzFlowHash hashes anything: it must not look outside.
func FuzzFlowHash(f *testing.F) {
	f.Add(frameWith([]uint16{typeVLAN, typeVLAN}, typeIPv4, ipv4(protoTCP, 0, 40, 1, 2, 3, 4)...))
	f.Add(frameWith(nil, typeIPv6, ipv6(protoSCTP, 1, 2, 3, 4)...))
	f.Add(frameWith([]uint16{typeQinQ}, typeIPv4))
	f.Fuzz(func(t *testing.T, head []byte) {
		h := flowHash(head)
		if isTagged(head) && len(head) < macsLen+2 {
			t.Error("tag found in a frame without one")
		}
		// What follows in memory must count for nothing.
		longer := append(bytes.Clone(head), 1, 2, 3, 4)
		if h != flowHash(longer[:len(head):len(head)]) {
			t.Error("hash depends on what is behind the frame")
		}
	})
}
