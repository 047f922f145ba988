package agent

import (
	"fmt"
	"sync/atomic"
	"syscall"

	"go.uber.org/zap"
)

// What servers may have an agent do at the same time. One that was taken over, or is
// broken, asks for as much as it can: what it gets is to be little enough for the node,
// and no less for others.
//
// Half of each bound is for whoever comes first. The other half is dealt: each address has
// the same part, and each link to it an equal part of that. So all links together have never
// more than the bound, a link has always what is its own, and what a server gains by opening
// more links, or by other names for itself, it takes from itself.
const (
	dialsMost = 4096 // under way, from the request to the answer that the server has taken
	dialsEach = 1024 // the same, of one link
	// requestsMost is how many requests there are, dialled or open, if Config.MaxRequests is 0.
	// One takes 100 KiB or so: what is read from its target, its stream and its goroutines.
	requestsMost = 4096
)

// A bound is how much of something there may be at the same time.
type bound struct {
	most int64 // of all links
	each int64 // of one link
	all  atomic.Int64
}

// enter counts one more of a link, whose own count is own, unless there are too many.
func (b *bound) enter(l *link, own *atomic.Int64) bool {
	mine, all := own.Add(1), b.all.Add(1)
	part := l.part(b.most / 2)
	if mine <= part || mine <= b.each && all <= b.most/2+part {
		return true
	}
	b.leave(own)
	return false
}

func (b *bound) leave(own *atomic.Int64) {
	own.Add(-1)
	b.all.Add(-1)
}

// part is what of n things is the link's, whatever others have.
func (l *link) part(n int64) int64 {
	return max(1, n/max(1, l.agent.places.Load())/max(1, l.addr.links.Load()))
}

// admit counts one more request of a link, which is dialled first. The error says why not,
// by words of which servers make an HTTP status (503).
func (l *link) admit() error {
	a := l.agent
	if !a.requests.enter(l, &l.requests) {
		return l.tooMany("requests", fmt.Errorf("%w: the agent has as many requests open as it may, %d in all (its --max-requests), "+
			"and takes more when some have ended", syscall.EMFILE, a.requests.most))
	}
	if !a.dials.enter(l, &l.dialing) {
		a.requests.leave(&l.requests)
		return l.tooMany("dials", fmt.Errorf("%w: the agent has as many dials under way as it may, %d of one connection and %d in all, "+
			"and takes more when some have ended: are there targets that do not answer?", syscall.EMFILE, a.dials.each, a.dials.most))
	}
	return nil
}

func (l *link) leaveDials() { l.agent.dials.leave(&l.dialing) }

func (l *link) leaveRequests() { l.agent.requests.leave(&l.requests) }

// floodMost is how much of what fails, or makes no sense, a link may bring in a second.
const floodMost = 1000

// nuisance notes a dial that failed, or a packet that made no sense.
func (l *link) nuisance() { l.failing.Add(1) }

// floods reports whether a link has brought too much of that in this second. No dial has a
// stream made for it then: they would be as many as there may be before long, and HTTP/2 keeps
// for each what was sent and is not read yet.
func (l *link) floods() bool { return l.failing.Load() > floodMost }

// tooMany counts a dial that was turned away. The log has a line for all of a second.
func (l *link) tooMany(what string, err error) error {
	l.agent.metrics.turnedAway(what)
	l.agent.refused()
	l.turned.Add(1)
	return err
}

// noteRefused begins another second: it logs that dials were turned away in the one that has
// ended, if any were.
func (l *link) noteRefused() {
	l.failing.Store(0)
	if n := l.turned.Swap(0); n > 0 {
		l.agent.cfg.Log.Warn("dials are refused: there are too many at once", zap.String("address", l.addr.text), zap.String("server_id", l.server),
			zap.Int64("refused", n), zap.Int64("dialing", l.dialing.Load()), zap.Int64("requests", l.requests.Load()))
	}
}
