package dataplane

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"millrace/dataplane/conntrack"
)

// A tamperer makes frames as a fuzzer says: of few connections, so that they meet, whole and in
// pieces, errors about what has come out, and all of it with bytes changed.
type tamperer struct {
	script []byte
	came   [2][]byte // last frame that came out by each port
}

// next is the script's next byte; 0 behind its end.
func (m *tamperer) next() (b byte) {
	if len(m.script) > 0 {
		b, m.script = m.script[0], m.script[1:]
	}
	return b
}

// frame makes the next frame, which comes in by a port: 0 is a, 1 is b.
func (m *tamperer) frame() (port int, f []byte) {
	what, n := m.next(), uint16(1000)+uint16(m.next()%4)
	port = int(what & 1)
	proto := []byte{conntrack.ProtoTCP, conntrack.ProtoUDP, conntrack.ProtoICMP, conntrack.ProtoUDP}[what>>1&3]
	x := ipv4{netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), n), ap("198.51.100.1:80"), proto}
	if port == 1 {
		x = ipv4{x.dst, netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), n), proto}
	}
	if proto == conntrack.ProtoICMP {
		x.dst = netip.AddrPortFrom(x.dst.Addr(), uint16(8*(1-port)))
		x.src = netip.AddrPortFrom(x.src.Addr(), n)
	}
	switch kind := what >> 3 & 3; {
	case kind == 1 && m.came[port] != nil: // an error about it
		about := m.came[port][14:]
		about = about[:min(len(about), 20+int(m.next()%64))]
		l4 := append([]byte{3, m.next() & 7, 0, 0, 0, 0, 0, 0}, about...)
		binary.BigEndian.PutUint16(l4[2:], folded(sum(0, l4)))
		f = ipFrame(conntrack.ProtoICMP, x.src.Addr().As4(), [4]byte(m.came[port][26:30]), l4)
	case kind == 2:
		pieces := fragmented(x.frame(m.next(), 100), uint16(m.next()%4), 8*(1+int(m.next()%8)))
		f = pieces[int(m.next())%len(pieces)]
	default:
		f = x.frame(m.next(), int(m.next()))
	}
	for range m.next() % 4 {
		f[14+int(m.next())%(len(f)-14)] = m.next()
	}
	return port, f
}

// sums are the checksums of an IPv4 packet with all that they are about: that of its header, and of what is
// behind it if that has one. Translation changes neither, also if they are wrong.
func sums(f []byte) (header, behind uint16) {
	size := 4 * int(f[14]&15)
	ip := f[14:min(len(f), 14+int(binary.BigEndian.Uint16(f[16:])))]
	if len(ip) < max(size, 20) {
		return 0, 0
	}
	l4 := ip[size:]
	header = folded(sum(0, ip[:size]))
	pseudo := uint32(0)
	switch {
	case binary.BigEndian.Uint16(ip[6:])&0x1fff != 0: // a later piece
		return header, folded(sum(0, l4))
	case ip[9] == conntrack.ProtoUDP && len(l4) >= 8 && binary.BigEndian.Uint16(l4[6:]) == 0: // none
		return header, 0
	case ip[9] == conntrack.ProtoTCP, ip[9] == conntrack.ProtoUDP:
		pseudo = sum(0, ip[12:20])
	}
	return header, folded(sum(pseudo, l4))
}

// equalSums compares sums of ones' complement, in which all ones are zero.
func equalSums(a, b uint16) bool { return a%0xffff == b%0xffff }

// FuzzTranslate has a fuzzer choose packets that go through a firewall and source translation: pieces, ICMP
// errors, headers that are not what they say. None breaks it, what comes out keeps its length and its sums, and
// accounts balance.
func FuzzTranslate(f *testing.F) {
	f.Add([]byte("\x00\x00\x02\x10\x00" + "\x01\x00\x12\x10\x00" + "\x00\x00\x10\x40\x00"))                         // TCP
	f.Add([]byte("\x02\x01\x00\x40\x00" + "\x09\x01\x20\x00\x00" + "\x03\x01\x00\x40\x00"))                         // UDP, and an error about it
	f.Add([]byte("\x12\x02\x00\x01\x02\x01\x00" + "\x12\x02\x00\x01\x02\x00\x00" + "\x13\x02\x00\x01\x02\x00\x00")) // pieces, the second first
	f.Add([]byte("\x04\x03\x00\x40\x00" + "\x05\x03\x00\x40\x00" + "\x0d\x03\x20\x01\x01\x19\x05"))                 // a ping
	f.Fuzz(func(t *testing.T, script []byte) {
		r := twoZones(t)
		names := [2]string{"a", "b"}
		m := &tamperer{script: script}
		for n := 0; len(m.script) > 0 && n < 64; n++ {
			port, in := m.frame()
			from, to := r.devs[names[port]], r.devs[names[1-port]]
			from.in, from.out, to.out = [][]byte{bytes.Clone(in)}, nil, nil
			for range restTurns { // pieces that waited come out, too
				r.turn()
			}
			if len(from.out) != 0 {
				t.Fatalf("%x came back as %x", in, from.out)
			}
			if len(to.out) != 1 {
				continue // dropped, or more than one
			}
			out := to.out[0]
			m.came[1-port] = out
			inHeader, inBehind := sums(in)
			outHeader, outBehind := sums(out)
			if len(in) != len(out) || !equalSums(inHeader, outHeader) || !equalSums(inBehind, outBehind) {
				t.Fatalf("port %s: %x\nbecame %x\nsums %#x %#x, before %#x %#x", names[port], in, out, outHeader, outBehind, inHeader, inBehind)
			}
		}
		r.stats()
	})
}
