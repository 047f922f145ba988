package netstack

import (
	"context"
	"fmt"
	"sync"
)

// switches tells of the switches that have a port, one after the other: each ends, and the
// next one takes the port over.
type switches struct {
	mu    sync.Mutex
	count uint64        // of comings and goings
	there chan struct{} // closed while one has the port
}

func (s *switches) init() { s.there = make(chan struct{}) }

// changed notes that one has come, or has gone.
func (s *switches) changed(up bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	select {
	case <-s.there:
		if !up {
			s.there = make(chan struct{})
		}
	default:
		if up {
			close(s.there)
		}
	}
}

// await waits until one has the port, and returns a number that is another when that has
// changed since.
func (s *switches) await(ctx context.Context) (count uint64, err error) {
	s.mu.Lock()
	there, count := s.there, s.count
	s.mu.Unlock()
	select {
	case <-there:
		return count, nil
	default:
	}
	select {
	case <-there:
		return s.changes(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("no switch has the port: is the dataplane running? %w", ctx.Err())
	}
}

func (s *switches) changes() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}
