package dataplane

import (
	"millrace/dataplane/sys"
)

// sleep waits until a peer kicks, or control has something. It asks every queue
// to signal first, and looks once more: what came before the asking is seen,
// what comes after it signals.
func (w *worker) sleep() {
	since := w.clock.idleSince
	w.clock.idleSince = w.clock.last // if there is no sleep, spin again as long
	if !w.refreshPoller() {
		return
	}
	w.flow.walker.Offline()
	w.flow.ct.worker.Offline()
	w.asleep.Store(true)
	slept := false
	if w.inbox.Load() == nil && !w.arm() {
		w.stats.Sleeps++
		w.poller.Wait(-1)
		slept = true
		sys.Drain(w.wake)
	}
	w.asleep.Store(false)
	w.flow.walker.Quiet()
	w.flow.ct.worker.Quiet()
	for _, q := range w.live {
		q.q.Disarm()
	}
	t := sys.TSC()
	w.stats.Asleep += t - w.clock.last
	w.clock.last = t
	w.clock.idleSince = t
	if slept {
		w.clock.spin.slept(t - since)
	}
	w.now = w.clock.second(t)
}

// arm asks all queues to signal, and reports whether one has frames already.
func (w *worker) arm() bool {
	waiting := false
	for _, q := range w.live {
		if q.q.Arm() {
			waiting = true
		}
	}
	return waiting
}

// Special values of RxQueue.WakeFD.
const (
	wakeNone = -1 // nothing will come
	wakePoll = -2 // the peer does not signal
)

// refreshPoller makes the poller wait for what the queues have now. It reports
// false if a queue cannot wake the worker: the worker must not sleep then.
//
// A new epoll instance is made each time, for an old one would go on watching
// descriptors that a guest holds open after we have closed ours.
func (w *worker) refreshPoller() bool {
	if !w.stale {
		return true
	}
	p, err := sys.NewPoller()
	if err != nil {
		return false
	}
	ok := p.Add(w.wake.Int()) == nil
	for _, q := range w.live {
		ok = ok && q.fd != wakePoll && p.Add(q.fd) == nil
	}
	if !ok {
		_ = p.Close()
		return false
	}
	if w.poller != nil {
		_ = w.poller.Close()
	}
	w.poller, w.stale = p, false
	return true
}
