package dataplane

import (
	"context"
	"maps"
	"slices"
	"sync"
)

// watchLag is how many events a watcher may be behind before it is let go.
const watchLag = 4096

// watchers are those who want to know of ports, and the ports that have
// something new to tell.
type watchers struct {
	mu      sync.Mutex
	chans   map[chan Event]struct{}
	touched map[string]struct{}
	kick    chan struct{} // has room for one: something is in touched, or the underlay has moved
}

// send gives every watcher e. One that is too slow is let go.
func (w *watchers) send(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.chans {
		select {
		case c <- e:
		default:
			delete(w.chans, c)
			close(c)
		}
	}
}

// touch notes that a port's device has a new state.
func (w *watchers) touch(name string) {
	w.mu.Lock()
	if w.touched == nil {
		w.touched = map[string]struct{}{}
	}
	w.touched[name] = struct{}{}
	w.mu.Unlock()
	w.stir()
}

// stir has the housekeeper look.
func (w *watchers) stir() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// take returns the ports that were touched since the last call, by name.
func (w *watchers) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	names := slices.Sorted(maps.Keys(w.touched))
	clear(w.touched)
	return names
}

func (w *watchers) drop(c chan Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.chans[c]; ok {
		delete(w.chans, c)
		close(c)
	}
}

func (w *watchers) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.chans {
		close(c)
	}
	w.chans = nil
}

// Watch tells of every port: first of those there are, as added, then of what
// happens. The channel closes when ctx ends, when the switch closes, or when
// the reader is too far behind.
func (s *Switch) Watch(ctx context.Context) <-chan Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := make(chan Event, len(s.ports)+watchLag)
	for _, p := range s.byNumber() {
		c <- Event{EventAdded, s.info(p)}
	}
	if s.closed {
		close(c)
		return c
	}
	s.watch.mu.Lock()
	s.watch.chans[c] = struct{}{}
	s.watch.mu.Unlock()
	context.AfterFunc(ctx, func() { s.watch.drop(c) })
	return c
}

// touchPeer notes that the port which patch port p names may have got its other end, or lost it.
func (s *Switch) touchPeer(p *port) {
	if p.spec.Type == TypePatch {
		s.watch.touch(p.spec.Peer)
	}
}

// tellTouched sends what devices have to tell.
func (s *Switch) tellTouched() {
	names := s.watch.take()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		if p := s.ports[name]; p != nil {
			s.watch.send(Event{EventChanged, s.info(p)})
		}
	}
}
