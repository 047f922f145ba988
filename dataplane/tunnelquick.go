package dataplane

import (
	"encoding/binary"
	"math/bits"

	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
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
	q.rxFrames++
	q.rxBytes += uint64(f.Len)
	w.short |= 1 << i
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

// quick reports whether there may be a quick way into a tunnel port.
func (p *workerPort) quick() bool {
	return p.isTunnel && p.out != nil && !p.named && !p.out.header.Checksum()
}

// A way is how frames leave by a tunnel quickly: what all frames of one batch have in common.
type way struct {
	header *tunnel.Header
	via    *workerPort
	to     *workerPort // who gets frames with outer headers
	d      *decision   // that leads them there, if they come in by via; nil: via is to
}

// wayOf is how frames of p leave by tunnel o. ok is false if there is no quick way.
func (w *worker) wayOf(p, o *workerPort) (y way, ok bool) {
	if !o.quick() || p.isTunnel || w.batch.Asking || w.trace != nil {
		return y, false
	}
	out := o.out
	u := w.port(out.via)
	if u == nil {
		return y, false
	}
	y = way{header: out.header, via: u, to: u}
	if !out.direct {
		if u.level != parse.L2 || len(u.steps) > 0 {
			return y, false
		}
		if y.d = w.decisionOf(u, out.header.Addresses()); y.d == nil {
			return y, false
		}
		y.to = y.d.out
	}
	return y, y.to.plain
}

// wrapQuick is encapsulate for received frame i of p, whose program is an output to tunnel port o and nothing
// else. It reports false if the frame was left as it is.
func (w *worker) wrapQuick(p, o *workerPort, i int) bool {
	y, ok := w.wayOf(p, o)
	return ok && w.wrapRun(&y, o, i, i+1) == 1
}

// wrapRun is wrapQuick for frames from on up to the one before end, and returns how many it could do before
// the first that it could not.
func (w *worker) wrapRun(y *way, o *workerPort, from, end int) int {
	b, h, to := w.batch, y.header, y.to
	bytes, most := uint64(0), h.Most(0)
	i := from
	for ; i < end && to.n < len(to.own) && b.Frames[i].Len <= most && h.Room(b, i); i++ {
		bytes += uint64(b.Frames[i].Len)
		h.Push(b, i, 0)
		w.list(to, i)
	}
	n := uint64(i - from)
	o.offered += n
	o.txFrames += n
	o.txBytes += bytes
	if d := y.d; d != nil {
		outer := bytes + n*uint64(h.Len())
		y.via.rxFrames += n
		y.via.rxBytes += outer
		y.via.outputs += n
		d.packets += uint32(n)
		d.bytes += outer
	}
	return i - from
}

// directTunnel sends the whole batch into tunnel o, as p's program for all frames says.
func (w *worker) directTunnel(p, o *workerPort) {
	program, end := uint32(p.direct.program), min(w.batch.N, packet.BatchMax)
	for i := 0; i < end; i++ {
		if y, ok := w.wayOf(p, o); ok {
			n := w.wrapRun(&y, o, i, end)
			p.outputs += uint64(n)
			i += n
		}
		if i < end {
			w.execute(p, i, program)
		}
	}
}

// outOf is the port to which all frames of tunnel p go, if they go to one and as they are.
func (w *worker) outOf(p *workerPort) *workerPort {
	h := w.directOf(p)
	if h == nil || h.Code != flowcache.ProgramOutput {
		return nil
	}
	if o := w.port(h.Arg); o != nil && o.plain {
		return o
	}
	return nil
}

// directPopped sends frames that have come out of tunnel p to where all go, o, as far as that has room, and
// returns the others.
func (w *worker) directPopped(p, o *workerPort, set uint64) (rest uint64) {
	h := w.flow.cache.Program(uint32(p.direct.program))
	for ; set != 0 && o.n < len(o.own); set &= set - 1 {
		i := bits.TrailingZeros64(set)
		w.list(o, i)
		h.Packets++
		h.Bytes += uint64(w.batch.Frames[i].Len)
		p.outputs++
	}
	return set
}

// complete makes the first bytes private of frames that have come out of tunnel p, which somebody will look
// at. It returns those for which there was room.
func (w *worker) complete(p *workerPort, set uint64) uint64 {
	for rest := set & w.short; rest != 0; rest &= rest - 1 {
		if i := bits.TrailingZeros64(rest); !w.pull(i) {
			p.rxDrops[packet.ReasonCopies]++
			set &^= 1 << i
		}
	}
	w.short &^= set
	return set
}

// enterQuick is enter for a frame about whose addresses, those of its outer headers, there is a decision.
func (w *worker) enterQuick(u *workerPort, slot int) bool {
	d := w.decisionOf(u, w.addresses(slot))
	if d == nil || !d.out.plain || d.out.n >= len(d.out.own) {
		return false
	}
	n := uint64(w.batch.Frames[slot].Len)
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

// decisionOf is the decision about frames with addresses a that come in by p, if there is one that holds.
func (w *worker) decisionOf(p *workerPort, a [2]uint64) *decision {
	a[1] &= macTypeMask
	moves := uint32(w.engine.cells.Changes())
	d := w.decided.at(a[0], a[1])
	if d.addresses != a[0] || d.rest != a[1] || d.in != p || d.second != w.now || d.moves != moves && !w.confirm(d, moves) {
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
