package conntrack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// pieces returns a datagram of a UDP tuple as n fragments.
func pieces(t Tuple, id uint32, n int) (list []Packet) {
	for i := range n {
		p := packetOf(t, 0)
		p.FragmentID, p.Offset, p.Size, p.Last = id, uint16(i)*1480, 1480, i == n-1
		p.Fragment = FirstFragment
		if i > 0 {
			p.Fragment, p.SrcPort, p.DstPort = LaterFragment, 0, 0
			if p.Six {
				p.Proto = ProtoUDP
			}
		}
		list = append(list, p)
	}
	return list
}

// send takes a fragment through a zone as a worker would: it waits, or has a
// verdict, and what has waited for it follows. It returns the fragments that have
// a verdict, by their number, and the verdicts.
func send(t *testing.T, w *Worker, zone uint16, list []Packet, i int, now uint64, got map[int]Verdict) {
	t.Helper()
	p := list[i]
	var v Verdict
	w.Track(zone, &p, now, &v)
	if v.Wait {
		switch h := w.Hold(zone, &p, []byte{byte(i)}, uint64(i), now); h {
		case Held:
			return
		default:
			t.Fatalf("fragment %d: %v", i, h)
		}
	}
	if _, twice := got[i]; twice {
		t.Fatalf("fragment %d has two verdicts", i)
	}
	got[i] = v
	if !v.Released {
		return
	}
	for {
		frame, meta, ok := w.Release(nil)
		if !ok {
			return
		}
		if len(frame) != 1 || uint64(frame[0]) != meta {
			t.Fatalf("released %x with meta %d", frame, meta)
		}
		send(t, w, zone, list, int(meta), now, got)
	}
}

// TestFragments sends the fragments of datagrams in any order, many at a time:
// every one has the verdict of the first.
func TestFragments(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 3))
	for _, six := range []bool{false, true} {
		for _, known := range []bool{false, true} {
			table, w := newTable(t, small(64))
			udp := tuple4(ProtoUDP, "10.0.0.1", 4000, "10.0.0.2", 53)
			udp.Six = six
			if known {
				commit(w, 1, packetOf(udp, 0), Terms{Mark: 9, MarkMask: 15}, start)
			}
			datagrams := [][]Packet{pieces(udp, 1, 5), pieces(udp, 2, 7), pieces(udp.Inverse(), 1, 3)}
			got := []map[int]Verdict{{}, {}, {}}
			type one struct{ datagram, piece int }
			var order []one
			for d := range datagrams {
				for i := range datagrams[d] {
					order = append(order, one{d, i})
				}
			}
			r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			for _, o := range order {
				send(t, w, 1, datagrams[o.datagram], o.piece, start, got[o.datagram])
			}
			for d := range datagrams {
				if len(got[d]) != len(datagrams[d]) {
					t.Fatalf("datagram %d: %d of %d fragments have a verdict", d, len(got[d]), len(datagrams[d]))
				}
				for i, v := range got[d] {
					first := got[d][0]
					// Whether the other side has been heard of depends on the order.
					if v.Original != first.Original || v.Mark != first.Mark || v.Ref != first.Ref || v.State&StateReply != first.State&StateReply || v.Cacheable {
						t.Errorf("datagram %d, fragment %d: %+v, the first has %+v", d, i, v, first)
					}
				}
			}
			if s := table.Stats(); s.FragmentsHeld != s.FragmentsReleased || s.FragmentsLost != 0 {
				t.Errorf("got %+v", s)
			}
		}
	}
}

// TestFragmentsLost checks what waits for ever: it is bounded, and goes.
func TestFragmentsLost(t *testing.T) {
	o := small(64)
	o.Held = 40 * pieceSize
	table, w := newTable(t, o)
	udp := tuple4(ProtoUDP, "10.0.0.1", 4000, "10.0.0.2", 53)
	held, refused := 0, 0
	for id := range uint32(1000) {
		p := pieces(udp, id, 2)[1]
		v := track(w, 1, p, start)
		if !v.Wait || v.State != 0 {
			t.Fatalf("got %+v", v)
		}
		switch w.Hold(1, &p, make([]byte, 3000), 0, start) { // two pieces each
		case Held:
			held++
		case Refused:
			refused++
		}
	}
	if s := table.Stats(); held+refused != 1000 || s.FragmentsHeld != uint64(held) || s.FragmentsRefused != uint64(refused) || held-int(s.FragmentsLost) > 10 {
		t.Fatalf("held %d, refused %d, %+v", held, refused, s)
	}
	sweep(table, start+31*second)
	told := 0
	for {
		size, meta, ok := w.Lost()
		if !ok {
			break
		}
		if told++; size != 3000 || meta != 0 {
			t.Fatalf("lost %d bytes, meta %d", size, meta)
		}
	}
	if s := table.Stats(); s.FragmentsLost != s.FragmentsHeld || told != held {
		t.Errorf("got %+v, told of %d, want all of %d lost", s, told, held)
	}
	p := pieces(udp, 1, 2)[1]
	for range 5 {
		if h := w.Hold(1, &p, bytes.Repeat([]byte{7}, 5000), 5, start+31*second); h != Held {
			t.Fatalf("after all have gone: %v", h)
		}
	}
	first := pieces(udp, 1, 2)[0]
	if v := track(w, 1, first, start+31*second); !v.Released {
		t.Fatal("nothing is released")
	}
	for range 5 {
		frame, meta, ok := w.Release(nil)
		if !ok || meta != 5 || !bytes.Equal(frame, bytes.Repeat([]byte{7}, 5000)) {
			t.Fatalf("released %d bytes, meta %d, %v", len(frame), meta, ok)
		}
	}
	if h := w.Hold(1, &p, nil, 0, start+31*second); h != Known {
		t.Errorf("held what is known: %v", h)
	}
}

// TestFragmentShares has one owner fill the store with what waits for ever: another one finds
// room all the same.
func TestFragmentShares(t *testing.T) {
	o := small(64)
	o.Fragments, o.Held = 4096, 60*pieceSize
	_, w := newTable(t, o)
	udp, held := tuple4(ProtoUDP, "10.0.0.1", 4000, "10.0.0.2", 53), [3]int{}
	for id := range uint32(300) {
		owner := id / 100
		p := pieces(udp, id, 2)[1]
		if w.Hold(1, &p, make([]byte, 100), uint64(owner)|7<<32, start) == Held {
			held[owner]++
		}
	}
	if held != [3]int{30, 15, 8} {
		t.Errorf("of 60 places three owners have %v", held)
	}
}

// TestFragmentOverlap checks that no fragment overwrites the header that was
// looked at.
func TestFragmentOverlap(t *testing.T) {
	_, w := newTable(t, small(64))
	for _, tt := range []struct {
		proto  uint8
		offset uint16
		want   bool
	}{{ProtoTCP, 8, false}, {ProtoTCP, 16, false}, {ProtoTCP, 24, true}, {ProtoUDP, 8, true}} {
		list := pieces(tuple4(tt.proto, "10.0.0.1", 4000, "10.0.0.2", 53), uint32(tt.proto), 2)
		list[0].Flags = FlagSYN
		track(w, 1, list[0], start)
		list[1].Offset = tt.offset
		if v := track(w, 1, list[1], start); (v.State&StateInvalid == 0) != tt.want {
			t.Errorf("protocol %d, offset %d: %v", tt.proto, tt.offset, v.State)
		}
	}
}

// TestFragmentID checks that an identifier can be used again at once when a
// datagram is complete, with other ports.
func TestFragmentID(t *testing.T) {
	_, w := newTable(t, small(64))
	one, two := tuple4(ProtoUDP, "10.0.0.1", 4000, "10.0.0.2", 53), tuple4(ProtoUDP, "10.0.0.1", 4001, "10.0.0.2", 53)
	for i, tup := range []Tuple{one, two} {
		for j, p := range pieces(tup, 7, 3) {
			if v := track(w, 1, p, start+uint64(i)*second); v.Original != tup || v.Wait {
				t.Errorf("datagram %d, fragment %d: %+v", i, j, v)
			}
		}
	}
	late := pieces(two, 7, 3)[1]
	if v := track(w, 1, late, start+3*second); !v.Wait {
		t.Errorf("a fragment of the next datagram is taken for one of the last: %+v", v)
	}
}

// TestReadFragments reads fragments from frames of both families.
func TestReadFragments(t *testing.T) {
	ip := ip4("10.0.0.1", "10.0.0.2", 17)
	ip.Id, ip.Flags = 99, layers.IPv4MoreFragments
	payload := make([]byte, 64)
	binary.BigEndian.PutUint16(payload, 4000)
	binary.BigEndian.PutUint16(payload[2:], 53)
	p := read(t, frameOf(t, ether4, ip, gopacket.Payload(payload)))
	if p.Fragment != FirstFragment || p.FragmentID != 99 || p.SrcPort != 4000 || p.Size != 64 || p.Last || p.Bad {
		t.Errorf("first: %+v", p)
	}
	ip.Flags, ip.FragOffset = 0, 8
	p = read(t, frameOf(t, ether4, ip, gopacket.Payload(payload)))
	if p.Fragment != LaterFragment || p.FragmentID != 99 || p.SrcPort != 0 || p.Size != 64 || p.Offset != 64 || !p.Last || p.Bad {
		t.Errorf("last: %+v", p)
	}
	for offset := range uint16(2) {
		more := 1 - offset
		head := []byte{17, 0, byte(offset * 64 >> 8), byte(offset*64) | byte(more), 0, 0, 1, 2}
		p = read(t, frameOf(t, ether6, ip6("fd00::1", "fd00::2", 44), gopacket.Payload(head), gopacket.Payload(payload)))
		want := uint8(FirstFragment + offset)
		if p.Fragment != want || p.FragmentID != 0x102 || p.Size != 64 || p.Offset != offset*64 || p.Last != (offset == 1) || p.Bad {
			t.Errorf("IPv6 at %d: %+v", offset, p)
		}
	}
}

// FuzzFragments has a fuzzer choose fragments and their order. Whatever it
// chooses, each fragment that gets ports gets those of a first one that was sent,
// and what is held is released, lost, or waits.
func FuzzFragments(f *testing.F) {
	f.Add([]byte{1, 0, 5, 2, 0, 1, 7, 1})
	f.Add([]byte{9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9})
	f.Fuzz(func(t *testing.T, script []byte) {
		o := small(64)
		o.Fragments, o.Held = 8, 6*pieceSize
		table, w := newTable(t, o)
		now, sent, out := start, map[string]bool{}, uint64(0)
		for _, b := range script {
			if b == 0xff {
				now += 20 * second
				sweep(table, now)
				continue
			}
			udp := tuple4(ProtoUDP, "10.0.0.1", uint16(b>>6), "10.0.0.2", 53)
			p := pieces(udp, uint32(b>>4&3), 3)[b%3]
			name := fmt.Sprint(p.FragmentID, " ", udp.SrcPort)
			if p.Fragment == FirstFragment {
				sent[name] = true
			}
			var v Verdict
			w.Track(1, &p, now, &v)
			if v.Wait {
				w.Hold(1, &p, make([]byte, int(b)*20), 0, now)
			} else if v.State != 0 && v.State&StateInvalid == 0 && !sent[fmt.Sprint(p.FragmentID, " ", p.SrcPort)] {
				t.Fatalf("%+v got ports that nobody sent", p)
			}
			for b%2 == 0 {
				if _, _, ok := w.Release(nil); !ok {
					break
				}
				out++
			}
		}
		for {
			if _, _, ok := w.Release(nil); !ok {
				break
			}
			out++
		}
		sweep(table, now+100*second)
		if s := table.Stats(); s.FragmentsReleased != out || s.FragmentsHeld != out+s.FragmentsLost {
			t.Fatalf("%d came out, %+v", out, s)
		}
		for {
			if _, _, ok := w.Lost(); !ok {
				break
			}
		}
		free := 0
		for i := w.t.fragments.store.free; i != 0; i = w.t.fragments.store.pieces[i].more {
			free++
		}
		if s := &w.t.fragments.store; free != int(s.fresh)-1 {
			t.Fatalf("%d pieces are free of %d", free, s.fresh-1)
		}
	})
}
