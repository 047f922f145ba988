package edit

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/dataplane/parse/parsetest"
	"millrace/flowtable"
)

// program returns ops that change a frame of which tagged says whether it has
// a tag; tags are put on and taken off only where there is none or one.
func program(r *rand.Rand, tagged bool) []flowtable.Op {
	ops := make([]flowtable.Op, r.IntN(6))
	for i := range ops {
		op := &ops[i]
		switch n := r.IntN(20); {
		case n == 0 && tagged:
			*op, tagged = flowtable.Op{Code: flowtable.OpPopVLAN}, false
		case n == 0:
			*op, tagged = flowtable.Op{Code: flowtable.OpPushVLAN, Arg: 0x8100}, true
		case n < 4:
			op.Code = flowtable.OpDecTTL
		case n < 5:
			op.Code = flowtable.OpOutput
		default:
			*op = flowtable.Op{Code: flowtable.OpSet, Word: uint8(r.IntN(flowtable.KeyWords)), Value: r.Uint64(), Mask: mask(r)}
			if op.Word == flowtable.WordL4 {
				op.Mask &^= 0xffff // see inner_test.go
			}
			op.Value &= op.Mask
		}
	}
	return ops
}

// mask returns a mask: whole words, fields, some bits or none.
func mask(r *rand.Rand) uint64 {
	switch r.IntN(5) {
	case 0:
		return ^uint64(0)
	case 1:
		return r.Uint64()
	case 2:
		return 0
	case 3:
		return r.Uint64() & r.Uint64() & r.Uint64()
	}
	all := flowtable.Fields()
	f := all[r.IntN(len(all))]
	high, _ := f.Bits()
	return high
}

// settable returns the bits of the words that can be set in a frame whose
// layout is l.
func settable(l *parse.Layout) (m flowtable.Key) {
	m[flowtable.WordDst] = 0xffffffffffff << 16
	m[flowtable.WordSrc] = 0xffffffffffff << 16
	if l.L3 == 0 {
		return m
	}
	all := ^uint64(0)
	switch l.Type {
	case 0x0806, 0x8035:
		m[flowtable.WordIP4], m[flowtable.WordL4] = all, 0xffff<<48
		m[flowtable.WordSHA], m[flowtable.WordTHA] = all>>16, all>>16
		return m
	case 0x0800:
		m[flowtable.WordIP4] = all
	case 0x86dd:
		m[flowtable.WordIP4] = 0xfffff
		for w := flowtable.WordIP6Src; w <= flowtable.WordIP6DstLow; w++ {
			m[w] = all
		}
	}
	m[flowtable.WordSrc] |= 0xff
	m[flowtable.WordL4] = 0xff << 24
	switch {
	case l.L4 != 0 && (l.Proto == 1 || l.Proto == 58):
		m[flowtable.WordL4] |= 0x00ff00ff << 32
	case l.L4 != 0:
		m[flowtable.WordL4] |= 0xffffffff << 32
	}
	if l.ND != 0 {
		m[flowtable.WordND], m[flowtable.WordNDLow] = all, all
	}
	if l.SLL != 0 {
		m[flowtable.WordSHA] = all >> 16
	}
	if l.TLL != 0 {
		m[flowtable.WordTHA] = all >> 16
	}
	return m
}

// changed is what ops make of key k of a frame whose layout is l: the plain
// model of Apply.
func changed(k flowtable.Key, l *parse.Layout, ops []flowtable.Op) flowtable.Key {
	can := settable(l)
	for _, op := range ops {
		switch tag := k[flowtable.WordIn] & (flowtable.TagPresent << 16); op.Code {
		case flowtable.OpSet:
			m := can[op.Word]
			if op.Word == flowtable.WordIn && tag != 0 {
				m = 0xefff << 16
			}
			m &= op.Mask
			k[op.Word] = k[op.Word]&^m | op.Value&m
		case flowtable.OpPushVLAN:
			k[flowtable.WordIn] |= flowtable.TagPresent << 16
		case flowtable.OpPopVLAN:
			k[flowtable.WordIn] &^= 0xffff << 16
		case flowtable.OpDecTTL:
			if can[flowtable.WordSrc]&0xff != 0 && k[flowtable.WordSrc]&0xff != 0 {
				k[flowtable.WordSrc]--
			}
		}
	}
	return k
}

// TestApply edits random frames at random, and finds in them the key that the
// ops made of the key, right checksums, and the payload as it was.
func TestApply(t *testing.T) {
	r := parsetest.Seeded(t)
	b := packet.NewBatch()
	done := 0
	for range 60000 {
		frame := parsetest.Frame(r)
		original := bytes.Clone(frame)
		b.Reset()
		parsetest.Add(b, frame)
		before := parse.Locate(b.Head(0), b.Frames[0].Len)
		if before.Flaw != 0 || before.Type == 0x8100 || before.Type == 0x88a8 {
			continue
		}
		key := parse.One(b.Head(0), b.Frames[0].Len, 0)
		ops := program(r, before.Tag != 0)
		Apply(b, 0, ops)
		want := changed(key, &before, ops)
		if neighbour(want) != neighbour(key) {
			continue // what was payload now is not, or the reverse
		}
		done++
		edited := b.AppendTo(nil, 0)
		if got := parse.One(b.Head(0), b.Frames[0].Len, 0); got != want {
			t.Fatalf("%x\nops  %v\nkey  %x\ngot  %x\nwant %x\n%x", original, ops, key, got, want, edited)
		}
		if err := sound(edited); err != nil {
			t.Fatalf("%x\nops %v\n%x\n%v", original, ops, edited, err)
		}
		if !bytes.HasSuffix(edited, original[min(len(original), packet.HeadMax):]) {
			t.Fatalf("%x\nops %v\n%x\nthe payload has changed", original, ops, edited)
		}
	}
	if done < 40000 {
		t.Errorf("%d of 60000 frames were compared", done)
	}
}

// neighbour reports whether k is that of a neighbour message.
func neighbour(k flowtable.Key) bool {
	kind := k[flowtable.WordL4] >> 32
	return k[flowtable.WordSrc]>>8&0xff == 58 && (kind == 135<<16 || kind == 136<<16)
}

// sound reports a wrong checksum of frame.
func sound(frame []byte) error {
	l := parse.Locate(frame, uint32(len(frame)))
	if l.L3 == 0 || l.Type != typeIPv4 && l.Type != typeIPv6 {
		return nil
	}
	return parsetest.Sound(frame, int(l.L3), int(l.L4), int(l.End), l.Proto)
}

// simple returns ops of which Compile makes straight stores, mostly.
func simple(r *rand.Rand) []flowtable.Op {
	set := func(word uint8, mask uint64) flowtable.Op {
		return flowtable.Op{Code: flowtable.OpSet, Word: word, Value: r.Uint64(), Mask: mask}
	}
	whole := wholeBytes[r.IntN(256)]
	ops := make([]flowtable.Op, 0, 16)
	for range r.IntN(5) {
		switch r.IntN(7) {
		case 0:
			ops = append(ops, flowtable.Op{Code: flowtable.OpDecTTL})
		case 1:
			ops = append(ops, set(flowtable.WordIP4, whole))
		case 2:
			ops = append(ops, set(flowtable.WordL4, whole>>32<<32))
		case 3:
			ops = append(ops, set(flowtable.WordSrc, whole&^0xff00))
		default:
			ops = append(ops, set(flowtable.WordDst+uint8(r.IntN(2)), whole&^0xffff))
		}
	}
	switch r.IntN(8) {
	case 0:
		ops = append(ops, program(r, false)...)
	case 1:
		ops = append(ops, flowtable.Op{Code: flowtable.OpPushVLAN, Arg: 0x8100}, set(flowtable.WordIn, mask(r)))
	case 2:
		ops = append(ops, flowtable.Op{Code: flowtable.OpPopVLAN})
	case 3:
		ops = append(ops, set(flowtable.WordIP4, mask(r)))
	}
	for i := range ops {
		ops[i].Value &= ops[i].Mask
	}
	return ops
}

// TestPatch finds compiled ops to do what ops do, to sound and damaged frames.
func TestPatch(t *testing.T) {
	r := parsetest.Seeded(t)
	b := packet.NewBatch()
	ready := 0
	for range 60000 {
		frame := parsetest.Frame(r)
		if r.IntN(2) == 0 {
			frame = parsetest.Damage(r, frame)
		}
		ready += comparePatch(t, b, frame, simple(r))
		if t.Failed() {
			return
		}
	}
	if ready < 20000 {
		t.Errorf("%d of 60000 lists were made ready", ready)
	}
}

// comparePatch applies ops to frame in both ways, if they can be made ready. It
// returns how many were.
func comparePatch(t *testing.T, b *packet.Batch, frame []byte, ops []flowtable.Op) (ready int) {
	t.Helper()
	b.Reset()
	if len(frame) == 0 || len(frame) > packet.FrameMax || !parsetest.Add(b, frame) || !parsetest.Add(b, frame) {
		return 0
	}
	p, ok := Compile(ops)
	if !ok {
		return 0
	}
	Apply(b, 0, ops)
	p.Apply(b, 1)
	plain, fast := b.AppendTo(nil, 0), b.AppendTo(nil, 1)
	if !bytes.Equal(plain, fast) || b.Frames[0].Len != b.Frames[1].Len {
		t.Errorf("%x\nops      %v\nplain    %x\ncompiled %x", frame, ops, plain, fast)
	}
	if again, ok := Compile(p.Ops(nil)); !ok || again != p {
		t.Errorf("ops %v\nbecome %v, compiled %x, and again %x", ops, p.Ops(nil), p, again)
	}
	return 1
}

// FuzzEdit finds no frame and ops that panic, that write outside the frame,
// or that a Patch carries out otherwise.
func FuzzEdit(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 200 {
		f.Add(parsetest.Frame(r), uint64(i))
		f.Add(parsetest.Damage(r, parsetest.Frame(r)), uint64(i))
	}
	b := packet.NewBatch()
	f.Fuzz(func(t *testing.T, frame []byte, seed uint64) {
		if len(frame) == 0 || len(frame) > packet.FrameMax {
			return
		}
		r := rand.New(rand.NewPCG(seed, 0))
		ops := program(r, seed%2 == 0)
		if seed%3 == 0 {
			ops = simple(r)
		}
		comparePatch(t, b, frame, ops)
		b.Reset()
		for i := range b.Slot(0) {
			b.Slot(0)[i] = 0xee
		}
		if !parsetest.Add(b, frame) {
			return
		}
		end := b.Frames[0].Off + b.Frames[0].HeadLen
		Apply(b, 0, ops)
		after := b.Frames[0]
		if after.Off+after.HeadLen != end || after.Len-uint32(after.HeadLen) != uint32(max(0, len(frame)-packet.HeadMax)) {
			t.Errorf("%x\nops %v\nframe %+v, head ends at %d", frame, ops, after, end)
		}
		for i, v := range b.Slot(0)[end:] {
			if v != 0xee {
				t.Errorf("%x\nops %v\nbyte %d behind the head is written", frame, ops, i)
			}
		}
	})
}

// TestTags puts on and takes off tags where there are already some.
func TestTags(t *testing.T) {
	const addrs = "dddddd" + "ssssss"
	push := func(kind uint32) flowtable.Op { return flowtable.Op{Code: flowtable.OpPushVLAN, Arg: kind} }
	tci := func(v, mask uint64) flowtable.Op {
		return flowtable.Op{Code: flowtable.OpSet, Word: flowtable.WordIn, Value: v << 16, Mask: mask << 16}
	}
	pop := flowtable.Op{Code: flowtable.OpPopVLAN}
	for _, tt := range []struct {
		name, frame string
		ops         []flowtable.Op
		want        string
	}{
		{"push", addrs + "\x12\x34payload", []flowtable.Op{push(0x88a8)}, addrs + "\x88\xa8\x00\x00\x12\x34payload"},
		{"push and set", addrs + "\x12\x34payload", []flowtable.Op{push(0x8100), tci(0x7064, 0xffff)}, addrs + "\x81\x00\x60\x64\x12\x34payload"},
		{"push on a tag", addrs + "\x81\x00\x00\x01\x12\x34payload", []flowtable.Op{push(0x88a8), tci(2, 0xfff)}, addrs + "\x88\xa8\x00\x02\x81\x00\x00\x01\x12\x34payload"},
		{"pop", addrs + "\x81\x00\x00\x01\x12\x34payload", []flowtable.Op{pop}, addrs + "\x12\x34payload"},
		{"pop without a tag", addrs + "\x12\x34payload", []flowtable.Op{pop}, addrs + "\x12\x34payload"},
		{"pop half a tag", addrs + "\x81\x00\x00", []flowtable.Op{pop}, addrs + "\x81\x00\x00"},
		{"pop one of two, the key knows no second", addrs + "\x88\xa8\x00\x02\x81\x00\x00\x01\x12\x34payload", []flowtable.Op{pop, tci(3, 0xfff), pop}, addrs + "\x81\x00\x00\x01\x12\x34payload"},
		{"set without a tag", addrs + "\x12\x34payload", []flowtable.Op{tci(3, 0xfff)}, addrs + "\x12\x34payload"},
		{"set, drop eligible stays", addrs + "\x81\x00\x30\x01\x12\x34payload", []flowtable.Op{tci(0xe002, 0xffff)}, addrs + "\x81\x00\xf0\x02\x12\x34payload"},
		{"pop and push", addrs + "\x81\x00\xf0\x01\x12\x34payload", []flowtable.Op{pop, push(0x8100)}, addrs + "\x81\x00\x00\x00\x12\x34payload"},
		{"shorter than Ethernet", addrs + "\x12", []flowtable.Op{push(0x8100), pop}, addrs + "\x12"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := packet.NewBatch()
			b.Add([]byte(tt.frame))
			Apply(b, 0, tt.ops)
			if got := string(b.AppendTo(nil, 0)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestHeadRoom: tags beyond the head room are not put on, and nothing else breaks.
func TestHeadRoom(t *testing.T) {
	b := packet.NewBatch()
	b.Add(make([]byte, 60))
	ops := make([]flowtable.Op, 40)
	for i := range ops {
		ops[i] = flowtable.Op{Code: flowtable.OpPushVLAN, Arg: 0x8100}
	}
	Apply(b, 0, ops)
	if got, want := len(b.AppendTo(nil, 0)), 60+packet.HeadRoom; got != want {
		t.Errorf("%d bytes, want %d", got, want)
	}
}

// TestRouted: an IPv6 packet on its way through a list of destinations keeps
// its checksum, which covers the last one (RFC 8200 8.1).
func TestRouted(t *testing.T) {
	const ip6 = "\x60\x00\x00\x00\x00\x20\x2b\x40" + "ssssssssssssssss" + "dddddddddddddddd"
	udp := "\x00\x01\x00\x02\x00\x08\x12\x34"
	for _, tt := range []struct {
		name, left string
		word       uint8
		change     bool
	}{
		{"destinations left, destination", "\x01", flowtable.WordIP6Dst, false},
		{"destinations left, source", "\x01", flowtable.WordIP6Src, true},
		{"no destination left", "\x00", flowtable.WordIP6Dst, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := packet.NewBatch()
			b.Add([]byte("ddddddssssss\x86\xdd" + ip6 + "\x11\x02\x00" + tt.left + "\x00\x00\x00\x00" + "dddddddddddddddd" + udp))
			Apply(b, 0, []flowtable.Op{{Code: flowtable.OpSet, Word: tt.word, Value: 1, Mask: ^uint64(0)}})
			if got := bytes.HasSuffix(b.Head(0), []byte("\x12\x34")); got == tt.change {
				t.Errorf("checksum is as it was: %v", got)
			}
		})
	}
}

// TestUDPChecksum: no checksum stays none, and a sum of zero is sent as its
// other form, 0xffff (RFC 768).
func TestUDPChecksum(t *testing.T) {
	b := packet.NewBatch()
	for _, kind := range []uint64{typeIPv4, typeIPv6} {
		frame := parse.Build(flowtable.Key{flowtable.WordIn: kind, flowtable.WordSrc: 17<<8 | 64, flowtable.WordIP4: 7, flowtable.WordL4: 9 << 48})
		at := parse.Locate(frame, uint32(len(frame))).L4 + 6
		none := bytes.Clone(frame)
		none[at], none[at+1] = 0, 0
		ones := 0
		for port := range uint64(1 << 16) {
			ops := []flowtable.Op{{Code: flowtable.OpSet, Word: flowtable.WordL4, Value: port << 32, Mask: 0xffff << 32}}
			b.Reset()
			b.Add(frame)
			b.Add(frame)
			b.Add(none)
			b.Add(none)
			p, _ := Compile(ops)
			for i := range 2 {
				Apply(b, 2*i, ops)
				p.Apply(b, 2*i+1)
			}
			for i := range 4 {
				sum := uint16(b.Head(i)[at])<<8 | uint16(b.Head(i)[at+1])
				if (sum == 0) != (i >= 2) {
					t.Fatalf("type %#x, port %d, frame %d: checksum %#x", kind, port, i, sum)
				}
				if sum == 0xffff {
					ones++
				}
			}
			if err := sound(b.Head(0)); err != nil {
				t.Fatalf("type %#x, port %d: %v", kind, port, err)
			}
		}
		if ones == 0 {
			t.Errorf("type %#x: no port made the sum zero", kind)
		}
	}
}

// TestAllocs: editing allocates nothing.
func TestAllocs(t *testing.T) {
	r := parsetest.Seeded(t)
	b := packet.NewBatch()
	for parsetest.Add(b, parsetest.Frame(r)) {
	}
	ops := []flowtable.Op{{Code: flowtable.OpPushVLAN, Arg: 0x8100}, {Code: flowtable.OpPopVLAN}, {Code: flowtable.OpDecTTL}}
	for w := range uint8(flowtable.KeyWords) {
		ops = append(ops, flowtable.Op{Code: flowtable.OpSet, Word: w, Value: r.Uint64(), Mask: ^uint64(0)})
	}
	easy := []flowtable.Op{{Code: flowtable.OpDecTTL}, {Code: flowtable.OpSet, Word: flowtable.WordIP4, Value: 1, Mask: 0xffffffff}}
	n := testing.AllocsPerRun(100, func() {
		for i := range b.N {
			Apply(b, i, ops)
			p, _ := Compile(easy)
			p.Apply(b, i)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkPatch is the cost of a change to one frame of a full batch.
func BenchmarkPatch(b *testing.B) {
	set := func(word uint8, mask uint64) flowtable.Op {
		return flowtable.Op{Code: flowtable.OpSet, Word: word, Value: 0x020000000001 << 16 & mask, Mask: mask}
	}
	const mac = 0xffffffffffff << 16
	for _, tt := range []struct {
		name string
		ops  []flowtable.Op
	}{
		{"addresses", []flowtable.Op{set(flowtable.WordDst, mac), set(flowtable.WordSrc, mac)}},
		{"route", []flowtable.Op{set(flowtable.WordDst, mac), set(flowtable.WordSrc, mac), {Code: flowtable.OpDecTTL}}},
		{"NAT", []flowtable.Op{set(flowtable.WordIP4, 0xffffffff), set(flowtable.WordL4, 0xffff<<32)}},
		{"push and pop", []flowtable.Op{{Code: flowtable.OpPushVLAN, Arg: 0x8100}, {Code: flowtable.OpPopVLAN}}},
	} {
		for _, kind := range []uint64{typeIPv4, typeIPv6} {
			b.Run(fmt.Sprintf("%s/%04x", tt.name, kind), func(b *testing.B) {
				batch := packet.NewBatch()
				for range packet.BatchMax {
					batch.Add(parse.Build(flowtable.Key{flowtable.WordIn: kind, flowtable.WordSrc: 17<<8 | 255}))
				}
				p, ok := Compile(tt.ops)
				b.ReportAllocs()
				for i := 0; i < b.N; i += packet.BatchMax {
					for f := range batch.N {
						if ok {
							p.Apply(batch, f)
						} else {
							Apply(batch, f, tt.ops)
						}
					}
					if i>>6%128 == 127 {
						refill(batch)
					}
				}
			})
		}
	}
}

// refill gives the frames their TTL back.
func refill(b *packet.Batch) {
	for i := range b.N {
		Apply(b, i, []flowtable.Op{{Code: flowtable.OpSet, Word: flowtable.WordSrc, Value: 255, Mask: 255}})
	}
}
