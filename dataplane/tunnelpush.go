package dataplane

import (
	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/flowtable/flowcache"
)

// Frames that leave by a tunnel get outer headers, and go on at once: out by the
// device's port, or in by the port by which the host would have sent them.

// An outer is what a learning bridge of the underlay does with frames of a tunnel:
// the same with all, for they differ in nothing that it looks at.
type outer struct {
	program flowcache.Handle
	moves   uint64 // of guard cells, when the program's guards were last seen to hold
}

// forgetOuter forgets what the underlay does with frames of a tunnel.
func (w *worker) forgetOuter(p *workerPort) {
	if p.outer.program != 0 {
		w.flow.cache.LetGo(p.outer.program)
	}
	p.outer = outer{}
}

// retunnel takes over what control knows of tunnels.
func (p *workerPort) retunnel(of *port) {
	p.ends, p.isTunnel, p.out = of.ends, of.tunnel != nil, nil
	if t := of.tunnel; t != nil {
		p.out, p.outs = t.out, t.named.outs
		p.named, p.namesRemote, p.namesLocal = t.config.Named(), t.config.RemoteFlow, t.config.LocalFlow
	}
	p.plain = of.dev != nil && (of.ends == nil || of.ends.arriving)
}

// retunnel runs on the worker when tunnels have changed.
func (w *worker) retunnel(s *Switch) {
	for _, p := range s.ports {
		if int(p.number) < len(w.ports) && w.ports[p.number] != nil {
			w.forgetOuter(w.ports[p.number])
			w.ports[p.number].retunnel(p)
		}
	}
	for _, o := range w.order {
		w.undirect(o)
	}
	w.endDecisions()
}

// encapsulate gives the frame outer headers and sends it on. A tunnel takes nothing that
// is not finished: a super-frame goes in segments.
func (w *worker) encapsulate(t *transit, o *workerPort) {
	o.offered++
	out := w.outletOf(t, o)
	if out == nil {
		w.refuse(t, o, packet.ReasonTunnelPath)
		return
	}
	needs := w.batch.Needs(t.slot)
	if !isSuper(needs, 0) {
		w.wrap(t, o, out)
		return
	}
	if w.batch.WireLen(t.slot) > out.header.Most(t.tun) {
		w.tooBig(t, o, out) // once, not for each segment
		w.refuse(t, o, packet.ReasonTunnelBig)
		return
	}
	first, n := w.batch.Cut(t.slot)
	if n == 0 {
		o.txDrops[packet.ReasonCopies]++
		return
	}
	o.finished.note(needs, n)
	passed, most := w.passed, w.passed
	for k := range n {
		piece := *t // if nobody else has the frame, nobody has its segments
		piece.slot, w.passed = first+k, passed
		w.wrap(&piece, o, out)
		most = max(most, w.passed)
	}
	w.passed = most
}

// refuse counts a frame that does not leave by a tunnel.
func (w *worker) refuse(t *transit, o *workerPort, why packet.Reason) {
	o.txDrops[why]++
	if w.trace != nil {
		w.trace.output(o, t.slot, why)
	}
}

// wrap is encapsulate for a frame that is no super-frame.
func (w *worker) wrap(t *transit, o *workerPort, out *outlet) {
	n := uint64(w.batch.Frames[t.slot].Len)
	slot, u, why := w.push(t, o, out)
	if why != packet.ReasonNone {
		w.refuse(t, o, why)
		return
	}
	o.txFrames++
	o.txBytes += n
	w.runs++
	next := transit{slot: slot, rx: -int(w.runs), hops: t.hops + 1, pushed: true, fdbSlot: -1} // a frame of its own: others of the same received one are no loop
	if !out.direct {
		w.enter(o, u, next)
		return
	}
	if !w.put(u, slot, next.rx, w.runs) {
		u.offered++
		u.txDrops[packet.ReasonCopies]++
	}
}

// push gives the frame outer headers, in its slot if that is not needed any more.
// It returns where the frame is and the port of the underlay.
func (w *worker) push(t *transit, o *workerPort, out *outlet) (slot int, u *workerPort, why packet.Reason) {
	b := w.batch
	h := out.header
	if u = w.target(out.via); u == nil || out.direct && u.tx == nil {
		return 0, nil, packet.ReasonTunnelPath
	}
	if t.pushed || t.hops == patchMax {
		return 0, nil, packet.ReasonTunnelLoop
	}
	if !h.Fits(b, t.slot, t.tun) {
		w.tooBig(t, o, out)
		return 0, nil, packet.ReasonTunnelBig
	}
	if slot, why = w.mine(t); why != packet.ReasonNone {
		return 0, nil, why
	}
	if !w.finishSum(slot, o) {
		return 0, nil, packet.ReasonRxFault
	}
	if !h.Room(b, slot) && !w.pull(slot) || !h.Room(b, slot) {
		return 0, nil, packet.ReasonCopies
	}
	h.Push(b, slot, t.tun)
	if h.Checksum() && !w.sumOuter(out, slot) {
		return 0, nil, packet.ReasonRxFault
	}
	return slot, u, packet.ReasonNone
}

// mine returns a slot with the frame that nobody else counts on.
func (w *worker) mine(t *transit) (slot int, why packet.Reason) {
	if t.last && !t.shared {
		return t.slot, packet.ReasonNone
	}
	slot, ok := w.batch.Copy(t.slot)
	if !ok {
		return 0, packet.ReasonCopies
	}
	return slot, packet.ReasonNone
}

// finishSum finishes the checksum of a frame, if it is not, for port o. It reports false if
// the payload was taken away.
func (w *worker) finishSum(slot int, o *workerPort) (ok bool) {
	if w.batch.Needs(slot) == 0 {
		return true
	}
	defer w.caught(&ok)
	if w.batch.Settle(slot, 0) {
		o.finished.Sums++
	}
	return true
}

// sumOuter writes the UDP checksum of a frame. It reports false if the payload was
// taken away.
func (w *worker) sumOuter(out *outlet, slot int) (ok bool) {
	defer w.caught(&ok)
	out.header.PutChecksum(w.batch, slot)
	return true
}

// caught ends a panic by a memory fault of who reads payload outside of a transmit
// queue, and notes it in ok. It is deferred.
func (w *worker) caught(ok *bool) {
	if r := recover(); r != nil {
		w.broken(r)
		*ok = false
	}
}

// enter has a frame with outer headers come in by port u of the underlay.
func (w *worker) enter(o, u *workerPort, t transit) {
	n := w.batch.Frames[t.slot].Len
	if u.level != parse.L2 || len(u.steps) > 0 || w.trace != nil || o.named {
		u.rxFrames++
		u.rxBytes += uint64(n)
		w.again(u, t)
		return
	}
	if w.passed == 0 && w.enterQuick(u, t.slot) {
		return
	}
	u.rxFrames++
	u.rxBytes += uint64(n)
	t.in = u
	if m := &o.outer; m.program != 0 {
		if moves := w.engine.cells.Changes(); m.moves == moves || w.flow.cache.Holds(m.program) {
			m.moves = moves
			w.count(uint32(m.program), n)
			w.performCached(&t, uint32(m.program))
			w.decideOuter(u, &t, m.program)
			return
		}
		w.forgetOuter(o)
	}
	moves := w.engine.cells.Changes()
	key, _, _ := parse.InspectAt(u.level, w.batch.Head(t.slot), n, u.number)
	if found := w.lookupOne(u, &key, false); found-1 < flowcache.Stale-1 {
		o.outer = outer{w.flow.cache.Retain(found), moves}
	}
	w.again(u, t)
}
