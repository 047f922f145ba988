package fdb

import (
	"math/rand/v2"
	"testing"
)

// TestFlood floods a table from port 9 and would fail if a station of another
// port were lost, or could not be learned afterwards.
func TestFlood(t *testing.T) {
	seed := rand.Uint64()
	table := heapTable(t, 1024, seed)
	w := worker(t, table, 0)
	for i := range 400 {
		learn(t, w, station(i, 1), uint32(1+i%4), 1)
	}
	flood := func(n int, now uint32) {
		for range n {
			w.Learn(MakeKey(rand.Uint64()&^1, 2), 9, now)
		}
	}
	flood(50000, 100) // all others are older
	expectOn(t, table, seed, 400)
	if s := table.Stats(); s.Learned != 1024 {
		t.Errorf("seed %d: got %d learned, want a full table", seed, s.Learned)
	}
	for i := 400; i < 480; i++ {
		tries := 0
		for w.Learn(station(i, 1), uint32(1+i%4), 101) != Learned {
			if tries++; tries > 64 {
				t.Fatalf("seed %d: station %d finds no room beside a flood", seed, i)
			}
		}
	}
	flood(50000, 102)
	expectOn(t, table, seed, 480)
}

// expectOn checks that stations 0 to n-1 are where TestFlood put them.
func expectOn(t *testing.T, table *Table, seed uint64, n int) {
	t.Helper()
	for i := range n {
		if port, _, ok := table.Lookup(station(i, 1)); !ok || port != uint32(1+i%4) {
			t.Fatalf("seed %d: station %d of %d: got port %d, %v", seed, i, n, port, ok)
		}
	}
}

// TestStalestGivesWay would fail if a newcomer took the place of a station that
// was heard later than another it could have replaced.
func TestStalestGivesWay(t *testing.T) {
	table := heapTable(t, 16, 1)
	w := worker(t, table, 0)
	for i := range 16 {
		learn(t, w, station(i, 1), 1, uint32(100-i))
	}
	for i := 16; i < 200; i++ {
		k := station(i, 1)
		h := table.hash(k)
		want := Key(0)
		oldest := ^uint32(0)
		for _, at := range []uint64{table.first(h), table.second(h)} {
			b := &table.buckets[at]
			for j := range bucketSlots {
				if v := value(b.vals[j].Load()); b.keys[j].Load() != 0 && v.seen() < oldest {
					want, oldest = Key(b.keys[j].Load()), v.seen()
				}
			}
		}
		learn(t, w, k, 1, uint32(100+i))
		if want == 0 {
			continue // the search went on elsewhere
		}
		if _, _, still := table.Lookup(want); still {
			t.Fatalf("station %d: %v, last heard at %d, did not give way", i, want, oldest)
		}
	}
}

// TestLimit would fail if a port learned more than it may, be it by newcomers or
// by stations that move to it.
func TestLimit(t *testing.T) {
	table := heapTable(t, 64, 1)
	w := worker(t, table, 0)
	table.SetLimit(1, 2)
	learn(t, w, station(1, 1), 1, 1)
	learn(t, w, station(2, 1), 1, 1)
	learn(t, w, station(3, 1), 2, 1)
	for _, c := range []struct {
		name string
		key  Key
		port uint32
		want Result
	}{
		{"newcomer", station(4, 1), 1, LimitReached},
		{"move to the port", station(3, 1), 1, LimitReached},
		{"station of the port", station(1, 1), 1, Refreshed},
		{"move away", station(1, 1), 2, Moved},
		{"newcomer after that", station(4, 1), 1, Learned},
	} {
		if got := w.Learn(c.key, c.port, 2); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	if e := table.Stats().Events; e.LimitReached != 2 || e.Moved != 1 || e.Learned != 4 {
		t.Errorf("got %+v, want 2 limit reached, 1 moved, 4 learned", e)
	}
}
