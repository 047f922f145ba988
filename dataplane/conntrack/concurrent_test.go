package conntrack

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// checkWhole checks that index, zones, lists and stock of a table that nobody
// uses agree.
func checkWhole(t *testing.T, table *Table) {
	t.Helper()
	live, zones := map[uint32]bool{}, map[uint16]int{}
	for i := uint32(1); i < table.stock.touched.Load(); i++ {
		r := &table.records[i]
		if table.deadlines[i].Load() != 0 {
			if status(r.state.Load())&dead != 0 {
				t.Errorf("record %d has a deadline and is dead", i)
			}
			live[i] = true
			zones[r.original.zone()]++
		}
	}
	slots, away := map[uint64]int{}, map[int]int{}
	for b := range table.index.buckets {
		for s := range table.index.buckets[b] {
			v := table.index.buckets[b][s].Load()
			if s == 0 {
				away[b] -= int(v & awayBits >> awayShift)
			}
			if v &^= awayBits; v == 0 {
				continue
			}
			i, dir := recordOf(v), int(v&1)
			h := table.index.seed.hash(table.records[i].key(dir))
			if !live[i] || slotOf(h, i, dir) != v || table.index.first(h) != uint64(b) && table.index.second(h) != uint64(b) {
				t.Errorf("slot %x in bucket %d leads to record %d, which is live: %v", v, b, i, live[i])
			}
			if at := int(table.index.first(h)); at != b {
				away[at]++
			}
			slots[uint64(uint32(v))]++
		}
	}
	for b, n := range away {
		if n != 0 && table.index.buckets[b][0].Load()&awayBits != awayBits {
			t.Errorf("%d more keys of bucket %d are away than it says", n, b)
		}
	}
	for i := range live {
		r := &table.records[i]
		back := 1
		if r.original == r.reply {
			back = 0
		}
		if slots[uint64(i)<<1] != 1 || slots[uint64(i)<<1|1] != back {
			t.Errorf("record %d has %d and %d slots", i, slots[uint64(i)<<1], slots[uint64(i)<<1|1])
		}
	}
	checkZones(t, table, zones)
	checkStock(t, table, live)
	if s := table.Stats(); s.Connections != len(live) {
		t.Errorf("%d connections, stats say %+v", len(live), s)
	}
}

// checkZones goes through the zones' lists both ways.
func checkZones(t *testing.T, table *Table, zones map[uint16]int) {
	t.Helper()
	for z := range table.zones {
		at, n, last := &table.zones[z], 0, uint32(0)
		for i := at.head; i != 0 && n <= len(table.records); i = uint32(table.records[i].links) {
			if uint32(table.records[i].links>>32) != last {
				t.Errorf("zone %d: record %d does not lead back", z, i)
			}
			last = i
			n++
		}
		if n != zones[uint16(z)] || int(at.count.Load()) != n || at.tail != last {
			t.Errorf("zone %d: %d in the list, count %d, %d are live", z, n, at.count.Load(), zones[uint16(z)])
		}
	}
}

// checkStock checks that each record is live, free, waiting, or a worker's.
func checkStock(t *testing.T, table *Table, live map[uint32]bool) {
	t.Helper()
	s, seen := &table.stock, map[uint32]string{}
	note := func(i uint32, what string) {
		if was, twice := seen[i]; twice || live[i] {
			t.Errorf("record %d is %s and %s, live: %v", i, was, what, live[i])
		}
		seen[i] = what
	}
	for _, i := range s.list[:s.free] {
		note(i, "free")
	}
	for _, i := range s.list[s.free:s.ends] {
		note(i, "waiting")
	}
	for _, w := range table.workers {
		for _, i := range w.free {
			note(i, "a worker's")
		}
	}
	if n := len(seen) + len(live) + int(s.limit-s.fresh); n != table.options.Capacity {
		t.Errorf("%d of %d records accounted for", n, table.options.Capacity)
	}
}

// TestOneWins has workers create the same connections at the same time: each is
// made once, and all have its verdict.
func TestOneWins(t *testing.T) {
	const workers, n = 4, 300
	table, _ := newTable(t, small(2048))
	var refs [workers][n]Verdict
	var all sync.WaitGroup
	var at [n]atomic.Int32
	nat := &NAT{Src: Range{Set: true, Min: addr("192.0.2.1"), Max: addr("192.0.2.4")}, Random: true}
	for id := range workers {
		w := table.Worker(id)
		all.Go(func() {
			for i := range n {
				w.Quiet()
				p := packetOf(tuple4(ProtoUDP, "10.0.0.1", uint16(i), "10.0.0.2", 53), 0)
				for at[i].Add(1); at[i].Load() < workers; { // all at once
					runtime.Gosched()
				}
				refs[id][i], _ = commit(w, 1, p, Terms{NAT: nat}, start)
			}
			w.Retire()
		})
	}
	all.Wait()
	for i := range n {
		for id := range workers {
			if got, want := refs[id][i], refs[0][i]; got.Ref != want.Ref || got.Rewrite != want.Rewrite || got.Ref == 0 {
				t.Fatalf("connection %d: worker %d has %+v, worker 0 has %+v", i, id, got, want)
			}
		}
	}
	if s := table.Stats(); s.Created != n {
		t.Errorf("got %+v, want %d created", s, n)
	}
	checkWhole(t, table)
}

// TestShared has workers use few connections in every way, beside a control that
// flushes, dumps and expires. What a worker is told must be consistent, and the
// table whole in the end.
func TestShared(t *testing.T) {
	const workers = 4
	steps := 40000
	if raceEnabled {
		steps = 6000
	}
	table, _ := newTable(t, small(256))
	var now atomic.Uint64
	now.Store(start)
	var all sync.WaitGroup
	for id := range workers {
		w := table.Worker(id)
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(id), rand.Uint64()))
			for range steps {
				w.Quiet()
				useShared(t, w, r, now.Add(second/1000))
			}
			w.Retire()
		})
	}
	stop := make(chan struct{})
	var control sync.WaitGroup
	control.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			table.Flush(uint16(i % 3))
			for c := range table.Dump(now.Load()) {
				if c.Label[0] != c.Label[1] {
					t.Errorf("label %x is of two", c.Label)
				}
				if c.Packets[0] == 0 && c.Packets[1] == 0 || c.Original == c.Answer {
					t.Errorf("%+v", c)
				}
			}
			table.Expire(now.Load(), 1024)
		}
	})
	all.Wait()
	close(stop)
	control.Wait()
	checkWhole(t, table)
	if s := table.Stats(); s.Created == 0 || s.Flushed == 0 {
		t.Errorf("too little has happened: %+v", s)
	}
}

// useShared is one packet of TestShared.
func useShared(t *testing.T, w *Worker, r *rand.Rand, now uint64) {
	zone := uint16(r.IntN(3))
	p := packetOf(Tuple{Src: Addr{1: uint64(1 + r.IntN(3))}, Dst: Addr{1: uint64(10 + r.IntN(2))}, SrcPort: uint16(r.IntN(60)), DstPort: 53, Proto: ProtoUDP}, 0)
	if r.IntN(2) == 0 {
		p.Proto, p.Flags = ProtoTCP, []uint16{FlagSYN, FlagACK, FlagACK | FlagFIN, FlagRST}[r.IntN(4)]
	}
	var v Verdict
	w.Track(zone, &p, now, &v)
	if v.Ref != 0 && v.Original != p.Tuple && v.Original.Proto != p.Proto {
		t.Errorf("%v is told to be of %v", p.Tuple, v.Original)
	}
	if v.Label[0] != v.Label[1] {
		t.Errorf("label %x is of two", v.Label)
	}
	label := r.Uint64() % 8
	terms := Terms{Mark: r.Uint32() % 4, MarkMask: 3, Label: [2]uint64{label, label}, LabelMask: [2]uint64{7, 7}}
	if r.IntN(2) == 0 {
		terms.NAT = &NAT{Src: Range{Set: true, Min: Addr{1: 100}, Max: Addr{1: 103}}}
	}
	if r.IntN(3) == 0 {
		w.Commit(zone, &p, &terms, now, &v)
	}
	if v.Ref == 0 {
		return
	}
	q := p
	v.Translate(&q)
	back := packetOf(q.Inverse(), FlagACK)
	if p.Proto == ProtoUDP {
		var b Verdict
		w.Track(zone, &back, now, &b)
		if b.Ref == v.Ref && b.Original != p.Tuple && b.Original != q.Inverse() {
			t.Errorf("the answer to %v is of %v", p.Tuple, b.Original)
		}
	}
	w.Touch(v.Ref, r.IntN(2) == 0, 1, 100, now)
	switch r.IntN(400) {
	case 0:
		w.Expire(now, 256)
	case 1:
		w.t.Flush(zone)
	}
}

// TestFragmentsShared has workers send the parts of the same datagrams.
func TestFragmentsShared(t *testing.T) {
	const workers, datagrams = 3, 400
	o := small(64)
	o.Fragments, o.Held = 1<<16, 4<<20 // so many that no set is ever full
	table, _ := newTable(t, o)
	udp := tuple4(ProtoUDP, "10.0.0.1", 4000, "10.0.0.2", 53)
	var all sync.WaitGroup
	var seen atomic.Int64
	for id := range workers {
		w := table.Worker(id)
		all.Go(func() {
			for i := range uint32(datagrams) {
				w.Quiet()
				p := pieces(udp, i, workers)[(id+int(i))%workers]
				for again := true; again; {
					again = false
					var v Verdict
					q := p
					w.Track(1, &q, start, &v)
					switch {
					case !v.Wait:
						seen.Add(1)
					case w.Hold(1, &p, []byte{1}, 0, start) == Known:
						again = true
					}
				}
				for {
					if _, _, ok := w.Release(nil); !ok {
						break
					}
					seen.Add(1)
				}
			}
			w.Retire()
		})
	}
	all.Wait()
	if s := table.Stats(); seen.Load() != workers*datagrams || s.FragmentsHeld != s.FragmentsReleased {
		t.Errorf("%d of %d fragments have gone on, %+v", seen.Load(), workers*datagrams, s)
	}
}

// TestReclaim checks that records are used again only when every worker has been
// quiet, and that one that sleeps holds up nobody.
func TestReclaim(t *testing.T) {
	table, w := newTable(t, small(16))
	other := table.Worker(1)
	other.Quiet()
	fill := func() (n int) {
		for i := range 40 {
			w.Quiet()
			tcp := tuple4(ProtoTCP, fmt.Sprint("10.0.0.", i), 1, "10.0.0.2", 80)
			if _, r := commit(w, 1, packetOf(tcp, FlagSYN), Terms{}, start); r == Created {
				track(w, 1, packetOf(tcp.Inverse(), FlagSYN|FlagACK), start)
				track(w, 1, packetOf(tcp, FlagACK), start)
				n++
			}
		}
		return n
	}
	if n := fill(); n != 16 {
		t.Fatalf("%d connections in a table of 16", n)
	}
	table.Flush(1)
	if n := fill(); n != 0 {
		t.Errorf("%d records were used again while a worker may see them", n)
	}
	other.Offline()
	if n := fill(); n != 16 {
		t.Errorf("%d connections when the other sleeps", n)
	}
	w.Retire()
	checkWhole(t, table)
}
