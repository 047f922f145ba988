package dataplane

import (
	"math"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
)

// A Limit is the most that goes through a port in one direction. Bytes are those of
// packets without the 14 of their Ethernet header, as OVS-DPDK counts them, and a
// super-frame is its segments.
type Limit struct {
	Bytes, Burst       uint64 // a second, and at once; 0 bytes: any number
	Frames, FrameBurst uint64 // likewise
}

// bad reports whether there is a rate and nothing to count it in.
func (l Limit) bad() bool { return l.Bytes != 0 && l.Burst == 0 || l.Frames != 0 && l.FrameBurst == 0 }

// A limiter holds the frames of one direction of a port to its Limit. All workers
// share it.
type limiter struct {
	bytes, frames *gauge // nil: any number
}

// newLimiter returns nil if there is no limit.
func newLimiter(l Limit) *limiter {
	if l.Bytes == 0 && l.Frames == 0 {
		return nil
	}
	out := &limiter{}
	if l.Bytes != 0 {
		out.bytes = newGauge(l.Bytes, l.Burst)
		out.bytes.perByte = out.bytes.unit
	}
	if l.Frames != 0 {
		out.frames = newGauge(l.Frames, l.FrameBurst)
		out.frames.perFrame = out.frames.unit
	}
	return out
}

// A gauge is a bucket of tokens for bytes or for frames. A frame passes while there is
// anything in it, and may overdraw it: so the longest frame passes the smallest
// bucket, in time.
type gauge struct {
	bucket
	unit              float64 // ticks that a token takes to come, in 64ths
	perByte, perFrame float64 // what is taken, in the same; one of the two is 0
	burst             uint64
}

func newGauge(rate, burst uint64) *gauge {
	unit := sys.TSCHz() * meterUnit / float64(rate)
	return &gauge{bucket: bucket{base: sys.TSC() - 1<<36}, unit: unit, burst: atLeast(unit*float64(burst), 1)} // no worker's clock is so far behind
}

// pass takes tokens for frames of list, in their order, and returns how many of them
// pass: there is nothing left for those behind. clock is that of the worker's turn.
func (g *gauge) pass(b *packet.Batch, list []packet.Ref, clock uint64) (n int) {
	now := (max(clock, g.base) - g.base) * meterUnit
	for {
		full := g.full.Load()
		at := max(full, now)
		for n = 0; n < len(list) && at < now+g.burst; n++ {
			at += g.cost(b, int(list[n].Frame))
		}
		if n == 0 || g.full.CompareAndSwap(full, at) {
			return n
		}
	}
}

// cost is what frame i takes.
func (g *gauge) cost(b *packet.Batch, i int) uint64 {
	frames, bytes := b.Line(i)
	return uint64(math.Ceil(g.perFrame*float64(frames) + g.perByte*float64(bytes-frames*packet.FrameMin)))
}

// pass is gauge.pass for both.
func (l *limiter) pass(b *packet.Batch, list []packet.Ref, clock uint64) int {
	if l.bytes != nil {
		list = list[:l.bytes.pass(b, list, clock)]
	}
	if l.frames != nil {
		list = list[:l.frames.pass(b, list, clock)]
	}
	return len(list)
}

// police drops what p's peer has sent beyond its rate: the last frames of the batch.
func (w *worker) police(p *workerPort) {
	b := w.batch
	n := p.ingress.pass(b, w.all[:b.N], w.clock.last)
	p.rxDrops[packet.ReasonIngressRate] += uint64(b.N - n)
	for i := n; i < b.N; i++ {
		b.Bytes -= uint64(b.Frames[i].Len)
	}
	b.N = n
}

// ration drops what p's peer would be sent beyond its rate: the last frames of p's
// list.
func (w *worker) ration(p *workerPort) {
	n := p.egress.pass(w.batch, p.refs(), w.clock.last)
	p.offered += uint64(p.n - n)
	p.txDrops[packet.ReasonEgressRate] += uint64(p.n - n)
	p.n = n
}
