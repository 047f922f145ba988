package agent

import "time"

// Dials that come in a hurry would each have a stream of its own made and ended, which
// costs the server a fourth of what a short connection costs it anyway. So while a link
// has very many, short requests share streams, and DRAIN is sent when one turns out to
// be more than that: before anybody could wait for it. A request that has ended by then
// leaves the stream as it was.
//
// A request is short while it has been open for a moment only, its target has taken at
// once what came, and no more was sent to its client than sockets hold without being
// read. Before more is sent, those that it shared with have time to end.
const (
	hurryRate = 500 // dials of a link in a second
	shortTime = 100 * time.Millisecond
	shortSize = 32 << 10 // bytes to the client
	partTime  = 200 * time.Millisecond
)

// noteHurry reckons each second whether dials come in a hurry.
func (l *link) noteHurry() {
	n := l.dials.Swap(0)
	l.hurry.Store(n > l.agent.cfg.hurryRate && !l.isUndrainable())
}

// outgrow has the request's stream be its own, if it is not yet. wait is for when it may
// soon stop others: they have time to end.
func (r *request) outgrow(wait bool) {
	if !wait {
		r.once.grow.Do(r.stream.isolate)
		return
	}
	r.once.part.Do(func() {
		r.outgrow(false)
		alone := r.stream.parted()
		if alone == nil {
			return
		}
		late := time.NewTimer(partTime)
		defer late.Stop()
		select {
		case <-alone:
		case <-late.C:
		}
	})
}

// outgrow has streams be alone whose request has been open for too long.
func (l *link) outgrow() {
	for _, s := range l.list() {
		if s.outgrown() {
			l.agent.work.Go(s.isolate) // which waits if a packet does that the server does not take
		}
	}
}

func (s *stream) outgrown() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drained.IsZero() && !s.used && !s.over && len(s.dials)+len(s.requests) > 0 && time.Since(s.loaded) > s.link.agent.cfg.shortTime
}
