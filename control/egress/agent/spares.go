package agent

import "time"

// spares are idle streams beyond those that were configured. A dial that comes
// on a stream which another has already says that there were too few: dials come
// faster than DRAIN reaches the server and replacements reach us.
type spares struct {
	extra int
	last  time.Time // when there were too few, or extra was made smaller
}

// Bounds of spares, for each link.
const (
	sparesMost = 32
	sparesKept = time.Minute // after they were last too few
)

// tooFew has one more stream wait from now on.
func (l *link) tooFew() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spares.last = time.Now()
	if l.closing || l.spares.extra == sparesMost {
		return
	}
	l.spares.extra++
	l.replace()
}

// shrink ends one of the spare streams, if they have not been needed for long.
func (l *link) shrink() {
	l.mu.Lock()
	ripe := l.spares.extra > 0 && time.Since(l.spares.last) > sparesKept
	if ripe {
		l.spares.extra--
		l.spares.last = time.Now()
	}
	l.mu.Unlock()
	if !ripe {
		return
	}
	for _, s := range l.list() {
		if s.passedOver() {
			s.drain() // and sweep ends it
			return
		}
	}
}
