package dataplane

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"millrace/dataplane/fdb"
	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/dataplane/sys"
	"millrace/flowtable"
	"millrace/flowtable/flowcache"
)

// A worker polls its receive queues and carries what they have to completion.
//
// Everything in it belongs to its goroutine, but for inbox, wake and doing:
// control changes a worker by having it run a function between two turns.
type worker struct {
	id, cpu int
	mode    PollMode

	rx    []*rxQueue
	live  []*rxQueue    // those of rx that have a peer
	ports []*workerPort // by port number; nil where there is none here
	order []*workerPort // those that there are, by number
	batch *packet.Batch
	all   *identity
	fl    flight

	engine *engine
	flow   flow
	fdbs   []*workerBridge // by number; nil where there is none here
	desk                   // of the batch in hand

	signals []*workerPort // to be signalled at the end of the turn
	decided decisions
	sweep   uint32 // the decision that was last looked over
	tunnelDesk
	pairs   pairs
	wanted  [toldMax]told
	meters  localMeters
	back    readmission
	replier replier
	trace   *tracer // nil: it is a worker that runs
	fair    fairness
	mark    uint64 // when the last batch of the turn ended, or the turn began
	now     uint32 // seconds, for ageing; coarse
	clock   clock
	idle    bool // there has been no traffic for long
	stats   WorkerStats
	quit    bool

	poller  *sys.Poller
	stale   bool // poller does not know what live has now
	asleep  atomic.Bool
	wake    sys.FD
	thread  int // its kernel thread; set before started is told
	inbox   atomic.Pointer[request]
	doing   sync.Mutex // held by the one that waits for inbox
	stopped chan struct{}

	cuts   [packet.SlotsMax]packet.Ref // a port's list in the making; see cut
	merger packet.Merger
}

// An rxQueue is one receive queue of a port, as its worker sees it.
type rxQueue struct {
	q      RxQueue
	number uint32 // of port
	port   *workerPort
	fd     int    // WakeFD as the poller knows it
	signal bool   // Release was called in this turn
	debt   uint64 // ticks that the slow path has spent on it; see fairness
	since  uint64 // when it was last charged
	index  int    // of the port's receive queues
	meter  queueMeter
}

// A workerBridge is a bridge as one worker has it. The table is shared by all
// workers.
type workerBridge struct {
	number uint32
	table  *fdb.Table
	mine   *fdb.Worker
}

// A desk is what a worker needs for the batch in hand: keys, results, and where
// programs are.
type desk struct {
	keys    parse.NarrowKeys
	wide    parse.Wide
	found   [packet.BatchMax]uint32 // results by frame
	narrow  [packet.BatchMax]flowcache.NarrowKey
	oneWide [packet.BatchMax]flowtable.Key
	some    [packet.BatchMax]uint32 // results of a part of the frames
	at      [packet.BatchMax]uint8  // which

	key    [patchMax + 2]flowtable.Key  // in the slow path, by patch ports passed
	clean  flowtable.Key                // the one that is walked with
	ops    [patchMax + 2][]flowtable.Op // of programs that the cache does not have
	saves  [patchMax + 2][]saved        // of programs that are under way
	guards []flowtable.Guard
	wants  []uint32

	runs       uint64                            // programs carried out
	firstRun   uint64                            // the last before the frame in hand
	passed     int                               // patch ports that the frame in hand has passed
	learned    int                               // addresses learned from the batch in hand
	ahead      [flowtable.AheadMax]flowtable.Key // that will be walked with
	unasked    uint64                            // frames that will be walked, of which nothing was asked for ahead yet
	retraces   bool                              // frames of the batch in hand that have missed are to be retraced
	retraced   uint64                            // frames that were looked ahead for, to be retraced
	numbers    [packet.BatchMax]uint8            // under which they were expected
	retracings uint64                            // walks that were retraces
	kept       bool                              // a frame of the batch in hand has left a program
	sighted    [8]uint64                         // a bit, by its hash, of each key that has missed in the batch in hand
	spent      uint64                            // ticks in the slow path
	slowEnd    uint64                            // when it was last left, or entered if the next frame goes there too
	slowTo     int                               // frame behind the last that went there
	missed     int                               // walks that were made there, or frames that were let in late
	visited    int                               // rules that matched there
}

// A request is a function for the worker to run.
type request struct {
	fn   func()
	done chan struct{}
}

// newWorker makes one of n workers.
func newWorker(id, cpu int, mode PollMode, e *engine, n int) (*worker, error) {
	wake, err := sys.NewEvent()
	if err != nil {
		return nil, err
	}
	w := &worker{id: id, cpu: cpu, mode: mode, wake: wake, stale: true, stopped: make(chan struct{}), batch: packet.NewBatch(), all: newIdentity(), engine: e}
	if w.flow, err = e.newFlow(flowtable.SideTables{Lookup: w.lookupFDB, Learn: w.learnFDB, Reply: w.crossReply}, n); err != nil {
		_ = wake.Close()
		return nil, err
	}
	for i := range w.saves {
		w.saves[i] = make([]saved, 0, 8)
	}
	w.stats.CPU = cpu
	w.clock.epoch = e.epoch
	w.slowTo = -1
	return w, nil
}

// close gives back what the worker has of the engine and the kernel. Its
// goroutine has ended.
func (w *worker) close() error {
	w.letGo()
	return errors.Join(w.flow.close(w.engine), w.wake.Close())
}

// letGo lets go of programs, so that they tell what they have counted when their
// entries go.
func (w *worker) letGo() {
	w.endDecisions()
	for _, p := range w.order {
		w.undirect(p)
		w.forgetOuter(p)
	}
}

// run is the worker's goroutine. It reports on started whether it could begin.
func (w *worker) run(started chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	defer close(w.stopped)
	if err := sys.Pin(w.cpu); err != nil {
		started <- fmt.Errorf("start worker %d: %w", w.id, err)
		return
	}
	debug.SetPanicOnFault(true)
	w.thread = sys.Thread()
	w.now = w.clock.start()
	started <- nil
	for !w.quit {
		w.turns()
	}
	if w.poller != nil {
		_ = w.poller.Close()
	}
}

// turns runs until the worker is told to quit, or a guest takes away memory
// that is in use: survive then puts the account right, and turns is called
// again.
func (w *worker) turns() {
	defer w.survive()
	w.resume()
	for !w.quit {
		w.turn()
	}
}

// resume ends what a fault has interrupted: the batch in hand, and the turn's
// signals, which peers may sleep for.
func (w *worker) resume() {
	if w.fl.busy {
		w.carry()
	}
	w.signal()
}

// turn polls every queue once.
func (w *worker) turn() {
	if r := w.inbox.Load(); r != nil {
		w.serve(r)
	}
	w.flow.walker.Quiet()
	w.flow.ct.worker.Quiet()
	carried := w.pollAll()
	if w.flow.ct.released {
		carried = w.readmit() || carried
	}
	if carried {
		w.signal()
		w.flow.ct.untold = true
	}
	if w.stats.Turns%upkeepTurns == 0 {
		w.sweepDecisions()
		w.flow.cache.Upkeep(uint16(w.now), upkeep)
		if w.flow.cache.Asks() {
			w.flow.supplier.ask()
		}
		w.flow.ct.upkeep(w.flow.cache, w.clock.last, w.now, w.idle && w.mode == PollAdaptive)
		w.countLost()
	}
	w.idle = w.clock.tick(w, carried)
	if w.idle && w.mode == PollAdaptive && !w.quit && w.flow.ct.isDone() {
		w.sleep()
	}
}

// upkeep is how many entries of each of its tables the cache looks over every
// upkeepTurns turns.
const (
	upkeep      = 32
	upkeepTurns = 16
)

// poll carries one batch of q through, of up to limit frames, and returns how many
// there were.
func (w *worker) poll(q *rxQueue, limit int) int {
	b := w.batch
	b.Reset()
	b.Limit = limit
	q.q.Rx(b)
	n := b.N + b.NEarly
	if n == 0 {
		return 0
	}
	w.stats.Batches++
	w.stats.Frames += uint64(b.N)
	w.begin(q)
	p := q.port
	p.rxFrames += uint64(b.N)
	p.rxBytes += b.Bytes
	if b.NEarly != 0 {
		w.countEarly(p)
	}
	frames := uint64(b.N)
	if p.ingress != nil {
		w.police(p)
	}
	w.classify(p)
	w.carry()
	q.measure(w, frames)
	if w.missed != 0 {
		if w.flow.ct.released {
			w.back.by = q
		}
		w.charge(q)
	}
	return n
}

// measure notes what a batch of n frames has cost: the time since the one before.
func (q *rxQueue) measure(w *worker, n uint64) {
	t := sys.TSC()
	q.meter.ticks += t - w.mark
	q.meter.frames += n
	w.mark = t
}

// refresh takes note of which queues have a peer, and how it wakes them.
func (w *worker) refresh() {
	w.live = w.live[:0]
	for _, q := range w.rx {
		w.enliven(q)
	}
	w.noteLive()
}

// enliven puts q among the live queues if it has a peer.
func (w *worker) enliven(q *rxQueue) {
	if q.fd = q.q.WakeFD(); q.fd != wakeNone {
		w.live = append(w.live, q)
	}
}

// noteLive takes note of what is in live now.
func (w *worker) noteLive() {
	w.stale = true
	w.stats.Queues = len(w.live)
}

// signal wakes peers that want to know what this turn brought.
func (w *worker) signal() {
	for _, q := range w.live {
		if q.signal {
			q.signal = false
			q.q.Signal()
		}
	}
	for _, p := range w.signals {
		p.signal = false
		p.tx.Signal()
	}
	w.signals = w.signals[:0]
}

// do has the worker run fn between two turns and waits for it. After stop it
// runs fn itself.
func (w *worker) do(fn func()) {
	w.doing.Lock()
	defer w.doing.Unlock()
	r := &request{fn, make(chan struct{})}
	w.inbox.Store(r)
	if w.asleep.Load() {
		_ = sys.Signal(w.wake)
	}
	select {
	case <-r.done:
	case <-w.stopped:
		if w.inbox.CompareAndSwap(r, nil) {
			fn()
		}
	}
}

// serve runs what do has left.
func (w *worker) serve(r *request) {
	r.fn()
	w.inbox.Store(nil)
	close(r.done)
}

// stop ends the goroutine, and gives back what it had.
func (w *worker) stop() error {
	w.do(func() { w.quit = true })
	<-w.stopped
	return w.close()
}

// clock measures turns.
type clock struct {
	last, idleSince, nextSecond uint64
	perSecond                   uint64
	spin                        spin
	epoch                       time.Time // second 0
	recent                      recentGaps
}

// start begins to measure, and returns the seconds since the epoch.
func (c *clock) start() uint32 {
	c.perSecond = uint64(sys.TSCHz())
	c.spin = newSpin()
	c.last = sys.TSC()
	c.idleSince = c.last
	return c.second(c.last)
}

// tick ends a turn: it accounts for its time and reports whether there has been
// no traffic for long.
func (c *clock) tick(w *worker, carried bool) bool {
	t := sys.TSC()
	d := t - c.last
	c.last = t
	s := &w.stats
	s.Turns++
	if t >= c.nextSecond {
		w.now = c.second(t)
	}
	if d > GapBase {
		s.gap(d)
		c.recent.note(w.now, d)
	}
	if carried {
		s.Busy += d
		c.idleSince = t
		return false
	}
	s.Idle += d
	return t-c.idleSince > c.spin.now
}

// ticks is a duration in ticks.
func (c *clock) ticks(d time.Duration) uint64 { return uint64(d.Seconds() * sys.TSCHz()) }

// second returns the seconds since the epoch, and when to ask again.
func (c *clock) second(t uint64) uint32 {
	c.nextSecond = t + c.perSecond
	return uint32(time.Since(c.epoch) / time.Second)
}

// recentGaps are the longest gaps of the last 60 seconds, by second.
type recentGaps [60]struct {
	second uint32
	most   uint64
}

// note counts a gap of d ticks in a second.
func (r *recentGaps) note(second uint32, d uint64) {
	g := &r[second%60]
	if g.second != second {
		g.second, g.most = second, 0
	}
	g.most = max(g.most, d)
}

// max is the longest gap of the 60 seconds up to now.
func (r *recentGaps) max(now uint32) uint64 {
	var most uint64
	for _, g := range r {
		if now-g.second < 60 {
			most = max(most, g.most)
		}
	}
	return most
}

// gap counts a turn of d ticks. Turns of up to GapBase are not counted one by
// one: bucket 0 is what is left of all turns.
func (s *WorkerStats) gap(d uint64) {
	s.GapMax = max(s.GapMax, d)
	i := 1
	for d > GapBase<<i && i < GapBuckets-1 {
		i++
	}
	s.Gaps[i]++
}
