package edit

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"millrace/dataplane/packet"
	"millrace/dataplane/parse/parsetest"
	"millrace/flowtable"
)

// total is the Internet checksum of b and of a number: 0 if the checksum in b is right.
func total(s uint32, b []byte) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		s += uint32(b[len(b)-1]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// quoting makes an ICMP error about a packet with random addresses, ports and payload.
func quoting(r *rand.Rand, proto byte, six bool) []byte {
	l4 := make([]byte, 28+r.IntN(40))
	for i := range l4 {
		l4[i] = byte(r.Uint32())
	}
	at := map[byte]int{protoTCP: 16, protoUDP: 6, protoICMP: 2, protoICMPv6: 2}[proto]
	l4[at], l4[at+1] = 0, 0
	if proto == protoUDP {
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	}
	inside := ipPacket(r, proto, six, l4, at)
	icmp := append(make([]byte, 8), inside...)
	icmp[0] = 3
	outer := byte(protoICMP)
	if six {
		icmp[0], outer = 1, protoICMPv6
	}
	f := append(make([]byte, 12), 8, 0)
	if six {
		f[12], f[13] = 0x86, 0xdd
	}
	return append(f, ipPacket(r, outer, six, icmp, 2)...)
}

// ipPacket makes an IP packet around l4, whose checksum at offset at is 0.
func ipPacket(r *rand.Rand, proto byte, six bool, l4 []byte, at int) []byte {
	h := make([]byte, 20)
	from, to := 12, 20
	if six {
		h, from, to = make([]byte, 40), 8, 40
	}
	for i := from; i < to; i++ {
		h[i] = byte(r.Uint32())
	}
	if six {
		h[0], h[6], h[7] = 0x60, proto, 64
		binary.BigEndian.PutUint16(h[4:], uint16(len(l4)))
	} else {
		h[0], h[8], h[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(l4)))
		binary.BigEndian.PutUint16(h[10:], total(0, h))
	}
	check := total(pseudo(proto, len(l4), h[from:to]), l4)
	if check == 0 && proto == protoUDP {
		check = 0xffff
	}
	binary.BigEndian.PutUint16(l4[at:], check)
	return append(h, l4...)
}

// pseudo is what protocol, length and addresses add to a checksum: nothing with ICMP
// for IPv4.
func pseudo(proto byte, n int, addresses []byte) uint32 {
	if proto == protoICMP {
		return 0
	}
	return uint32(^total(uint32(proto)+uint32(n), addresses))
}

// isSound reports whether the checksums of an IP packet are right.
func isSound(p []byte) bool {
	six, proto, size, from := p[0]>>4 == 6, p[9], 20, 12
	if six {
		proto, size, from = p[6], 40, 8
	}
	s := pseudo(proto, len(p)-size, p[from:size])
	if !six && total(0, p[:20]) != 0 {
		return false
	}
	return total(s, p[size:]) == 0
}

// TestInner translates the packets that ICMP errors quote: what is asked for is
// written, and all checksums are right afterwards.
func TestInner(t *testing.T) {
	r := parsetest.Seeded(t)
	b := packet.NewBatch()
	for range 20000 {
		six := r.IntN(2) == 0
		proto := []byte{protoTCP, protoUDP}[r.IntN(2)]
		frame := quoting(r, proto, six)
		if six != (frame[12] == 0x86) {
			t.Fatal("a frame of the other family")
		}
		b.Reset()
		parsetest.Add(b, frame)
		ops := innerOps(r, six)
		want := bytes.Clone(frame)
		Apply(b, 0, ops)
		got := b.AppendTo(nil, 0)
		outer, header := 20, 20
		if six {
			outer, header = 40, 40
		}
		quoted := want[14+outer+8:]
		for _, op := range ops {
			writeInner(quoted, header, &op)
		}
		if !bytes.Equal(zeroSums(got, six), zeroSums(want, six)) {
			t.Fatalf("%x\nops %v\ngot  %x\nwant %x", frame, ops, got, want)
		}
		if !isSound(got[14:]) || !isSound(got[14+outer+8:]) {
			t.Fatalf("%x\nops %v\ngot %x: wrong checksum (%v, %v)", frame, ops, got, isSound(got[14:]), isSound(got[14+outer+8:]))
		}
	}
}

// innerOps are translations of a quoted packet.
func innerOps(r *rand.Rand, six bool) []flowtable.Op {
	op := func(word uint8) flowtable.Op {
		return flowtable.Op{Code: flowtable.OpInner, Word: word, Value: r.Uint64(), Mask: ^uint64(0)}
	}
	ops := []flowtable.Op{op(flowtable.WordL4)}
	ops[0].Mask = 0xffffffff << 32
	if !six {
		return append(ops, op(flowtable.WordIP4))
	}
	for w := flowtable.WordIP6Src; w <= flowtable.WordIP6DstLow; w++ {
		ops = append(ops, op(uint8(w)))
	}
	return ops
}

// writeInner does an op to a quoted packet, without checksums.
func writeInner(p []byte, header int, op *flowtable.Op) {
	switch op.Word {
	case flowtable.WordL4:
		binary.BigEndian.PutUint32(p[header:], uint32(op.Value>>32))
	case flowtable.WordIP4:
		binary.BigEndian.PutUint64(p[12:], op.Value)
	default:
		binary.BigEndian.PutUint64(p[8+8*(op.Word-flowtable.WordIP6Src):], op.Value)
	}
}

// zeroSums returns a frame with an ICMP error in it without its checksums.
func zeroSums(f []byte, six bool) []byte {
	f = bytes.Clone(f)
	clear2 := func(at int) { f[at], f[at+1] = 0, 0 }
	size := 20
	if six {
		size = 40
	}
	proto := f[14+size+8+9]
	if six {
		proto = f[14+size+8+6]
	} else {
		clear2(14 + 10)
		clear2(14 + size + 8 + 10)
	}
	clear2(14 + size + 2)
	at := 14 + size + 8 + size
	if proto == protoTCP {
		clear2(at + 16)
	} else {
		clear2(at + 6)
	}
	return f
}

// TestIdentifier translates the identifier of an ICMP query.
func TestIdentifier(t *testing.T) {
	b := packet.NewBatch()
	icmp := []byte{8, 0, 0, 0, 0x12, 0x34, 0, 1, 'x', 'y'}
	binary.BigEndian.PutUint16(icmp[2:], total(0, icmp))
	ip := []byte{0x45, 0, 0, 30, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}
	frame := append(append(append(make([]byte, 12), 8, 0), ip...), icmp...)
	parsetest.Add(b, frame)
	Apply(b, 0, []flowtable.Op{{Code: flowtable.OpSet, Word: flowtable.WordL4, Value: 0x4321, Mask: 0xffff}})
	got := b.AppendTo(nil, 0)[34:]
	if got[4] != 0x43 || got[5] != 0x21 || total(0, got) != 0 {
		t.Errorf("got %x", got)
	}
}

// FuzzInner translates what damaged ICMP errors quote: nothing else is changed.
func FuzzInner(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 40 {
		f.Add(quoting(r, []byte{protoTCP, protoUDP, protoICMP}[i%3], i%2 == 0), uint64(i))
	}
	b := packet.NewBatch()
	f.Fuzz(func(t *testing.T, frame []byte, seed uint64) {
		b.Reset()
		if len(frame) == 0 || len(frame) > packet.FrameMax || !parsetest.Add(b, frame) {
			return
		}
		r := rand.New(rand.NewPCG(seed, 0))
		Apply(b, 0, innerOps(r, seed%2 == 0))
		got := b.AppendTo(nil, 0)
		if len(got) != len(frame) || !bytes.Equal(got[:min(len(got), 34)], frame[:min(len(frame), 34)]) {
			t.Errorf("%x\nbecame %x", frame, got)
		}
	})
}
