package flowcache

import (
	"fmt"

	"millrace/flowtable"
)

// Kinds of table.
const (
	exactNarrow = iota
	exactWide
	wildNarrow
	wildWide
	kinds
)

const (
	narrowShift = 6
	wideShift   = 7
)

// An entry is the head of an entry, before its masked words:
//
//	0  program (32 bits), generation (16), mask (16)
//	8  plan (16), epoch (16), displaced (16)
type entry struct {
	// id says what the entry leads to; 0 if there is no entry.
	id    uint64
	plan  uint16 // owner
	epoch uint16 // of its last hit
	// displaced belongs to the bucket: how many entries that hash here first
	// lie in their second bucket. If it is 0, a lookup need not look there.
	displaced uint16
	_         uint16
}

type narrowEntry struct {
	entry
	key [flowtable.NarrowWords]uint64
}

type wideEntry struct {
	entry
	key [flowtable.KeyWords]uint64
}

// entryID packs what an entry leads to.
func entryID(program uint32, gen, mask uint16) uint64 {
	return uint64(program) | uint64(gen)<<32 | uint64(mask)<<48
}

func (e *entry) program() uint32 { return uint32(e.id) }
func (e *entry) gen() uint16     { return uint16(e.id >> 32) }
func (e *entry) mask() uint16    { return uint16(e.id >> 48) }

// A table holds entries in buckets of one. An entry lies in the bucket that the
// low half of its hash names, or in the one of the high half. With an entry per
// line and half of the lines free, nine of ten lookups read one line; buckets of
// several entries would read a line of tags as well.
//
// A wildcard table is probed for many masks in which a key has no entry. So it
// has a tag of 16 bits for each bucket, dense enough for the second-level cache:
// a line is only read when the tag agrees.
type table struct {
	mem    mapping // entries, then tags
	tags   pointer // into mem
	mask   uint64  // entries - 1
	shift  uint8   // of an entry's size in bytes
	kind   uint8
	tagged bool
	words  int    // of a key
	hand   uint64 // next entry that the clock looks at
	used   int    // entries in use
	active int    // plans that have entries
}

// Bits of a tag. What is left are bits of the entry's hash.
const (
	tagUsed      = 1 << 15
	tagDisplaced = 1 << 14
)

// tagOf returns the tag of an entry.
func tagOf(hash uint64) uint16 { return uint16(hash>>48)&^tagDisplaced | tagUsed }

// agrees returns 1 if a tag may be that of an entry with this hash, and 0 if not.
// It has no branch: which keys a mask finds is not to be predicted.
func agrees(tag uint16, hash uint64) int {
	return int((uint32((tag^tagOf(hash))&^tagDisplaced) - 1) >> 31)
}

// seekSecond returns the second bucket of a hash, and 1 if its tag may be that of
// an entry with this hash, or 0.
func (t *table) seekSecond(hash uint64) (bucket uint64, found int) {
	bucket = t.second(hash)
	return bucket, agrees(*t.tag(bucket), hash)
}

// newTable maps a table of n entries, rounded up to a power of two.
func newTable(kind uint8, n int) (*table, error) {
	t := &table{kind: kind, shift: narrowShift, words: flowtable.NarrowWords, tagged: kind == wildNarrow || kind == wildWide}
	if kind == exactWide || kind == wildWide {
		t.shift, t.words = wideShift, flowtable.KeyWords
	}
	size := 4
	for size < n {
		size *= 2
	}
	t.mask = uint64(size - 1)
	var err error
	if t.mem, err = newSparse(size<<t.shift + 2*size); err != nil {
		return nil, fmt.Errorf("make a flow table of %d entries: %w", size, err)
	}
	t.setTags()
	return t, nil
}

func (t *table) close() error { return t.mem.close() }

// size returns how many entries fit.
func (t *table) size() int { return int(t.mask) + 1 }

// buckets returns the two buckets of a hash, which differ.
func (t *table) buckets(hash uint64) (first, second uint64) {
	first = hash & t.mask
	return first, t.second(hash)
}

// second returns the second bucket of a hash.
func (t *table) second(hash uint64) uint64 {
	second := hash >> 32 & t.mask
	if second == hash&t.mask {
		return second ^ 1
	}
	return second
}

// find returns the bucket of the entry with these masked words and mask.
func (t *table) find(words []uint64, mask uint16, hash uint64) (uint64, bool) {
	b := hash & t.mask
	if t.holds(b, words, mask) {
		return b, true
	}
	if t.at(b).displaced == 0 {
		return 0, false
	}
	b = t.second(hash)
	return b, t.holds(b, words, mask)
}

// holds reports whether bucket b has the entry with these masked words and mask.
func (t *table) holds(b uint64, words []uint64, mask uint16) bool {
	e := t.at(b)
	return e.id != 0 && e.mask() == mask && equalWords(t.key(b), words)
}

// equalWords reports whether two keys of equal length are equal.
func equalWords(a, b []uint64) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// put writes an entry into bucket b, which is free and one of hash's two.
func (t *table) put(b, hash uint64, e entry, words []uint64) {
	at := t.at(b)
	at.id, at.plan, at.epoch = e.id, e.plan, e.epoch
	copy(t.key(b), words)
	tag := t.tag(b)
	if first := hash & t.mask; first != b {
		t.at(first).displaced++
		*t.tag(first) |= tagDisplaced
	}
	*tag = *tag&tagDisplaced | tagOf(hash)
	t.used++
}

// take empties bucket b, whose entry has this hash.
func (t *table) take(b, hash uint64) {
	t.at(b).id = 0
	*t.tag(b) &= tagDisplaced
	if first := hash & t.mask; first != b {
		home := t.at(first)
		if home.displaced--; home.displaced == 0 {
			*t.tag(first) &^= tagDisplaced
		}
	}
	t.used--
}

// move takes the entry of bucket b, which has this hash, to its other bucket,
// if that is free, and reports whether it did.
func (t *table) move(b, hash uint64) bool {
	first, second := t.buckets(hash)
	other := first
	if b == first {
		other = second
	}
	if t.at(other).id != 0 || t.at(first).displaced == ^uint16(0) {
		return false
	}
	e := *t.at(b)
	t.take(b, hash)
	t.put(other, hash, e, t.key(b))
	return true
}
