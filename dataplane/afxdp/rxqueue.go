package afxdp

import (
	"sync/atomic"

	"millrace/dataplane/packet"
)

// Values of WakeFD that are no descriptor; see dataplane.RxQueue.
const wakeNone = -1

// An RxQueue is what the device receives on one of its queues. One worker calls
// its methods, all but WakeFD between a turn's begin and end; without a socket
// it receives nothing.
type RxQueue struct {
	sock atomic.Pointer[socket] // written by the port, and by socket.broke
	cur  *socket                // the worker's: the socket of the last Rx
}

// Rx fills b, which is empty, with what has come. What b borrows is there until
// Release.
func (q *RxQueue) Rx(b *packet.Batch) {
	s := q.sock.Load()
	q.cur = s
	if s == nil {
		return
	}
	if s.busyPoll && s.rx.empty() {
		wakeRx(s.fd.Int())
	}
	if err := s.rx.receive(b); err != nil {
		s.broke(err)
	}
	s.unstick()
}

// Release gives the kernel its chunks of the last Rx back.
func (q *RxQueue) Release() {
	if s := q.cur; s != nil {
		if err := s.rx.give(); err != nil {
			s.broke(err)
		}
	}
}

// Signal tells the driver of chunks in the fill ring, if it waits for them.
func (q *RxQueue) Signal() {
	if s := q.cur; s != nil && s.needWakeup && s.rx.fill.needWakeup() {
		wakeRx(s.fd.Int())
	}
}

// Arm reports whether there are frames already, or some that the device has yet
// to take. There is nothing to ask for: a socket becomes readable by itself.
func (q *RxQueue) Arm() bool {
	s := q.sock.Load()
	if s == nil {
		return false
	}
	n, err := s.rx.ring.ready(1)
	return n > 0 || err != nil || s.rx.any.Load() || s.stuck.Load()
}

// Disarm has nothing to take back.
func (q *RxQueue) Disarm() {}

// WakeFD is the socket, which becomes readable when a frame comes, or -1 when
// there is none. It changes only before a Quiesce.
func (q *RxQueue) WakeFD() int {
	if s := q.sock.Load(); s != nil {
		return s.fd.Int()
	}
	return wakeNone
}
