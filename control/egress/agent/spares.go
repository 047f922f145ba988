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
	sparesKept = 3 * time.Second // after they were last too few
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

// shrink ends half of the spare streams, if they have not been needed for a time.
func (l *link) shrink() {
	l.mu.Lock()
	n := 0
	if l.spares.extra > 0 && time.Since(l.spares.last) > sparesKept {
		n = (l.spares.extra + 1) / 2
		l.spares.extra -= n
	}
	l.mu.Unlock()
	for _, s := range l.list() {
		if n > 0 && s.passedOver() {
			s.drain() // and sweep ends it
			n--
		}
	}
}
