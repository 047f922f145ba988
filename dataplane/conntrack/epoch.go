package conntrack

import (
	"math"
	"sync"
	"sync/atomic"
)

// offline is the epoch of a worker that looks at nothing.
const offline = math.MaxUint64

// A reader is somebody who looks at records without locks. A record that was
// removed is used again when every reader has been quiet since.
type reader struct {
	epoch atomic.Uint64 // in which it was last quiet, or offline; written by the reader
	_     [7]uint64
}

// A stock are the records that are in no index. Records are taken from the free
// list first, so that memory is touched only as connections are many.
type stock struct {
	mu      sync.Mutex
	free    uint32 // list of free records, linked by links
	spare   int    // free ones, with those never used
	fresh   uint32 // lowest record never used
	limit   uint32 // number of records with record 0
	first   uint32 // list of records that readers may still see, oldest first
	last    uint32
	waiting atomic.Int64 // records in it; written with mu held

	epoch   atomic.Uint64
	touched atomic.Uint32 // fresh, for sweeps
	left    atomic.Int64  // spare and waiting, for eviction
	readers []*reader     // all that were ever made
}

// links of a record that waits: next (0..31) and the low half of the epoch in
// which it was removed.

// retire takes a record that is in no index any more.
func (t *Table) retire(i uint32) {
	s := &t.stock
	s.mu.Lock()
	t.records[i].links = s.epoch.Load() << 32
	if s.first == 0 {
		s.first = i
	} else {
		t.records[s.last].links |= uint64(i)
	}
	s.last = i
	s.waiting.Add(1)
	s.left.Add(1)
	s.mu.Unlock()
}

// How many records are made free in one go: by a sweep, and by a worker that takes
// workerStock of them. Each may be a miss of the cache, and a flush leaves as many as it likes.
const (
	reclaimSome = 8
	reclaimMany = 2 * workerStock
)

// reclaim makes waiting records free that no reader can see, at most n, and begins a new
// epoch if some are left and all readers have come to this one. The stock's lock is held.
func (t *Table) reclaim(n int) {
	s := &t.stock
	if s.first == 0 {
		return
	}
	oldest := s.epoch.Load()
	for _, r := range s.readers {
		oldest = min(oldest, r.epoch.Load())
	}
	for ; s.first != 0 && n > 0; n-- {
		i := s.first
		r := &t.records[i]
		if uint32(r.links>>32) == uint32(oldest) || int32(uint32(r.links>>32)-uint32(oldest)) > 0 {
			break
		}
		s.first = uint32(r.links)
		r.links = uint64(s.free)
		s.free = i
		s.waiting.Add(-1)
		s.spare++
	}
	if s.first != 0 && oldest == s.epoch.Load() { // so nobody is ever more than one behind, and 32 bits will do
		s.epoch.Add(1)
	}
}

// workerStock is how many free records a worker takes at a time.
const workerStock = 32

// alloc returns a free record, or 0.
func (w *Worker) alloc() uint32 {
	if len(w.free) == 0 {
		w.t.supply(w)
		if len(w.free) == 0 {
			return 0
		}
	}
	n := len(w.free) - 1
	i := w.free[n]
	w.free = w.free[:n]
	return i
}

// supply gives a worker some free records.
func (t *Table) supply(w *Worker) {
	s := &t.stock
	s.mu.Lock()
	defer s.mu.Unlock()
	t.reclaim(reclaimMany)
	want := min(workerStock, max(1, int(s.limit)/256))
	for range min(want, s.spare) {
		i := s.free
		if i != 0 {
			s.free = uint32(t.records[i].links)
		} else {
			i = s.fresh
			s.fresh++
		}
		w.free = append(w.free, i)
		s.spare--
		s.left.Add(-1)
	}
	s.touched.Store(s.fresh)
}

// giveBack returns records that a worker did not use.
func (t *Table) giveBack(list []uint32) {
	s := &t.stock
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range list {
		t.records[i].links = uint64(s.free)
		s.free = i
		s.spare++
		s.left.Add(1)
	}
}

// Quiet says that the worker uses nothing of what earlier calls returned but
// Refs and cells. A worker calls it once a turn; it costs a load, and a store
// when an epoch has begun. It also ends Offline.
func (w *Worker) Quiet() {
	if e := w.t.stock.epoch.Load(); e != w.epoch.Load() {
		w.epoch.Store(e)
	}
}

// Offline says that the worker does not use the table until it calls Quiet, so
// that it does not hold up the reuse of memory while it sleeps.
func (w *Worker) Offline() { w.epoch.Store(offline) }

// inside runs f as a reader that is no worker.
func (t *Table) inside(f func()) {
	t.control.Lock()
	defer t.control.Unlock()
	t.visitor.epoch.Store(t.stock.epoch.Load())
	defer t.visitor.epoch.Store(offline)
	f()
}
