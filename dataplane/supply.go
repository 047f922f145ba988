package dataplane

import (
	"runtime"
	"sync/atomic"

	"millrace/flowtable/flowcache"
)

// A supplier makes memory ready that a worker's cache is about to grow into. The
// kernel takes up to a millisecond for each piece, which frames would wait for. It
// sleeps unless the cache asks for something.
type supplier struct {
	asked chan struct{}
	ended chan struct{}
	quit  atomic.Bool
}

// newSupplier starts a supplier.
func newSupplier(c *flowcache.Cache) *supplier {
	s := &supplier{asked: make(chan struct{}, 1), ended: make(chan struct{})}
	go s.run(c)
	return s
}

func (s *supplier) run(c *flowcache.Cache) {
	defer close(s.ended)
	for range s.asked {
		for !s.quit.Load() && c.Supply() {
			runtime.Gosched() // changes of rules come between two pieces
		}
	}
}

// ask says that the cache asks for something. It is for the worker, once for some megabytes.
func (s *supplier) ask() {
	select {
	case s.asked <- struct{}{}:
	default: // it has been told, and not looked yet
	}
}

// close ends the supplier. The worker has ended.
func (s *supplier) close() {
	s.quit.Store(true)
	close(s.asked)
	<-s.ended
}
