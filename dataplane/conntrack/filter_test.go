package conntrack

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
)

// chance picks one of a list.
func chance[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// drawFilter draws a filter, and what it means, in the words of a machine that
// knows addresses, not bits.
func drawFilter(r *rand.Rand) (f Filter, means func(c *Connection) bool) {
	var terms []func(c *Connection) bool
	term := func(odds int, set func() func(c *Connection) bool) {
		if r.IntN(odds) == 0 {
			terms = append(terms, set())
		}
	}
	end := func(e *End) func(t *Tuple, a Addr, port uint16) bool {
		net := netip.MustParsePrefix(chance(r, "0.0.0.0/0", "10.0.0.0/30", "10.0.0.2/32", "10.0.0.128/25", "::/0", "fd00::/64", "fd00::2/128", "fd00::2/127"))
		low := uint16(r.IntN(6))
		ports := Span{r.IntN(2) == 0, low, low + uint16(r.IntN(3))}
		*e = End{Ports: ports}
		if r.IntN(3) > 0 {
			e.Net = NetOf(net)
		}
		named := e.Net.Set
		return func(t *Tuple, a Addr, port uint16) bool {
			withPorts := slices.Contains([]uint8{6, 17, 132}, t.Proto)
			return (!named || net.Contains(a.IP(t.Six))) && (!ports.Set || withPorts && port >= low && port <= ports.Max)
		}
	}
	term(3, func() func(*Connection) bool {
		z := uint16(r.IntN(3))
		f.Zones = Span{true, z, z + 1}
		return func(c *Connection) bool { return c.Zone == z || c.Zone == z+1 }
	})
	term(3, func() func(*Connection) bool {
		p := chance(r, uint8(ProtoTCP), ProtoUDP, ProtoICMP)
		f.Protos = Span{true, uint16(p), uint16(p)}
		return func(c *Connection) bool { return c.Original.Proto == p }
	})
	term(3, func() func(*Connection) bool {
		is := end(&f.Original.Src)
		return func(c *Connection) bool { return is(&c.Original, c.Original.Src, c.Original.SrcPort) }
	})
	term(3, func() func(*Connection) bool {
		is := end(&f.Reply.Dst)
		return func(c *Connection) bool { return is(&c.Answer, c.Answer.Dst, c.Answer.DstPort) }
	})
	term(3, func() func(*Connection) bool {
		is := end(&f.Any)
		return func(c *Connection) bool {
			return is(&c.Original, c.Original.Src, c.Original.SrcPort) || is(&c.Original, c.Original.Dst, c.Original.DstPort) ||
				is(&c.Answer, c.Answer.Src, c.Answer.SrcPort) || is(&c.Answer, c.Answer.Dst, c.Answer.DstPort)
		}
	})
	term(4, func() func(*Connection) bool {
		f.States = []string{chance(r, "UNREPLIED", "REPLIED", "SYN_SENT", "ESTABLISHED"), "SYN_RECV"}
		return func(c *Connection) bool { return c.State == f.States[0] || c.State == "SYN_RECV" }
	})
	term(4, func() func(*Connection) bool {
		f.MarkMask = uint32(1 + r.IntN(3))
		f.Mark = uint32(r.IntN(4)) & f.MarkMask
		return func(c *Connection) bool {
			for bit := range 32 {
				if f.MarkMask>>bit&1 == 1 && f.Mark>>bit&1 != c.Mark>>bit&1 {
					return false
				}
			}
			return true
		}
	})
	return f, func(c *Connection) bool {
		for _, t := range terms {
			if !t(c) {
				return false
			}
		}
		return true
	}
}

// populate makes n connections of all kinds, some of them answered and some
// translated.
func populate(w *Worker, r *rand.Rand, n int) {
	for range n {
		proto := chance(r, uint8(ProtoTCP), ProtoUDP, ProtoICMP, 47)
		t := Tuple{Src: addr(fmt.Sprintf("10.0.0.%d", r.IntN(4))), Dst: addr(chance(r, "10.0.0.2", "10.0.0.200")), Proto: proto}
		if r.IntN(3) == 0 {
			t.Src, t.Dst, t.Six = addr(fmt.Sprintf("fd00::%d", r.IntN(4))), addr("fd00::2"), true
		}
		switch proto {
		case ProtoTCP, ProtoUDP:
			t.SrcPort, t.DstPort = uint16(r.IntN(8)), uint16(r.IntN(8))
		case ProtoICMP:
			if t.Six {
				t.Proto = ProtoICMPv6
			}
			t.SrcPort, t.DstPort = uint16(r.IntN(8)), map[bool]uint16{false: 8, true: 128}[t.Six]<<8
		}
		p, terms := packetOf(t, FlagSYN), Terms{Mark: uint32(r.IntN(4)), MarkMask: 3}
		if !t.Six && r.IntN(3) == 0 {
			terms.NAT = &NAT{Dst: Range{Set: true, Min: addr("10.0.0.1"), Max: addr("10.0.0.1")}}
		}
		w.Quiet()
		v, result := commit(w, uint16(r.IntN(4)), p, terms, start)
		if c, ok := w.t.At(v.Ref, start); result == Created && ok && r.IntN(2) == 0 {
			track(w, c.Zone, packetOf(c.Answer, FlagSYN|FlagACK), start)
		}
	}
}

// TestFilter holds filters, dumps and flushes to what they mean, on random
// connections.
func TestFilter(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	chosen, flushed, fits := 0, 0, 0
	rounds := 60
	if raceEnabled {
		rounds = 10
	}
	for range rounds {
		table, w := newTable(t, small(1024))
		populate(w, r, 700)
		for range 12 {
			f, means := drawFilter(r)
			var want []Connection
			all := 0
			for c := range table.Dump(start) {
				if got, want := f.Has(&c), means(&c); got != want {
					t.Fatalf("filter %+v has %+v: %v, want %v", f, c, got, want)
				}
				if all++; means(&c) {
					want = append(want, c)
				}
			}
			if got := slices.Collect(table.Select(&f, start)); !slices.Equal(got, want) {
				t.Fatalf("filter %+v chooses %d, want %d", f, len(got), len(want))
			}
			chosen += len(want)
			if r.IntN(8) > 0 {
				continue
			}
			fits++
			if got := table.FlushSelected(&f); got != len(want) || count(table) != all-len(want) {
				t.Fatalf("filter %+v flushed %d, want %d; %d are left of %d", f, got, len(want), count(table), all)
			}
			flushed += len(want)
		}
		checkWhole(t, table)
	}
	if chosen < 20*rounds || flushed < rounds || fits < rounds/2 {
		t.Errorf("too little was tested: %d chosen, %d flushed by %d filters", chosen, flushed, fits)
	}
}

// TestAt: a name names its connection as long as that is there, and nothing else.
func TestAt(t *testing.T) {
	table, w := newTable(t, small(64))
	v, _ := commit(w, 3, packetOf(tuple4(ProtoUDP, "10.0.0.1", 1, "10.0.0.2", 2), 0), Terms{Mark: 5, MarkMask: 7}, start)
	if c, ok := table.At(v.Ref, start); !ok || c.Mark != 5 || c.Zone != 3 || c.Ref != v.Ref {
		t.Errorf("got %+v, %v", c, ok)
	}
	for _, ref := range []Ref{0, v.Ref + 1, v.Ref + 1<<32, ^Ref(0), Ref(uint32(v.Ref))<<32 | 1<<31} {
		if c, ok := table.At(ref, start); ok {
			t.Errorf("%x names %+v", uint64(ref), c)
		}
	}
	if n := table.FlushSelected(&Filter{Zones: Span{true, 2, 3}}); n != 1 {
		t.Errorf("flushed %d", n)
	}
	if c, ok := table.At(v.Ref, start); ok {
		t.Errorf("after the flush: %+v", c)
	}
}

// TestLimits: a zone's own limit goes before the default, and none before both.
func TestLimits(t *testing.T) {
	table, w := newTable(t, small(64))
	table.SetDefaultLimit(2)
	table.SetZoneLimit(1, 1)
	table.SetZoneLimit(2, NoLimit)
	for i := range 4 {
		for zone := range uint16(4) {
			commit(w, zone, packetOf(tuple4(ProtoUDP, "10.0.0.1", uint16(i), "10.0.0.2", 53), 0), Terms{}, start)
		}
	}
	for zone, want := range []uint32{2, 1, 4, 2} {
		z := table.Zone(uint16(zone))
		if z.Count != want || z.Created != uint64(want) || z.Refused != uint64(4-want) || z.Evicted != 0 {
			t.Errorf("got %+v, want %d", z, want)
		}
	}
	table.Reset(1, func() bool { return false })
	if z := table.Zone(1); z != (ZoneInfo{Zone: 1}) {
		t.Errorf("after Reset: %+v", z)
	}
	commit(w, 1, packetOf(tuple4(ProtoUDP, "10.0.0.1", 7, "10.0.0.2", 53), 0), Terms{}, start)
	if z := table.Zone(1); z.Count != 1 || z.Created != 1 || table.DefaultLimit() != 2 {
		t.Errorf("after one more: %+v", z)
	}
}

// TestZoneEvictions: each eviction is counted for the zone that it was of.
func TestZoneEvictions(t *testing.T) {
	table, w := newTable(t, small(64))
	for i := range 500 {
		w.Quiet()
		commit(w, uint16(i%3), packetOf(tuple4(ProtoUDP, "10.0.0.1", uint16(i), "10.0.0.2", 53), 0), Terms{}, start)
		table.Expire(start, 64)
	}
	sum := uint64(0)
	for zone := range uint16(3) {
		z := table.Zone(zone)
		if z.Created-z.Evicted != uint64(z.Count) || z.Evicted == 0 {
			t.Errorf("got %+v", z)
		}
		sum += z.Evicted
	}
	if s := table.Stats(); s.Evicted != sum {
		t.Errorf("%d evicted, zones say %d", s.Evicted, sum)
	}
}

// TestSelectShared dumps and flushes by filters beside workers that use the same
// connections.
func TestSelectShared(t *testing.T) {
	const workers = 4
	table, _ := newTable(t, small(512))
	steps := 4000
	if raceEnabled {
		steps = 700
	}
	var all sync.WaitGroup
	for id := range workers {
		w := table.Worker(id)
		all.Go(func() {
			populate(w, rand.New(rand.NewPCG(uint64(id), 3)), steps)
			w.Retire()
		})
	}
	stop, seen, gone := make(chan struct{}), 0, 0
	var control sync.WaitGroup
	control.Go(func() {
		for r := rand.New(rand.NewPCG(9, 9)); ; {
			select {
			case <-stop:
				return
			default:
			}
			f, means := drawFilter(r)
			for c := range table.Select(&f, start) {
				if seen++; !means(&c) {
					t.Errorf("filter %+v chooses %+v", f, c)
				}
			}
			gone += table.FlushSelected(&f)
		}
	})
	all.Wait()
	close(stop)
	control.Wait()
	checkWhole(t, table)
	if s := table.Stats(); s.Flushed != uint64(gone) || s.Created == 0 {
		t.Errorf("flushed %d, %+v", gone, s)
	}
	t.Logf("%d seen, %d flushed", seen, gone)
}
