// Package parsetest makes frames for tests: all kinds that the parser knows,
// sound and with right checksums, and what is left of them after damage. It is
// written plainly, header by header, and shares no code with what it tests. Around
// that it has what tests of frames begin with: a generator whose seed is told, and
// a receive queue's way into a batch.
package parsetest

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
)

// Frame makes a sound frame. About half are the common kind, TCP or UDP in
// IPv4; the rest has tags, options, extension headers, fragments, ARP, neighbour discovery,
// other protocols and frames without an Ethernet type.
func Frame(r *rand.Rand) []byte {
	kind, body := network(r)
	f := random(r, 12)
	f[0] &^= uint8(r.IntN(2))
	for range chance(r, 4) + chance(r, 20) {
		tpid := pick(r, uint16(0x8100), 0x8100, 0x88a8)
		f = binary.BigEndian.AppendUint16(f, tpid)
		f = binary.BigEndian.AppendUint16(f, uint16(r.Uint32()))
	}
	switch {
	case kind == 0:
		f = binary.BigEndian.AppendUint16(f, uint16(3+len(body)))
		f = append(f, 0x42, 0x42, 3)
	case chance(r, 30) == 1 && len(body) < 1400:
		f = binary.BigEndian.AppendUint16(f, uint16(8+len(body)))
		f = append(f, 0xaa, 0xaa, 3, 0, 0, 0)
		f = binary.BigEndian.AppendUint16(f, kind)
	default:
		f = binary.BigEndian.AppendUint16(f, kind)
	}
	f = append(f, body...)
	if len(f) < 60 && chance(r, 2) == 1 {
		f = append(f, make([]byte, 60-len(f))...)
	}
	return f
}

// Damage changes f: bytes, its end, or the length fields of IP.
func Damage(r *rand.Rand, f []byte) []byte {
	f = append([]byte(nil), f...)
	for range 1 + r.IntN(3) {
		switch r.IntN(4) {
		case 0:
			f = f[:max(14, r.IntN(len(f)+1))]
		case 1:
			f[min(12+r.IntN(60), len(f)-1)] = uint8(r.Uint32())
		case 2:
			f[min(12+r.IntN(60), len(f)-1)] += uint8(r.IntN(3)) - 1
		case 3:
			f[min(14+r.IntN(8), len(f)-1)] ^= 1 << r.IntN(8)
		}
	}
	return f
}

// network makes what follows the Ethernet type, which is zero for an LLC frame.
func network(r *rand.Rand) (kind uint16, body []byte) {
	switch n := r.IntN(100); {
	case n < 65:
		return 0x0800, ip4(r)
	case n < 90:
		return 0x86dd, ip6(r)
	case n < 96:
		body = append([]byte{0, 1, 8, 0, 6, 4, 0, uint8(1 + r.IntN(4))}, random(r, 20)...)
		return pick(r, uint16(0x0806), 0x0806, 0x0806, 0x8035), body
	case n < 98:
		return 0, random(r, 32)
	}
	return 0x88cc, random(r, r.IntN(100))
}

// ip4 makes an IPv4 packet.
func ip4(r *rand.Rand) []byte {
	options := make([]byte, 0, 40)
	for range 4 * chance(r, 8) * (1 + r.IntN(10)) {
		options = append(options, 1)
	}
	src, dst := random(r, 4), random(r, 4)
	pseudo := append(append([]byte(nil), src...), dst...)
	proto, payload := transport(r, pick(r, uint8(6), 6, 6, 17, 17, 17, 1, 132, 2, 47), pseudo)
	frag := uint16(chance(r, 2)) << 14
	if chance(r, 12) == 1 {
		frag = pick(r, uint16(0x2000), 0x2000|uint16(r.IntN(0x1000)), 1+uint16(r.IntN(0x1000)))
	}
	h := []byte{uint8(0x45 + len(options)/4), uint8(r.Uint32())}
	h = binary.BigEndian.AppendUint16(h, uint16(20+len(options)+len(payload)))
	h = append(h, random(r, 2)...)
	h = binary.BigEndian.AppendUint16(h, frag)
	h = append(h, uint8(r.Uint32()), proto, 0, 0)
	h = append(append(append(h, src...), dst...), options...)
	binary.BigEndian.PutUint16(h[10:], Checksum(h))
	return append(h, payload...)
}

// ip6 makes an IPv6 packet.
func ip6(r *rand.Rand) []byte {
	src, dst := random(r, 16), random(r, 16)
	pseudo := append(append([]byte(nil), src...), dst...)
	proto, payload := transport(r, pick(r, uint8(6), 6, 17, 17, 58, 58, 58, 132, 59), pseudo)
	for range chance(r, 4) * (1 + r.IntN(2)) {
		proto, payload = extension(r, proto, payload)
	}
	if chance(r, 10) == 1 {
		payload = append(append([]byte{proto, 0, 0, pick(r, uint8(0), 1, 8, 9, 6)}, random(r, 4)...), payload...)
		proto = 44
	}
	if chance(r, 10) == 1 {
		payload = append([]byte{proto, 0, 1, 4, 0, 0, 0, 0}, payload...)
		proto = 0
	}
	h := binary.BigEndian.AppendUint32(nil, 6<<28|r.Uint32()>>4)
	h = binary.BigEndian.AppendUint16(h, uint16(len(payload)))
	h = append(h, proto, uint8(r.Uint32()))
	return append(append(append(h, src...), dst...), payload...)
}

// extension puts an extension header before payload.
func extension(r *rand.Rand, proto uint8, payload []byte) (uint8, []byte) {
	switch r.IntN(3) {
	case 0: // destination options, all padding
		return 60, append([]byte{proto, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, payload...)
	case 1: // routing, at its end
		return 43, append([]byte{proto, 0, 0, 0, 0, 0, 0, 0}, payload...)
	}
	h := append([]byte{proto, 4, 0, 0}, random(r, 20)...)
	return 51, append(h, payload...)
}

// transport makes a header and payload whose checksum covers pseudo, the addresses.
func transport(r *rand.Rand, proto uint8, pseudo []byte) (uint8, []byte) {
	payload := random(r, pick(r, 0, 4, 18, r.IntN(1200)))
	ports := random(r, 4)
	var h []byte
	at := 0
	switch proto {
	case 6:
		options := 4 * chance(r, 3) * r.IntN(11)
		h = append(append(append(h, ports...), random(r, 8)...), uint8(5+options/4)<<4|uint8(r.IntN(16)), uint8(r.Uint32()))
		h = append(h, 1, 0, 0, 0, 0, 0)
		for range options {
			h = append(h, 1)
		}
		at = 16
	case 17:
		h = binary.BigEndian.AppendUint16(append(h, ports...), uint16(8+len(payload)))
		h = append(h, 0, 0)
		at = 6
	case 132:
		h = append(append(append(h, ports...), random(r, 4)...), 0, 0, 0, 0, 0, 3, 0, uint8(4))
		binary.LittleEndian.PutUint32(h[8:], crc32.Checksum(append(h, payload...), crc32.MakeTable(crc32.Castagnoli)))
		return proto, append(h, payload...)
	case 1:
		h = append([]byte{uint8(r.IntN(20)), uint8(r.IntN(5)), 0, 0}, random(r, 4)...)
		at, pseudo = 2, nil
	case 58:
		h, payload = icmp6(r, payload)
		at = 2
	default:
		return proto, payload
	}
	h = append(h, payload...)
	if proto == 17 && chance(r, 8) == 1 {
		return proto, h // no checksum
	}
	if pseudo != nil {
		pseudo = append(binary.BigEndian.AppendUint32(append([]byte(nil), pseudo...), uint32(len(h))), 0, 0, 0, proto)
	}
	c := Checksum(append(pseudo, h...))
	if c == 0 && proto == 17 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(h[at:], c)
	return proto, h
}

// icmp6 makes an ICMPv6 message, mostly neighbour discovery.
func icmp6(r *rand.Rand, payload []byte) (h, rest []byte) {
	kind := pick(r, uint8(135), 135, 136, 136, 128, 1)
	h = []byte{kind, uint8(chance(r, 10)), 0, 0, 0, 0, 0, 0}
	if kind < 135 {
		return h, payload
	}
	h = append(h, random(r, 16)...)
	if chance(r, 2) == 1 {
		h = append(append(h, 1, 1), random(r, 6)...)
	}
	if chance(r, 8) == 1 {
		h = append(append(h, 14, 1), random(r, 6)...)
	}
	if chance(r, 2) == 1 {
		h = append(append(h, 2, 1), random(r, 6)...)
	}
	return h, nil
}

// Checksum is the Internet checksum of b (RFC 1071).
func Checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := range b {
		if i%2 == 0 {
			sum += uint32(b[i]) << 8
		} else {
			sum += uint32(b[i])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// chance is 1 in one of n cases, else 0.
func chance(r *rand.Rand, n int) int {
	if r.IntN(n) == 0 {
		return 1
	}
	return 0
}

// pick returns one of its arguments.
func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// random returns n bytes.
func random(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = uint8(r.Uint32())
	}
	return b
}

// Sound reports a wrong checksum of the IP packet of protocol proto in frame.
// Its header begins at l3, that of proto at l4, and it ends at end. If l4 is
// zero, only the IP header is looked at.
func Sound(frame []byte, l3, l4, end int, proto uint8) error {
	ip, pseudo := frame[l3:], []byte{0, proto, byte((end - l4) >> 8), byte(end - l4)}
	if ip[0]>>4 == 4 {
		if c := Checksum(ip[:4*(ip[0]&15)]); c != 0 {
			return fmt.Errorf("IP checksum is off by %#x", c)
		}
		pseudo = append(pseudo, ip[12:20]...)
	} else {
		pseudo = append(pseudo, ip[8:40]...)
	}
	if l4 == 0 {
		return nil
	}
	packet := append([]byte(nil), frame[l4:end]...)
	switch proto {
	case 132:
		want := binary.LittleEndian.Uint32(packet[8:])
		copy(packet[8:12], []byte{0, 0, 0, 0})
		if got := crc32.Checksum(packet, crc32.MakeTable(crc32.Castagnoli)); got != want {
			return fmt.Errorf("SCTP checksum is %#x, not %#x", want, got)
		}
		return nil
	case 17:
		if packet[6]|packet[7] == 0 {
			return nil
		}
	case 1:
		pseudo = nil
	}
	if c := Checksum(append(pseudo, packet...)); c != 0 {
		return fmt.Errorf("checksum of protocol %d is off by %#x", proto, c)
	}
	return nil
}
