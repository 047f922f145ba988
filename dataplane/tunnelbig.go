package dataplane

import (
	"millrace/dataplane/packet"
	"millrace/dataplane/tunnel"
)

// tooBigsMax is how many senders are told in a second, by a worker, that a frame
// was too long for a tunnel (RFC 1812 4.3.2.8, RFC 4443 2.4).
const tooBigsMax = 100

// tooBigs counts those that were told.
type tooBigs struct {
	second uint32
	n      int
}

// take reports whether one more sender may be told in this second.
func (b *tooBigs) take(now uint32) bool {
	if b.second != now {
		*b = tooBigs{second: now}
	}
	b.n++
	return b.n <= tooBigsMax
}

// tooBig tells the sender of a frame that it does not fit into tunnel o. The message
// comes in by the tunnel, as if the frame's destination had sent it.
func (w *worker) tooBig(t *transit, o *workerPort, out *outlet) {
	b := w.batch
	if w.trace != nil || t.hops == patchMax || !w.told.take(w.now) {
		return
	}
	slot, ok := b.Copy(t.slot)
	if !ok {
		return
	}
	n := tunnel.TooBig(b.Slot(slot)[packet.HeadRoom:], b.Head(t.slot), b.Frames[t.slot].Len, out.header.Most(t.tun))
	if n == 0 {
		return
	}
	b.Frames[slot] = packet.Frame{Off: packet.HeadRoom, HeadLen: uint16(n), Len: uint32(n)}
	b.Forget(slot)
	o.rxFrames++
	o.rxBytes += uint64(n)
	w.again(o, transit{slot: slot, rx: t.rx, hops: t.hops + 1, fdbSlot: -1})
}
