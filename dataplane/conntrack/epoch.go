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

// A stock are the records that are in no index. Those that were used before are in a list,
// of which the end is taken first: it is near the core, and memory is touched only as connections are many.
// The list has three parts, and what they have no order:
//
//	0 .. free      may be used again
//	free .. older  were removed before this epoch
//	older .. ends  were removed in this epoch
//
// When all readers have come to this epoch, none can see the older ones: they are free, and the next
// epoch begins. No record is looked at for that, however many were removed.
type stock struct {
	mu    sync.Mutex
	list  []uint32
	free  int // ends of the list's parts
	older int
	ends  int
	fresh uint32 // lowest record never used
	limit uint32 // number of records with record 0

	waiting atomic.Int64 // records that readers may see; written with mu held
	epoch   atomic.Uint64
	touched atomic.Uint32 // fresh, for sweeps
	left    atomic.Int64  // records that no worker has and that are in no index, for eviction
	readers []*reader     // all that were ever made
}

// retire takes a record that is in no index any more.
func (t *Table) retire(i uint32) {
	s := &t.stock
	s.mu.Lock()
	s.list[s.ends] = i
	s.ends++
	s.waiting.Store(int64(s.ends - s.free))
	s.left.Add(1)
	s.mu.Unlock()
}

// reclaim makes the older records free if no reader can see them, and begins a new
// epoch then if there are others. The lock is held.
func (s *stock) reclaim() {
	if s.free == s.ends {
		return
	}
	now := s.epoch.Load()
	for _, r := range s.readers {
		if r.epoch.Load() < now {
			return
		}
	}
	s.free, s.older = s.older, s.ends
	s.waiting.Store(int64(s.ends - s.free))
	if s.free != s.ends {
		s.epoch.Add(1)
	}
}

// take takes a free record, or one that was never used, or returns 0. The lock is held.
func (s *stock) take() (i uint32) {
	if s.free == 0 {
		if s.fresh == s.limit {
			return 0
		}
		s.fresh++
		return s.fresh - 1
	}
	l := s.list
	s.free, s.older, s.ends = s.free-1, s.older-1, s.ends-1
	i = l[s.free]
	l[s.free] = l[s.older] // each part moves its last one to its front
	l[s.older] = l[s.ends]
	return i
}

// give takes back a free record. The lock is held.
func (s *stock) give(i uint32) {
	l := s.list
	l[s.ends] = l[s.older]
	l[s.older] = l[s.free]
	l[s.free] = i
	s.free, s.older, s.ends = s.free+1, s.older+1, s.ends+1
}

// workerStock is how many free records a worker takes at a time, at most.
const workerStock = 64

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
	s.reclaim()
	want := min(workerStock, max(1, int(s.limit)/256))
	n := len(w.free)
	for len(w.free) < want {
		i := s.take()
		if i == 0 {
			break
		}
		w.free = append(w.free, i)
	}
	s.left.Add(int64(n - len(w.free)))
	s.touched.Store(s.fresh)
}

// giveBack returns records that a worker did not use.
func (t *Table) giveBack(list []uint32) {
	s := &t.stock
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range list {
		s.give(i)
	}
	s.left.Add(int64(len(list)))
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
