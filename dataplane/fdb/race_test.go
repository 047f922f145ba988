package fdb

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestSlotChangesHands has one station after the other take the only place of a
// table while others look it up and renew it. It would fail if a reader joined
// one station's key with another's value, or if a renewal hit the wrong one.
func TestSlotChangesHands(t *testing.T) {
	table := heapTable(t, 1, 1)
	var current atomic.Uint32 // the station that is in, or is coming in
	var all sync.WaitGroup
	stop := time.Now().Add(400 * time.Millisecond)
	for n := range 2 {
		w := worker(t, table, n+1)
		all.Go(func() {
			for now := uint32(1); time.Now().Before(stop); {
				for range 1000 {
					now++
					i := current.Load()
					k := station(int(i), 1)
					if port, _, ok := w.Lookup(k); ok && port != i {
						t.Errorf("station %d: got port %d", i, port)
						return
					}
					w.Touch(k, i, now)
				}
			}
		})
	}
	w := worker(t, table, 0)
	for i := uint32(1); time.Now().Before(stop); {
		for range 1000 {
			current.Store(i)
			learn(t, w, station(int(i), 1), i, 1)
			if i%2 == 0 {
				table.Delete(station(int(i), 1)) // or else the next evicts it
			}
			i = (i + 1) & 0xffffff
		}
	}
	all.Wait()
}

// TestLateRefresh has a worker renew a station that has just lost its slot to
// another. It would fail if the other got the port of the first.
func TestLateRefresh(t *testing.T) {
	table := heapTable(t, 1, 1)
	w := worker(t, table, 0)
	learn(t, w, station(1, 1), 1, 1)
	slot, v := table.find(station(1, 1))
	learn(t, w, station(2, 1), 2, 1)
	b, i := table.at(slot)
	b.keys[i].Store(uint64(station(2, 1))) // whichever bucket it would take
	b.vals[i].Store(uint64(makeValue(2, 1)))
	w.touchSlow(slot, v, 1, 5)
	if got := value(b.vals[i].Load()); got != makeValue(2, 1) {
		t.Errorf("got port %d heard at %d, want 2 at 1", got.port(), got.seen())
	}
}

// TestMoveHidesNothing moves stations to their second bucket while others look
// them up, and would fail if one were missed for a moment.
func TestMoveHidesNothing(t *testing.T) {
	for range 20 {
		table := heapTable(t, 4096, 1)
		w := worker(t, table, 0)
		for i := range 4096 {
			learn(t, w, station(i, 1), uint32(i), 1)
		}
		var current atomic.Uint32 // the station that moves
		var done atomic.Bool
		var all sync.WaitGroup
		other := worker(t, table, 1)
		all.Go(func() {
			for !done.Load() {
				i := current.Load()
				if port, _, ok := other.Lookup(station(int(i), 1)); !ok || port != i {
					t.Errorf("station %d: got port %d, %v", i, port, ok)
					return
				}
			}
		})
		for i := range 4096 {
			current.Store(uint32(i))
			moveToSecond(table, station(i, 1))
		}
		done.Store(true)
		all.Wait()
	}
}

// moveToSecond moves a station if it is in its first bucket and may move.
func moveToSecond(table *Table, k Key) {
	table.mu.Lock()
	defer table.mu.Unlock()
	h := table.hash(k)
	s, _ := table.find(k)
	to := table.vacant(table.second(h))
	if uint64(s/bucketSlots) == table.first(h) && to >= 0 {
		table.move(s, to)
	}
}
