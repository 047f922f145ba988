package agent

import (
	"runtime"
	"sync/atomic"
	"time"
)

// Sides of a connection: who did not take what it was sent.
const (
	clientSide = iota
	targetSide
)

// stallLeast is what passes for a stall: less is scheduling.
const stallLeast = 10 * time.Millisecond

// A stall is for how long one side of a connection has taken nothing of what waited
// for it, also while it does so. One goroutine calls begin and end in turns; any may
// ask, and is never told less than before.
type stall struct {
	over  atomic.Int64 // nanoseconds of stalls that have ended
	since atomic.Int64 // when the present wait began; none or changing otherwise
}

// What stall.since is while nobody waits, and while over changes. Waits begin later.
const (
	none     = 0
	changing = -1
)

// begin notes that something waits from now on, a time since the request's start.
func (s *stall) begin(now time.Duration) { s.since.Store(max(int64(now), 1)) }

// end notes that it was taken.
func (s *stall) end(now time.Duration) {
	d := now - time.Duration(s.since.Swap(changing))
	if d >= stallLeast {
		s.over.Add(int64(d))
	}
	s.since.Store(none)
}

// at is all of it until now.
func (s *stall) at(now time.Duration) time.Duration {
	for {
		since := s.since.Load()
		if since == changing {
			runtime.Gosched() // it is two instructions away
			continue
		}
		over := time.Duration(s.over.Load())
		if s.since.Load() != since {
			continue
		}
		if d := now - time.Duration(since); since != none && d >= stallLeast {
			over += d
		}
		return over
	}
}
