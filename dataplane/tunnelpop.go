package dataplane

import (
	"math/bits"

	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/dataplane/tunnel"
	"millrace/flowtable"
)

// Frames for the end of a tunnel lose their outer headers, and come in by the
// tunnel's port. Those of one port are collected while the batch that they came in is
// carried out, and decided about together afterwards.

// Bounds of tunnels.
const (
	popsMax = 4 // tunnels that a frame may come out of in one batch
	fewPops = 8 // so many frames of one port are decided about one by one
)

// A tunnelDesk is what a worker needs for tunnels in the batch in hand.
type tunnelDesk struct {
	popped []popped
	pops   int                     // tunnels that the frames in hand have come out of
	tuns   [packet.BatchMax]uint64 // tunnel words of received frames
	cames  [packet.BatchMax]uint16 // numbers of the pairs by which they came, at named ports
	told   tooBigs
	alike  likenesses // of frames that have come out of tunnels
	short  uint64     // frames in popped whose private head may be short, and not where a received one's is
}

// popped are received frames that have come out of one tunnel and are not
// decided about yet.
type popped struct {
	port *workerPort
	set  uint64
	pops int
}

// markTunnel puts into the keys of frames what is known of their tunnel.
func (w *worker) markTunnel(p *workerPort, set uint64) {
	for ; set != 0; set &= set - 1 {
		i := bits.TrailingZeros64(set)
		came := uint64(w.cameBy(p, i)) << pairShift
		w.keys[i][flowtable.WordTunnel] = w.tuns[i]
		w.keys[i][flowtable.WordL4] |= came
		if w.wide.Frames>>i&1 != 0 {
			w.wide.Keys[i][flowtable.WordTunnel] = w.tuns[i]
			w.wide.Keys[i][flowtable.WordL4] |= came
		}
	}
}

// tunnelWord is what is known of the tunnel of a received frame.
func (w *worker) tunnelWord(p *workerPort, i int) uint64 {
	if p.isTunnel {
		return w.tuns[i&(packet.BatchMax-1)]
	}
	return 0
}

// depart takes a frame on its way to the host by port o, if it is for the end of a
// tunnel, and reports whether it is.
func (w *worker) depart(t *transit, o *workerPort) bool {
	var out tunnel.Outer
	kind, fragment, ok := o.ends.takes(&out, w.batch.Head(t.slot))
	if !ok {
		return false
	}
	o.offered++
	n := uint64(w.batch.Frames[t.slot].Len)
	if q, slot, why := w.pop(t, o.ends, &out, kind, fragment); why != packet.ReasonNone {
		o.txDrops[why]++
		if w.trace != nil {
			w.trace.output(o, t.slot, why)
		}
	} else {
		o.txFrames++
		o.txBytes += n
		w.emerge(t, q, slot, &out)
	}
	return true
}

// arrive decides about frames that come in by the port of a device whose address is
// the host's: those for the ends of tunnels, then the others.
func (w *worker) arrive(p *workerPort) {
	b := w.batch
	all := ^uint64(0) >> (packet.BatchMax - b.N)
	if b.N == 0 {
		return
	}
	w.learned = 0
	for i := range b.N {
		if w.popQuick(p.ends, i) {
			all &^= 1 << i
			p.outputs++
			continue
		}
		if w.arrived(p, i) {
			all &^= 1 << i
		}
	}
	switch {
	case all == ^uint64(0)>>(packet.BatchMax-b.N):
		w.forward(p)
	case all != 0:
		w.decideSome(p, all)
	}
}

// arrived takes frame i that has come in by such a port, if it is for the end of a tunnel, and
// reports whether it is.
func (w *worker) arrived(p *workerPort, i int) bool {
	var out tunnel.Outer
	kind, fragment, ok := p.ends.takes(&out, w.batch.Head(i))
	if !ok {
		return false
	}
	t := transit{in: p, slot: i, rx: i, last: true, fdbSlot: -1}
	q, slot, why := w.pop(&t, p.ends, &out, kind, fragment)
	if why == packet.ReasonNone {
		p.outputs++
		w.emerge(&t, q, slot, &out)
		return true
	}
	p.rxDrops[why]++
	if t.why = why; w.trace != nil {
		w.trace.drop(&t)
	}
	return true
}

// pop takes the outer headers off a frame. It returns the tunnel's port, and
// where the frame is now.
func (w *worker) pop(t *transit, e *ending, o *tunnel.Outer, kind tunnel.Kind, fragment bool) (q *workerPort, slot int, why packet.Reason) {
	b := w.batch
	if fragment {
		return nil, 0, packet.ReasonTunnelFragment
	}
	switch {
	case isSuper(b.Needs(t.slot), 0):
		return nil, 0, packet.ReasonTunnelHeader // several datagrams in one
	case !w.finishSum(t.slot, t.in):
		return nil, 0, packet.ReasonRxFault
	}
	if why = o.Read(kind, b.Head(t.slot), b.Frames[t.slot].Len); why != packet.ReasonNone {
		return nil, 0, why
	}
	if q = w.target(e.find(o)); q == nil {
		return nil, 0, packet.ReasonTunnelUnknown
	}
	if _, ok := w.numberOf(q, o); !ok {
		return nil, 0, packet.ReasonSlowPath
	}
	if t.hops == patchMax || w.pops == popsMax {
		return nil, 0, packet.ReasonTunnelLoop
	}
	if o.Sum {
		right, there := w.sumRight(o, t.slot)
		switch {
		case !there:
			return nil, 0, packet.ReasonRxFault
		case !right:
			return nil, 0, packet.ReasonTunnelSum
		}
	}
	if slot, why = w.mine(t); why != packet.ReasonNone {
		return nil, 0, why
	}
	w.remember(e, b.Head(slot), o, q)
	if !b.Trim(slot, o.End) {
		return nil, 0, packet.ReasonCopies
	}
	b.Shrink(slot, o.Len)
	if !w.pull(slot) {
		return nil, 0, packet.ReasonCopies
	}
	if !tunnel.Congest(b.Head(slot), o.TOS) {
		return nil, 0, packet.ReasonTunnelECN
	}
	return q, slot, packet.ReasonNone
}

// sumRight reports whether the UDP checksum of a frame is right, and whether its
// payload was there to be read.
func (w *worker) sumRight(o *tunnel.Outer, slot int) (right, there bool) {
	defer w.caught(&there)
	return o.SumRight(w.batch, slot), true
}

// pull makes the first bytes of a frame private again. It reports false if there was no
// room, or the payload was taken away.
func (w *worker) pull(slot int) (ok bool) {
	defer w.caught(&ok)
	return w.batch.Pull(slot)
}

// emerge has a frame come in by tunnel port q.
func (w *worker) emerge(t *transit, q *workerPort, slot int, out *tunnel.Outer) {
	came, _ := w.numberOf(q, out) // pop has found that there is one
	q.rxFrames++
	q.rxBytes += uint64(w.batch.Frames[slot].Len)
	if slot >= packet.BatchMax || w.trace != nil {
		w.again(q, transit{slot: slot, rx: t.rx, hops: t.hops + 1, tun: out.Word, came: came, fdbSlot: -1})
		return
	}
	w.await(q, slot, out.Word, came)
}

// await has a received frame wait for those that come out of tunnel port q with it.
func (w *worker) await(q *workerPort, slot int, word uint64, came uint16) {
	w.tuns[slot], w.cames[slot] = word, came
	for i := range w.popped {
		if c := &w.popped[i]; c.port == q && c.pops == w.pops+1 {
			c.set |= 1 << slot
			return
		}
	}
	w.popped = append(w.popped, popped{q, 1 << slot, w.pops + 1})
}

// forwardPopped decides about frames that have come out of tunnels, and about
// those that come out of another one then.
func (w *worker) forwardPopped() {
	for len(w.popped) > 0 {
		last := len(w.popped) - 1
		c := w.popped[last]
		w.popped = w.popped[:last]
		w.pops, w.slowTo = c.pops, -1
		p := c.port
		if o := w.outOf(p); o != nil {
			c.set = w.directPopped(p, o, c.set)
		}
		if c.set = w.complete(p, c.set); c.set == 0 {
			continue
		}
		if p.level == parse.L2 {
			if c.set = w.decidePopped(p, c.set); c.set == 0 {
				continue
			}
		}
		if p.level == parse.L2 || bits.OnesCount64(c.set) > fewPops {
			w.decideSome(p, c.set)
			continue
		}
		w.decideSingly(c.port, c.set)
	}
	w.pops = 0
}

// decideSingly is decideSome one by one, which is cheaper for a few: keys are made
// for a whole batch.
func (w *worker) decideSingly(p *workerPort, set uint64) {
	for ; set != 0; set &= set - 1 {
		i := bits.TrailingZeros64(set)
		if w.visited > visitedMax {
			p.rxDrops[packet.ReasonSlowPath]++
			continue
		}
		w.firstRun, w.passed = w.runs, 0
		w.again(p, transit{slot: i, rx: i, tun: w.tuns[i], came: w.cameBy(p, i), fdbSlot: -1})
	}
}
