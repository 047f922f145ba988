package dataplane

import "millrace/dataplane/packet"

// An OffloadTaker is a TxQueue whose peer takes frames that ask for something: what it
// does not take is finished before Tx. The others take nothing.
type OffloadTaker interface {
	// Takes is what the peer takes now. A worker asks before Tx; if that has
	// changed by then, Tx leaves what the peer does not take any more.
	Takes() packet.Takes
}

// Finished counts what was done to frames at output because the port's peer does not
// take them as they came.
//
// Merged and Joined are the other way round: what was put together, because its peer takes
// that and the port's options ask for it.
type Finished struct {
	Sums     uint64 // checksums finished, of segments too
	TCP      uint64 // super-frames of TCP cut into segments
	UDP      uint64 // super-frames of UDP cut into datagrams
	Segments uint64 // frames that came of both, beyond the first of each
	Merged   uint64 // super-frames that were made of segments of TCP
	Joined   uint64 // segments that went into them, beyond the first of each
}

// add adds o to f.
func (f *Finished) add(o *Finished) {
	f.Sums += o.Sums
	f.TCP += o.TCP
	f.UDP += o.UDP
	f.Segments += o.Segments
	f.Merged += o.Merged
	f.Joined += o.Joined
}

// finish makes p's list one that p's peer takes. It may touch what the source has
// lent, and so fault like Tx; what was finished then is.
//
// Frames are finished where they lie, so what one port needs serves the others: they have
// not been sent yet, or their Tx has copied them.
func (w *worker) finish(p *workerPort) {
	takes := packet.Takes(0)
	if p.taker != nil {
		takes = p.taker.Takes()
	}
	b := w.batch
	if w.hasSuper(p, takes) {
		w.cut(p, takes)
	}
	if p.merges && p.n > 1 && takes&(packet.TakesTCP4|packet.TakesTCP6) != 0 && b.Mergeable() {
		w.merge(p, takes)
	}
	for _, r := range p.refs() {
		if b.Settle(int(r.Frame), takes) {
			p.finished.Sums++
		}
	}
}

// hasSuper reports whether p's list has a super-frame that is to be cut.
func (w *worker) hasSuper(p *workerPort, takes packet.Takes) bool {
	for _, r := range p.refs() {
		if isSuper(w.batch.Needs(int(r.Frame)), takes) {
			return true
		}
	}
	return false
}

// isSuper reports whether a frame that needs so much is a super-frame that who takes
// takes does not take.
func isSuper(needs, takes packet.Takes) bool {
	return needs&packet.TakesSuper != 0 && needs&^takes != 0
}

// cut puts segments on p's list in place of the super-frames that p's peer does not take.
// What there is no room for is dropped.
func (w *worker) cut(p *workerPort, takes packet.Takes) {
	b, list := w.batch, w.cuts[:0]
	lost := uint64(0)
	for _, r := range p.refs() {
		first, n := int(r.Frame), 1
		needs := b.Needs(first)
		super := isSuper(needs, takes)
		if super {
			first, n = b.Cut(first)
		}
		if n == 0 || len(list)+n > cap(list) {
			lost++
			continue
		}
		if super {
			p.finished.note(needs, n)
		}
		for k := range n {
			list = append(list, packet.Ref{Frame: uint16(first + k)})
		}
	}
	p.offered += lost
	p.txDrops[packet.ReasonCopies] += lost
	for len(p.own) < len(list) && p.grow() {
	}
	p.extra = uint64(len(list)+int(lost)) - uint64(p.n)
	p.list, p.n = p.own, copy(p.own, list)
}

// merge puts super-frames on p's list in place of segments of TCP that follow each other.
func (w *worker) merge(p *workerPort, takes packet.Takes) {
	list := w.merger.Merge(w.batch, p.refs(), w.cuts[:0], takes)
	if w.merger.Joined == 0 {
		return
	}
	p.finished.Merged += w.merger.Merged
	p.finished.Joined += w.merger.Joined
	p.extra -= w.merger.Joined // it may be less than none, and is added up as such
	p.list, p.n = p.own, copy(p.own, list)
}

// note counts a super-frame that was cut in n.
func (f *Finished) note(needs packet.Takes, n int) {
	if needs&(packet.TakesTCP4|packet.TakesTCP6) != 0 {
		f.TCP++
	} else {
		f.UDP++
	}
	f.Segments += uint64(n - 1)
}
