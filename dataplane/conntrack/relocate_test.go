package conntrack

import (
	"math/rand/v2"
	"sync"
	"testing"
)

// tupleFor draws a tuple whose key has these buckets, in this order; other is ^0 for any but first.
func (t *Table) tupleFor(r *rand.Rand, first, other uint64) (Tuple, uint64) {
	for {
		tuple := Tuple{Src: Addr{1: r.Uint64() & allBits}, Dst: Addr{1: 1}, SrcPort: uint16(r.Uint32()), DstPort: 53, Proto: ProtoUDP}
		k := tuple.key(1)
		h := t.index.seed.hash(&k)
		if t.index.first(h) == first && (other == t.index.second(h) || other == ^uint64(0)) {
			return tuple, h
		}
	}
}

// TestRelocate: a key whose buckets are both full gets a place, as long as one of those there can go to another one.
func TestRelocate(t *testing.T) {
	table, w := newTable(t, small(512))
	r := rand.New(rand.NewPCG(7, 8))
	one := uint64(3)
	last, h := table.tupleFor(r, one, ^uint64(0))
	other := table.index.second(h)
	for n := 0; table.index.buckets[one].free() != nil || table.index.buckets[other].free() != nil; n++ {
		to := ^uint64(0)
		if n >= crowded { // all of these have one of the two
			to = other
		}
		tuple, _ := table.tupleFor(r, one, to)
		if _, got := commit(w, 1, packetOf(tuple, 0), Terms{}, start); got != Created {
			t.Fatalf("%v before the buckets are full; %+v", got, table.Stats())
		}
	}
	k := last.key(1)
	if table.berth(&k, h).slot != nil {
		t.Fatal("the key has a place without anybody's going")
	}
	if _, got := commit(w, 1, packetOf(last, 0), Terms{}, start); got != Created {
		t.Errorf("%v; %+v", got, table.Stats())
	}
	checkWhole(t, table)
}

// TestRelocateUnderReaders: who looks for connections while keys move finds each of them.
func TestRelocateUnderReaders(t *testing.T) {
	table, w := newTable(t, small(4096))
	r := rand.New(rand.NewPCG(9, 10))
	var all []key
	for len(all) < 2000 {
		tuple, _ := table.tupleFor(r, uint64(r.IntN(len(table.index.buckets))), ^uint64(0))
		if _, got := commit(w, 1, packetOf(tuple, 0), Terms{}, start); got != Created {
			t.Fatalf("%v; %+v", got, table.Stats())
		}
		all = append(all, tuple.key(1))
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() {
		for {
			for i := range all {
				if found, _ := table.find(&all[i], table.index.seed.hash(&all[i])); found == 0 {
					t.Errorf("key %d is not found while keys move", i)
					return
				}
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	moved := 0
	for range 4 {
		for n := range uint64(len(table.index.buckets)) {
			table.index.locks[n&table.index.shard].Lock()
			for table.relocateFrom(n) {
				moved++
			}
			table.index.locks[n&table.index.shard].Unlock()
		}
	}
	close(done)
	readers.Wait()
	if moved < 1000 {
		t.Errorf("%d keys moved", moved)
	}
	checkWhole(t, table)
}
