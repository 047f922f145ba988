package dataplane

import (
	"encoding/binary"

	"millrace/dataplane/conntrack"
	"millrace/dataplane/packet"
	"millrace/flowtable"
)

// Fragments that come before the first one of their datagram wait, copied, in the memory of
// the table of connections. When the first one has come, they come in once more by the
// port by which they came, one behind the other. Their account begins then: while
// they wait, the port has not received them. Those that wait in vain are received and
// dropped at once.

// dropFragment is the reason of a walk that has met a fragment which must wait.
const dropFragment = ownDrop | uint32(packet.ReasonCTFragment)

// holding is what a connector knows of fragments that wait.
type holding struct {
	waits    bool // the frame that is walked does: in waitZone, as waitFor
	released bool // the worker can readmit some
	waitZone uint16
	waitFor  conntrack.Packet
	frame    []byte // copied together
}

// hold has a frame wait if that is all that a walk has come to. It reports false if
// the frame is to be dropped: there is no room, or it has been sent somewhere.
func (w *worker) hold(t *transit, comp *flowtable.Composed, n uint32) bool {
	if comp.Drop != dropFragment {
		return false
	}
	for i := range comp.Ops {
		if comp.Ops[i].Code != flowtable.OpCT {
			return false
		}
	}
	if isSuper(w.batch.Needs(t.slot), 0) {
		return false // what waits cannot ask for anything
	}
	if !w.finishSum(t.slot, t.in) || !w.copyWhole(t) {
		t.why = packet.ReasonRxFault
		return false
	}
	c, meta := w.flow.ct, uint64(t.in.number)
	switch c.worker.Hold(c.waitZone, &c.waitFor, c.frame, meta, c.now) {
	case conntrack.Known: // another worker has just seen the first
		if !c.worker.Ready(c.frame, meta) {
			return false
		}
		c.released = true
	case conntrack.Refused:
		return false
	}
	w.stats.Frames--
	t.in.rxFrames--
	t.in.rxBytes -= uint64(n)
	return true
}

// copyWhole copies a frame that is to wait to one piece of memory. It reports false if the
// payload was taken away.
func (w *worker) copyWhole(t *transit) (ok bool) {
	defer w.caught(&ok)
	c := w.flow.ct
	c.frame = w.appendOrigin(w.batch.AppendTo(c.frame[:0], t.slot), t)
	return true
}

// originLen is what is kept behind a frame that waits: by what tunnel it came, in words.
const originLen = 8 * 5

// appendOrigin appends by what tunnel a frame came.
func (w *worker) appendOrigin(b []byte, t *transit) []byte {
	b = binary.LittleEndian.AppendUint64(b, t.tun)
	for _, v := range w.pairs.words(t.came) {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// cutOrigin takes off what appendOrigin has appended, and notes it in t.
func (w *worker) cutOrigin(b []byte, t *transit) []byte {
	frame, rest := b[:len(b)-originLen], b[len(b)-originLen:]
	t.tun = binary.LittleEndian.Uint64(rest)
	var words [4]uint64
	for i := range words {
		words[i] = binary.LittleEndian.Uint64(rest[8+8*i:])
	}
	if words != [4]uint64{} {
		t.came = w.pairs.number(endPairOf(&words))
	}
	return frame
}

// A readmission is a batch of frames that have waited.
type readmission struct {
	queue  rxQueue
	by     *rxQueue // by which first fragments came; it owes what readmission costs
	memory []byte   // made once it is needed
	ports  [packet.BatchMax]*workerPort
	came   [packet.BatchMax]transit // by what tunnels
}

// readmitMax is how many bytes of frames are readmitted in one turn.
const readmitMax = 8 * (packet.FrameMax + originLen)

// readmit takes up to a batch of frames in that have waited for their first fragment,
// and reports whether there were any. They are carried before anything else comes in, but
// behind what came in with the first fragment.
func (w *worker) readmit() bool {
	r, b := &w.back, w.batch
	if r.memory == nil {
		r.memory = make([]byte, 0, readmitMax)
		r.queue.q = noQueue{}
	}
	b.Reset()
	b.Last()
	b.Limit = packet.BatchMax
	w.begin(&r.queue)
	for memory := r.memory; b.N < packet.BatchMax && cap(memory)-len(memory) >= packet.FrameMax+originLen; {
		all, meta, ok := w.flow.ct.worker.Release(memory)
		if !ok {
			w.flow.ct.released = false
			break
		}
		t := transit{fdbSlot: -1}
		frame := w.cutOrigin(all[len(memory):], &t)
		if p := w.port(uint32(meta)); p != nil && w.addWhole(frame) {
			t.slot, t.rx = b.N-1, b.N-1
			r.ports[b.N-1], r.came[b.N-1] = p, t
			memory = all
		}
	}
	for i := range b.N {
		w.received(r.ports[i], uint64(b.Frames[i].Len))
		w.firstRun, w.passed = w.runs, 0
		w.again(r.ports[i], r.came[i])
	}
	w.carry()
	if w.missed = b.N; w.missed != 0 {
		w.charge(r.by)
	}
	return b.N > 0
}

// addWhole adds a frame to the batch, which lies in one piece of memory.
func (w *worker) addWhole(frame []byte) bool {
	if len(frame) <= packet.HeadMax {
		return w.batch.Add(frame)
	}
	tail := frame[packet.HeadMax:]
	return w.batch.Add(frame[:packet.HeadMax], packet.Seg{Addr: packet.Addr(tail), Len: uintptr(len(tail))})
}

// received counts a frame that p has received late.
func (w *worker) received(p *workerPort, n uint64) {
	w.stats.Frames++
	p.rxFrames++
	p.rxBytes += n
}

// countLost counts frames that have waited in vain, of any worker.
func (w *worker) countLost() {
	for {
		n, meta, ok := w.flow.ct.worker.Lost()
		if !ok {
			return
		}
		if p := w.port(uint32(meta)); p != nil {
			w.received(p, uint64(n-originLen))
			p.rxDrops[packet.ReasonCTFragment]++
		}
	}
}

// noQueue is the receive queue of frames that come from nowhere.
type noQueue struct{}

func (noQueue) Rx(*packet.Batch) {}
func (noQueue) Release()         {}
func (noQueue) Arm() bool        { return true }
func (noQueue) Disarm()          {}
func (noQueue) WakeFD() int      { return wakeNone }
func (noQueue) Signal()          {}
