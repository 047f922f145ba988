package dataplane

import (
	"slices"
	"sync"
	"sync/atomic"
)

// How many programs tell what they have counted in one go: the worker stands still for
// some ten microseconds, of which most are misses of its cache. And how many such
// goes others wait for who want to change the switch.
const (
	tellPart = 64
	tellRun  = 32
)

// A telling has programs tell what they have counted, for all who ask. A million of
// them take workers a tenth of a second, however few rules somebody asks about: who
// asks while others are served waits for the next round, together with all that wait.
type telling struct {
	mu    sync.Mutex    // held during a round; taken before Switch.mu
	begun atomic.Uint64 // rounds
}

// tell has programs and decisions of all workers tell rules and connections what they
// have counted before the call. It reports false if the switch is closed. The caller
// does not hold s.mu.
func (s *Switch) tell() bool {
	asked := s.telling.begun.Load()
	s.telling.mu.Lock()
	defer s.telling.mu.Unlock()
	if s.telling.begun.Load() != asked { // a round that began after we asked is over
		s.mu.Lock()
		defer s.mu.Unlock()
		return !s.closed
	}
	s.telling.begun.Add(1)
	s.crew.RLock()
	workers := s.workers
	s.crew.RUnlock()
	open := true
	for _, w := range workers {
		for at, more := 0, true; more && open; more = at != 0 {
			at, open = s.tellSome(w, at)
		}
	}
	return open
}

// tellSome has some programs of a worker tell, from one place to the next, which is 0
// at the end, and its decisions at first. A worker that has ended has told all.
func (s *Switch) tellSome(w *worker, from int) (next int, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || !slices.Contains(s.workers, w) {
		return 0, !s.closed
	}
	if from == 0 {
		w.do(w.tellDecisions)
	}
	next = from
	for n := 0; n < tellRun && (n == 0 || next != 0); n++ {
		w.do(func() { next = w.flow.cache.Tell(next, tellPart) })
	}
	return next, true
}
