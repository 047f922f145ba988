package conntrack

import "sync/atomic"

// relocate sees to it that a key of hash h has a free slot in one of its buckets: if both are full, one of the keys
// there goes to its own second one. It reports whether there is one. The shard's lock is held; all buckets of a key are the
// shard's.
//
// With 48 % of all slots in use, one of ten million new connections finds both of its buckets full.
func (t *Table) relocate(h uint64) bool {
	x := &t.index
	one, other := x.first(h), x.second(h)
	return x.buckets[one].free() != nil || x.buckets[other].free() != nil || t.relocateFrom(one) || t.relocateFrom(other)
}

// free returns a free slot of a bucket, or nil.
func (b *bucket) free() *atomic.Uint64 {
	for s := range b {
		if b[s].Load()&slotBits == 0 {
			return &b[s]
		}
	}
	return nil
}

// relocateFrom moves one of the keys of bucket n that are in their first one to its second one. Readers look at the
// first one, and then at the second if the first says that keys are away: the key is in both for a moment, and the first has
// said so before it is there no more. A key cannot be brought back in this way: readers would look for it before and
// behind.
func (t *Table) relocateFrom(n uint64) bool {
	x := &t.index
	b := &x.buckets[n]
	for s := range b {
		v := b[s].Load() &^ awayBits
		if v == 0 {
			continue
		}
		h := x.seed.hash(t.records[recordOf(v)].key(int(v & 1)))
		if x.first(h) != n {
			continue
		}
		if to := x.buckets[x.second(h)].free(); to != nil {
			at := berth{slot: to, home: b}
			at.fill(v)
			put64(&b[s], b[s].Load()&awayBits)
			return true
		}
	}
	return false
}
