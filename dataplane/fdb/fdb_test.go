package fdb

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
)

// heapTable makes a table on the Go heap, where the race detector sees it, and
// with known secrets. It checks at the end that all memory was given back.
func heapTable(t *testing.T, capacity int, seed uint64) *Table {
	t.Helper()
	taken := 0
	r := rand.New(rand.NewPCG(seed, 0))
	table, err := newTable(capacity, secret{r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64()}, memory{
		get: func(n int) ([]uint64, error) { taken += n; return make([]uint64, n), nil },
		put: func(words []uint64) error { taken -= len(words); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := table.Close(); err != nil {
			t.Error(err)
		}
		if taken != 0 {
			t.Errorf("%d words were not given back", taken)
		}
	})
	return table
}

// worker returns worker i of a table.
func worker(t *testing.T, table *Table, i int) *Worker {
	t.Helper()
	w, err := table.Worker(i)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// learn fails the test if a station is not learned.
func learn(t *testing.T, w *Worker, k Key, port, now uint32) {
	t.Helper()
	if got := w.Learn(k, port, now); got != Learned {
		t.Fatalf("learn %v on port %d: got %v, want learned", k, port, got)
	}
}

func TestKey(t *testing.T) {
	frame := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 1, 0x23, 8, 0}
	dst := MakeKey(binary.LittleEndian.Uint64(frame[0:]), 0x1064)
	src := MakeKey(binary.LittleEndian.Uint64(frame[6:]), 100)
	for _, c := range []struct {
		name  string
		key   Key
		want  string
		group bool
	}{
		{"destination, VLAN with priority bits", dst, "ff:ff:ff:ff:ff:ff@100", true},
		{"source", src, "02:00:00:00:01:23@100", false},
		{"of bytes", KeyOf([6]byte{2, 0, 0, 0, 1, 0x23}, 100), "02:00:00:00:01:23@100", false},
		{"all zero is a key too", MakeKey(0, 0), "00:00:00:00:00:00@0", false},
	} {
		if got := c.key.String(); got != c.want || c.key.Group() != c.group || c.key == 0 {
			t.Errorf("%s: got %s group %v, want %s group %v", c.name, got, c.key.Group(), c.want, c.group)
		}
	}
	if src != KeyOf(src.MAC(), src.VLAN()) {
		t.Errorf("taken apart and put together: got %v, want %v", KeyOf(src.MAC(), src.VLAN()), src)
	}
}

func TestNew(t *testing.T) {
	for _, c := range []struct {
		name     string
		capacity int
		want     int
		err      error
	}{
		{"default", 0, DefaultCapacity, nil},
		{"one", 1, 1, nil},
		{"not a power of two", 100, 100, nil},
		{"negative", -1, 0, ErrCapacity},
		{"too many", MaxCapacity + 1, 0, ErrCapacity},
	} {
		t.Run(c.name, func(t *testing.T) {
			table, err := New(c.capacity)
			if !errors.Is(err, c.err) {
				t.Fatalf("got error %v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			s := table.Stats()
			if s.Capacity != c.want || 2*s.Capacity > s.Buckets*bucketSlots {
				t.Errorf("got capacity %d in %d buckets, want %d and a load of a half at most", s.Capacity, s.Buckets, c.want)
			}
			if err := table.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestUnlearnable would fail if a frame could plant an address that no station
// may have.
func TestUnlearnable(t *testing.T) {
	w := worker(t, heapTable(t, 16, 1), 0)
	for _, c := range []struct {
		name string
		key  Key
		port uint32
	}{
		{"broadcast", KeyOf([6]byte{255, 255, 255, 255, 255, 255}, 1), 1},
		{"multicast", KeyOf([6]byte{1, 0, 0x5e, 0, 0, 1}, 1), 1},
		{"zero", KeyOf([6]byte{}, 1), 1},
		{"no port", station(1, 1), NoPort},
	} {
		if got := w.Learn(c.key, c.port, 1); got != Unlearnable {
			t.Errorf("%s: got %v, want unlearnable", c.name, got)
		}
	}
}

// TestBusy would fail if a worker waited for the table.
func TestBusy(t *testing.T) {
	table := heapTable(t, 16, 1)
	w := worker(t, table, 0)
	table.mu.Lock()
	got := w.Learn(station(1, 1), 1, 1)
	table.mu.Unlock()
	if got != Busy || table.Stats().Events.Busy != 1 {
		t.Errorf("got %v and %d counted, want busy and 1", got, table.Stats().Events.Busy)
	}
}

func TestStaticErrors(t *testing.T) {
	table := heapTable(t, 2, 1)
	for i := range 2 {
		if err := table.AddStatic(station(i+1, 1), 1); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		key  Key
		port uint32
		want error
	}{
		{"full", station(3, 1), 1, ErrFull},
		{"group address", KeyOf([6]byte{1}, 1), 1, ErrGroup},
		{"no port", station(4, 1), NoPort, ErrPort},
		{"known already", station(1, 1), 2, nil},
	} {
		if err := table.AddStatic(c.key, c.port); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	if got := worker(t, table, 0).Learn(station(9, 1), 1, 1); got != Full {
		t.Errorf("learn beside static entries only: got %v, want full", got)
	}
}

// TestHitsOfTwoWorkers would fail if hits of workers were not summed, or those of
// the station before were counted.
func TestHitsOfTwoWorkers(t *testing.T) {
	table := heapTable(t, 1, 1)
	a, b := worker(t, table, 0), worker(t, table, 7)
	if worker(t, table, 7) != b {
		t.Error("a second handle for the same worker")
	}
	for i := range 20 {
		k := station(i+1, 1)
		learn(t, a, k, 1, uint32(i))
		a.Lookup(k)
		a.Lookup(k)
		b.Lookup(k)
		for e := range table.Dump(uint32(i)) {
			if e.Key != k || e.Hits != 3 {
				t.Fatalf("got %v with %d hits, want %v with 3", e.Key, e.Hits, k)
			}
		}
	}
}

// TestMoveMakesRoom fills both buckets of a newcomer and would fail if it were
// not learned all the same, or if the entry that moves lost its port or hits.
func TestMoveMakesRoom(t *testing.T) {
	table := heapTable(t, 64, 3)
	w := worker(t, table, 0)
	newcomer := station(0, 1)
	h := table.hash(newcomer)
	keys := []Key{}
	for i := 1; table.vacant(table.first(h)) >= 0 || table.vacant(table.second(h)) >= 0; i++ {
		k := station(i, 1)
		at := table.first(table.hash(k))
		if at != table.first(h) && at != table.second(h) || table.vacant(at) < 0 {
			continue
		}
		learn(t, w, k, uint32(i), 1)
		w.Lookup(k)
		keys = append(keys, k)
	}
	learn(t, w, newcomer, 99, 1)
	if s := table.Stats(); s.Learned != len(keys)+1 || s.Events.Evicted != 0 {
		t.Errorf("got %d learned, %d evicted, want %d and 0", s.Learned, s.Events.Evicted, len(keys)+1)
	}
	moved := 0
	for e := range table.Dump(1) {
		if e.Key == newcomer {
			continue
		}
		if e.Hits != 1 || e.Port != uint32(e.Key.MAC()[5]) {
			t.Errorf("%v: got port %d, %d hits", e.Key, e.Port, e.Hits)
		}
		if s, _ := table.find(e.Key); uint64(s/bucketSlots) != table.first(table.hash(e.Key)) {
			moved++
		}
	}
	if moved != 1 {
		t.Errorf("got %d moved entries, want 1", moved)
	}
}

// TestSpread would fail if some common way to number stations crowded buckets:
// then stations would not be learned, or lookups read two buckets.
func TestSpread(t *testing.T) {
	patterns := []struct {
		name string
		key  func(i int) Key
	}{
		{"last bytes count", func(i int) Key { return station(i, 1) }},
		{"first bytes count", func(i int) Key { return MakeKey(uint64(i+1)<<1, 1) }},
		{"steps of 256", func(i int) Key { return station(i<<8, 1) }},
		{"MAC and VLAN", func(i int) Key { return station(i>>12, uint16(i)) }},
		{"random", func(int) Key { return MakeKey(rand.Uint64()&^1, 1) }},
	}
	for _, p := range patterns {
		t.Run(p.name, func(t *testing.T) {
			for range 20 {
				seed := rand.Uint64()
				table := heapTable(t, 8192, seed)
				w := worker(t, table, 0)
				second := 0
				for i := range 8192 {
					k := p.key(i)
					if got := w.Learn(k, 1, 1); got != Learned {
						t.Fatalf("seed %d: station %d of 8192: %v", seed, i, got)
					}
					if s, _ := table.find(k); uint64(s/bucketSlots) != table.first(table.hash(k)) {
						second++
					}
				}
				if second > 8192/12 {
					t.Errorf("seed %d: %d of 8192 entries in their second bucket", seed, second)
				}
			}
		})
	}
}

// TestNoAllocation would fail if a frame could make garbage.
func TestNoAllocation(t *testing.T) {
	w, keys := filled(t, 8192)
	i, now := 0, uint32(1)
	for _, c := range []struct {
		name string
		f    func()
	}{
		{"lookup", func() { w.Lookup(keys[i]) }},
		{"touch", func() { w.Touch(keys[i], portOfStation(keys[i]), now) }},
		{"learn a move", func() { w.Learn(keys[i], uint32(i)&7, now) }},
		{"learn a newcomer", func() { w.Learn(MakeKey(uint64(i)<<8|2, 2), uint32(i)&7, now) }},
		{"age", func() { w.table.Age(now, 100, 16) }},
	} {
		got := testing.AllocsPerRun(1000, func() {
			i, now = (i+1)%len(keys), now+uint32(i&1)
			c.f()
		})
		if got != 0 {
			t.Errorf("%s: got %v allocations, want 0", c.name, got)
		}
	}
}
