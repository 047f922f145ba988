package pktgen

import "sync/atomic"

// A Watch tells what comes to each port while a run lasts, to somebody who
// changes the switch meanwhile. Times are those of the time stamp counter
// ([millrace/dataplane/sys.TSC]). The generator writes, once a turn that found
// frames; anybody reads.
type Watch struct{ ports []watchPort }

type watchPort struct {
	frames, first, last atomic.Uint64
	sentFirst, sentLast atomic.Uint64
	_                   [64]byte // the next port's lines are its own
}

// NewWatch returns a watch over n ports, for Config.Watch.
func NewWatch(n int) *Watch { return &Watch{make([]watchPort, n)} }

// Arm makes the next frame that comes to a port its first. It is for ports that
// nothing comes to now.
func (w *Watch) Arm(port int) { w.ports[port].first.Store(0) }

// Frames is how many frames have come to a port. Fast counts those of others
// too, such as what a switch floods.
func (w *Watch) Frames(port int) uint64 { return w.ports[port].frames.Load() }

// Came is when the first frame since Arm, and the last frame, were found at a
// port: never before they were there. It is 0 for none.
func (w *Watch) Came(port int) (first, last uint64) {
	p := &w.ports[port]
	return p.first.Load(), p.last.Load()
}

// Sent is when the first frame that came to a port since Arm, and the last, were
// made. Only Verify knows.
func (w *Watch) Sent(port int) (first, last uint64) {
	p := &w.ports[port]
	return p.sentFirst.Load(), p.sentLast.Load()
}

// see takes note of n frames at port that are there at now; first and last are
// the times at which they were made.
func (w *Watch) see(port, n int, now, first, last uint64) {
	p := &w.ports[port]
	p.sentLast.Store(last)
	p.last.Store(now)
	if p.first.Load() == 0 {
		p.sentFirst.Store(first)
		p.first.Store(now)
	}
	p.frames.Store(p.frames.Load() + uint64(n))
}
