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
	last  time.Time // when there were too few
	shed  time.Time // when there were too many: those that it sent away are there for a moment
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

// shrink ends half of the spare streams, if they have not been needed for a time. A
// server that takes no notice of DRAIN goes on to use them.
func (l *link) shrink() {
	l.mu.Lock()
	n := 0
	if !l.isUndrainable() && l.spares.extra > 0 && time.Since(l.spares.last) > sparesKept {
		n = (l.spares.extra + 1) / 2
		l.spares.extra -= n
	}
	l.mu.Unlock()
	l.sendAway(n)
}

// sendAway ends up to n idle streams.
func (l *link) sendAway(n int) {
	for _, s := range l.list() {
		if n > 0 && s.passedOver() {
			l.agent.work.Go(s.drain) // and sweep ends it
			n--
		}
	}
}

// busyBytes are what a busy link carries in a second: half a Gbit.
const busyBytes = 64 << 20

// share is how many streams wait for dials on a link, if they are as many as were
// configured.
func (l *link) share() int {
	cfg := &l.agent.cfg
	switch {
	case !cfg.adaptive:
		return max(1, (cfg.Idle+cfg.Links-1)/cfg.Links)
	case l.addr.far.Load():
		return max(1, cfg.Idle/farLinks)
	case l.rank == 0:
		return max(1, cfg.Idle-cfg.Links+1)
	}
	return 1
}

// order says which of two links is to have the next idle stream: the one with fewer in
// use. To a server nearby it is always the first, until that has much to carry: small
// packets of many requests go out together then, and the other link is there in case
// the first one fails.
func (l *link) order(other *link) int {
	if l.agent.cfg.adaptive && !l.addr.far.Load() {
		switch busy := l.busy.Load(); {
		case busy != other.busy.Load():
			if busy {
				return 1
			}
			return -1
		case !busy:
			return cmp.Compare(l.rank, other.rank)
		}
	}
	return cmp.Or(cmp.Compare(l.used.Load(), other.used.Load()), cmp.Compare(l.waiting(), other.waiting()))
}

// place returns the link that is to have the next idle stream, of those to the
// server of l by the same address. So requests go by the connections that they are to,
// or nearly so: the server chooses among idle streams by chance.
func (a *Agent) place(l *link) *link {
	a.mu.Lock()
	defer a.mu.Unlock()
	best := l
	for other := range a.links {
		if other == l || other.addr != l.addr || other.server != l.server || other.isClosing() {
			continue
		}
		if other.order(best) < 0 {
			best = other
		}
	}
	return best
}

// level asks for more idle streams if there are fewer than were configured: links
// that failed took theirs with them. When they are back there may be too many: each
// link ends what it has beyond its share.
func (l *link) level() {
	idle, wanted := l.agent.idleBeside(l)
	mine := l.waiting() - l.share()
	l.mu.Lock()
	mine -= l.spares.extra
	may := !l.closing && !l.isUndrainable() && time.Since(l.spares.shed) > sparesKept
	if may && idle > wanted && mine > 0 {
		l.spares.shed = time.Now()
	}
	l.mu.Unlock()
	switch {
	case idle < l.agent.cfg.Idle && !l.isClosing():
		for range l.agent.cfg.Idle - idle {
			l.agent.place(l).replace()
		}
	case may && idle > wanted:
		l.sendAway(min(mine, idle-wanted))
	}
}

// idleBeside is how many streams are idle on l and other links to its server by the same
// address, and how many need be.
func (a *Agent) idleBeside(l *link) (idle, wanted int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	wanted = a.cfg.Idle
	for other := range a.links {
		if other.addr == l.addr && other.server == l.server && !other.isClosing() {
			idle += other.waiting()
			wanted += other.extra()
		}
	}
	return idle, wanted
}

func (l *link) extra() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.spares.extra
}

// waiting is how many streams are idle, or will be.
func (l *link) waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.streams) + l.opening + len(l.want) - int(l.used.Load())
}

func (l *link) isClosing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closing
}
