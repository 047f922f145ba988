package conntrack

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestBrief holds what is said briefly to what Track and Commit say: of twins of which one is
// brief, both say the same of all packets, in whatever order the zones are asked, and have the same
// connections afterwards.
func TestBrief(t *testing.T) {
	a, b := twin(t), twin(t)
	b.t.index.seed = a.t.index.seed // by which ports are looked for
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 8))
	now, known, moved := uint64(1e9), 0, 0
	for round := range 400 {
		now += uint64(r.IntN(2e9))
		a.Quiet()
		b.Quiet()
		a.Expire(now, 1<<20)
		b.Expire(now, 1<<20)
		if limited := round == 200; limited || r.IntN(50) == 0 && round/50 != 4 { // from 200 to 250 for sure
			limit := uint32(r.IntN(2) * 20)
			if limited {
				limit = 20
			}
			for _, t := range []*Table{a.t, b.t} {
				t.Flush(2)
				t.SetZoneLimit(2, limit)
			}
		}
		packets := make([]Packet, 1+r.IntN(AheadMax))
		for i := range packets {
			packets[i] = briefPacket(r)
			p := &packets[i]
			a.Expect(i, p.Src[0], p.Src[1], p.Dst[0], p.Dst[1], uint64(p.SrcPort)<<48|uint64(p.DstPort)<<32|uint64(r.Uint32()), p.Proto, p.Six)
		}
		a.Ahead(len(packets), uint16(1+r.IntN(2)))
		for i := range packets {
			p := &packets[i]
			for _, zone := range [][]uint16{{1}, {2}, {1, 2}, {2, 1}, {1, 2, 1}}[r.IntN(5)] {
				terms := briefTerms(r)
				var brief Brief
				var got, want Verdict
				a.Brief(i, zone, p.Flags, p.Len, now, &brief)
				b.Track(zone, p, now, &want)
				a.Verdict(&brief, &got)
				compareBrief(t, fmt.Sprintf("seed %d, round %d, %v %#x in zone %d", seed, round, p.Tuple, p.Flags, zone), &brief, &got, &want)
				if want.Ref != 0 {
					known++
				}
				if terms != nil {
					x, short := a.CommitBrief(&brief, terms, now, &got)
					if short {
						a.Verdict(&brief, &got)
					}
					y := b.Commit(zone, p, terms, now, &want)
					if terms.NAT != nil && terms.NAT.mild() && want.Rewrite.Set != 0 && y == Created {
						moved++
					}
					compareBrief(t, fmt.Sprintf("seed %d, round %d, %v %#x committed to zone %d: %v, want %v", seed, round, p.Tuple, p.Flags, zone, x, y), &brief, &got, &want)
					if x != y {
						t.Fatalf("seed %d, round %d: %v, want %v", seed, round, x, y)
					}
				}
			}
		}
	}
	if x, y := a.t.Zone(2), b.t.Zone(2); x != y {
		t.Errorf("seed %d: zone %+v, want %+v", seed, x, y)
	}
	if x, y := listed(a.t, now), listed(b.t, now); !slices.Equal(x, y) || len(x) == 0 {
		t.Errorf("seed %d: connections\n%q\nwant\n%q", seed, x, y)
	}
	x, y := a.t.Stats(), b.t.Stats()
	if x != y || x.Limited == 0 || x.Invalid == 0 || x.Ended == 0 || x.Reopened == 0 || known < 1000 || moved == 0 {
		t.Errorf("seed %d: %d packets of connections, %d with another port\n%+v\nwant\n%+v", seed, known, moved, x, y)
	}
}

// translated is the address that sources are translated to, and that others have.
const translated = 9

// briefPacket is one of few connections.
func briefPacket(r *rand.Rand) (p Packet) {
	p.Proto, p.Len, p.Scale, p.Six = []uint8{ProtoTCP, ProtoTCP, ProtoTCP, ProtoUDP}[r.IntN(4)], uint32(60+r.IntN(9)), -1, r.IntN(4) == 0
	p.Src, p.Dst, p.SrcPort, p.DstPort = Addr{1: 1}, Addr{1: 2}, uint16(r.IntN(40)), 80
	if r.IntN(8) == 0 {
		p.Src[1] = translated
	}
	if p.Proto == ProtoTCP {
		p.Flags = []uint16{FlagSYN, FlagSYN, FlagSYN | FlagACK, FlagACK, FlagACK, FlagFIN | FlagACK, FlagFIN | FlagACK, FlagRST, FlagSYN | FlagFIN, 0}[r.IntN(10)]
	}
	if r.IntN(2) == 0 {
		p.Tuple = p.Inverse()
	}
	return p
}

// briefTerms are those of a commit, or nil.
func briefTerms(r *rand.Rand) *Terms {
	switch r.IntN(8) {
	case 0:
		return nil
	case 1:
		return &Terms{Mark: r.Uint32N(4), MarkMask: 3}
	case 2:
		return &Terms{Label: [2]uint64{1: r.Uint64N(4)}, LabelMask: [2]uint64{1: 3}}
	case 3:
		if r.IntN(2) == 0 { // as walks do: not brief, but of connections that others are brief about
			return &Terms{NAT: &NAT{Src: Range{Set: true, Min: Addr{1: translated}, Max: Addr{1: translated}}}}
		}
	case 4, 5:
		return &Terms{NAT: &NAT{Src: Range{Set: true}}}
	}
	return &Terms{}
}

// compareBrief compares two verdicts on a packet. Cells and names of connections need not be the same.
func compareBrief(t *testing.T, what string, brief *Brief, got, want *Verdict) {
	t.Helper()
	g, w := *got, *want
	if (g.Ref != 0) != (w.Ref != 0) {
		t.Fatalf("%s: connection %x, want %x", what, g.Ref, w.Ref)
	}
	g.Cell, g.Want, g.Ref, w.Cell, w.Want, w.Ref = 0, 0, 0, 0, 0, 0
	if g != w {
		t.Fatalf("%s:\n got %+v\nwant %+v", what, g, w)
	}
	if brief.State != w.State || brief.Mark != w.Mark || brief.Label != w.Label || brief.Cacheable != w.Cacheable || brief.Translated != (w.Rewrite.Set != 0) {
		t.Fatalf("%s:\nbriefly %+v\n   want %+v", what, brief, w)
	}
}

// listed is what a table has, in order.
func listed(t *Table, now uint64) (list []string) {
	for c := range t.Dump(now) {
		c.Ref = 0
		list = append(list, fmt.Sprintf("%+v", c))
	}
	slices.Sort(list)
	return list
}

// TestBriefGuards checks that the guard of what is said briefly moves with what it stands for.
func TestBriefGuards(t *testing.T) {
	w := twin(t)
	p := Packet{Tuple: Tuple{Src: Addr{1: 1}, Dst: Addr{1: 2}, SrcPort: 1, DstPort: 2, Proto: ProtoUDP}, Len: 60}
	for _, back := range []bool{false, false, true} {
		var b Brief
		var v Verdict
		w.Expect(0, p.Src[0], p.Src[1], p.Dst[0], p.Dst[1], 1<<48|2<<32, p.Proto, false)
		w.Ahead(1, 1)
		w.Brief(0, 1, 0, 60, 1e9, &b)
		w.Verdict(&b, &v)
		if !v.Cacheable || w.t.cell(v.Cell) != v.Want {
			t.Fatalf("%+v", v)
		}
		next := p
		if back {
			next.Tuple = p.Inverse()
		}
		commitOne(w, next, 1e9)
		if moved := w.t.cell(v.Cell) != v.Want; moved != (b.record == 0 || back) {
			t.Errorf("back %v, record %d: guard moved %v", back, b.record, moved)
		}
	}
}

// TestBriefAllocates checks that being brief does not allocate.
func TestBriefAllocates(t *testing.T) {
	w := twin(t)
	var b Brief
	var v Verdict
	port := uint64(0)
	if n := testing.AllocsPerRun(500, func() {
		port++
		w.Quiet()
		w.Expect(0, 0, 1, 0, 2, port<<48, ProtoTCP, false)
		w.Ahead(1, 1)
		w.Brief(0, 1, FlagSYN, 60, 1e9, &b)
		w.CommitBrief(&b, &Terms{}, 1e9, &v)
		w.Brief(0, 1, FlagSYN, 60, 1e9, &b)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
