package fdb

import "math/bits"

// none is the slot of a key that is not there.
const none = -1

// Lookup returns the port of key and the slot that holds it, and counts a hit
// for the entry.
func (w *Worker) Lookup(key Key) (port uint32, slot int32, ok bool) {
	s, v := w.find(key)
	if s < 0 {
		return NoPort, none, false
	}
	bump(&w.hits[s])
	return v.port(), int32(s), true
}

// Lookup returns the port of key and the slot that holds it. It counts
// nothing.
func (t *Table) Lookup(key Key) (port uint32, slot int32, ok bool) {
	s, v := t.find(key)
	if s < 0 {
		return NoPort, none, false
	}
	return v.port(), int32(s), true
}

// find returns the slot of key, or none, and its value.
func (x *index) find(key Key) (slot int, v value) {
	h := x.hash(key)
	at := x.first(h)
	b := &x.buckets[at]
	if found := b.match(0, key) | b.match(2, key)<<2; found != 0 {
		i := bits.TrailingZeros(found) & 3
		v = value(b.vals[i].Load())
		if b.keys[i].Load() == uint64(key) {
			return int(at)*bucketSlots + i, v
		}
	}
	return x.findSecond(h, key) // not here, or it left while we looked
}

// findSecond is find for the second bucket of a key of hash h.
func (x *index) findSecond(h uint64, key Key) (slot int, v value) {
	at := x.second(h)
	b := &x.buckets[at]
	found := b.match(0, key) | b.match(2, key)<<2
	if found == 0 {
		return none, 0
	}
	i := bits.TrailingZeros(found) & 3
	v = value(b.vals[i].Load())
	if b.keys[i].Load() != uint64(key) {
		return none, 0
	}
	return int(at)*bucketSlots + i, v
}

// match returns a bit for entry i and one for entry i+1 of b, each set if the
// entry has key. It compares without a branch: which entry it is cannot be
// predicted, and a wrong guess costs more than all compares. It is half a
// bucket because the compiler does not inline a whole one.
func (b *bucket) match(i int, key Key) uint {
	var one, two uint
	if b.keys[i].Load() == uint64(key) {
		one = 1
	}
	if b.keys[i+1].Load() == uint64(key) {
		two = 1
	}
	return one | two<<1
}

// Hit counts n more hits for the entry in slot, which Lookup returned: what a
// caller has sent there without looking it up again.
func (w *Worker) Hit(slot int32, n uint64) { bumpBy(&w.hits[slot], n) }

// Changes counts what may make an answer of Lookup wrong that was right: entries
// that went, or changed port or slot. New entries do not count. While it is the
// same, a caller may go by the answer that it had.
func (t *Table) Changes() uint32 { return t.changes.Load() }
