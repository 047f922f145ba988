package agent

import (
	"cmp"
	"time"
)

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

// place returns the link that is to have the next idle stream, of those to the
// server of l by the same address: the one with the fewest streams in use. So
// requests spread over connections, though the server chooses by chance.
func (a *Agent) place(l *link) *link {
	a.mu.Lock()
	defer a.mu.Unlock()
	best, bestUsed, bestIdle := l, l.used.Load(), l.waiting()
	for other := range a.links {
		if other == l || other.addr != l.addr || other.server != l.server || other.isClosing() {
			continue
		}
		used, idle := other.used.Load(), other.waiting()
		if cmp.Or(cmp.Compare(used, bestUsed), cmp.Compare(idle, bestIdle)) < 0 {
			best, bestUsed, bestIdle = other, used, idle
		}
	}
	return best
}

// topUp asks for another idle stream if there are fewer than were configured: links
// that failed took theirs with them.
func (l *link) topUp() {
	l.agent.mu.Lock()
	idle := 0
	for other := range l.agent.links {
		if other.addr == l.addr && other.server == l.server && !other.isClosing() {
			idle += other.waiting()
		}
	}
	l.agent.mu.Unlock()
	if idle < l.agent.cfg.Idle && !l.isClosing() {
		l.agent.place(l).replace()
	}
}

// waiting is how many streams are idle, or will be.
func (l *link) waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.streams) + len(l.want) - int(l.used.Load())
}

func (l *link) isClosing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closing
}
