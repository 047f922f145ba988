package conntrack

import "sync/atomic"

// A record is one connection. Index 0 is none.
//
// The keys are written before the record is in the index and not changed while
// any worker may see it; see epoch.go. The other words are written as they say.
type record struct {
	original key
	state    atomic.Uint64 // a status, by compare and swap
	ident    atomic.Uint64 // generation (32..63), tick of creation (0..31); by who creates and removes
	mark     uint32        // by Commit, under the shard's lock, atomically once the record is seen
	_        uint32

	reply key
	label [2]uint64 // as mark; read as readLabel does
	links uint64    // zone's list: next (0..31), previous (32..63), under the zone's lock

	packets, bytes [2]uint64 // by direction; added to by workers, atomically
	seq            [2]window // TCP's windows or SCTP's tags by direction, under the shard's lock
}

// A window is what one side of a TCP connection has sent, and may send. SCTP has
// its verification tag in end.
type window struct {
	end    uint32 // highest sequence number sent, plus one
	maxEnd uint32 // highest that it may send: what the other side acknowledged plus its window
	maxWin uint32 // largest window that it advertised, scaled
	maxAck uint32 // highest that it acknowledged
}

// key returns the key of a direction: 0 original, 1 reply.
func (r *record) key(dir int) *key {
	if dir == 0 {
		return &r.original
	}
	return &r.reply
}

// generation returns the generation.
func (r *record) generation() uint32 { return uint32(r.ident.Load() >> 32) }

// A Ref names a connection: index (0..28; there are no more records) and generation
// (32..63). Zero names none. It stays what it is when the connection has gone: Touch
// then tells.
type Ref uint64

func (r Ref) index() uint32      { return uint32(r) }
func (r Ref) generation() uint32 { return uint32(r >> 32) }

// ref returns the name of record i.
func (t *Table) ref(i uint32) Ref { return Ref(t.records[i].generation())<<32 | Ref(i) }

// count adds to the counters of a direction.
func (r *record) count(dir int, packets, bytes uint64) {
	atomic.AddUint64(&r.packets[dir], packets)
	atomic.AddUint64(&r.bytes[dir], bytes)
}

// labelTries is how often a reader looks at a label that is being written before
// it waits for the writer.
const labelTries = 64

// readLabel returns the label. It is written in two halves; the version in the
// status says whether they belong together, and is zero if the label never was
// anything else: then its cache line is not looked at.
func (t *Table) readLabel(r *record) (label [2]uint64) {
	for range labelTries {
		before := status(r.state.Load()) & (labelled | labelMask)
		if before == 0 {
			return label
		}
		label[0], label[1] = atomic.LoadUint64(&r.label[0]), atomic.LoadUint64(&r.label[1])
		if after := status(r.state.Load()) & (labelled | labelMask); before == after && before&labelled == 0 {
			return label
		}
	}
	l := t.lockOf(r)
	l.Lock()
	defer l.Unlock()
	return r.label
}

// writeLabel writes the label, under the shard's lock.
func (r *record) writeLabel(label [2]uint64) {
	r.change(func(s status) status { return s | labelled })
	atomic.StoreUint64(&r.label[0], label[0])
	atomic.StoreUint64(&r.label[1], label[1])
	r.change(func(s status) status {
		version := max(uint8(s>>labelShift)+1, 1)
		return s&^(labelled|labelMask) | status(version)<<labelShift
	})
}

// watch notes that a program may be made of what is said of a connection in status s. It
// reports false if that is not its status any more. The cell's value was loaded before.
func (r *record) watch(s status) bool {
	return s&watched != 0 || r.state.CompareAndSwap(uint64(s), uint64(s|watched))
}

// change changes the status by f.
func (r *record) change(f func(status) status) {
	for {
		old := r.state.Load()
		if r.state.CompareAndSwap(old, uint64(f(status(old)))) {
			return
		}
	}
}
