package dataplane

import (
	"errors"
	"runtime"

	"millrace/dataplane/packet"
)

// A flight is the batch in hand, from its decisions to its end. It can be gone
// on with after a memory fault: each step is noted before it is taken.
//
// The order of steps is the promise of one delivery: all copies, then the
// source has its buffers back, then the destinations see the frames.
type flight struct {
	busy      bool
	src       *rxQueue
	out       []*workerPort // with something in list
	sent      int           // ports of out whose Tx is done
	finishing bool          // what is next for Tx is being finished
	released  bool
	showing   bool // Release is done, commits have begun
	committed int  // ports of out that are accounted for
}

// begin notes a batch from q.
func (w *worker) begin(q *rxQueue) {
	w.fl = flight{busy: true, src: q, out: w.fl.out[:0]}
	w.popped, w.pops, w.short = w.popped[:0], 0, 0
	w.forgetPairs()
}

// carry brings the batch to its end.
func (w *worker) carry() {
	f := &w.fl
	if len(f.out) > 1 && f.sent == 0 {
		sortByNumber(f.out) // all workers lock in one order
	}
	for ; f.sent < len(f.out); f.sent++ {
		if p := f.out[f.sent]; w.batch.Asking || p.merges {
			f.finishing = true
			w.finish(p)
			f.finishing = false
		}
		if f.out[f.sent].egress != nil {
			w.ration(f.out[f.sent])
		}
		w.send(f.out[f.sent])
	}
	if !f.released {
		f.released = true
		f.src.signal = true
		f.src.q.Release()
	}
	f.showing = true
	for ; f.committed < len(f.out); f.committed++ {
		w.commit(f.out[f.committed])
	}
	f.busy = false
}

// send copies p's list to its device.
func (w *worker) send(p *workerPort) {
	p.tx.Tx(w.batch, p.refs())
}

// commit shows p's list to its peer and counts what became of it.
func (w *worker) commit(p *workerPort) {
	b := w.batch
	b.Sent, b.SentBytes = 0, 0
	if p.lost == packet.ReasonNone {
		p.tx.Commit(b)
	}
	if !p.signal {
		p.signal = true
		w.signals = append(w.signals, p)
	}
	w.account(p)
}

// account counts the end of p's list: b.Sent of it went out.
func (w *worker) account(p *workerPort) {
	b := w.batch
	p.offered += uint64(p.n) - p.extra
	p.txFrames += uint64(b.Sent)
	p.txBytes += b.SentBytes
	if b.Sent != p.n {
		w.accountLoss(p)
	}
	p.list, p.n, p.extra = p.own, 0, 0
}

// accountLoss counts what p's device did not take.
func (w *worker) accountLoss(p *workerPort) {
	left := uint64(p.n - w.batch.Sent)
	rest := packet.ReasonTxDown // of what was taken by a device that broke before it showed it
	if p.lost != packet.ReasonNone {
		rest, p.lost = p.lost, packet.ReasonNone
	}
	refs := p.refs()
	for i := range refs {
		// The list may be used again, so it is left clean.
		if why := refs[i].Why; why != packet.ReasonNone {
			p.txDrops[why]++
			refs[i].Why = packet.ReasonNone
			left--
		}
	}
	p.txDrops[rest] += left
}

// fault is what the runtime panics with when memory of a mapping is gone.
type fault interface {
	runtime.Error
	Addr() uintptr
}

// survive ends a panic by a memory fault: the port whose peer took the memory
// away is broken, frames that cannot be finished are counted, and the flight
// can go on. Any other panic is a fault of ours and goes on too, as a panic.
func (w *worker) survive() {
	if r := recover(); r != nil {
		w.abandon(w.broken(r))
	}
}

// broken breaks the port whose peer has taken memory away that a panic is about, and
// returns it. Any other panic goes on.
func (w *worker) broken(r any) *workerPort {
	err, _ := r.(error)
	var f fault
	if !errors.As(err, &f) {
		panic(r)
	}
	culprit := w.owner(f.Addr())
	if culprit == nil {
		panic(r)
	}
	w.stats.Faults++
	culprit.dev.Break("memory was taken away while it was in use")
	return culprit
}

// owner returns the port whose peer's memory a is in.
func (w *worker) owner(a uintptr) *workerPort {
	for _, p := range w.order {
		if p.dev != nil && p.dev.Owns(a) {
			return p
		}
	}
	return nil
}

// abandon gives up the step in which culprit's memory went.
func (w *worker) abandon(culprit *workerPort) {
	f := &w.fl
	switch {
	case !f.busy: // in Rx or Signal: nothing is in hand
	case f.sent < len(f.out):
		p := f.out[f.sent]
		if !f.finishing {
			p.tx.Abort()
		}
		f.finishing = false
		p.lost = packet.ReasonRxFault
		if p == culprit {
			p.lost = packet.ReasonTxFault
		}
		f.sent++
	case f.showing && f.committed < len(f.out):
		p := f.out[f.committed]
		p.tx.Abort()
		p.lost = packet.ReasonTxFault
		w.account(p)
		f.committed++
	}
}

// sortByNumber sorts a few ports.
func sortByNumber(ps []*workerPort) {
	for i := 1; i < len(ps); i++ {
		for j := i; j > 0 && ps[j-1].number > ps[j].number; j-- {
			ps[j-1], ps[j] = ps[j], ps[j-1]
		}
	}
}
