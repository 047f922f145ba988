package vhost

import (
	"sync/atomic"

	"millrace/dataplane/packet"
)

// An RxQueue is what the peer sends by one queue pair. One worker calls its
// methods, all but WakeFD between a turn's begin and end; without a ring it
// receives nothing.
type RxQueue struct {
	ring atomic.Pointer[ring] // written by the session, and by Break
	cur  *ring                // the worker's: the ring of the last Rx
}

// Rx fills b, which is empty, with what the driver has sent. What b borrows is
// there until Release.
func (q *RxQueue) Rx(b *packet.Batch) {
	r := q.ring.Load()
	q.cur = r
	if r == nil {
		return
	}
	if err := r.dev.Dequeue(b); err != nil {
		r.fail(err)
	}
}

// Release gives the driver its buffers of the last Rx back. The ring may have
// been taken away in between: the driver still gets them, so that it is not
// asked for them twice.
func (q *RxQueue) Release() {
	if r := q.cur; r != nil {
		r.dev.Complete()
	}
}

// Signal tells the driver that buffers came back, if it wants to know.
func (q *RxQueue) Signal() {
	if r := q.cur; r != nil && r.dev.ShouldSignal() {
		r.signal()
	}
}

// Arm asks the driver to kick for the next frame, and reports whether there is
// one already.
func (q *RxQueue) Arm() bool {
	r := q.ring.Load()
	return r != nil && r.dev.Arm()
}

// Disarm asks the driver not to kick.
func (q *RxQueue) Disarm() {
	if r := q.ring.Load(); r != nil {
		r.dev.Disarm()
	}
}

// WakeFD is the descriptor that becomes readable when the driver kicks, -1 when
// there is no ring, -2 when the driver does not kick. It changes only before a
// Quiesce.
func (q *RxQueue) WakeFD() int {
	if r := q.ring.Load(); r != nil {
		return r.plan.kick
	}
	return wakeNone
}
