package packet

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
)

// An arrival is a frame that came, and what was said of it.
type arrival struct{ frame, header []byte }

// arrive makes a batch of arrivals, the same one for the same seed.
func arrive(t testing.TB, seed uint64, from []arrival) *Batch {
	r := rand.New(rand.NewPCG(seed, 1))
	b := NewBatch()
	asking := false
	for _, a := range from {
		put(t, r, b, a.frame)
		asking = asking || a.header != nil
	}
	for i, a := range from {
		if h := a.header; asking {
			if h == nil {
				h = make([]byte, HeaderLen)
			}
			if why := b.Judge(i, h, all); why != ReasonNone {
				b.Judge(i, make([]byte, HeaderLen), all)
			}
		}
	}
	return b
}

// refsOf is the list of all frames of a batch.
func refsOf(b *Batch) []Ref {
	list := make([]Ref, b.N)
	for i := range list {
		list[i].Frame = uint16(i)
	}
	return list
}

// asSegments is what becomes of a list for a peer that takes nothing.
func asSegments(t testing.TB, b *Batch, list []Ref) (out [][]byte) {
	for _, r := range list {
		first, n := int(r.Frame), 1
		if b.Needs(first)&TakesSuper != 0 {
			if first, n = b.Cut(first); n == 0 {
				t.Fatal("no room to cut what was merged")
			}
		}
		for k := range n {
			b.Settle(first+k, 0)
			out = append(out, b.AppendTo(nil, first+k))
		}
	}
	return out
}

// byFlow sorts frames of TCP by flow, in the order in which they are, and all others by what they are.
func byFlow(frames [][]byte) map[string][][]byte {
	m := map[string][][]byte{}
	for _, f := range frames {
		p, ok := find(f[:min(len(f), HeadMax)], len(f))
		key := "other " + string(f)
		if ok && p.proto == protoTCP {
			key = string(addresses(f, &p)) + string(f[p.l4:p.l4+4])
		}
		m[key] = append(m[key], f)
	}
	return m
}

// checkMerge merges, and cuts again: each flow has the same frames in the same order as if nobody had.
func checkMerge(t testing.TB, seed uint64, from []arrival) (lists, merged int) {
	t.Helper()
	plain, b := arrive(t, seed, from), arrive(t, seed, from)
	want := byFlow(asSegments(t, plain, refsOf(plain)))
	var m Merger
	list := m.Merge(b, refsOf(b), make([]Ref, 0, SlotsMax), all)
	if uint64(len(list))+m.Joined != uint64(len(from)) {
		t.Fatalf("%d frames became %d, %d joined", len(from), len(list), m.Joined)
	}
	for _, r := range list {
		if f := &b.Frames[r.Frame]; f.Len > SuperMax || b.WireLen(int(r.Frame)) > FrameMax+8 {
			t.Fatalf("a frame of %d bytes, segments of %d", f.Len, b.WireLen(int(r.Frame)))
		}
	}
	got := byFlow(asSegments(t, b, list))
	for key, frames := range want {
		if len(got[key]) != len(frames) {
			t.Fatalf("%d frames of a flow, want %d", len(got[key]), len(frames))
		}
		for i := range frames {
			if !bytes.Equal(got[key][i], frames[i]) {
				t.Fatalf("frame %d of a flow is\n%x\nwant\n%x", i, got[key][i], frames[i])
			}
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d flows, want %d", len(got), len(want))
	}
	runtime.KeepAlive(from)
	return len(list), int(m.Merged)
}

// mingle makes up to BatchMax frames of some flows, in whose way all sorts of things come.
func mingle(r *rand.Rand) []arrival {
	var flows [][]arrival
	for n := 1 + r.IntN(10); len(flows) < n; {
		k := randomTalk(r, 1+r.IntN(20000))
		k.port, k.tags = byte(len(flows)), r.IntN(2)
		if r.IntN(4) > 0 {
			k.udp, k.options, k.flags = false, 0, 0x10|byte(r.IntN(2)*0x08|r.IntN(2)*0x40)
		}
		flows = append(flows, segmentsOf(r, k, 1+r.IntN(1460), r.IntN(2) == 0))
	}
	var all []arrival
	for len(all) < BatchMax && len(flows) > 0 {
		k := r.IntN(len(flows))
		n := min(1+r.IntN(6), len(flows[k]), BatchMax-len(all))
		all, flows[k] = append(all, flows[k][:n]...), flows[k][n:]
		if len(flows[k]) == 0 {
			flows = append(flows[:k], flows[k+1:]...)
		}
	}
	for n := r.IntN(4); n > 0; n-- {
		disturb(r, all)
	}
	return all
}

// segmentsOf are a talk's segments, with checksums or without.
func segmentsOf(r *rand.Rand, k *talk, size int, partial bool) (out []arrival) {
	for at := 0; at < len(k.payload) && len(out) < BatchMax; at += size {
		s := *k
		s.payload = k.payload[at:min(at+size, len(k.payload))]
		s.seq += uint32(at)
		s.id += uint16(at / size)
		if at+size < len(k.payload) {
			s.flags &^= 0x09
		}
		f, l4, field := s.frame(partial)
		a := arrival{frame: f}
		if partial {
			a.header = k.header(l4, field, 0)
		}
		out = append(out, a)
	}
	return out
}

// disturb has frames come in another order, or twice, or changed.
func disturb(r *rand.Rand, frames []arrival) {
	i, j := r.IntN(len(frames)), r.IntN(len(frames))
	switch r.IntN(3) {
	case 0:
		frames[i], frames[j] = frames[j], frames[i]
	case 1:
		frames[i] = frames[j]
	default:
		f := bytes.Clone(frames[i].frame)
		f[r.IntN(min(len(f), 80))] ^= 1 << r.IntN(8)
		frames[i].frame = f
	}
}

// TestMerge merges what random senders send.
func TestMerge(t *testing.T) {
	merged := 0
	for seed := range uint64(600) {
		_, n := checkMerge(t, seed, mingle(rand.New(rand.NewPCG(seed, 2))))
		merged += n
	}
	if merged < 1000 {
		t.Errorf("%d super-frames of all", merged)
	}
}

// TestMergeWhat says what is merged and what is not.
func TestMergeWhat(t *testing.T) {
	edit := func(i int, change func(*talk)) func([]*talk) { return func(l []*talk) { change(l[i]) } }
	for _, tt := range []struct {
		name string
		edit func([]*talk)
		raw  func([]arrival)
		want int // frames, of five
	}{
		{"as they come", nil, nil, 1},
		{"the last is shorter", edit(4, func(k *talk) { k.payload = k.payload[:7] }), nil, 1},
		{"the last has PSH", edit(4, func(k *talk) { k.flags |= 0x08 }), nil, 1},
		{"the last has FIN", edit(4, func(k *talk) { k.flags |= 0x01 }), nil, 1},
		{"one in the middle has PSH", edit(2, func(k *talk) { k.flags |= 0x08 }), nil, 2},
		{"the first has PSH", edit(0, func(k *talk) { k.flags |= 0x08 }), nil, 2},
		{"the first is shorter", edit(0, func(k *talk) { k.payload = k.payload[900:]; k.seq += 900 }), nil, 2},
		{"one has RST", edit(2, func(k *talk) { k.flags |= 0x04 }), nil, 3},
		{"one has SYN", edit(2, func(k *talk) { k.flags |= 0x02 }), nil, 3},
		{"one has URG", edit(2, func(k *talk) { k.flags |= 0x20 }), nil, 3},
		{"one has CWR", edit(2, func(k *talk) { k.flags |= 0x80 }), nil, 3},
		{"one has ECE", edit(2, func(k *talk) { k.flags |= 0x40 }), nil, 3},
		{"one has no payload", edit(2, func(k *talk) { k.payload = nil }), nil, 3},
		{"options of TCP begin", func(l []*talk) {
			for _, k := range l[2:] {
				k.tcpOpts = 3
			}
		}, nil, 2},
		{"one has a tag", edit(2, func(k *talk) { k.tags = 1 }), nil, 3},
		{"one has another id", edit(2, func(k *talk) { k.id = 999 }), nil, 3},
		{"all have options of IP", func(l []*talk) {
			for _, k := range l {
				k.options = 1
			}
		}, nil, 5},
		{"one is missing", edit(2, func(k *talk) { k.seq += 9000; k.port = 9 }), nil, 3},
		{"TOS", nil, func(l []arrival) { change(l[2].frame[14:], l[2].frame[14:], 0x4501) }, 3},
		{"TTL", nil, func(l []arrival) { change(l[2].frame[14:], l[2].frame[22:], 0x3f06) }, 3},
		{"window", nil, func(l []arrival) { l[2].frame[48]++; l[2].frame[50] -= 1 }, 3},
		{"wrong checksum of TCP", nil, func(l []arrival) { l[2].frame[70]++ }, 3},
		{"wrong checksum of IP", nil, func(l []arrival) { l[2].frame[24]++ }, 3},
		{"wrong checksum of the first", nil, func(l []arrival) { l[0].frame[70]++ }, 2},
		{"bytes behind the packet", nil, func(l []arrival) { l[2].frame = append(l[2].frame, 0) }, 3},
		{"a fragment", nil, func(l []arrival) { change(l[2].frame[14:], l[2].frame[20:], 0x2000) }, 3},
	} {
		var talks []*talk
		for i := range 5 {
			talks = append(talks, &talk{flags: 0x10, seq: uint32(0xffffff00 + i*1000), id: uint16(i), payload: bytes.Repeat([]byte{byte(i), 3}, 500)})
		}
		if tt.edit != nil {
			tt.edit(talks)
		}
		var frames []arrival
		for _, k := range talks {
			f, _, _ := k.frame(false)
			frames = append(frames, arrival{frame: f})
		}
		if tt.raw != nil {
			tt.raw(frames)
		}
		if got, _ := checkMerge(t, 1, frames); got != tt.want {
			t.Errorf("%s: %d frames, want %d", tt.name, got, tt.want)
		}
	}
}

// TestMergeRoom: a super-frame is not longer than one may be, and there are never more than there is
// room for.
func TestMergeRoom(t *testing.T) {
	var frames []arrival
	payload := make([]byte, 9000)
	for i := range BatchMax {
		k := talk{flags: 0x10, seq: uint32(i * len(payload)), id: uint16(i), payload: payload}
		f, _, _ := k.frame(false)
		frames = append(frames, arrival{frame: f})
	}
	if got, _ := checkMerge(t, 1, frames); got != (BatchMax+6)/7 { // seven in 64 KiB
		t.Errorf("%d frames", got)
	}
	b := arrive(t, 1, frames)
	b.copies = SlotsMax - BatchMax - 2 // slots for two
	var m Merger
	list := m.Merge(b, refsOf(b), make([]Ref, 0, SlotsMax), all)
	if m.Merged != 2 || len(list) != BatchMax-12 {
		t.Errorf("%d super-frames, %d frames", m.Merged, len(list))
	}
	b = arrive(t, 1, frames)
	b.NSegs = SegsMax - 5
	if list = m.Merge(b, refsOf(b), list[:0], all); b.NSegs > SegsMax || len(list) < BatchMax-5 {
		t.Errorf("%d segments, %d frames", b.NSegs, len(list))
	}
	for _, takes := range []Takes{0, TakesSum, TakesSum | TakesTCP6, TakesTCP4} {
		if b := arrive(t, 1, frames); len(m.Merge(b, refsOf(b), list[:0], takes)) != BatchMax {
			t.Errorf("merged for who takes %b", takes)
		}
	}
}

// FuzzMerge has the fuzzer choose the senders, and bytes that are changed.
func FuzzMerge(f *testing.F) {
	f.Add(uint64(1), uint16(0), uint16(20), byte(1))
	f.Add(uint64(7), uint16(5), uint16(47), byte(0x08))
	f.Fuzz(func(t *testing.T, seed uint64, frame, at uint16, x byte) {
		frames := mingle(rand.New(rand.NewPCG(seed, 2)))
		a := &frames[int(frame)%len(frames)]
		a.frame = bytes.Clone(a.frame)
		a.frame[int(at)%len(a.frame)] ^= x
		checkMerge(t, seed, frames)
	})
}

// BenchmarkMerge is 44 segments of one flow, and of four, with checksums to look at and without.
func BenchmarkMerge(b *testing.B) {
	for _, flows := range []int{1, 4} {
		for _, partial := range []bool{false, true} {
			b.Run(fmt.Sprintf("flows=%d/partial=%t", flows, partial), func(b *testing.B) {
				r := rand.New(rand.NewPCG(1, 1))
				var frames []arrival
				for i := range 44 {
					k := talk{flags: 0x10, port: byte(i % flows), seq: uint32(i / flows * 1448), id: uint16(i / flows), payload: make([]byte, 1448), tcpOpts: 3}
					frames = append(frames, segmentsOf(r, &k, 1448, partial)...)
				}
				batch := arrive(b, 1, frames)
				list, out := refsOf(batch), make([]Ref, 0, SlotsMax)
				var m Merger
				segs, asking := batch.NSegs, batch.Asking
				b.ReportAllocs()
				for b.Loop() {
					batch.copies, batch.NSegs, batch.Asking = 0, segs, asking
					m.Merge(batch, list, out, all)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/44, "ns/segment")
				if int(m.Merged) != flows {
					b.Fatalf("%d super-frames", m.Merged)
				}
				runtime.KeepAlive(frames)
			})
		}
	}
}
