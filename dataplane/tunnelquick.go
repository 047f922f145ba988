package dataplane

import (
	"encoding/binary"

	"millrace/dataplane/packet"
	"millrace/dataplane/tunnel"
	"millrace/flowtable/flowcache"
)

// The quick way into a tunnel and out of one: for frames that ask for nothing and are like those
// before them. What it cannot do it leaves as it is, for the way that all can go (wrap, pop).

// A likeness is what the outer headers of frames for the end of a tunnel have in common, and where they
// came out. A frame that is like the last one comes out there, too.
type likeness struct {
	ends   *ending
	number uint32 // of the tunnel port
	words  [tunnel.LikeWords]uint64
	option bool
	word   uint64 // tunnel word, without data
}

// remember notes the likeness of a frame with these outer headers, which came out at tunnel port q.
func (w *worker) remember(e *ending, head []byte, o *tunnel.Outer, q *workerPort) {
	l := likeness{ends: e, number: q.number}
	var ok bool
	if l.words, l.option, ok = o.Like(head); !ok || q.named || w.trace != nil {
		return
	}
	if l.word = o.Word; l.option {
		l.word &^= 1<<32 - 1
	}
	*w.alike.of(head) = l
}

// likenessBits is the size of a table of likenesses, without chains.
const likenessBits = 4

type likenesses [1 << likenessBits]likeness

// of is the likeness that a frame may have, by sender and key.
func (l *likenesses) of(head []byte) *likeness {
	const sender, key = 26, 46
	h := uint64(binary.LittleEndian.Uint32(head[sender:])) ^ uint64(binary.LittleEndian.Uint32(head[key:]))<<32
	return &l[h*0x9e3779b97f4a7c15>>(64-likenessBits)] // collisions cost time only: no seed
}

// popQuick takes the outer headers off received frame i if it is like the last one and its own parts of
// them are right. It reports whether it has; the frame then waits with others of its tunnel.
func (w *worker) popQuick(e *ending, i int) bool {
	b := w.batch
	f := &b.Frames[i&(packet.BatchMax-1)]
	if b.Asking || w.pops == popsMax || f.Off > packet.SlotSize-tunnel.LikeLen || f.HeadLen < tunnel.LikeLen {
		return false
	}
	h := (*[tunnel.LikeLen]byte)(b.Slot(i & (packet.BatchMax - 1))[f.Off:])
	l := w.alike.of(h[:])
	if l.ends != e {
		return false
	}
	n, end := tunnel.IsLike(h, &l.words, l.option, f.Len)
	if n == 0 {
		return false
	}
	q := w.port(l.number)
	if q == nil || !q.isTunnel {
		return false
	}
	word := l.word
	if l.option {
		word |= uint64(binary.BigEndian.Uint32(h[n-4:]))
	}
	if !b.Trim(i, end) {
		return false
	}
	b.Shrink(i, n)
	if f.NSeg == 0 && !b.Pull(i) || f.NSeg != 0 && !w.pull(i) {
		q.rxFrames++ // as if it had come out, and was lost there
		q.rxBytes += uint64(f.Len)
		q.rxDrops[packet.ReasonCopies]++
		return true
	}
	q.rxFrames++
	q.rxBytes += uint64(f.Len)
	w.await(q, i, word, 0)
	return true
}

// departQuick is give for received frame i, which a decision leads to the host's port o: what is for the end of
// a tunnel comes out of it. It reports false if the frame was left as it is.
func (w *worker) departQuick(p, o *workerPort, i int) bool {
	n := uint64(w.batch.Frames[i].Len)
	if w.popQuick(o.ends, i) {
		o.offered++
		o.txFrames++
		o.txBytes += n
		return true
	}
	w.firstRun, w.passed = w.runs, 0
	t := transit{in: p, slot: i, rx: i, last: true, fdbSlot: -1}
	return w.depart(&t, o) || w.put(o, i, i, w.runs)
}

// wrapQuick is encapsulate for received frame i of p, whose program is an output to tunnel port o and nothing
// else. It reports false if the frame was left as it is.
func (w *worker) wrapQuick(p, o *workerPort, i int) bool {
	b, out := w.batch, o.out
	if out == nil || o.named || p.isTunnel || b.Asking || w.trace != nil {
		return false
	}
	h, u := out.header, w.port(out.via)
	if u == nil || h.Checksum() || !h.Fits(b, i, 0) || !h.Room(b, i) || out.direct && (!u.plain || u.n >= len(u.own)) {
		return false
	}
	n := uint64(b.Frames[i].Len)
	h.Push(b, i, 0)
	o.offered++
	o.txFrames++
	o.txBytes += n
	if out.direct {
		w.list(u, i)
		return true
	}
	w.runs++
	w.firstRun, w.passed = w.runs, 0
	if !w.enterQuick(u, i) {
		w.enter(o, u, transit{slot: i, rx: -int(w.runs), hops: 1, pushed: true, fdbSlot: -1})
	}
	return true
}

// enterQuick is enter for a frame about whose addresses there is a decision.
func (w *worker) enterQuick(u *workerPort, slot int) bool {
	f := &w.batch.Frames[slot]
	d := w.decisionOf(u, slot)
	if d == nil || !d.out.plain || d.out.n >= len(d.out.own) {
		return false
	}
	n := uint64(f.Len)
	u.rxFrames++
	u.rxBytes += n
	u.outputs++
	d.packets++
	d.bytes += n
	w.list(d.out, slot)
	return true
}

// list puts a frame on o's list, which has room.
func (w *worker) list(o *workerPort, slot int) {
	if o.n == 0 {
		w.fl.out = append(w.fl.out, o)
	}
	o.own[o.n] = packet.Ref{Frame: uint16(slot)}
	o.n++
}

// decisionOf is the decision about a frame that comes in by u with the outer headers of a tunnel, if there
// is one that holds.
func (w *worker) decisionOf(u *workerPort, slot int) *decision {
	a := w.addresses(slot)
	moves := uint32(w.engine.cells.Changes())
	d := w.decided.at(a[0], a[1])
	if d.addresses != a[0] || d.rest != a[1] || d.in != u || d.second != w.now || d.moves != moves && !w.confirm(d, moves) {
		return nil
	}
	return d
}

// decideOuter remembers what became of a frame that came in by u with the outer headers of a tunnel, by a program.
func (w *worker) decideOuter(u *workerPort, t *transit, program flowcache.Handle) {
	if t.only != nil && t.only.plain {
		w.decide(u, w.addresses(t.slot), uint32(program), t)
	}
}
