package fdb

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// TestConcurrent runs workers and control on one crowded table. It would fail if
// a lookup gave a port that its station never had, if a static station were
// missed while it moved between its buckets, or if the race detector saw an
// access that is not ordered.
func TestConcurrent(t *testing.T) {
	const (
		anchors  = 16
		strays   = 4000
		workers  = 3
		perStray = 4 // ports of stray i: 4*i to 4*i+3
	)
	table := heapTable(t, 64, rand.Uint64())
	anchor := func(i int) Key { return station(i, 1) }
	stray := func(i int) Key { return station(i, 2) }
	for i := range anchors {
		if err := table.AddStatic(anchor(i), uint32(i)); err != nil {
			t.Fatal(err)
		}
	}
	stop := time.Now().Add(500 * time.Millisecond)
	var all sync.WaitGroup
	for n := range workers {
		w := worker(t, table, n)
		all.Go(func() {
			for round := uint32(0); time.Now().Before(stop); round++ {
				for range 100 {
					a := rand.IntN(anchors)
					if port, _, ok := w.Lookup(anchor(a)); !ok || port != uint32(a) {
						t.Errorf("anchor %d: got port %d, %v", a, port, ok)
						return
					}
					i := rand.IntN(strays)
					port := uint32(i*perStray + rand.IntN(perStray))
					if w.Touch(stray(i), port, round) == NeedLearn {
						w.Learn(stray(i), port, round)
					}
					if port, _, ok := w.Lookup(stray(i)); ok && port/perStray != uint32(i) {
						t.Errorf("stray %d: got port %d", i, port)
						return
					}
				}
			}
		})
	}
	all.Go(func() {
		for round := uint32(0); time.Now().Before(stop); round++ {
			table.Age(round, 2, 4)
			table.Delete(stray(rand.IntN(strays)))
			table.FlushPort(uint32(rand.IntN(strays * perStray)))
			for e := range table.Dump(round) {
				if e.Static && e.Port != uint32(e.Key.MAC()[5]) || !e.Static && e.Port/perStray != uint32(e.Key.MAC()[4])<<8|uint32(e.Key.MAC()[5]) {
					t.Errorf("dump: %v on port %d", e.Key, e.Port)
					return
				}
			}
			if round%1000 == 0 {
				table.Flush()
			}
		}
	})
	all.Wait()
	if s := table.Stats(); s.Static != anchors || s.Learned+s.Static > s.Capacity {
		t.Errorf("got %+v, want %d static and no more than the capacity", s, anchors)
	}
}
