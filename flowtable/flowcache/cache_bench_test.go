package flowcache

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"millrace/flowtable"
)

// benchKey is the key of UDP flow i.
func benchKey(i int) (k NarrowKey) {
	k[flowtable.WordIn] = 1<<32 | 0x0800
	k[flowtable.WordDst] = 0x020000000002 << 16
	k[flowtable.WordSrc] = 0x020000000001<<16 | 17<<8 | 64
	k[flowtable.WordIP4] = uint64(0x0a000000+i)<<32 | 0x0b000001
	k[flowtable.WordL4] = uint64(1024+i%50000)<<48 | 53<<32
	return k
}

// fullMask is the exact mask of the benchmarks and of many tests: all bits.
func fullMask() (m flowtable.Key) {
	for i := range m {
		m[i] = ^uint64(0)
	}
	return m
}

// newTestCache makes a cache that is closed with the test.
func newTestCache(tb testing.TB, o CacheOptions, retired func(uint64, []uint32, uint64, uint64)) (*Cache, *Cells) {
	tb.Helper()
	cells, err := NewCells(1024)
	if err != nil {
		tb.Fatal(err)
	}
	if retired == nil {
		retired = func(uint64, []uint32, uint64, uint64) {}
	}
	c, err := NewCache(o, cells, retired)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Error(err)
		}
		if err := cells.Close(); err != nil {
			tb.Error(err)
		}
	})
	return c, cells
}

// newTestPlan makes a plan with all bits relevant.
func newTestPlan(tb testing.TB, c *Cache) *Plan {
	tb.Helper()
	full := fullMask()
	p, err := c.NewPlan(&full)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// BenchmarkCacheLookup is the price of a packet in a batch of 64 keys in random
// order: hashing, probing, and the programs' headers and guards. "own" gives
// each flow a program of its own, "shared" one to all.
func BenchmarkCacheLookup(b *testing.B) {
	for _, flows := range []int{1 << 10, 1 << 16, 1000000} {
		for _, batch := range []int{32, 64} {
			for _, own := range []bool{false, true} {
				b.Run(fmt.Sprintf("exact/flows=%d/batch=%d/own=%v", flows, batch, own), func(b *testing.B) {
					o := DefaultCacheOptions(24<<30, 1)
					o.Masks, o.Exact, o.Wild = 1, o.Wild, 1<<10
					c, _ := newTestCache(b, o, nil)
					p := newTestPlan(b, c)
					// A mask that nothing matches takes the plan's only place.
					wild := flowtable.Key{flowtable.WordTunnel: ^uint64(0)}
					k := flowtable.Key{flowtable.WordTunnel: 7}
					c.Install(p, &k, false, &flowtable.Composed{Mask: wild}, 0)
					p.narrow.exactFirst = true
					fill(b, c, p, flows, fullMask(), own)
					lookups(b, c, p, flows, batch)
				})
			}
		}
	}
	for _, masks := range []int{1, 4, 16} {
		for _, flows := range []int{1 << 10, 1 << 16, 1000000} {
			b.Run(fmt.Sprintf("wild/masks=%d/flows=%d", masks, flows), func(b *testing.B) {
				c, _ := newTestCache(b, DefaultCacheOptions(24<<30, 1), nil)
				p := newTestPlan(b, c)
				for i := range flows {
					key := wideKey(benchKey(i))
					// Masks that tell flows apart, and each other.
					m := flowtable.Key{flowtable.WordIn: 0xffff, flowtable.WordIP4: ^uint64(0), flowtable.WordL4: 0xffff<<48 | uint64(i%masks)<<32}
					if _, r := c.Install(p, &key, false, &flowtable.Composed{Mask: m, Ops: []flowtable.Op{{Code: flowtable.OpOutput, Arg: 1}}}, 0); r != Installed && r != NoBucket {
						b.Fatal(r)
					}
				}
				for epoch := range uint16(3) { // as if it had run for a while
					warm(c, p, flows)
					c.Upkeep(epoch+1, 1)
				}
				p.narrow.exactFirst = false // what the masks cost is asked, not how they are spared
				lookups(b, c, p, flows, 64)
			})
		}
	}
}

// warm looks each flow up once.
func warm(c *Cache, p *Plan, flows int) {
	var keys [BatchMax]NarrowKey
	var out [BatchMax]uint32
	for i := 0; i+BatchMax <= flows; i += BatchMax {
		for j := range keys {
			keys[j] = benchKey(i + j)
		}
		c.Lookup(&keys, BatchMax, p, &out)
	}
}

// wideKey is a narrow key with its words of zero.
func wideKey(k NarrowKey) (w flowtable.Key) {
	copy(w[:], k[:])
	return w
}

// fill installs flows.
func fill(b *testing.B, c *Cache, p *Plan, flows int, mask flowtable.Key, own bool) {
	lost := 0
	for i := range flows {
		key := wideKey(benchKey(i))
		comp := flowtable.Composed{Mask: mask, Ops: []flowtable.Op{{Code: flowtable.OpOutput, Arg: 1}}}
		if own {
			comp.Ops[0].Arg = uint32(i)
		}
		_, r := c.Install(p, &key, false, &comp, 0)
		if r == FirstSight {
			_, r = c.Install(p, &key, false, &comp, 0)
		}
		if r == NoBucket {
			lost++
		} else if r != Installed {
			b.Fatal(r)
		}
	}
	if lost > flows/1000 {
		b.Fatalf("%d of %d flows found no bucket", lost, flows)
	}
}

// lookups measures lookups of all flows in random order.
func lookups(b *testing.B, c *Cache, p *Plan, flows, batch int) {
	order := make([]uint32, 1<<20)
	for i := range order {
		order[i] = uint32(rand.IntN(flows))
	}
	var keys [BatchMax]NarrowKey
	for i := range keys {
		keys[i] = benchKey(0)
	}
	var out [BatchMax]uint32
	before, at := c.stats, 0
	var chunks []float64
	b.ResetTimer()
	for done := 0; done < b.N; done += benchChunk {
		start := time.Now()
		for i := 0; i < benchChunk; i += batch {
			for j, flow := range order[at&(len(order)-1):][:batch] {
				k := &keys[j&(BatchMax-1)]
				k[flowtable.WordIP4] = uint64(0x0a000000+flow)<<32 | 0x0b000001
				k[flowtable.WordL4] = uint64(1024+flow%50000)<<48 | 53<<32
			}
			c.Lookup(&keys, batch, p, &out)
			at += batch
		}
		chunks = append(chunks, float64(time.Since(start).Nanoseconds())/benchChunk)
	}
	b.StopTimer()
	slices.Sort(chunks)
	b.ReportMetric(chunks[len(chunks)/10], "p10-ns/op")
	b.ReportMetric(float64(c.stats.Misses-before.Misses)/float64(b.N), "miss/op")
	b.ReportMetric(float64(c.stats.Probes-before.Probes)/float64(b.N), "probes/op")
}

// benchChunk is how many packets are timed together. Other work on the machine
// disturbs some chunks; the tenth percentile is that of an undisturbed core.
const benchChunk = 1 << 15

// BenchmarkCacheInstall is the price of keeping a program for a new flow, once
// with one program for all flows and once with one for each, in a cache that
// is full after a while.
func BenchmarkCacheInstall(b *testing.B) {
	for _, own := range []bool{false, true} {
		b.Run(fmt.Sprintf("own=%v", own), func(b *testing.B) {
			o := DefaultCacheOptions(2<<30, 1)
			c, _ := newTestCache(b, o, nil)
			p := newTestPlan(b, c)
			comp := flowtable.Composed{Mask: flowtable.Key{flowtable.WordIP4: ^uint64(0)}, Ops: []flowtable.Op{{Code: flowtable.OpOutput, Arg: 1}}, Rules: []uint32{1, 2, 3, 4, 5}}
			for i := 0; b.Loop(); i++ {
				key := wideKey(benchKey(i))
				if own {
					comp.Ops[0].Arg = uint32(i)
				}
				c.Install(p, &key, false, &comp, 0)
				if i%BatchMax == 0 {
					c.Upkeep(uint16(i>>20), 64)
				}
			}
		})
	}
}

// BenchmarkCacheLookupWide is the price of an IPv6 packet of one wildcard mask.
func BenchmarkCacheLookupWide(b *testing.B) {
	for _, flows := range []int{1 << 10, 1 << 14} {
		b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) {
			c, _ := newTestCache(b, DefaultCacheOptions(24<<30, 1), nil)
			p := newTestPlan(b, c)
			key := flowtable.Key{flowtable.WordIn: 1<<32 | 0x86dd, flowtable.WordIP6Src: 0x20010db8 << 32, flowtable.WordIP6Dst: 0x20010db8 << 32, flowtable.WordIP6DstLow: 1}
			for i := range flows {
				key[flowtable.WordIP6SrcLow] = uint64(i)
				c.Install(p, &key, true, &flowtable.Composed{Mask: flowtable.Key{flowtable.WordIP6Src: ^uint64(0), flowtable.WordIP6SrcLow: ^uint64(0)}}, 0)
			}
			var keys [BatchMax]flowtable.Key
			for i := range keys {
				keys[i] = key
			}
			var out [BatchMax]uint32
			var chunks []float64
			b.ResetTimer()
			for done := 0; done < b.N; done += benchChunk {
				start := time.Now()
				for range benchChunk / BatchMax {
					for j := range keys {
						keys[j][flowtable.WordIP6SrcLow] = rand.Uint64() % uint64(flows)
					}
					c.LookupWide(&keys, BatchMax, p, &out)
				}
				chunks = append(chunks, float64(time.Since(start).Nanoseconds())/benchChunk)
			}
			slices.Sort(chunks)
			b.ReportMetric(chunks[len(chunks)/10], "p10-ns/op")
			if c.stats.Misses > 0 {
				b.Errorf("%d misses", c.stats.Misses)
			}
		})
	}
}
