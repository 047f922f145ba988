// Package fdb is the MAC table of one learning bridge: on which port a
// station was last heard. Poll-mode workers share one table and look up in it
// without a lock.
//
// The plain design is a hash table of buckets of four entries, 64 bytes each,
// at most half full. A key has two buckets; it lives in the first unless that
// one was full. So a lookup reads one cache line, seldom two, never more,
// whatever the traffic. The hash is seeded per table: nobody outside can aim
// at one bucket.
//
// An entry is two words:
//
//	key    bits 0-47 MAC (first byte of the wire lowest), 48-59 VLAN,
//	       63 set: a key is never 0, and 0 is an empty slot
//	value  bits 0-31 port, 32-62 second last heard, 63 static
//
// Who writes: slots are filled, moved and emptied under the table's mutex. A
// worker that learns only tries the mutex, and leaves the frame unlearned if
// another holds it. The one store outside the mutex is a worker's refresh of
// the second, by compare-and-swap of the value, which fails if the slot has
// changed hands.
//
// Who reads: anybody, at any time. A reader loads key, value, key; a writer
// empties a slot before it gives it to another key, and writes the value
// before the key. A reader could take one value for another only if between
// the first two loads the key left and another came, and between the last two
// that one left and the first came back to the same slot. A key that moves
// between its buckets goes from the first to the second and is for a moment
// in both, so a reader, which looks in that order, does not miss it.
//
// Fairness: a port's share is the capacity left by static entries, divided by
// the number of ports that have learned entries. When the capacity is used up,
// the table looks at some entries for one that a newcomer may replace: on a port
// that holds more than its share and more than the newcomer's port, or on the
// newcomer's port if that holds its share or more. Of these it takes the
// stalest of the port that holds the most. So a flood from one port replaces
// its own entries, and a port within its share loses none, and finds room for
// newcomers after a few frames.
//
// Time is seconds of any epoch, given by the caller, below 2^31.
//
// The memory is mapped outside the Go heap, and the kernel provides a page when
// it is first used. For each entry of capacity it is 32 bytes, 16 more for hit
// counts and 16 for each worker, all times up to two since the number of
// buckets is a power of two.
package fdb

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
)

const (
	// DefaultCapacity is the number of entries of a table made with capacity
	// 0; Open vSwitch has the same default (vswitch.conf.db, mac-table-size).
	DefaultCapacity = 8192

	// MaxCapacity is the largest capacity that New accepts.
	MaxCapacity = 1 << 24

	// NoPort stands for a port where there is none. No entry has it.
	NoPort = ^uint32(0)
)

var (
	// ErrCapacity says that a table of that capacity cannot be made.
	ErrCapacity = errors.New("capacity out of range")

	// ErrFull says that static entries leave no room for one more, in the table
	// or (seldom) in both buckets of the key.
	ErrFull = errors.New("mac table full of static entries: delete some or raise its capacity")

	// ErrPort says that the port number is NoPort.
	ErrPort = errors.New("not a port number")

	// ErrGroup says that the address is a group address, which no station has.
	ErrGroup = errors.New("group address: a mac table holds stations only")
)

// A Table holds the stations of one bridge. Its methods may be called from
// any goroutine, and wait for one another; workers use a Worker.
type Table struct {
	changes atomic.Uint32 // see Changes; written with mu held, read by workers
	index                 // set by New; its slots are written as the package says
	_       [64]byte      // keeps the writers below off the line that readers need
	memory  memory        // where slots and counts come from; set by New
	mu      sync.Mutex    // held by whoever fills, moves or empties a slot

	words    []uint64         // all that New mapped; guarded by mu
	base     []uint64         // per slot, sum of hits when its entry came; guarded by mu
	workers  map[int]*Worker  // guarded by mu
	ports    map[uint32]*port // guarded by mu
	capacity int              // set by New
	learned  int              // entries that are not static; guarded by mu
	static   int              // guarded by mu
	holders  int              // ports with learned entries; guarded by mu
	ageNext  int              // bucket where Age goes on; guarded by mu
	handNext int              // bucket where the search for a victim goes on; guarded by mu
	events   Events           // guarded by mu, but for Busy, which stays 0 here
	busy     atomic.Uint64    // Learn found mu held; any worker
	watch    func(Key)        // see Watch; may be nil
}

// A port is what a table knows of a port that it has learned from.
type port struct {
	learned int // entries now
	limit   int // entries at most; noLimit if that is left to the capacity
}

// New makes an empty table for capacity entries; 0 means DefaultCapacity.
func New(capacity int) (*Table, error) {
	var b [32]byte
	rand.Read(b[:]) // never fails
	var seed secret
	for i := range seed {
		seed[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return newTable(capacity, seed, memory{mapWords, unmapWords})
}

// newTable makes a table that hashes with seed and lives in memory from m.
func newTable(capacity int, seed secret, m memory) (*Table, error) {
	if capacity == 0 {
		capacity = DefaultCapacity
	}
	if capacity < 0 || capacity > MaxCapacity {
		return nil, fmt.Errorf("make mac table for %d entries: %w: want 1 to %d", capacity, ErrCapacity, MaxCapacity)
	}
	buckets := 2
	for buckets*bucketSlots < 2*capacity {
		buckets *= 2
	}
	slots := buckets * bucketSlots
	words, err := m.get(3 * slots)
	if err != nil {
		return nil, fmt.Errorf("make mac table for %d entries: %w", capacity, err)
	}
	return &Table{
		index: index{
			buckets: asBuckets(words[:2*slots]),
			mask:    uint64(buckets - 1),
			secret:  secret{seed[0], seed[1] | 1, seed[2], seed[3] | 1},
		},
		memory:   m,
		words:    words,
		base:     words[2*slots:],
		workers:  map[int]*Worker{},
		ports:    map[uint32]*port{},
		capacity: capacity,
	}, nil
}

// Close gives the memory back. No worker and no Dump may be using the table.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	errs := []error{t.memory.put(t.words)}
	for _, w := range t.workers {
		errs = append(errs, t.memory.put(w.hits))
	}
	t.words, t.base, t.buckets, t.workers = nil, nil, nil, nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close mac table: %w", err)
	}
	return nil
}

// A Worker is one worker's way into a table. One goroutine uses it at a time.
type Worker struct {
	index          // as in Table, so that a lookup needs no other line
	hits  []uint64 // per slot, lookups that found it; written by the worker
	table *Table
}

// Worker returns the handle of worker i, and makes it at the first call.
func (t *Table) Worker(i int) (*Worker, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w := t.workers[i]; w != nil {
		return w, nil
	}
	hits, err := t.memory.get(len(t.base))
	if err != nil {
		return nil, fmt.Errorf("give mac table to worker %d: %w", i, err)
	}
	w := &Worker{index: t.index, hits: hits, table: t}
	t.workers[i] = w
	return w, nil
}

// bucketSlots is the number of entries of a bucket.
const bucketSlots = 4

// A bucket is one cache line of entries.
type bucket struct {
	keys [bucketSlots]atomic.Uint64
	vals [bucketSlots]atomic.Uint64
}

// An index finds the slot of a key. Nothing in it changes after New but what
// the buckets hold. Slot s is entry s%4 of bucket s/4.
type index struct {
	buckets []bucket // len is a power of two, at least 2
	mask    uint64   // len(buckets)-1
	secret  secret   // of the hash
}

// A secret seeds the hash of one table; words 1 and 3 are odd.
type secret [4]uint64

// hash folds a 128-bit product twice. Once is not enough: MACs that are counted
// up differ in the high bits of a key only, and some secrets would put them
// close together.
func (x *index) hash(key Key) uint64 {
	hi, lo := bits.Mul64(uint64(key)^x.secret[0], x.secret[1])
	hi, lo = bits.Mul64(hi^lo^x.secret[2], x.secret[3])
	return hi ^ lo
}

// first returns the bucket where a key of hash h belongs.
func (x *index) first(h uint64) uint64 { return h & x.mask }

// second returns the bucket for a key of hash h when the first is full. It is
// never the first.
func (x *index) second(h uint64) uint64 {
	b := h >> 32 & x.mask
	if b == h&x.mask {
		b ^= 1
	}
	return b
}

// at returns bucket and entry of a slot.
func (x *index) at(slot int) (*bucket, int) {
	return &x.buckets[slot/bucketSlots], slot % bucketSlots
}
