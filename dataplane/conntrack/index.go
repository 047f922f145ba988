package conntrack

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
	"sync"
	"sync/atomic"
)

// bucketSlots is how many slots a bucket has.
const bucketSlots = 8

// A bucket is one cache line of the index. A slot is a tag of the key's hash
// (33..63), the record (1..28) and the direction (0); record 0 is none, the slot is free. In the
// first slot, used or free, is how many keys are elsewhere (29..32): in their second bucket, though this one is their
// first; awayMost stands for as many or more, and stays. Slots are written under the shard's lock and read by
// anybody.
type bucket [bucketSlots]atomic.Uint64

// Parts of a slot.
const (
	slotBits  = 1<<29 - 1
	awayShift = 29
	awayMost  = 15
	awayBits  = awayMost << awayShift
	tagBits   = ^uint64(slotBits | awayBits)
)

// crowded is how many slots of a bucket are used when keys begin to look for a place in their
// second one. In a full table, whose index is half full, a seventh of all keys are there; and hardly any finds both full, as if each
// were put into the emptier one.
const crowded = 6

// shards is how many locks the index has, if each has enough buckets: the two of
// a key are of the same shard.
const (
	shards    = 256
	shardSize = 16 // buckets, at least
)

// A lock is a mutex on a line of its own.
type lock struct {
	sync.Mutex
	_ [56]byte
}

// An index finds records by either of their keys. A key has two buckets, both of
// the same shard. It is in the first unless that was crowded, and then in the one that was emptier. So
// a lookup reads one line, or two if keys are away: two at most, whatever the traffic. Keys move only to make room where both buckets of another
// one are full (relocate.go).
type index struct {
	buckets []bucket
	mask    uint64 // len(buckets)-1
	shard   uint64 // number of shards - 1
	locks   []lock
	seed    seed
}

// A seed makes hashes that nobody outside can foresee.
type seed [8]uint64

// newSeed draws a seed. crypto/rand does not fail (Go 1.24).
func newSeed() (s seed) {
	var b [8 * len(s)]byte
	rand.Read(b[:])
	for i := range s {
		s[i] = binary.LittleEndian.Uint64(b[8*i:]) | 1
	}
	return s
}

// fold multiplies to 128 bits and folds them.
func fold(a, b uint64) uint64 {
	high, low := bits.Mul64(a, b)
	return high ^ low
}

// hash returns the hash of a key. The last word is folded twice: ports that are
// counted up differ in its high bits only, and some secrets would put them close
// together.
func (s *seed) hash(k *key) uint64 { return s.mix(k[0], k[1], k[2], k[3], k[4]) }

// hashInverse returns the hash of the key of the other direction; see key.inverse.
func (s *seed) hashInverse(k *key) uint64 { return s.mix(k[2], k[3], k[0], k[1], k.inverseLast()) }

func (s *seed) mix(k0, k1, k2, k3, k4 uint64) uint64 {
	h := fold(k0^s[0], k1^s[1]) ^ fold(k2^s[2], k3^s[3])
	return fold(fold(h^k4^s[4], s[5])^s[6], s[7])
}

// first returns one bucket for a key of hash h.
func (x *index) first(h uint64) uint64 { return h & x.mask }

// second returns the other bucket.
func (x *index) second(h uint64) uint64 {
	b, low := h&x.mask, x.shard
	alt := h>>20&x.mask&^low | b&low
	if alt == b {
		alt ^= low + 1
	}
	return alt
}

// lockOf returns the number of the lock of a key of hash h.
func (x *index) lockOf(h uint64) uint64 { return h & x.shard }

// slotOf returns the slot that leads from hash h to a direction of record i.
func slotOf(h uint64, i uint32, dir int) uint64 {
	return h&tagBits | uint64(i)<<1 | uint64(dir)
}

// find returns the record that has key k in a direction, or 0. The record stays
// what it is until the worker is quiet.
func (t *Table) find(k *key, h uint64) (i uint32, dir int) {
	b := &t.index.buckets[t.index.first(h)]
	if i, dir = t.findIn(b, k, h); i != 0 || b[0].Load()&awayBits == 0 {
		return i, dir
	}
	return t.findIn(&t.index.buckets[t.index.second(h)], k, h)
}

// findIn is find in one bucket.
func (t *Table) findIn(b *bucket, k *key, h uint64) (i uint32, dir int) {
	for s := range b {
		v := b[s].Load()
		if (v^h)&tagBits != 0 || v&slotBits == 0 {
			continue
		}
		i, dir = recordOf(v), int(v&1)
		if t.is(i, dir, k) {
			return i, dir
		}
	}
	return 0, 0
}

// recordOf is the record that a slot leads to, or 0.
func recordOf(slot uint64) uint32 { return uint32(slot&slotBits) >> 1 }

// lockBoth takes the locks of two hashes, in the order of their numbers.
func (x *index) lockBoth(a, b uint64) {
	i, j := x.lockOf(a), x.lockOf(b)
	if i > j {
		i, j = j, i
	}
	x.locks[i].Lock()
	if i != j {
		x.locks[j].Lock()
	}
}

// unlockBoth gives them back.
func (x *index) unlockBoth(a, b uint64) {
	i, j := x.lockOf(a), x.lockOf(b)
	x.locks[i].Unlock()
	if i != j {
		x.locks[j].Unlock()
	}
}

// A berth is where a key would be in the index.
type berth struct {
	slot *atomic.Uint64 // nil: both buckets are full
	home *bucket        // its first one, if slot is in the other
	held bool           // the key is there already
}

// berth looks for a place for key k of hash h. With half of all slots in
// use there nearly always is one; else see relocate. The shard's lock is held.
func (t *Table) berth(k *key, h uint64) (at berth) {
	x := &t.index
	b := &x.buckets[x.first(h)]
	slot, free, held := t.room(b, k, h)
	at.slot, at.held = slot, held
	if held || free > bucketSlots-crowded && b[0].Load()&awayBits == 0 {
		return at
	}
	other, more, held := t.room(&x.buckets[x.second(h)], k, h)
	at.held = held
	if free <= bucketSlots-crowded && more > free {
		at.slot, at.home = other, b
	}
	return at
}

// room returns a free slot of a bucket, and how many there are, and whether it has key k.
func (t *Table) room(b *bucket, k *key, h uint64) (slot *atomic.Uint64, free int, held bool) {
	for s := range b {
		switch v := b[s].Load(); {
		case v&slotBits == 0:
			slot = &b[s]
			free++
		case (v^h)&tagBits == 0 && t.is(recordOf(v), int(v&1), k):
			held = true
		}
	}
	return slot, free, held
}

// fill puts what leads to a key into its place. The shard's lock is held.
func (at *berth) fill(slot uint64) {
	if at.home != nil {
		if first := at.home[0].Load(); first&awayBits != awayBits {
			put64(&at.home[0], first+1<<awayShift)
		}
	}
	put64(at.slot, at.slot.Load()&awayBits|slot)
}

// is reports whether a record has key k in a direction.
func (t *Table) is(i uint32, dir int, k *key) bool {
	r := &t.records[i]
	return r.key(dir).same(k) && status(r.state.Load())&dead == 0
}

// take frees a slot. The shard's lock is held.
func (x *index) take(h, slot uint64) {
	home := &x.buckets[x.first(h)]
	if home.take(slot) || !x.buckets[x.second(h)].take(slot) {
		return
	}
	if first := home[0].Load(); first&awayBits != awayBits {
		put64(&home[0], first-1<<awayShift)
	}
}

// take frees a slot of a bucket, and reports whether it has it.
func (b *bucket) take(slot uint64) bool {
	for s := range b {
		if v := b[s].Load(); v&^awayBits == slot {
			put64(&b[s], v&awayBits)
			return true
		}
	}
	return false
}
