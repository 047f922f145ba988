package conntrack

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestPorts translates more connections to few addresses and ports than these
// have: all ports are used, each once, and then there are none.
func TestPorts(t *testing.T) {
	for _, random := range []bool{false, true} {
		for _, proto := range []uint8{ProtoTCP, ProtoUDP, ProtoSCTP, ProtoICMP} {
			t.Run(fmt.Sprintf("proto %d, random %v", proto, random), func(t *testing.T) {
				table, w := newTable(t, small(1024))
				n := &NAT{Src: Range{Set: true, Min: addr("192.0.2.1"), Max: addr("192.0.2.3"), PortMin: 100, PortMax: 119}, Random: random}
				seen, refused := map[Tuple]bool{}, 0
				for i := range 80 {
					p := packetOf(tuple4(proto, "10.0.0.1", uint16(1000+i), "10.0.0.2", 80), FlagSYN)
					p.Chunks[0], p.ChunkCount = Chunk{Type: chunkInit}, 1
					if proto == ProtoICMP {
						p.DstPort = 8 << 8
					}
					v, r := commit(w, 1, p, Terms{NAT: n}, start)
					if r == NoPort {
						refused++
						continue
					}
					q := p
					v.Translate(&q)
					if r != Created || seen[q.Tuple] || !n.Src.in(q.Src) || !n.Src.hasPort(q.SrcPort) {
						t.Fatalf("connection %d: %v, became %v", i, r, q.Tuple)
					}
					seen[q.Tuple] = true
				}
				if len(seen) != 60 || refused != 20 {
					t.Errorf("%d connections have a port, %d have none, want 60 and 20", len(seen), refused)
				}
				if s := table.Stats(); s.NoPort != 20 || s.Connections != 60 {
					t.Errorf("got %+v", s)
				}
			})
		}
	}
}

// TestPortKept checks that ports stay if they can, and that those below 1024 stay
// below.
func TestPortKept(t *testing.T) {
	_, w := newTable(t, small(1024))
	snat := &NAT{Src: Range{Set: true, Min: addr("192.0.2.1"), Max: addr("192.0.2.1")}}
	clashes := &NAT{Src: Range{Set: true}}
	become := func(zone uint16, src string, port uint16, n *NAT) Tuple {
		p := packetOf(tuple4(ProtoUDP, src, port, "10.0.0.2", 53), 0)
		v, r := commit(w, zone, p, Terms{NAT: n}, start)
		if r != Created {
			t.Fatalf("%s:%d: %v", src, port, r)
		}
		v.Translate(&p)
		return p.Tuple
	}
	if got := become(1, "10.0.0.1", 5000, snat); got.Src != addr("192.0.2.1") || got.SrcPort != 5000 {
		t.Errorf("got %v, want port 5000 kept", got)
	}
	if got := become(1, "10.0.0.3", 5000, snat); got.SrcPort < 1024 || got.SrcPort == 5000 {
		t.Errorf("got %v, want another high port", got)
	}
	become(1, "10.0.0.1", 700, snat)
	if got := become(1, "10.0.0.3", 700, snat); got.SrcPort < 600 || got.SrcPort > 1023 || got.SrcPort == 700 {
		t.Errorf("got %v, want another port of 600..1023", got)
	}
	become(1, "10.0.0.1", 111, snat)
	if got := become(1, "10.0.0.3", 111, snat); got.SrcPort > 511 || got.SrcPort == 111 {
		t.Errorf("got %v, want another port below 512", got)
	}
	if got := become(2, "10.0.0.1", 5000, clashes); got != tuple4(ProtoUDP, "10.0.0.1", 5000, "10.0.0.2", 53) {
		t.Errorf("got %v, want no change without a clash", got)
	}
	// Its reply is what the connection above looks like from the other side.
	dnat := &NAT{Dst: Range{Set: true, Min: addr("10.0.0.2"), Max: addr("10.0.0.2")}, Src: clashes.Src}
	p := packetOf(tuple4(ProtoUDP, "10.0.0.1", 5000, "10.0.0.9", 53), 0)
	v, r := commit(w, 2, p, Terms{NAT: dnat}, start)
	v.Translate(&p)
	if r != Created || p.Src != addr("10.0.0.1") || p.Dst != addr("10.0.0.2") || p.SrcPort == 5000 || v.State != StateTracked|StateNew|StateSrcNAT|StateDstNAT {
		t.Errorf("%v: got %v, %v, want the clash resolved by the source port", r, p.Tuple, v.State)
	}
	if _, r := commit(w, 2, packetOf(tuple4(ProtoUDP, "10.0.0.1", 5000, "10.0.0.8", 53), 0), Terms{NAT: &NAT{Dst: dnat.Dst}}, start); r != NoPort {
		t.Errorf("a clash that only the destination could resolve: %v", r)
	}
}

// TestReverse checks on random connections that both directions are translated
// so that each side sees one peer, and that the answers find the connection.
func TestReverse(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	table, w := newTable(t, small(8192))
	answers := map[key]Tuple{}
	for range 4000 {
		w.Quiet()
		p := packetOf(Tuple{Src: Addr{1: 0x0a000001 + uint64(r.IntN(4))}, Dst: Addr{1: 0x0a000101 + uint64(r.IntN(2))},
			SrcPort: uint16(r.IntN(2000)), DstPort: uint16(80 + r.IntN(2)), Proto: ProtoUDP}, 0)
		if r.IntN(2) == 0 {
			p.Six = true
			p.Src[0], p.Dst[0] = 0xfd00<<48, 0xfd00<<48
		}
		n := NAT{Persistent: r.IntN(2) == 0, Random: r.IntN(2) == 0}
		if r.IntN(3) > 0 {
			n.Src = Range{Set: true, Min: Addr{p.Src[0], 0xc0000201}, Max: Addr{p.Src[0], 0xc0000201 + uint64(r.IntN(3))}}
		}
		if r.IntN(3) > 0 {
			n.Dst = Range{Set: true, Min: Addr{p.Src[0], 0xc0000301}, Max: Addr{p.Src[0], 0xc0000301 + uint64(r.IntN(3))}, PortMin: 8080, PortMax: uint16(8080 + r.IntN(3))}
		}
		if err := n.Check(); err != nil {
			t.Fatal(err)
		}
		v, res := commit(w, 1, p, Terms{NAT: &n}, start)
		if res != Created {
			continue
		}
		q := p
		v.Translate(&q)
		checkTranslated(t, "reverse", &p.Tuple, q.Tuple, &n)
		back := packetOf(q.Inverse(), 0)
		k := back.key(1)
		if old, taken := answers[k]; taken {
			t.Fatalf("%v and %v have the same answer %v", old, p.Tuple, back.Tuple)
		}
		answers[k] = p.Tuple
		v = track(w, 1, back, start)
		if v.State&StateReply == 0 || v.Original != p.Tuple {
			t.Fatalf("the answer %v to %v: %v of %v", back.Tuple, p.Tuple, v.State, v.Original)
		}
		v.Translate(&back)
		if back.Tuple != p.Inverse() {
			t.Fatalf("the answer to %v became %v", p.Tuple, back.Tuple)
		}
		if want := (v.Rewrite.Set&RewriteSrc != 0); want != (v.State&StateSrcNAT != 0) {
			t.Fatalf("rewrite %x, state %v", v.Rewrite.Set, v.State)
		}
	}
	if len(answers) < 2000 || table.Stats().Connections != len(answers) {
		t.Errorf("%d answers, %+v", len(answers), table.Stats())
	}
}

// TestPersistent checks that a persistent translation gives a client the same
// address in every table, and spreads clients.
func TestPersistent(t *testing.T) {
	n := &NAT{Persistent: true, Src: Range{Set: true, Min: addr("192.0.2.0"), Max: addr("192.0.2.15")}}
	used := map[Addr]bool{}
	var workers [3]*Worker
	for try := range workers {
		_, workers[try] = newTable(t, small(128))
	}
	for i := range 64 {
		var first Addr
		for try, w := range workers {
			p := packetOf(tuple4(ProtoUDP, fmt.Sprintf("10.0.0.%d", i), 5000, fmt.Sprintf("10.1.0.%d", try), 53), 0)
			v, _ := commit(w, 1, p, Terms{NAT: n}, start)
			v.Translate(&p)
			if try == 0 {
				first = p.Src
			}
			if p.Src != first {
				t.Fatalf("client %d: %v and %v", i, first.IP(false), p.Src.IP(false))
			}
		}
		used[first] = true
	}
	if len(used) < 10 {
		t.Errorf("64 clients have %d of 16 addresses", len(used))
	}
}

// TestRanges checks the choice of addresses in ranges of any size.
func TestRanges(t *testing.T) {
	for _, tt := range []struct {
		name     string
		min, max Addr
	}{
		{"one", Addr{0, 5}, Addr{0, 5}},
		{"three", Addr{0, 5}, Addr{0, 7}},
		{"across the halves", Addr{1, ^uint64(0) - 1}, Addr{2, 1}},
		{"all of a half", Addr{1, 0}, Addr{1, ^uint64(0)}},
		{"more than a half", Addr{1, 9}, Addr{2, 9}},
		{"everything", Addr{}, Addr{^uint64(0), ^uint64(0)}},
	} {
		r := Range{Set: true, Min: tt.min, Max: tt.max}
		for _, h := range []uint64{0, 1, 1 << 63, ^uint64(0), 12345} {
			for n := range uint64(4) {
				if a, ok := r.pick(Addr{}, h, n); ok && !r.in(a) {
					t.Errorf("%s: choice %d of %#x is %x", tt.name, n, h, a)
				}
			}
		}
	}
	bad := NAT{Src: Range{Set: true, Min: Addr{0, 2}, Max: Addr{0, 1}}}
	if err := bad.Check(); !errors.Is(err, ErrNAT) {
		t.Errorf("a range that ends before it begins: %v", err)
	}
	bad = NAT{Dst: Range{Set: true, PortMin: 2, PortMax: 1}}
	if err := bad.Check(); !errors.Is(err, ErrNAT) {
		t.Errorf("ports that end before they begin: %v", err)
	}
}

// TestHairpinNAT has a client reach itself by a VIP: destination and source are
// translated, in two zones as OVN does, and both ways find the connections.
func TestHairpinNAT(t *testing.T) {
	_, w := newTable(t, small(64))
	p := packetOf(tuple4(ProtoTCP, "10.0.0.1", 4000, "10.96.0.1", 80), FlagSYN)
	dnat := Terms{NAT: &NAT{Dst: Range{Set: true, Min: addr("10.0.0.1"), Max: addr("10.0.0.1"), PortMin: 8080, PortMax: 8080}}}
	snat := Terms{NAT: &NAT{Src: Range{Set: true, Min: addr("10.96.0.1"), Max: addr("10.96.0.1")}}}
	v, _ := commit(w, 1, p, dnat, start)
	v.Translate(&p)
	v, _ = commit(w, 2, p, snat, start)
	v.Translate(&p)
	if want := tuple4(ProtoTCP, "10.96.0.1", 4000, "10.0.0.1", 8080); p.Tuple != want {
		t.Fatalf("got %v, want %v", p.Tuple, want)
	}
	back := packetOf(p.Inverse(), FlagSYN|FlagACK)
	for _, zone := range []uint16{2, 1} {
		v := track(w, zone, back, start)
		if v.State&StateReply == 0 {
			t.Fatalf("zone %d: %v is %v", zone, back.Tuple, v.State)
		}
		v.Translate(&back)
	}
	if want := tuple4(ProtoTCP, "10.96.0.1", 80, "10.0.0.1", 4000); back.Tuple != want {
		t.Errorf("got %v, want %v", back.Tuple, want)
	}
}

// TestSelf has a packet that is its own answer.
func TestSelf(t *testing.T) {
	table, w := newTable(t, small(64))
	p := packetOf(tuple4(47, "10.0.0.1", 0, "10.0.0.1", 0), 0)
	if _, r := commit(w, 1, p, Terms{}, start); r != Created {
		t.Fatal(r)
	}
	if v := track(w, 1, p, start); v.Ref == 0 {
		t.Error("not found")
	}
	if table.Flush(1) != 1 || count(table) != 0 {
		t.Error("not flushed")
	}
	if v := track(w, 1, p, start); v.Ref != 0 {
		t.Error("found after the flush")
	}
}

// TestPortOfICMP gives a destination with a port to an echo: it has none, and goes to the address.
func TestPortOfICMP(t *testing.T) {
	_, w := newTable(t, small(1024))
	n := &NAT{Dst: Range{Set: true, Min: addr("10.1.0.1"), Max: addr("10.1.0.1"), PortMin: 8080, PortMax: 8080}}
	ping := tuple4(ProtoICMP, "10.0.0.1", 7, "192.0.2.80", 8<<8)
	p := packetOf(ping, 0)
	v, r := commit(w, 1, p, Terms{NAT: n}, start)
	v.Translate(&p)
	if want := tuple4(ProtoICMP, "10.0.0.1", 7, "10.1.0.1", 8<<8); r != Created || p.Tuple != want {
		t.Fatalf("%v, became %v, want %v", r, p.Tuple, want)
	}
	answer := packetOf(p.Inverse(), 0)
	w.Track(1, &answer, start, &v)
	v.Translate(&answer)
	if v.State&StateReply == 0 || answer.Tuple != ping.Inverse() {
		t.Errorf("%v, became %v, want %v", v.State, answer.Tuple, ping.Inverse())
	}
}
