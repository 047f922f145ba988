package pktgen

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"millrace/dataplane/sys"
	"millrace/vhost/virtq"
)

// An engine runs phases: all lanes send for some time, all sinks receive until
// nothing comes any more.
type engine struct {
	streams []*stream
	sinks   []*sink
	ends    []*courier // of ports in the kernel; there is one worker then
	cpus    []int      // one: one goroutine does all; two: sending and receiving
	yield   bool       // to all other threads
	hz      float64

	stop  atomic.Bool   // ends sending early
	stage atomic.Int32  // of the phase: sending, draining, drained
	sent  atomic.Uint64 // frames, each as often as it has destinations; now and then
	came  atomic.Uint64 // frames; now and then
}

// A phase is one span of sending and what was seen at its end.
type phase struct {
	limit  uint64        // frames of each stream
	time   time.Duration // of sending
	settle time.Duration

	ticks  uint64 // that sending took
	during uint64 // frames that came while it lasted
	bytes  uint64 // of those
}

// The stages of a phase. The worker that sends moves on.
const (
	sending  = iota
	draining // all is sent, and some of it still in the rings
	drained  // the switch has taken everything, or does not
)

// notEnding is a limit that is not reached.
const notEnding = 1 << 62

// run runs a phase and returns when all is quiet.
func (e *engine) run(p *phase) error {
	for _, s := range e.streams {
		n := uint64(len(s.lanes))
		for i, l := range s.lanes {
			l.begin((p.limit + n - 1 - uint64(i)) / n)
		}
	}
	lanes := e.lanes()
	for _, s := range e.sinks {
		s.begin(e.streams)
	}
	e.sent.Store(0)
	e.came.Store(0)
	e.stage.Store(sending)
	workers := []*worker{{e: e, p: p, lanes: lanes, sinks: e.sinks, cpu: e.cpu(0)}}
	if len(e.cpus) == 2 {
		workers[0].sinks = nil
		workers = append(workers, &worker{e: e, p: p, sinks: e.sinks, cpu: e.cpu(1)})
	}
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Go(w.run)
	}
	wg.Wait()
	var errs []error
	for _, w := range workers {
		errs = append(errs, w.err)
	}
	return errors.Join(append(errs, e.err())...)
}

func (e *engine) cpu(i int) int {
	if i < len(e.cpus) {
		return e.cpus[i]
	}
	return -1
}

func (e *engine) lanes() []*lane {
	var ls []*lane
	for _, s := range e.streams {
		ls = append(ls, s.lanes...)
	}
	return ls
}

// err is what a switch has done to a ring.
func (e *engine) err() error {
	var errs []error
	for _, s := range e.streams {
		for i, l := range s.lanes {
			if err := l.tx.Err(); err != nil {
				errs = append(errs, fmt.Errorf("port %d, transmit queue %d: %w", s.from, i, err))
			}
		}
	}
	for _, s := range e.sinks {
		for i, q := range s.queues {
			if err := q.rx.Err(); err != nil {
				errs = append(errs, fmt.Errorf("port %d, receive queue %d: %w", s.port, i, err))
			}
		}
	}
	return errors.Join(errs...)
}

// A worker is one goroutine of a phase.
type worker struct {
	e     *engine
	p     *phase
	lanes []*lane
	sinks []*sink
	cpu   int // -1: any
	err   error
}

// reportEvery is the number of turns between two looks at the clock's hand: the
// figures for progress, and broken rings.
const reportEvery = 512

// run is this worker's part of a phase: it sends, receives, or both, until what was sent is through.
// Its error stays in w.err.
func (w *worker) run() {
	runtime.LockOSThread() // and never unlock: the thread's affinity dies with it
	if w.cpu >= 0 {
		if w.err = sys.Pin(w.cpu); w.err != nil {
			w.e.stage.Store(drained)
			return
		}
	}
	if w.e.yield {
		if w.err = yield(); w.err != nil {
			w.e.stage.Store(drained)
			return
		}
	}
	if w.lanes != nil {
		w.send()
	}
	if w.sinks != nil {
		w.settle()
		return
	}
	for end := sys.TSC() + settleMost*w.quiet(); sys.TSC() < end && w.pending(); {
	}
	w.e.stage.Store(drained)
}

// yield makes this thread one that runs only when no other wants its CPU, and
// lets go at once (sched(7), SCHED_IDLE).
func yield() error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		return fmt.Errorf("make the generator yield: %w", err)
	}
	return nil
}

// quiet is the phase's settle time in ticks.
func (w *worker) quiet() uint64 { return uint64(w.p.settle.Seconds() * w.e.hz) }

// pending reports whether the switch has yet to take frames that were sent.
func (w *worker) pending() bool {
	for _, l := range w.lanes {
		if l.tx.Room(virtq.SizeMax + 1); l.tx.Pending() > 0 && l.tx.Err() == nil {
			return true
		}
	}
	return false
}

// send sends, and receives if that is this worker's part too, until the phase's
// time or frames are over.
func (w *worker) send() {
	start := sys.TSC()
	end := start + uint64(w.p.time.Seconds()*w.e.hz)
	for _, l := range w.lanes {
		l.pace.begin(start)
	}
	now := start
	for turn := 1; now < end && !w.e.stop.Load(); turn++ {
		if w.err = turnEnds(w.e.ends); w.err != nil {
			break
		}
		for _, s := range w.sinks {
			s.turn(now)
		}
		left := uint64(0)
		for _, l := range w.lanes {
			l.turn(now)
			left |= l.limit - l.sent
		}
		if turn%reportEvery == 0 && !w.report() || left == 0 {
			break
		}
		now = sys.TSC()
	}
	w.report()
	now = sys.TSC()
	w.p.ticks = max(1, now-start)
	for _, l := range w.lanes {
		if l.sent < l.limit {
			l.pace.end(now)
		}
	}
	if w.sinks != nil {
		w.atEnd()
	}
	w.e.stage.Store(draining)
}

// report shows where we are, and reports whether it is worth to go on.
func (w *worker) report() bool {
	if w.lanes != nil {
		n := uint64(0)
		for _, l := range w.lanes {
			n += l.sent * uint64(len(l.stream.to))
		}
		w.e.sent.Store(n)
	}
	if w.sinks != nil {
		n := uint64(0)
		for _, s := range w.sinks {
			n += s.frames
		}
		w.e.came.Store(n)
	}
	for _, l := range w.lanes {
		if l.tx.Err() != nil {
			return false
		}
	}
	return true
}

// atEnd notes what came while frames were sent.
func (w *worker) atEnd() {
	w.p.during, w.p.bytes = 0, 0
	for _, s := range w.sinks {
		s.during = s.frames
		w.p.during += s.frames
		w.p.bytes += s.bytes
	}
}

// settleMost bounds the wait for quiet, in units of the phase's settle time:
// somebody else may be sending to us without end, or the switch may hang.
const settleMost = 20

// settle receives until all that was sent is taken and nothing has come for a
// while; for a tenth of that if everything has come.
func (w *worker) settle() {
	quiet := w.quiet()
	last := sys.TSC()
	ended := last
	noted := w.lanes != nil // what came while frames were sent: see send
	for turn := 1; ; turn++ {
		if w.err = errors.Join(w.err, turnEnds(w.e.ends)); w.err != nil {
			return
		}
		now := sys.TSC()
		got := 0
		for _, s := range w.sinks {
			got += s.turn(now)
		}
		stage := w.e.stage.Load()
		if stage != sending && !noted {
			noted, ended = true, now
			w.atEnd()
		}
		if stage == draining && w.lanes != nil && !w.pending() {
			w.e.stage.Store(drained)
		}
		if got > 0 || stage != drained {
			last = now
		}
		if turn%reportEvery == 0 {
			w.report()
		}
		idle := now - last
		if stage != sending && (idle > quiet || idle > quiet/10 && w.complete() || now-ended > settleMost*quiet) {
			w.report()
			return
		}
	}
}

// complete reports whether as many frames came as were sent.
func (w *worker) complete() bool {
	n := uint64(0)
	for _, s := range w.sinks {
		n += s.frames
	}
	return n == w.e.sent.Load()
}
