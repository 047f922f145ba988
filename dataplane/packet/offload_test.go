package packet

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"testing"
)

// all is everything that may be asked for.
const all = TakesSum | TakesSuper | TakesECN

// A talk is a packet of TCP or UDP, and how it is wrapped.
type talk struct {
	tags    int
	six     bool
	options int // of IP, in units of 8 bytes
	udp     bool
	tcpOpts int // in units of 4 bytes
	flags   byte
	port    byte // is added to the source port
	seq     uint32
	id      uint16
	payload []byte
}

// slowSum is the Internet checksum of b as RFC 1071 defines it, not complemented.
func slowSum(b []byte) uint16 {
	var sum uint32
	for i, v := range b {
		sum += uint32(v) << (8 * (1 - i%2))
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// frame is the talk's frame, with where its headers are. With partial, the checksum is that
// of the pseudo header.
func (k *talk) frame(partial bool) (b []byte, l4, field int) {
	b = []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
	for i := range k.tags {
		b = append(b, 0x81, 0, 0, byte(5+i))
	}
	proto := byte(6)
	if k.udp {
		proto = 17
	}
	h := k.transport()
	var pseudo []byte
	if k.six {
		b = append(b, 0x86, 0xdd)
		ip := make([]byte, 40+8*k.options)
		ip[0], ip[6], ip[7] = 0x60, proto, 64
		for i := range 32 {
			ip[8+i] = byte(i*7 + 1)
		}
		if k.options > 0 {
			ip[6], ip[40], ip[41] = 0, proto, byte(k.options-1)
		}
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40+len(h)))
		pseudo = append(pseudo, ip[8:40]...)
		b = append(b, ip...)
	} else {
		b = append(b, 0x08, 0x00)
		ip := make([]byte, 20+8*k.options)
		ip[0], ip[8], ip[9] = byte(0x40+len(ip)/4), 64, proto
		copy(ip[12:], []byte{10, 1, 2, 3, 10, 200, 7, 9})
		for i := range 8 * k.options {
			ip[20+i] = 1 // no operation
		}
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(h)))
		binary.BigEndian.PutUint16(ip[4:], k.id)
		binary.BigEndian.PutUint16(ip[10:], ^slowSum(ip))
		pseudo = append(pseudo, ip[12:20]...)
		b = append(b, ip...)
	}
	pseudo = append(pseudo, 0, proto)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(h)))
	l4 = len(b)
	field = 16
	if k.udp {
		field = 6
	}
	sum := slowSum(pseudo)
	if !partial {
		if sum = ^slowSum(append(pseudo, h...)); sum == 0 && k.udp {
			sum = 0xffff
		}
	}
	binary.BigEndian.PutUint16(h[field:], sum)
	return append(b, h...), l4, field
}

// transport is the TCP or UDP header with its payload and no checksum.
func (k *talk) transport() []byte {
	if k.udp {
		h := []byte{0x30, 0x39, 0x00, 0x35, 0, 0, 0, 0}
		binary.BigEndian.PutUint16(h[4:], uint16(8+len(k.payload)))
		return append(h, k.payload...)
	}
	h := make([]byte, 20+4*k.tcpOpts)
	copy(h, []byte{0x30, 0x39 + k.port, 0x00, 0x50})
	binary.BigEndian.PutUint32(h[4:], k.seq)
	h[12], h[13] = byte(len(h)/4)<<4, k.flags
	for i := 20; i < len(h); i++ {
		h[i] = 1
	}
	return append(h, k.payload...)
}

// segments are the frames that the talk's super-frame is to become.
func (k *talk) segments(size int) (out [][]byte) {
	for at := 0; at < len(k.payload); at += size {
		s := *k
		s.payload = k.payload[at:min(at+size, len(k.payload))]
		s.seq += uint32(at)
		s.id += uint16(at / size)
		if at+size < len(k.payload) {
			s.flags &^= 0x09 // FIN, PSH
		}
		if at > 0 {
			s.flags &^= 0x80 // CWR
		}
		f, _, _ := s.frame(false)
		out = append(out, f)
	}
	return out
}

// header is the virtio-net header of a frame that asks for a checksum, and for segments of
// size bytes, if that is not 0.
func (k *talk) header(l4, field, size int) []byte {
	h := make([]byte, HeaderLen)
	h[0] = 1
	binary.LittleEndian.PutUint16(h[6:], uint16(l4))
	binary.LittleEndian.PutUint16(h[8:], uint16(field))
	if size > 0 {
		h[1] = 1
		switch {
		case k.udp:
			h[1] = 5
		case k.six:
			h[1] = 4
		}
		if k.flags&0x80 != 0 && !k.udp {
			h[1] |= 0x80
		}
		binary.LittleEndian.PutUint16(h[4:], uint16(size))
	}
	return h
}

// randomTalk is some talk whose headers fit the head.
func randomTalk(r *rand.Rand, payload int) *talk {
	k := &talk{tags: r.IntN(3), six: r.IntN(2) == 0, udp: r.IntN(2) == 0, seq: r.Uint32(), id: uint16(r.Uint32()), flags: byte(r.Uint32()) | 0x10}
	k.options, k.tcpOpts = r.IntN(2)*r.IntN(3), r.IntN(2)*r.IntN(6)
	k.payload = make([]byte, payload)
	for i := range k.payload {
		k.payload[i] = byte(r.Uint32())
	}
	return k
}

// put puts a frame into b, its end in some pieces, and returns its number.
func put(t testing.TB, r *rand.Rand, b *Batch, frame []byte) int {
	t.Helper()
	head := frame[:min(len(frame), HeadMax-r.IntN(2)*r.IntN(3))]
	var segs []Seg
	for rest := frame[len(head):]; len(rest) > 0; {
		n := 1 + r.IntN(len(rest))
		if r.IntN(3) == 0 {
			n = len(rest)
		}
		segs = append(segs, Seg{Addr(rest), uintptr(n)})
		rest = rest[n:]
	}
	if !b.Add(head, segs...) {
		t.Fatal("batch is full")
	}
	return b.N - 1
}

// TestZeroChecksum: a checksum that comes out as zero is written as zero in TCP (RFC 1624), and as its other form in
// UDP, where zero says that there is none.
func TestZeroChecksum(t *testing.T) {
	for _, k := range []*talk{{flags: 0x10}, {six: true, flags: 0x10}, {udp: true}, {udp: true, six: true}} {
		k.payload = make([]byte, 2)
		for n := range 1 << 16 {
			binary.BigEndian.PutUint16(k.payload, uint16(n))
			want, l4, field := k.frame(false)
			if sum := binary.BigEndian.Uint16(want[l4+field:]); sum != 0 && sum != 0xffff {
				continue
			}
			b := NewBatch()
			f, _, _ := k.frame(true)
			b.Add(f)
			if why := b.Judge(0, k.header(l4, field, 0), all); why != ReasonNone {
				t.Fatal(why)
			}
			if !b.Settle(0, 0) || !bytes.Equal(b.Head(0), want) {
				t.Errorf("%+v is finished as\n% x, want\n% x", k, b.Head(0), want)
			}
		}
	}
}

// TestCut compares segments with frames that were built one by one, and checksums that were
// finished with those of whole frames.
func TestCut(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	b := NewBatch()
	for range 800 {
		k := randomTalk(r, 1+r.IntN(1+r.IntN(20000)))
		size := 1 + r.IntN(len(k.payload)+100)
		size = min(max(size, len(k.payload)/PiecesMax+1), 9000)
		f, l4, field := k.frame(true)
		b.Reset()
		put(t, r, b, []byte("another frame, which asks for nothing"))
		i := put(t, r, b, f)
		b.Judge(0, make([]byte, HeaderLen), all)
		if why := b.Judge(i, k.header(l4, field, size), all); why != ReasonNone {
			t.Fatalf("%+v, segments of %d: %v", k, size, why)
		}
		want := k.segments(size)
		super := b.Needs(i)&TakesSuper != 0
		if super != (len(want) > 1) {
			t.Fatalf("%d segments, is a super-frame: %t", len(want), super)
		}
		longest := 0
		for _, s := range want {
			longest = max(longest, len(s))
		}
		if int(b.WireLen(i)) != longest || b.Needs(0) != 0 {
			t.Fatalf("longest segment of %d bytes, want %d", b.WireLen(i), longest)
		}
		first, n := i, 1
		if super {
			first, n = b.Cut(i)
			if again, m := b.Cut(i); again != first || m != n {
				t.Fatal("cut twice")
			}
		}
		if n != len(want) {
			t.Fatalf("%d segments, want %d", n, len(want))
		}
		for s := range n {
			if b.Needs(first+s) != TakesSum || !b.Settle(first+s, 0) || b.Needs(first+s) != 0 || b.Settle(first+s, 0) {
				t.Fatal("checksum was not finished once")
			}
			if got := b.AppendTo(nil, first+s); !bytes.Equal(got, want[s]) {
				t.Fatalf("%+v\nsegment %d of %d:\n%x\nwant\n%x", k, s, n, got, want[s])
			}
		}
		runtime.KeepAlive(f)
	}
}

// TestTravel: what a frame asks for goes on to those who take it, tags come and go, and
// the pseudo header's sum is that of the addresses as they are in the end.
func TestTravel(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	b := NewBatch()
	for range 200 {
		k := randomTalk(r, 2000+r.IntN(30000))
		k.tags, k.options = 1, 0
		f, l4, field := k.frame(true)
		b.Reset()
		i := put(t, r, b, f)
		asked := k.header(l4, field, 1000)
		if why := b.Judge(i, asked, all); why != ReasonNone {
			t.Fatal(why)
		}
		i, _ = b.Copy(i)
		b.Head(i)[l4+field]++ // as a correction would that takes it for finished
		copy(b.Head(i)[4:], b.Head(i)[:12])
		b.Shrink(i, 4)
		if b.Settle(i, all) {
			t.Fatal("finished for somebody who takes it")
		}
		k.tags = 0
		want, l4, field := k.frame(true)
		if got := b.AppendTo(nil, i); !bytes.Equal(got, want) {
			t.Fatalf("frame is\n%x\nwant\n%x", got[:80], want[:80])
		}
		h, wantHeader := make([]byte, HeaderLen), k.header(l4, field, 1000)
		b.PutHeader(i, h)
		binary.LittleEndian.PutUint16(wantHeader[2:], uint16(len(want)-len(k.payload)))
		if !bytes.Equal(h, wantHeader) {
			t.Fatalf("header %x, want %x", h, wantHeader)
		}
		runtime.KeepAlive(f)
	}
}

// TestJudge refuses what a hostile sender may say.
func TestJudge(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	tcp := talk{payload: make([]byte, 20000), flags: 0x10}
	udp := talk{udp: true, payload: make([]byte, 20000)}
	put16 := func(at, v int) func(h, _ []byte) {
		return func(h, _ []byte) { binary.LittleEndian.PutUint16(h[at:], uint16(v)) }
	}
	for _, tt := range []struct {
		name string
		k    talk
		may  Takes
		edit func(h, frame []byte)
		want Reason
	}{
		{"as it should be", tcp, all, nil, ReasonNone},
		{"datagrams", udp, all, nil, ReasonNone},
		{"hdr_len beyond the frame is a hint", tcp, all, put16(2, 0xffff), ReasonNone},
		{"unknown flags are ignored", tcp, all, func(h, _ []byte) { h[0] |= 0xfe }, ReasonNone},
		{"not agreed on", tcp, 0, nil, ReasonRxHeader},
		{"checksums only", tcp, TakesSum, nil, ReasonRxHeader},
		{"the other IP", tcp, TakesSum | TakesTCP6, nil, ReasonRxHeader},
		{"no ECN", tcp, TakesSum | TakesTCP4, func(h, _ []byte) { h[1] |= 0x80 }, ReasonRxHeader},
		{"no checksum asked for", tcp, all, func(h, _ []byte) { h[0] = 0 }, ReasonRxHeader},
		{"segments of nothing", tcp, all, put16(4, 0), ReasonRxHeader},
		{"segments of one byte", tcp, all, put16(4, 1), ReasonRxHeader},
		{"segments beyond a jumbo frame", tcp, all, put16(4, 9700), ReasonRxTooLong},
		{"one long segment", tcp, all, put16(4, 65535), ReasonRxTooLong},
		{"one long frame", tcp, all, func(h, _ []byte) { h[1] = 0 }, ReasonRxTooLong},
		{"a long frame that asks for nothing", tcp, all, func(h, _ []byte) { h[0], h[1] = 0, 0 }, ReasonRxTooLong},
		{"TCP of UDP", udp, all, func(h, _ []byte) { h[1] = 1 }, ReasonRxHeader},
		{"UDP of TCP", tcp, all, func(h, _ []byte) { h[1] = 5 }, ReasonRxHeader},
		{"ECN of UDP", udp, all, func(h, _ []byte) { h[1] |= 0x80 }, ReasonRxHeader},
		{"fragments of UDP", udp, all, func(h, _ []byte) { h[1] = 3 }, ReasonRxHeader},
		{"IPv6 of IPv4", tcp, all, func(h, _ []byte) { h[1] = 4 }, ReasonRxHeader},
		{"unknown segments", tcp, all, func(h, _ []byte) { h[1] = 77 }, ReasonRxHeader},
		{"checksum from the Ethernet header", tcp, all, put16(6, 2), ReasonRxHeader},
		{"checksum from the IP header", tcp, all, put16(6, 14), ReasonRxHeader},
		{"checksum from far away", tcp, all, put16(6, 0xfff0), ReasonRxHeader},
		{"checksum to far away", tcp, all, put16(8, 0xfff0), ReasonRxHeader},
		{"checksum at the end of the head", tcp, all, put16(8, HeadMax-34-1), ReasonRxHeader},
		{"checksum elsewhere", tcp, all, put16(8, 18), ReasonRxHeader},
		{"TCP header too short", tcp, all, func(_, f []byte) { f[46] = 0x40 }, ReasonRxHeader},
		{"IP packet shorter than the frame", tcp, all, func(_, f []byte) { f[16]-- }, ReasonRxHeader},
		{"IP packet longer than the frame", tcp, all, func(_, f []byte) { f[16]++ }, ReasonRxHeader},
		{"fragment", tcp, all, func(_, f []byte) { f[20] = 0x20 }, ReasonRxHeader},
		{"IP header too short", tcp, all, func(_, f []byte) { f[14] = 0x44 }, ReasonRxHeader},
		{"not IP", tcp, all, func(_, f []byte) { f[12] = 0x88 }, ReasonRxHeader},
	} {
		f, l4, field := tt.k.frame(true)
		h := tt.k.header(l4, field, 1000)
		if tt.edit != nil {
			tt.edit(h, f)
		}
		b := NewBatch()
		i := put(t, r, b, f)
		if got := b.Judge(i, h, tt.may); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
		runtime.KeepAlive(f)
	}
}

// TestSumOfOthers finishes a checksum that is not that of the frame's own TCP or UDP: that
// of a packet in a tunnel.
func TestSumOfOthers(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	inner := talk{udp: true, payload: make([]byte, 301)}
	in, l4, field := inner.frame(true)
	whole, _, _ := inner.frame(false)
	outer := talk{udp: true, payload: in}
	f, _, _ := outer.frame(false)
	outer.payload = whole
	b := NewBatch()
	i := put(t, r, b, f)
	at := len(f) - len(in)
	if why := b.Judge(i, outer.header(at+l4, field, 0), TakesSum); why != ReasonNone {
		t.Fatal(why)
	}
	if b.Settle(i, TakesSum) || !b.Settle(i, 0) {
		t.Error("finished for who takes it, or not finished for who does not")
	}
	if got := b.AppendTo(nil, i); !bytes.Equal(got[at:], whole) {
		t.Errorf("inner frame is\n%x\nwant\n%x", got[at:], whole)
	}
	if why := b.Judge(i, outer.header(at+l4, field, 100), all); why != ReasonRxHeader {
		t.Errorf("segments in a tunnel: %v", why)
	}
	runtime.KeepAlive(f)
}

// TestCutRoom: super-frames that are too many are told, and nothing of the others
// changes.
func TestCutRoom(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	k := talk{payload: make([]byte, 30000), flags: 0x10}
	f, l4, field := k.frame(true)
	b := NewBatch()
	cut := 0
	for range 10 {
		i := put(t, r, b, f)
		if why := b.Judge(i, k.header(l4, field, 150), all); why != ReasonNone {
			t.Fatal(why)
		}
	}
	for i := range 10 {
		if _, n := b.Cut(i); n != 0 && n != 200 {
			t.Errorf("%d segments, want 200", n)
		} else if n != 0 {
			cut++
		}
	}
	if want := (SlotsMax - BatchMax) / 200; cut != want {
		t.Errorf("%d super-frames were cut, want %d", cut, want)
	}
	runtime.KeepAlive(f)
}

// TestAskAllocs: nothing of it allocates.
func TestAskAllocs(t *testing.T) {
	k := talk{payload: make([]byte, 30000), flags: 0x10}
	f, l4, field := k.frame(true)
	b, h := NewBatch(), k.header(l4, field, 1448)
	head, tail := f[:HeadMax], []Seg{{Addr(f[HeadMax:]), uintptr(len(f) - HeadMax)}}
	if n := testing.AllocsPerRun(100, func() {
		b.Reset()
		b.Add(head, tail...)
		b.Judge(0, h, all)
		b.PutHeader(0, h)
		first, n := b.Cut(0)
		for i := range n {
			b.Settle(first+i, 0)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	runtime.KeepAlive(f)
}

// FuzzJudge gives Judge any header and any frame. What it takes can be told on, is taken
// again, and can be cut and finished; no byte of the payload is lost or changed.
func FuzzJudge(f *testing.F) {
	r := rand.New(rand.NewPCG(13, 14))
	for range 20 {
		k := randomTalk(r, 3000)
		frame, l4, field := k.frame(true)
		f.Add(k.header(l4, field, 100+r.IntN(2000)), frame[:140], uint16(len(frame)-140), uint8(all))
		f.Add(k.header(l4, field, 0), frame[:120], uint16(0), uint8(TakesSum))
	}
	rest := make([]byte, 1<<16)
	for i := range rest {
		rest[i] = byte(i * 31)
	}
	b, again := NewBatch(), NewBatch()
	f.Fuzz(func(t *testing.T, h, start []byte, more uint16, may uint8) {
		if len(h) < HeaderLen || len(start) < FrameMin || len(start)+int(more) > SuperMax {
			return
		}
		head := start[:min(len(start), HeadMax)]
		var tail []Seg
		if len(start) > len(head) {
			tail = append(tail, Seg{Addr(start[len(head):]), uintptr(len(start) - len(head))})
		}
		if more > 0 {
			tail = append(tail, Seg{Addr(rest), uintptr(more)})
		}
		b.Reset()
		b.Add(head, tail...)
		if b.Judge(0, h, Takes(may)&all) != ReasonNone || b.Needs(0) == 0 {
			return
		}
		whole := b.AppendTo(nil, 0)
		out := make([]byte, HeaderLen)
		b.PutHeader(0, out)
		again.Reset()
		again.Add(head, tail...)
		if why := again.Judge(0, out, Takes(may)&all); why != ReasonNone || again.Needs(0) != b.Needs(0) || again.WireLen(0) != b.WireLen(0) {
			t.Fatalf("header %x was taken, and told as %x not: %v", h, out, why)
		}
		first, n := 0, 1
		headers := 0
		if b.Needs(0)&TakesSuper != 0 {
			headers = int(binary.LittleEndian.Uint16(out[2:]))
			first, n = b.Cut(0)
		}
		var payload []byte
		for i := range n {
			if !b.Settle(first+i, 0) || b.Frames[first+i].Len > FrameMax {
				t.Fatal("not finished, or too long")
			}
			payload = append(payload, b.AppendTo(nil, first+i)[headers:]...)
		}
		if n > 1 && !bytes.Equal(payload, whole[headers:]) {
			t.Fatal("payload is not what it was")
		}
		runtime.KeepAlive(start)
	})
}

func BenchmarkFinish(b *testing.B) {
	k := talk{payload: make([]byte, 64000), flags: 0x10}
	f, l4, field := k.frame(true)
	batch, h := NewBatch(), k.header(l4, field, 1448)
	head, tail := f[:HeadMax], []Seg{{Addr(f[HeadMax:]), uintptr(len(f) - HeadMax)}}
	b.SetBytes(int64(len(f)))
	for b.Loop() {
		batch.Reset()
		batch.Add(head, tail...)
		batch.Judge(0, h, all)
		first, n := batch.Cut(0)
		for i := range n {
			batch.Settle(first+i, 0)
		}
	}
	runtime.KeepAlive(f)
}
