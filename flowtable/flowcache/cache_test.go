package flowcache

import (
	"math/rand/v2"
	"testing"

	"millrace/flowtable"
)

// smallOptions are of a cache with room for some thousands of flows.
func smallOptions() CacheOptions {
	return CacheOptions{Exact: 8192, ExactWide: 1024, Wild: 8192, WildWide: 1024, Seen: 8192, ProgramBytes: 1 << 20, Masks: 4, Idle: 8}
}

// output is a program that delivers to a port, and depends on a mask.
func output(port uint32, mask flowtable.Key) *flowtable.Composed {
	return &flowtable.Composed{Mask: mask, Ops: []flowtable.Op{{Code: flowtable.OpOutput, Arg: port}}}
}

// one looks one key up.
func one(c *Cache, p *Plan, key *flowtable.Key, wide bool) uint32 {
	var out [BatchMax]uint32
	if wide {
		c.LookupWide(&[BatchMax]flowtable.Key{*key}, 1, p, &out)
	} else {
		c.Lookup(&[BatchMax]NarrowKey{NarrowKey(key[:flowtable.NarrowWords])}, 1, p, &out)
	}
	return out[0]
}

// mustInstall installs a program that nothing stands against.
func mustInstall(t *testing.T, c *Cache, p *Plan, key *flowtable.Key, wide bool, comp *flowtable.Composed) uint32 {
	t.Helper()
	off, r := c.Install(p, key, wide, comp, c.cells.Changes())
	if r != Installed {
		t.Fatalf("install: %v", r)
	}
	return off
}

// flowKey is the key of flow i of a port.
func flowKey(port, i int) flowtable.Key {
	k := wideKey(benchKey(i))
	k[flowtable.WordIn] = uint64(port)<<32 | 0x0800
	return k
}

// TestCacheWild installs for one key what another key with the same consulted
// bits must find, and a third must not.
func TestCacheWild(t *testing.T) {
	for _, wide := range []bool{false, true} {
		c, _ := newTestCache(t, smallOptions(), nil)
		p := newTestPlan(t, c)
		key := flowKey(1, 1)
		off := mustInstall(t, c, p, &key, wide, output(7, flowtable.Key{flowtable.WordIP4: 0xffff << 32}))
		tests := []struct {
			name   string
			change func(*flowtable.Key)
			want   uint32
		}{
			{"the same", func(*flowtable.Key) {}, off},
			{"bits that nothing looked at", func(k *flowtable.Key) { k[flowtable.WordL4]++; k[flowtable.WordIP4] += 1 << 48 }, off},
			{"bits that matter", func(k *flowtable.Key) { k[flowtable.WordIP4] += 1 << 32 }, 0},
			{"another port", func(k *flowtable.Key) { k[flowtable.WordIn] += 1 << 32 }, 0},
		}
		for _, tt := range tests {
			k := key
			tt.change(&k)
			if got := one(c, p, &k, wide); got != tt.want {
				t.Errorf("wide %v, %s: got %d, want %d", wide, tt.name, got, tt.want)
			}
		}
		if got := one(c, p, &key, !wide); got != 0 {
			t.Errorf("wide %v: found as a key of the other kind: %d", wide, got)
		}
		if h := c.Program(off); h.Code != ProgramOutput || h.Arg != 7 {
			t.Errorf("got code %d and argument %d, want output to 7", h.Code, h.Arg)
		}
	}
}

// TestCacheSecondSight goes beyond the masks: flows are exact then, and kept from
// their second packet on.
func TestCacheSecondSight(t *testing.T) {
	c, _ := newTestCache(t, smallOptions(), nil)
	p := newTestPlan(t, c)
	for i := range 4 {
		k := flowKey(1, i)
		mustInstall(t, c, p, &k, false, output(1, flowtable.Key{flowtable.WordTunnel: 1 << i}))
	}
	k := flowKey(1, 100)
	k[flowtable.WordTunnel] = 0xffff // none of the masks' entries
	comp := output(2, flowtable.Key{flowtable.WordL4: ^uint64(0)})
	if off, r := c.Install(p, &k, false, comp, 0); off != 0 || r != FirstSight {
		t.Errorf("first packet: got %d, %v", off, r)
	}
	off, r := c.Install(p, &k, false, comp, 0)
	if got := one(c, p, &k, false); r != Installed || got != off {
		t.Errorf("second packet: %v; then got %d, want %d", r, got, off)
	}
	k[flowtable.WordIP4]++ // no bit of its mask, but an exact entry has all
	if got := one(c, p, &k, false); got != 0 {
		t.Errorf("an exact entry was found by another key: %d", got)
	}
	if u := c.Usage(); p.narrow.n != 4 || u.Masks != 4+2 {
		t.Errorf("got %d masks in the plan and %d in all, want 4 and two exact ones more", p.narrow.n, u.Masks)
	}
}

// TestInstallRefused names each reason.
func TestInstallRefused(t *testing.T) {
	long := &flowtable.Composed{Ops: make([]flowtable.Op, 1000)}
	tests := []struct {
		name string
		comp *flowtable.Composed
		age  uint64
		want InstallResult
	}{
		{"cells moved during the walk", output(1, flowtable.Key{}), 1, Changed},
		{"guard without cell", &flowtable.Composed{Guards: []flowtable.Guard{{Cell: 1 << 20}}}, 0, BadGuard},
		{"too long", long, 0, TooLong},
		{"depends on what is not relevant", output(1, flowtable.Key{flowtable.WordTunnel: 1}), 0, OutsideExact},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, cells := newTestCache(t, smallOptions(), nil)
			p, err := c.NewPlan(&flowtable.Key{flowtable.WordIP4: ^uint64(0)})
			if err != nil {
				t.Fatal(err)
			}
			if tt.want == OutsideExact {
				for i := range 4 {
					k := flowKey(1, i)
					mustInstall(t, c, p, &k, false, output(1, flowtable.Key{flowtable.WordL4: 1 << i}))
				}
			}
			k := flowKey(1, 50)
			since := cells.Changes()
			for range tt.age {
				cells.Move(1)
			}
			if off, r := c.Install(p, &k, false, tt.comp, since); r != tt.want || off != 0 {
				t.Errorf("got %d, %v, want %v", off, r, tt.want)
			}
			if got := c.Stats().Refused[tt.want]; got != 1 {
				t.Errorf("counted %d times", got)
			}
			checkCache(t, c)
		})
	}
}

// TestGuards moves the cells of programs with none to five guards, one after
// another: each makes the result stale, and Refresh makes it good again.
func TestGuards(t *testing.T) {
	for n := range 6 {
		c, cells := newTestCache(t, smallOptions(), nil)
		p := newTestPlan(t, c)
		comp := output(1, flowtable.Key{flowtable.WordIP4: ^uint64(0)})
		first, err := cells.AllocRun(8)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			cells.Move(first + flowtable.Cell(i))
			comp.Guards = append(comp.Guards, flowtable.Guard{Cell: first + flowtable.Cell(i), Want: cells.Load(first + flowtable.Cell(i))})
		}
		k := flowKey(1, 1)
		mustInstall(t, c, p, &k, false, comp)
		for i := range 8 {
			cells.Move(first + flowtable.Cell(i))
			got := one(c, p, &k, false)
			if got == 0 || (got&Stale != 0) != (i < n) {
				t.Fatalf("%d guards, cell %d moved: got %#x", n, i, got)
			}
			if got&Stale == 0 {
				continue
			}
			wants := make([]uint32, n)
			for j := range wants {
				wants[j] = cells.Load(first + flowtable.Cell(j))
			}
			if off := c.Refresh(p, &k, false, got, wants); off == 0 || one(c, p, &k, false) != off {
				t.Errorf("%d guards: refreshed as %d, found %#x", n, off, one(c, p, &k, false))
			}
		}
		checkCache(t, c)
	}
}

// TestRefreshOne refreshes one of two flows that share a program: the other must
// stay stale, since nobody has looked whether what changed concerns it.
func TestRefreshOne(t *testing.T) {
	c, cells := newTestCache(t, smallOptions(), nil)
	p := newTestPlan(t, c)
	cell, err := cells.Alloc()
	if err != nil {
		t.Fatal(err)
	}
	comp := output(1, flowtable.Key{flowtable.WordIP4: ^uint64(0)})
	comp.Guards = []flowtable.Guard{{Cell: cell, Want: cells.Load(cell)}}
	a, b := flowKey(1, 1), flowKey(1, 2)
	if x, y := mustInstall(t, c, p, &a, false, comp), mustInstall(t, c, p, &b, false, comp); x != y {
		t.Fatalf("equal programs are %d and %d", x, y)
	}
	cells.Move(cell)
	c.Refresh(p, &a, false, one(c, p, &a, false), []uint32{cells.Load(cell)})
	if got := one(c, p, &a, false); got == 0 || got&Stale != 0 {
		t.Errorf("refreshed flow: got %#x", got)
	}
	if got := one(c, p, &b, false); got&Stale == 0 {
		t.Errorf("the other flow: got %#x, want stale", got)
	}
	if off, r := c.Replace(p, &b, false, output(9, flowtable.Key{flowtable.WordL4: ^uint64(0)}), cells.Changes()); r != Installed || one(c, p, &b, false) != off {
		t.Errorf("replaced: %v", r)
	}
	checkCache(t, c)
}

// TestReuse frees a program and takes its place with another, while an entry of
// the freed one was never told: it must miss, not follow.
func TestReuse(t *testing.T) {
	c, _ := newTestCache(t, smallOptions(), nil)
	p := newTestPlan(t, c)
	a, b := flowKey(1, 1), flowKey(1, 2)
	mask := flowtable.Key{flowtable.WordIP4: ^uint64(0)}
	c.Kill(mustInstall(t, c, p, &a, false, output(1, mask)))
	if got := one(c, p, &a, false); got != 0 {
		t.Errorf("killed: got %#x", got)
	}
	mustInstall(t, c, p, &b, false, output(1, mask))
	if got := one(c, p, &a, false); got != 0 {
		t.Errorf("killed, and an equal one made: got %#x", got)
	}
	mustInstall(t, c, p, &a, false, output(1, mask))
	if x, y := one(c, p, &a, false), one(c, p, &b, false); x == 0 || x != y {
		t.Errorf("installed again: got %d and %d", x, y)
	}
	checkCache(t, c)
}

// TestClosedPlan checks that nothing of a port's former life answers for its
// next one.
func TestClosedPlan(t *testing.T) {
	c, _ := newTestCache(t, smallOptions(), nil)
	p := newTestPlan(t, c)
	k := flowKey(1, 1)
	mustInstall(t, c, p, &k, false, output(1, flowtable.Key{flowtable.WordIP4: ^uint64(0)}))
	c.ClosePlan(p)
	if _, r := c.Install(p, &k, false, output(1, flowtable.Key{}), 0); r == Installed {
		t.Error("installed for a closed plan")
	}
	again := newTestPlan(t, c)
	if got := one(c, again, &k, false); got != 0 {
		t.Errorf("got %d from a plan that is closed", got)
	}
	mustInstall(t, c, again, &k, false, output(2, flowtable.Key{flowtable.WordIP4: ^uint64(0)}))
	for epoch := range uint16(4) {
		c.Upkeep(epoch, 10000)
	}
	if u := c.Usage(); u.Entries[wildNarrow] != 1 || c.plans[p.id] == p {
		t.Errorf("after upkeep: %+v", u)
	}
	checkCache(t, c)
}

// TestIdle checks that entries that are hit stay and others go.
func TestIdle(t *testing.T) {
	c, _ := newTestCache(t, smallOptions(), nil)
	p := newTestPlan(t, c)
	busy, idle := flowKey(1, 1), flowKey(1, 2)
	mustInstall(t, c, p, &busy, false, output(1, flowtable.Key{flowtable.WordIP4: ^uint64(0)}))
	mustInstall(t, c, p, &idle, false, output(1, flowtable.Key{flowtable.WordIP4: ^uint64(0)}))
	for epoch := range uint16(20) {
		c.Upkeep(epoch, 10000)
		if one(c, p, &busy, false) == 0 {
			t.Fatalf("a flow that was hit each epoch is gone in epoch %d", epoch)
		}
	}
	if one(c, p, &idle, false) != 0 {
		t.Error("a flow that was not hit for 20 epochs is still there")
	}
}

// TestFlood has one port make a flood of new flows in a cache that is much too
// small: the flows of another port that are in use must stay.
func TestFlood(t *testing.T) {
	for _, kind := range []string{"exact", "wild"} {
		t.Run(kind, func(t *testing.T) {
			o := smallOptions()
			o.Exact, o.Wild, o.Masks, o.ProgramBytes = 1024, 1024, 1, 1<<18
			c, _ := newTestCache(t, o, nil)
			victim, attacker := newTestPlan(t, c), newTestPlan(t, c)
			mask := flowtable.Key{flowtable.WordIP4: ^uint64(0)}
			if kind == "exact" {
				for port, p := range []*Plan{victim, attacker} {
					k := flowKey(1+port, 1)
					k[flowtable.WordTunnel] = 1
					mustInstall(t, c, p, &k, false, output(1, flowtable.Key{flowtable.WordTunnel: ^uint64(0)}))
				}
			}
			install := func(p *Plan, k *flowtable.Key, port uint32) {
				if _, r := c.Install(p, k, false, output(port, mask), 0); r == FirstSight {
					c.Install(p, k, false, output(port, mask), 0)
				}
			}
			const flows = 200
			kept := 0
			for i := range flows {
				k := flowKey(1, i)
				install(victim, &k, 1)
			}
			for i := range flows {
				k := flowKey(1, i)
				if one(c, victim, &k, false) != 0 {
					kept++
				}
			}
			for i := range 50000 {
				k := flowKey(2, i)
				install(attacker, &k, uint32(i))
				if i%1000 == 0 {
					for j := range flows {
						k := flowKey(1, j)
						one(c, victim, &k, false)
					}
					c.Upkeep(uint16(i/1000), 100)
				}
			}
			after := 0
			for i := range flows {
				k := flowKey(1, i)
				if one(c, victim, &k, false) != 0 {
					after++
				}
			}
			if kept < flows*95/100 || after < kept {
				t.Errorf("%d of %d flows were kept, %d after the flood", kept, flows, after)
			}
			checkCache(t, c)
		})
	}
}

// TestMaskFlood has one port make a mask with each flow: its list stays at its
// bound, and other ports' lists are not touched.
func TestMaskFlood(t *testing.T) {
	c, _ := newTestCache(t, smallOptions(), nil)
	victim, attacker := newTestPlan(t, c), newTestPlan(t, c)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 5000 {
		k := flowKey(2, i)
		c.Install(attacker, &k, i%2 == 0, output(1, flowtable.Key{flowtable.WordIP4: r.Uint64(), flowtable.WordL4: r.Uint64()}), 0)
		if attacker.narrow.n > 4 || attacker.wide.n > 4 {
			t.Fatalf("%d and %d masks, want 4 at most", attacker.narrow.n, attacker.wide.n)
		}
	}
	k := flowKey(1, 1)
	mustInstall(t, c, victim, &k, false, output(1, flowtable.Key{flowtable.WordIP4: ^uint64(0)}))
	before := c.Stats().Probes
	if one(c, victim, &k, false) == 0 || c.Stats().Probes != before+1 {
		t.Errorf("a lookup of the other port took %d probes", c.Stats().Probes-before)
	}
}

// TestSecretsDiffer checks that two processes have different hashes.
func TestSecretsDiffer(t *testing.T) {
	a, err := NewSecrets()
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewSecrets()
	if err != nil {
		t.Fatal(err)
	}
	k := flowKey(1, 1)
	if *a == *b || a.hash(k[:], 0) == b.hash(k[:], 0) {
		t.Error("two draws of secrets are equal")
	}
}

// TestHashSpread changes each bit of a key: about half of the hash's bits change.
func TestHashSpread(t *testing.T) {
	s := testSecrets()
	k := flowKey(1, 12345)
	h := s.hash(k[:], 1)
	for word := range k {
		for bit := range 64 {
			other := k
			other[word] ^= 1 << bit
			d := h ^ s.hash(other[:], 1)
			n := 0
			for ; d != 0; d &= d - 1 {
				n++
			}
			if n < 10 || n > 54 {
				t.Errorf("bit %d of word %d changes %d bits of the hash", bit, word, n)
			}
		}
	}
}

// TestCompareFirst holds the assembly to the plain loop, on entries that differ
// in single bits from the keys.
func TestCompareFirst(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	tab, err := newTable(exactNarrow, 64)
	if err != nil {
		t.Fatal(err)
	}
	defer tab.close()
	var keys [BatchMax]NarrowKey
	for range 2000 {
		var bits NarrowKey
		for i := range bits {
			bits[i] = r.Uint64() | r.Uint64()
		}
		var a scratch
		for i := range keys {
			a.cand[i], a.hash[i] = uint8(r.IntN(BatchMax)), r.Uint64()
			e := tab.narrow(uint64(i))
			e.id, e.epoch = r.Uint64()>>16|9<<48, uint16(r.IntN(3))
			for w := range e.key {
				keys[i][w] = r.Uint64()
			}
		}
		for i, cand := range a.cand {
			e := tab.narrow(a.hash[i])
			for w := range e.key {
				e.key[w] = keys[cand][w] & bits[w]
			}
			switch r.IntN(8) {
			case 0:
				e.key[r.IntN(flowtable.NarrowWords)] ^= 1 << r.IntN(64)
			case 1:
				e.id ^= 1 << r.IntN(64)
			}
		}
		n := r.IntN(BatchMax + 1)
		from := r.IntN(n + 1)
		b := a
		gotA, gotB := compareFirst(tab, &keys, &a, from, n, &bits, 9, 1), compareFirstGeneric(tab, &keys, &b, from, n, &bits, 9, 1)
		if gotA != gotB || a.found != b.found || a.cand != b.cand || a.hash != b.hash {
			t.Fatalf("%d of %d left, want %d; found %x, want %x", gotA, n, gotB, a.found, b.found)
		}
	}
}

// TestExactFirst checks that the exact mask comes before a long list when that
// pays, and after it when it does not.
func TestExactFirst(t *testing.T) {
	o := smallOptions()
	o.Masks = 8
	c, _ := newTestCache(t, o, nil)
	p := newTestPlan(t, c)
	var keys [BatchMax]NarrowKey
	for i := range keys {
		k := flowKey(1, i)
		k[flowtable.WordTunnel] = 1 << (i % 8)
		copy(keys[i][:], k[:])
		mustInstall(t, c, p, &k, false, output(1, flowtable.Key{flowtable.WordIP4: ^uint64(0), flowtable.WordTunnel: 1 << (i % 8)}))
	}
	var out [BatchMax]uint32
	probes := func(batches int) float64 {
		before := c.Stats().Probes
		for range batches {
			c.Lookup(&keys, BatchMax, p, &out)
		}
		return float64(c.Stats().Probes-before) / float64(batches*BatchMax)
	}
	if first := probes(10); first < 4 {
		t.Fatalf("%.1f probes with 8 masks: the test is wrong", first)
	}
	for turn := range uint16(4000) {
		c.Upkeep(1+turn/1000, 16)
		probes(1)
	}
	if late := probes(10); late > 1.5 {
		t.Errorf("%.1f probes for each packet of 64 flows, want about one", late)
	}
	checkCache(t, c)

	// All traffic now has the first mask of the list.
	for i := range keys {
		keys[i] = keys[0]
		keys[i][flowtable.WordL4] = uint64(i) // no consulted bit, but it makes a flow
	}
	for epoch := range uint16(4) {
		c.Upkeep(epoch+10, 16)
		for i := range 100 {
			for j := range keys {
				keys[j][flowtable.WordL4] = uint64(i*BatchMax + j)
			}
			c.Lookup(&keys, BatchMax, p, &out)
		}
	}
	if late := probes(10); late > 1.1 || p.narrow.exactFirst {
		t.Errorf("%.1f probes for each packet of one mask, exact first: %v", late, p.narrow.exactFirst)
	}
}

// TestRepeats looks for a flow that fills a batch once.
func TestRepeats(t *testing.T) {
	c, _ := newTestCache(t, smallOptions(), nil)
	p := newTestPlan(t, c)
	k := flowKey(1, 1)
	off := mustInstall(t, c, p, &k, false, output(1, flowtable.Key{flowtable.WordIP4: ^uint64(0)}))
	var keys [BatchMax]NarrowKey
	for i := range keys {
		copy(keys[i][:], k[:])
	}
	var out [BatchMax]uint32
	before := c.Stats().Probes
	c.Lookup(&keys, BatchMax, p, &out)
	if got := c.Stats().Probes - before; got != 1 {
		t.Errorf("%d probes for one flow", got)
	}
	for i, got := range out {
		if got != off {
			t.Errorf("packet %d: got %d, want %d", i, got, off)
		}
	}
}

// TestLookupAllocs counts allocations of lookups, counting and upkeep.
func TestLookupAllocs(t *testing.T) {
	c, _ := newTestCache(t, smallOptions(), nil)
	p := newTestPlan(t, c)
	var keys [BatchMax]NarrowKey
	var wide [BatchMax]flowtable.Key
	for i := range keys {
		k := flowKey(1, i)
		copy(keys[i][:], k[:])
		wide[i] = k
		mustInstall(t, c, p, &k, false, output(1, flowtable.Key{flowtable.WordIP4: ^uint64(0), flowtable.WordSrc: 1 << (i % 4)}))
		mustInstall(t, c, p, &k, true, output(1, flowtable.Key{flowtable.WordIP4: ^uint64(0), flowtable.WordSrc: 1 << (i % 4)}))
	}
	var out, lens [BatchMax]uint32
	epoch := uint16(0)
	if n := testing.AllocsPerRun(100, func() {
		c.Lookup(&keys, BatchMax, p, &out)
		c.LookupWide(&wide, BatchMax, p, &out)
		c.Count(&out, &lens, BatchMax)
		epoch++
		c.Upkeep(epoch%4, 32)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestDefaultCacheOptions checks what two machines get.
func TestDefaultCacheOptions(t *testing.T) {
	tests := []struct {
		memory  uint64
		workers int
		flows   int // that fit at half load
	}{
		{24 << 30, 1, 2_000_000}, {24 << 30, 3, 1 << 20}, {24 << 30, 8, 1 << 18}, {2 << 30, 1, 1 << 18}, {2 << 30, 2, 1 << 17}, {1, 64, 1},
	}
	for _, tt := range tests {
		o := DefaultCacheOptions(tt.memory, tt.workers)
		if o.Wild < 2*tt.flows || o.ProgramBytes < 192*tt.flows || tt.memory > 1<<20 && o.bytes()*uint64(tt.workers) > tt.memory/16 {
			t.Errorf("%d MiB, %d workers: %+v, %d MiB", tt.memory>>20, tt.workers, o, o.bytes()>>20)
		}
	}
}

// TestCacheOptionsWithin: what is asked for is kept to, and half of it is used.
func TestCacheOptionsWithin(t *testing.T) {
	for _, mib := range []uint64{16, 64, 500, 1 << 20} {
		for _, workers := range []int{1, 3} {
			o := CacheOptionsWithin(mib<<20, workers)
			if got := o.bytes() * uint64(workers); got > mib<<20 || got < mib<<18 && mib < 1<<20 {
				t.Errorf("%d MiB, %d workers: %+v, %d bytes", mib, workers, o, got)
			}
		}
	}
}

// TestEntries lists what was installed, in small steps.
func TestEntries(t *testing.T) {
	c, _ := newTestCache(t, smallOptions(), nil)
	p := newTestPlan(t, c)
	want := map[flowtable.Key]uint32{}
	for i := range 300 {
		k := flowKey(1, i)
		off := mustInstall(t, c, p, &k, i%3 == 0, output(uint32(i%7), flowtable.Key{flowtable.WordIP4: ^uint64(0)}))
		want[flowtable.Key{flowtable.WordIn: 1 << 32, flowtable.WordIP4: k[flowtable.WordIP4]}] = off
	}
	got := 0
	for from, more := uint64(0), true; more; more = from != 0 {
		from = c.Entries(from, 100, func(v *EntryView) {
			got++
			if off := want[v.Key]; off != v.Program || v.Plan != p || v.Exact || v.Mask[flowtable.WordIP4] != ^uint64(0) {
				t.Errorf("got %+v, want program %d", v, off)
			}
		})
	}
	if got != len(want) {
		t.Errorf("got %d entries, want %d", got, len(want))
	}
}

// TestHalfFull fills each table to just below a half: every flow must find a
// place and keep it, or some flows would push each other out for ever.
func TestHalfFull(t *testing.T) {
	for kind, name := range [kinds]string{"exact", "exact wide", "wild", "wild wide"} {
		t.Run(name, func(t *testing.T) {
			o := smallOptions()
			o.Masks, o.ExactWide, o.WildWide = 1, 8192, 8192 // of so many flows few have no place of their own by chance
			c, _ := newTestCache(t, o, nil)
			p := newTestPlan(t, c)
			wide := kind == exactWide || kind == wildWide
			mask := flowtable.Key{flowtable.WordIP4: ^uint64(0)}
			if kind <= exactWide { // the only mask is taken
				k := flowKey(2, 1)
				mustInstall(t, c, p, &k, wide, output(1, flowtable.Key{flowtable.WordTunnel: ^uint64(0)}))
			}
			flows := c.tables[kind].size() * 47 / 100
			for i := range flows {
				k := flowKey(1, i)
				_, r := c.Install(p, &k, wide, output(1, mask), 0)
				if r == FirstSight {
					_, r = c.Install(p, &k, wide, output(1, mask), 0)
				}
				if r != Installed {
					t.Fatal(r)
				}
			}
			lost := 0
			for i := range flows {
				k := flowKey(1, i)
				if one(c, p, &k, wide) == 0 {
					lost++
				}
			}
			if used := c.tables[kind].used; lost > flows/200 || used < flows-lost {
				t.Errorf("%d of %d flows lost their place, %d entries", lost, flows, used)
			}
			checkCache(t, c)
		})
	}
}

// TestEachWord has masks of one word each: the loops that hash keys must agree with
// hash about every word.
func TestEachWord(t *testing.T) {
	for word := range flowtable.KeyWords {
		for _, wide := range []bool{false, true} {
			if !wide && word >= flowtable.NarrowWords {
				continue
			}
			c, _ := newTestCache(t, smallOptions(), nil)
			p := newTestPlan(t, c)
			k := flowKey(1, 1)
			k[word] ^= 0x1234567
			var mask flowtable.Key
			mask[word] = ^uint64(0)
			off := mustInstall(t, c, p, &k, wide, output(1, mask))
			other := k
			other[word] ^= 1 << 20
			if got := one(c, p, &k, wide); got != off {
				t.Errorf("word %d, wide %v: got %d, want %d", word, wide, got, off)
			}
			if got := one(c, p, &other, wide); got != 0 {
				t.Errorf("word %d, wide %v: found by another key", word, wide)
			}
		}
	}
}

// TestMisled makes a tag agree that should not: the key must still be found under
// the mask behind.
func TestMisled(t *testing.T) {
	for _, wide := range []bool{false, true} {
		c, _ := newTestCache(t, smallOptions(), nil)
		p := newTestPlan(t, c)
		a, b := flowKey(1, 1), flowKey(1, 2)
		mustInstall(t, c, p, &a, wide, output(1, flowtable.Key{flowtable.WordIP4: ^uint64(0)}))
		off := mustInstall(t, c, p, &b, wide, output(2, flowtable.Key{flowtable.WordL4: ^uint64(0)}))
		kind := wildNarrow + index(wide)
		stray := flowKey(1, 3)
		for _, k := range []*flowtable.Key{&b, &stray} {
			s := c.spotFor(kind, k, p.probes(wide).list[0].mask)
			*s.table.tag(s.hash) = tagOf(s.hash)
		}
		if got := one(c, p, &b, wide); got != off {
			t.Errorf("wide %v: got %d, want %d", wide, got, off)
		}
		if got := one(c, p, &stray, wide); got != 0 {
			t.Errorf("wide %v: got %d for a key that has no entry", wide, got)
		}
	}
}

// TestLateComer has one port fill a cache with flows in use: another port gets
// its places all the same.
func TestLateComer(t *testing.T) {
	o := smallOptions()
	o.Wild, o.Idle = 1024, 100
	c, _ := newTestCache(t, o, nil)
	greedy, late := newTestPlan(t, c), newTestPlan(t, c)
	mask := flowtable.Key{flowtable.WordIP4: ^uint64(0)}
	install := func(p *Plan, k *flowtable.Key, port uint32) {
		if _, r := c.Install(p, k, false, output(port, mask), 0); r == FirstSight {
			c.Install(p, k, false, output(port, mask), 0)
		}
	}
	for i := range 20000 {
		k := flowKey(2, i)
		install(greedy, &k, 2)
	}
	if n := greedy.counts[wildNarrow]; n < 900 {
		t.Fatalf("%d entries: the test is wrong", n)
	}
	found := 0
	for i := range 200 {
		k := flowKey(1, i)
		install(late, &k, 1)
	}
	for i := range 200 {
		k := flowKey(1, i)
		if one(c, late, &k, false) != 0 {
			found++
		}
	}
	if found < 180 {
		t.Errorf("%d of 200 flows of a port that came late have a place", found)
	}
}

// TestNewFlows: flows that come once have an eighth of a table at most, whatever their
// number, and leave no mask behind.
func TestNewFlows(t *testing.T) {
	o := smallOptions()
	o.Wild, o.Idle = 1024, 100
	c, _ := newTestCache(t, o, nil)
	p := newTestPlan(t, c)
	for i := range 20000 {
		k := flowKey(2, i)
		c.Install(p, &k, false, output(2, flowtable.Key{flowtable.WordIP4: ^uint64(0)}), 0)
	}
	if n := p.counts[wildNarrow]; n < 100 || n > 200 {
		t.Errorf("%d entries of 1024", n)
	}
	k := flowKey(2, 20000)
	if _, r := c.Install(p, &k, false, output(2, flowtable.Key{flowtable.WordL4: ^uint64(0)}), 0); r != FirstSight {
		t.Errorf("install: %v", r)
	}
	if n := p.narrow.n; n != 1 {
		t.Errorf("%d masks, of which one has entries", n)
	}
}

// TestProgramFlood has one port take all memory for programs: flows of another
// port that are in use keep theirs, and its new ones get some.
func TestProgramFlood(t *testing.T) {
	o := smallOptions()
	o.ProgramBytes, o.Idle = 1<<16, 100
	c, _ := newTestCache(t, o, nil)
	greedy, modest := newTestPlan(t, c), newTestPlan(t, c)
	mask := flowtable.Key{flowtable.WordIP4: ^uint64(0)}
	const flows = 50
	for i := range flows {
		k := flowKey(1, i)
		mustInstall(t, c, modest, &k, false, output(1000000+uint32(i), mask))
	}
	refused := 0
	for i := range 20000 {
		k := flowKey(2, i)
		if _, r := c.Install(greedy, &k, false, output(uint32(i), mask), 0); r == NoRoom {
			refused++
		}
		if i%64 == 0 {
			c.Upkeep(uint16(i/4000), 16)
			for j := range flows {
				k := flowKey(1, j)
				one(c, modest, &k, false)
			}
		}
	}
	if refused == 0 {
		t.Fatal("the memory for programs was never full: the test is wrong")
	}
	for i := range flows {
		k := flowKey(1, i)
		if one(c, modest, &k, false) == 0 {
			t.Errorf("flow %d of the modest port is gone", i)
		}
	}
	k := flowKey(1, flows)
	installed := false
	for range 3 {
		_, r := c.Install(modest, &k, false, output(999999, mask), 0)
		installed = installed || r == Installed
		c.Upkeep(5, 16)
	}
	if !installed {
		t.Error("no room for one more flow of the modest port")
	}
	checkCache(t, c)
}
