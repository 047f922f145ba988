package parse

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"strings"
	"testing"

	"millrace/dataplane/packet"
	"millrace/dataplane/parse/parsetest"
	"millrace/flowtable"
)

// one is One with what a receive queue would make private of frame.
func one(frame []byte, port uint32) (flowtable.Key, Flaw) {
	return Inspect(frame[:min(len(frame), packet.HeadMax)], uint32(len(frame)), port)
}

// compare finds Narrow's answers about b to be those of Inspect.
func compare(t *testing.T, b *packet.Batch) {
	t.Helper()
	const port = 0xfedcba98
	keys, wide := new(NarrowKeys), new(Wide)
	for i := range keys {
		keys[i] = [flowtable.NarrowWords]uint64{1, 2, 3, 4, 5, 6}
		wide.Keys[i] = flowtable.Key{flowtable.WordND: 7}
	}
	Narrow(b, port, Full, keys, wide)
	for i := range b.N {
		want, flaw := Inspect(b.Head(i), b.Frames[i].Len, port)
		bit := uint64(1) << i
		if k, isWide, f := InspectAt(Full, b.Head(i), b.Frames[i].Len, port); k != want || f != flaw || isWide != (wide.Frames&bit != 0) {
			t.Errorf("%x: alone %x, wide %v, %v", b.Head(i), k, isWide, f)
		}
		comparePlain(t, b.Head(i), b.Frames[i].Len)
		got := flowtable.Key{}
		copy(got[:], keys[i][:])
		if wide.Frames&bit != 0 {
			got = wide.Keys[i]
			if narrow := [flowtable.NarrowWords]uint64(got[:]); narrow != keys[i] {
				t.Errorf("%x: narrow key %x, whole key %x", b.Head(i), keys[i], got)
			}
		}
		if got != want {
			t.Errorf("%x: key differs\ngot  %x\nwant %x", b.Head(i), got, want)
		}
		if (wide.Bad&bit != 0) != (flaw == Bad) || (wide.Deep&bit != 0) != (flaw == Deep) {
			t.Errorf("%x: bad %x, deep %x of frame %d, want %v", b.Head(i), wide.Bad, wide.Deep, i, flaw)
		}
	}
	Narrow(b, port, L2, keys, wide)
	if wide.Frames != 0 {
		t.Errorf("level L2: frames %x are wide", wide.Frames)
	}
	for i := range b.N {
		full := One(b.Head(i), b.Frames[i].Len, port)
		want := [flowtable.NarrowWords]uint64{full[0], full[1] &^ 0xffff, full[2] &^ 0xffff}
		if h := b.Head(i); len(h) >= etherLen && h[12] == 0x88 && h[13] == 0xa8 {
			want[flowtable.WordIn] = port<<32 | typeQinQ
		}
		if k, isWide, _ := InspectAt(L2, b.Head(i), b.Frames[i].Len, port); isWide || [flowtable.NarrowWords]uint64(k[:]) != want {
			t.Errorf("%x: level L2: got %x alone, want %x", b.Head(i), k, want)
		}
		if keys[i] != want {
			t.Errorf("%x: level L2: got %x, want %x", b.Head(i), keys[i], want)
		}
	}
}

// TestNarrow compares the fast reading of batches with the plain one of
// frames, sound and damaged, moved in their slots and with short heads.
func TestNarrow(t *testing.T) {
	r := parsetest.Seeded(t)
	b := packet.NewBatch()
	kinds := map[string]int{}
	for range 3000 {
		b.Reset()
		for b.N < 1+r.IntN(packet.BatchMax) {
			frame := parsetest.Frame(r)
			if r.IntN(2) == 0 {
				frame = parsetest.Damage(r, frame)
			}
			parsetest.Add(b, frame)
			f := &b.Frames[b.N-1]
			switch r.IntN(16) {
			case 0:
				f.HeadLen = min(f.HeadLen, uint16(r.IntN(packet.HeadMax)))
			case 1:
				b.Grow(b.N-1, 4*uint16(r.IntN(32)))
			case 2:
				b.Shrink(b.N-1, min(f.HeadLen, uint16(r.IntN(packet.HeadMax))))
			}
			_, flaw := Inspect(b.Head(b.N-1), f.Len, 0)
			kinds[flaw.String()]++
		}
		compare(t, b)
		if t.Failed() {
			return
		}
	}
	if len(kinds) != 3 {
		t.Errorf("frames by flaw: %v, want some of all three", kinds)
	}
}

// comparePlain holds Plain to Find: it is true of frames without a flaw that are whole packets of TCP or
// UDP right behind an IP header without options, and whose TCP header ends within.
func comparePlain(t *testing.T, head []byte, length uint32) {
	t.Helper()
	l := Locate(head, length)
	want := l.Flaw == 0 && l.L4 != 0 && l.Frag == 0 && (l.Proto == protoTCP || l.Proto == protoUDP)
	if want {
		at, ip := etherLen, ip4Len
		if IsTag(binary.BigEndian.Uint16(head[12:])) {
			at += tagLen
		}
		if l.Type == typeIPv6 {
			ip = ip6Len
		}
		want = int(l.L3) == at && int(l.L4) == at+ip
	}
	if want && l.Type == typeIPv4 {
		want = binary.BigEndian.Uint16(head[l.L3+6:])&0x3fff == 0
	}
	if want && l.Proto == protoTCP {
		size := uint32(head[l.L4+12]>>4) * 4
		want = size >= tcpLen && size <= l.End-uint32(l.L4)
	}
	if got := Plain(head, length); got != want {
		t.Errorf("%x of %d bytes: plain %v, want %v (%+v)", head, length, got, want, l)
	}
}

// FuzzParse finds no bytes that panic, or that Narrow and One read differently.
func FuzzParse(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		f.Add(parsetest.Frame(r), uint8(0))
		f.Add(parsetest.Damage(r, parsetest.Frame(r)), uint8(r.Uint32()))
	}
	b := packet.NewBatch()
	f.Fuzz(func(t *testing.T, frame []byte, head uint8) {
		b.Reset()
		if len(frame) == 0 || len(frame) > packet.FrameMax || !parsetest.Add(b, frame) {
			return
		}
		parsetest.Add(b, frame)
		b.Frames[1].HeadLen = min(b.Frames[1].HeadLen, uint16(head))
		compare(t, b)
		k, flaw := one(frame, 1)
		l := Locate(b.Head(0), b.Frames[0].Len)
		if l.L4 != 0 && uint32(l.L4) >= l.End || l.End > uint32(len(frame)) || l.ND != 0 && l.L4 == 0 {
			t.Errorf("layout %+v of %d bytes", l, len(frame))
		}
		if flaw == 0 && buildable(k) {
			if got := One(Build(k), uint32(len(Build(k))), 1); got != k {
				t.Errorf("key %x, of the frame built from it %x", k, got)
			}
		}
	})
}

// buildable reports whether Build can make a frame for k, the key of a frame
// without flaws: not if its protocol is an extension header, whose insides no key tells.
func buildable(k flowtable.Key) bool {
	switch uint8(k[flowtable.WordSrc] >> 8) {
	case protoHopByHop, protoOptions, protoRouting, protoAH:
		return uint16(k[flowtable.WordIn]) != typeIPv6
	}
	return true
}

// TestBuild makes frames from the keys of frames, and finds the same keys in
// them, and checksums that are right.
func TestBuild(t *testing.T) {
	r := parsetest.Seeded(t)
	for range 20000 {
		frame := parsetest.Frame(r)
		k, flaw := one(frame, 0)
		if flaw != 0 {
			continue
		}
		built := Build(k)
		if got, flaw := one(built, 0); got != k || flaw != 0 {
			t.Fatalf("%x\nkey   %x\nbuilt %x\nkey   %x, flaw %v", frame, k, built, got, flaw)
		}
		if err := sound(built); err != nil {
			t.Fatalf("key %x: %x: %v", k, built, err)
		}
	}
}

// TestKey says what some frames are read as.
func TestKey(t *testing.T) {
	const (
		ether  = "010203040506 0a0b0c0d0e0f "
		ether4 = ether + "0800 "
		addrs  = "0a000001 0a000002 "
		ether6 = ether + "86dd "
		addrs6 = "20010db8000000000000000000000001 20010db8000000000000000000000002 "
	)
	base := flowtable.Key{flowtable.WordIn: 9 << 32, flowtable.WordDst: 0x010203040506 << 16, flowtable.WordSrc: 0x0a0b0c0d0e0f << 16}
	v4 := func(src, ip, l4 uint64) flowtable.Key {
		k := base
		k[flowtable.WordIn] |= 0x0800
		k[flowtable.WordSrc] |= src
		k[flowtable.WordIP4] = ip
		k[flowtable.WordL4] = l4
		return k
	}
	v6 := func(src, l4 uint64) flowtable.Key {
		k := v4(src, 0, l4)
		k[flowtable.WordIn] ^= 0x0800 ^ 0x86dd
		k[flowtable.WordIP6Src], k[flowtable.WordIP6SrcLow] = 0x20010db8<<32, 1
		k[flowtable.WordIP6Dst], k[flowtable.WordIP6DstLow] = 0x20010db8<<32, 2
		return k
	}
	in := func(v uint64) flowtable.Key {
		k := base
		k[flowtable.WordIn] |= v
		return k
	}
	const ip = 0x0a000001<<32 | 0x0a000002
	for _, tt := range []struct {
		name, frame string
		length      uint32 // 0: that of the frame
		want        flowtable.Key
		flaw        Flaw
	}{
		{"nothing", "", 0, flowtable.Key{flowtable.WordIn: 9 << 32}, Bad},
		{"less than Ethernet", "010203040506 0a0b0c0d0e0f 08", 0, flowtable.Key{flowtable.WordIn: 9 << 32}, Bad},
		{"Ethernet only", ether + "1234", 0, in(0x1234), 0},
		{"IPv4 without its header", ether4, 0, in(0x0800), Bad},
		{"UDP", ether4 + "4500001c 00004000 4011 0000" + addrs + "0400 0035 0008 0000", 0, v4(0x1140, ip, 0x0400<<48|0x35<<32), 0},
		{"UDP with TOS and padding", ether4 + "45b9001c 00000000 4011 0000" + addrs + "0400 0035 0008 0000 ffffffff", 0, v4(0x1140, ip, 0x0400<<48|0x35<<32|0xb9<<24), 0},
		{"UDP header beyond the total length", ether4 + "4500001b 00000000 4011 0000" + addrs + "0400 0035 0008 0000", 0, v4(0x1140, ip, 0), Bad},
		{"UDP header beyond the head", ether4 + "4500001c 00000000 4011 0000" + addrs + "0400 0035 0008", 42, v4(0x1140, ip, 0), Deep},
		{"total length beyond the frame", ether4 + "4500001d 00000000 4011 0000" + addrs + "0400 0035 0008 0000", 0, in(0x0800), Bad},
		{"total length less than the header", ether4 + "45000013 00000000 4011 0000" + addrs + "0400 0035 0008 0000", 0, in(0x0800), Bad},
		{"header length less than the least", ether4 + "4400001c 00000000 4011 0000" + addrs + "0400 0035 0008 0000", 0, in(0x0800), Bad},
		{"header length more than the total", ether4 + "4800001c 00000000 4011 0000" + addrs + "0400 0035 0008 0000", 0, in(0x0800), Bad},
		{"IPv4 type, version 6", ether4 + "6500001c 00000000 4011 0000" + addrs + "0400 0035 0008 0000", 0, in(0x0800), Bad},
		{"options", ether4 + "46000020 00000000 4011 0000" + addrs + "01010101 0400 0035 0008 0000", 0, v4(0x1140, ip, 0x0400<<48|0x35<<32), 0},
		{"first fragment", ether4 + "4500001c 00002000 4011 0000" + addrs + "0400 0035 0008 0000", 0, v4(0x1140, ip, 0x0400<<48|0x35<<32|1<<16), 0},
		{"later fragment", ether4 + "4500001c 00002001 4011 0000" + addrs + "0400 0035 0008 0000", 0, v4(0x1140, ip, 3<<16), 0},
		{"last fragment", ether4 + "4500001c 00000001 4011 0000" + addrs + "0400 0035 0008 0000", 0, v4(0x1140, ip, 3<<16), 0},
		{"ICMP", ether4 + "4500001c 00000000 4001 0000" + addrs + "0301 0000 0000 0000", 0, v4(0x0140, ip, 3<<48|1<<32), 0},
		{"ICMPv6 in IPv4", ether4 + "4500001c 00000000 403a 0000" + addrs + "0301 0000 0000 0000", 0, v4(0x3a40, ip, 0), 0},
		{"IGMP", ether4 + "4500001c 00000000 4002 0000" + addrs + "1101 0000 0000 0000", 0, v4(0x0240, ip, 0), 0},
		{"tag", ether + "8100 f064 1234", 0, in((0xf064|flowtable.TagPresent)<<16 | 0x1234), 0},
		{"tag without the drop eligible bit", ether + "88a8 0064 1234", 0, in((0x0064|flowtable.TagPresent)<<16 | 0x1234), 0},
		{"two tags", ether + "88a8 0064 8100 0065 0800", 0, in((0x0064|flowtable.TagPresent)<<16 | 0x8100), 0},
		{"half a tag", ether + "8100 0064 08", 0, in(0x8100), Bad},
		{"LLC", ether + "0026 424203", 0, in(NoType), 0},
		{"SNAP", ether + "0026 aaaa03 000000 1234", 0, in(0x1234), 0},
		{"SNAP of another organisation", ether + "0026 aaaa03 00000c 2000", 0, in(NoType), 0},
		{"SNAP in a tag", ether + "8100 0001 0026 aaaa03 000000 1234", 0, in(0x1001<<16 | 0x1234), 0},
		{"UDP6", ether6 + "60000000 0008 11 40" + addrs6 + "0400 0035 0008 0000", 0, v6(0x1140, 0x0400<<48|0x35<<32), 0},
		{"UDP6 header beyond the payload", ether6 + "60000000 0007 11 40" + addrs6 + "0400 0035 0008 0000", 0, v6(0x1140, 0), Bad},
		{"payload beyond the frame", ether6 + "60000000 0009 11 40" + addrs6 + "0400 0035 0008 0000", 0, in(0x86dd), Bad},
		{"hop-by-hop", ether6 + "60000000 0010 00 40" + addrs6 + "1100010400000000 0400 0035 0008 0000", 0, v6(0x1140, 0x0400<<48|0x35<<32), 0},
		{"hop-by-hop beyond the payload", ether6 + "60000000 0010 00 40" + addrs6 + "1102010400000000 0400 0035 0008 0000", 0, v6(0x0040, 0), Bad},
		{"hop-by-hop beyond the head", ether6 + "60000000 0100 00 40" + addrs6 + "1102010400000000 0400 0035 0008 0000", 1000, v6(0x0040, 0), Deep},
		{"first fragment of six", ether6 + "60000000 0010 2c 40" + addrs6 + "11000001 00000000 0400 0035 0008 0000", 0, v6(0x1140, 0x0400<<48|0x35<<32|1<<16), 0},
		{"later fragment of six", ether6 + "60000000 0010 2c 40" + addrs6 + "11000008 00000000 0400 0035 0008 0000", 0, v6(0x2c40, 3<<16), 0},
		{"whole fragment of six", ether6 + "60000000 0010 2c 40" + addrs6 + "11000000 00000000 0400 0035 0008 0000", 0, v6(0x1140, 0x0400<<48|0x35<<32), 0},
		{"nothing follows", ether6 + "60000000 0000 3b 40" + addrs6, 0, v6(0x3b40, 0), 0},
		{"neighbour solicitation cut", ether6 + "60000000 0014 3a ff" + addrs6 + "8700 0000 00000000 20010db8 00000000 00000000", 0, v6(0x3aff, 135<<48), Bad},
		{"neighbour option of length zero", ether6 + "60000000 0020 3a ff" + addrs6 + "8700 0000 00000000 20010db8 00000000 00000000 00000009 0100 010203040506", 0, v6(0x3aff, 135<<48), Bad},
		{"neighbour option twice", ether6 + "60000000 0028 3a ff" + addrs6 + "8700 0000 00000000 20010db8 00000000 00000000 00000009 0101 010203040506 0101 010203040506", 0, v6(0x3aff, 135<<48), Bad},
		{"neighbour option beyond the payload", ether6 + "60000000 0020 3a ff" + addrs6 + "8700 0000 00000000 20010db8 00000000 00000000 00000009 0102 010203040506", 0, v6(0x3aff, 135<<48), Bad},
		{"ARP cut", ether + "0806 0001 0800 0604 0001 010203040506 0a000001 000000000000 0a0000", 0, in(0x0806), Bad},
		{"ARP for something else", ether + "0806 0006 0800 0604 0001 010203040506 0a000001 000000000000 0a000002", 0, in(0x0806), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			frame, err := hex.DecodeString(strings.ReplaceAll(tt.frame, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			if tt.length == 0 {
				tt.length = uint32(len(frame))
			}
			if got, flaw := Inspect(frame, tt.length, 9); got != tt.want || flaw != tt.flaw {
				t.Errorf("\ngot  %x, %v\nwant %x, %v", got, flaw, tt.want, tt.flaw)
			}
			b := packet.NewBatch()
			b.Add(frame)
			b.Frames[0].Len = tt.length
			compare(t, b)
		})
	}
}

// TestNarrowAllocs: reading a batch allocates nothing.
func TestNarrowAllocs(t *testing.T) {
	r := parsetest.Seeded(t)
	b, keys, wide := packet.NewBatch(), new(NarrowKeys), new(Wide)
	for parsetest.Add(b, parsetest.Frame(r)) {
	}
	for _, level := range []Level{L2, Full} {
		if n := testing.AllocsPerRun(100, func() { Narrow(b, 1, level, keys, wide) }); n != 0 {
			t.Errorf("level %d: %v allocations", level, n)
		}
	}
}

// sound reports a wrong checksum of frame.
func sound(frame []byte) error {
	l := Locate(frame, uint32(len(frame)))
	if l.L3 == 0 || l.Type != typeIPv4 && l.Type != typeIPv6 {
		return nil
	}
	return parsetest.Sound(frame, int(l.L3), int(l.L4), int(l.End), l.Proto)
}
