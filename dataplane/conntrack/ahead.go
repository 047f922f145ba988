package conntrack

import "millrace/flowtable/prefetch"

// Packets that take the long way come in batches, and Track waits for memory most of its
// time: for a bucket of the index, then for the record. The same goes for Touch. So what
// the next calls will look at is asked for before, all at once. Nothing is decided by it:
// a guess that is wrong costs time only.

// AheadMax is how many connections or packets are asked for at once.
const AheadMax = prefetch.Max

// A sight is what Ahead works with, for one worker, and what it has found.
type sight struct {
	zone   uint16           // in which they were looked for
	keys   [AheadMax]key    // of packets that were expected
	hashes [AheadMax]uint64 // of keys
	hints  [AheadMax]uint32 // record (1..31) and direction (0) of what may be the connection; 0: there was none
	wants  [AheadMax]uint32 // of the cell that stands for the absence of one, before it was looked for
	at     [AheadMax]uint64
	fresh  [AheadMax]uint64 // hashes of replies
	packet Packet           // in hand, of a Brief
}

// Lines of a record, and how many of them an address in at counts.
const (
	recordLines = 3
	lineShift   = 6
	lineBytes   = 1 << lineShift
	allBits     = 1<<32 - 1
)

// Expect says that a packet of TCP or UDP will be looked up soon, as number n; see Ahead. l4 has
// its ports, in the 32 bits on top.
func (w *Worker) Expect(n int, srcHigh, srcLow, dstHigh, dstLow, l4 uint64, proto uint8, six bool) {
	k := &w.sight.keys[n&(AheadMax-1)] // word by word: what is stored in words is loaded in words
	k[0], k[1], k[2], k[3], k[4] = srcHigh, srcLow, dstHigh, dstLow, l4&^allBits|uint64(proto)<<8
	if six {
		k[4] |= 1
	}
}

// Ahead asks for what Track will look at in a zone for the first n packets that were expected,
// and what Commit will write for those without a connection.
func (w *Worker) Ahead(n int, zone uint16) {
	s, x := &w.sight, &w.t.index
	s.zone = zone
	n = min(n, AheadMax)
	for i := range s.keys[:n] {
		k := &s.keys[i]
		k[4] |= uint64(zone) << 16
		s.hashes[i] = x.seed.hash(k)
	}
	w.askBuckets(&s.hashes, n)
	w.guess(n)
	fresh := w.askRecords(n)
	if fresh == 0 {
		return
	}
	w.askBuckets(&s.fresh, fresh)
	if len(w.free) < min(fresh, workerStock/2) {
		w.t.supply(w)
	}
	for i := range s.at[:fresh] {
		s.at[i] = 0
		if at := len(w.free) - 1 - i; at >= 0 {
			s.at[i] = uint64(w.free[at])
		}
	}
	w.askLines(fresh, true)
}

// askBuckets asks for the first buckets of n hashes.
func (w *Worker) askBuckets(hashes *[AheadMax]uint64, n int) {
	x := &w.t.index
	prefetch.Lines(baseOf(x.buckets), hashes, n, x.mask, lineShift)
}

// guess notes in hints what records n hashes may lead to. Those that may be away are looked for in their second
// buckets, all at once.
func (w *Worker) guess(n int) {
	s, x := &w.sight, &w.t.index
	var away [AheadMax]uint8
	missed := 0
	for i, h := range s.hashes[:n] {
		s.wants[i] = w.t.cell(w.t.absence(h))
		b := &x.buckets[x.first(h)]
		if s.hints[i] = b.guess(h); s.hints[i] == 0 && b[0].Load()&awayBits != 0 {
			away[missed], s.at[missed] = uint8(i), x.second(h)
			missed++
		}
	}
	prefetch.Lines(baseOf(x.buckets), &s.at, missed, x.mask, lineShift)
	for j, i := range away[:missed] {
		s.hints[i&(AheadMax-1)] = x.buckets[s.at[j]].guess(s.hashes[i&(AheadMax-1)])
	}
}

// guess returns the record and the direction that a hash may lead to, or 0: it leads to none here.
func (b *bucket) guess(h uint64) uint32 {
	for i := range b {
		if v := b[i].Load(); (v^h)&tagBits == 0 && v&slotBits != 0 {
			return uint32(v & slotBits)
		}
	}
	return 0
}

// askRecords asks for the records that n hints lead to. It returns how many lead to
// none; the hashes of their replies are in fresh.
func (w *Worker) askRecords(n int) (fresh int) {
	s, t := &w.sight, w.t
	found := 0
	for i, hint := range s.hints[:n] {
		if hint == 0 {
			s.fresh[fresh] = t.index.seed.hashInverse(&s.keys[i])
			fresh++
			continue
		}
		s.at[found] = uint64(hint >> 1)
		found++
	}
	w.askLines(found, true)
	return fresh
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
