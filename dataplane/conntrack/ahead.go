package conntrack

import "millrace/flowtable/prefetch"

// Packets that take the long way come in batches, and Track waits for memory most of its
// time: for a bucket of the index, then for the record. The same goes for Touch. So what
// the next calls will look at is asked for before, all at once. Nothing is decided by it:
// a guess that is wrong costs time only.

// AheadMax is how many connections or packets are asked for at once.
const AheadMax = prefetch.Max

// A sight is what Ahead works with, for one worker.
type sight struct {
	hash, at [AheadMax]uint64
	tuples   [AheadMax]Tuple
	n        int
}

// Lines of a record, and how many of them an address in at counts.
const (
	recordLines = 3
	lineShift   = 6
	lineBytes   = 1 << lineShift
	allBits     = 1<<32 - 1
)

// Expect says that a packet with this tuple will be looked up soon; see Ahead.
func (w *Worker) Expect(t *Tuple) {
	s := &w.sight
	if s.n < AheadMax {
		s.tuples[s.n] = *t
		s.n++
	}
}

// Ahead asks for what Track will look at in a zone for the tuples that were expected, and
// what Commit will write for those without a connection.
func (w *Worker) Ahead(zone uint16) {
	s, x := &w.sight, &w.t.index
	n := min(s.n, AheadMax)
	s.n = 0
	for i := range s.tuples[:n] {
		k := s.tuples[i].key(zone)
		s.hash[i] = x.seed.hash(&k)
	}
	w.askBuckets(n)
	fresh := w.askRecords(n)
	for i := range s.tuples[:fresh] {
		inverse := s.tuples[i].Inverse()
		k := inverse.key(zone)
		s.hash[i] = x.seed.hash(&k)
	}
	w.askBuckets(fresh)
	for i := range s.at[:fresh] {
		s.at[i] = 0
		if at := len(w.free) - 1 - i; at >= 0 {
			s.at[i] = uint64(w.free[at])
		}
	}
	w.askLines(fresh, true)
}

// askBuckets asks for the buckets of n hashes.
func (w *Worker) askBuckets(n int) {
	s, x := &w.sight, &w.t.index
	base := baseOf(x.buckets)
	prefetch.Lines(base, &s.hash, n, x.mask, lineShift)
	for i, h := range s.hash[:n] {
		s.at[i] = x.second(h)
	}
	prefetch.Lines(base, &s.at, n, x.mask, lineShift)
}

// askRecords asks for the records that the buckets of n hashes lead to. The tuples of those
// that lead to none come to the front; it returns how many they are.
func (w *Worker) askRecords(n int) (fresh int) {
	s := &w.sight
	found := 0
	for i := range n {
		record := w.t.index.guess(s.hash[i])
		if record == 0 {
			s.tuples[fresh] = s.tuples[i]
			fresh++
			continue
		}
		s.at[found] = uint64(record)
		found++
	}
	w.askLines(found, true)
	return fresh
}

// guess returns a record that a hash may lead to, or 0.
func (x *index) guess(h uint64) uint32 {
	for _, at := range [2]uint64{x.first(h), x.second(h)} {
		b := &x.buckets[at]
		for i := range b {
			if v := b[i].Load(); v^h <= allBits && v != 0 {
				return uint32(v) >> 1
			}
		}
	}
	return 0
}

// askLines asks for the records in at, of which there are n, and for their deadlines. The line
// of the reply's key is asked for if all are wanted.
func (w *Worker) askLines(n int, all bool) {
	s, t := &w.sight, w.t
	prefetch.Lines(baseOf(t.deadlines), &s.at, n, allBits, 2)
	prefetch.Lines(baseOf(t.cells), &s.at, n, allBits, 2)
	for i := range s.at[:n] {
		s.at[i] *= recordLines
	}
	base := baseOf(t.records)
	prefetch.Lines(base, &s.at, n, allBits, lineShift)
	if all {
		prefetch.Lines(base+lineBytes, &s.at, n, allBits, lineShift)
	}
	prefetch.Lines(base+2*lineBytes, &s.at, n, allBits, lineShift)
}

// TouchAhead asks for what Touch will look at for n connections, of which refs are Refs.
func (w *Worker) TouchAhead(refs *[AheadMax]uint64, n int) {
	s := &w.sight
	n = min(n, AheadMax)
	for i, ref := range refs[:n] {
		s.at[i] = 0
		if index := Ref(ref).index(); int(index) < len(w.t.records) {
			s.at[i] = uint64(index)
		}
	}
	w.askLines(n, false)
}
