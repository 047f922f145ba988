package vhost

import (
	"math/bits"
	"runtime"
	"sync/atomic"

	"millrace/dataplane/packet"
)

// A TxQueue is what the peer receives, by all of its queue pairs. All workers
// share it: it is locked from Tx to Commit or Abort, one of which follows.
//
// A worker that finds it locked tries for some microseconds and then gives up:
// its frames are left as ReasonTxBusy.
type TxQueue struct {
	set   atomic.Pointer[txSet] // rings that run; nil for none. Written by the session, and by Break
	owner atomic.Uintptr        // who holds the lock: 0 nobody, else the batch in Tx, or one of the below
	mtu   atomic.Uint32         // longest payload, 0 for no limit. Written by Port.SetMTU

	// Behind the lock:
	held  *txSet   // of the Tx in hand
	parts []txPart // of the Tx in hand, by ring; the last one is spare
}

// Owners that are no batch. No batch has these addresses.
const (
	ownerSignal  = 1
	ownerSession = 2
)

// lockTries is how often a worker tries to lock: for some 20 microseconds.
const lockTries = 1 << 14

// A txSet is the rings that take frames. It is never changed.
type txSet struct{ rings []*ring }

// A txPart is the frames of a list that go to one ring.
type txPart struct {
	refs []packet.Ref
	from []uint16 // where each is in the list
}

func newTxQueue(mtu, queues int) *TxQueue {
	q := &TxQueue{parts: make([]txPart, queues)}
	q.mtu.Store(uint32(mtu))
	return q
}

// lock tries to lock the queue for who.
func (q *TxQueue) lock(who uintptr) bool {
	for range lockTries {
		if q.owner.Load() == 0 && q.owner.CompareAndSwap(0, who) {
			return true
		}
	}
	return false
}

func (q *TxQueue) unlock() {
	q.held = nil
	q.owner.Store(0)
}

// acquire locks the queue for the session, however long that takes.
func (q *TxQueue) acquire() {
	for !q.lock(ownerSession) {
		runtime.Gosched()
	}
}

func (q *TxQueue) release() { q.unlock() }

// Takes is what the driver takes that frames may ask for. It may be another one by the
// time of Tx: what that does not take is left then.
func (q *TxQueue) Takes() packet.Takes {
	if set := q.set.Load(); set != nil {
		return set.rings[0].plan.offload // one driver has all rings
	}
	return 0
}

// Tx copies the frames of list to the driver's buffers. A frame that is left
// has Why set.
func (q *TxQueue) Tx(b *packet.Batch, list []packet.Ref) {
	if q.set.Load() == nil {
		leave(list, packet.ReasonTxDown)
		return
	}
	if !q.lock(b.SlotAddr(0, 0)) {
		leave(list, packet.ReasonTxBusy)
		return
	}
	set := q.set.Load() // again: the session may have exchanged it
	if set == nil {
		q.unlock()
		leave(list, packet.ReasonTxDown)
		return
	}
	q.held = set
	mtu := q.mtu.Load()
	if len(set.rings) == 1 && (mtu == 0 || allFit(b, list, mtu)) {
		q.enqueue(set.rings[0], b, list)
		return
	}
	q.spread(b, list, mtu)
}

// leave marks all of list as left.
func leave(list []packet.Ref, why packet.Reason) {
	for i := range list {
		list[i].Why = why
	}
}

// enqueue gives list to r. It takes none of it if the ring is broken.
func (q *TxQueue) enqueue(r *ring, b *packet.Batch, list []packet.Ref) {
	if err := r.dev.Enqueue(b, list); err != nil {
		leave(list, packet.ReasonTxDown)
		r.fail(err)
	}
}

// fits reports whether frame i, or each of its segments, is not longer than the MTU
// allows.
func fits(b *packet.Batch, i int, mtu uint32) bool {
	n := b.WireLen(i)
	if n <= mtu+packet.FrameMin {
		return true
	}
	return n <= mtu+packet.FrameMin+tagLen && isTagged(b.Head(i))
}

func allFit(b *packet.Batch, list []packet.Ref, mtu uint32) bool {
	for i := range list {
		if !fits(b, int(list[i].Frame), mtu) {
			return false
		}
	}
	return true
}

// spread gives each ring the frames of its flows, and leaves out those that are
// too long.
func (q *TxQueue) spread(b *packet.Batch, list []packet.Ref, mtu uint32) {
	rings := q.held.rings
	for i := range rings {
		p := &q.parts[i]
		p.refs, p.from = p.refs[:0], p.from[:0]
	}
	for i := range list {
		f := int(list[i].Frame)
		if mtu != 0 && !fits(b, f, mtu) {
			list[i].Why = packet.ReasonTxTooLong
			continue
		}
		p := &q.parts[pick(flowHash(b.Head(f)), len(rings))]
		p.refs = append(p.refs, list[i])
		p.from = append(p.from, uint16(i))
	}
	for i, r := range rings {
		p := &q.parts[i]
		q.enqueue(r, b, p.refs)
		for j, from := range p.from {
			list[from].Why = p.refs[j].Why
		}
	}
}

// pick maps a hash to one of n.
func pick(hash uint64, n int) int {
	hi, _ := bits.Mul64(hash, uint64(n))
	return int(hi)
}

// Commit shows the driver what Tx took, if it took anything.
func (q *TxQueue) Commit(b *packet.Batch) {
	if q.owner.Load() != b.SlotAddr(0, 0) {
		return // Tx has not locked
	}
	for _, r := range q.held.rings {
		r.dev.Commit(b)
	}
	q.unlock()
}

// Abort forgets what Tx took. It is for the worker that is in Tx or Commit, or
// between them.
func (q *TxQueue) Abort() {
	if q.held == nil {
		return
	}
	for _, r := range q.held.rings {
		r.dev.Abort()
	}
	q.unlock()
}

// Signal wakes the driver if it wants to know of what was committed. If the
// queue is locked, whoever holds it signals for all: a worker after its commit,
// the session after its exchange.
func (q *TxQueue) Signal() {
	if q.set.Load() == nil {
		return
	}
	for set, due := q.due(); due != 0; due &= due - 1 {
		set.rings[bits.TrailingZeros64(due)].signal()
	}
}

// due returns the rings that run, and as bits those whose driver wants a signal.
func (q *TxQueue) due() (set *txSet, due uint64) {
	if !q.lock(ownerSignal) {
		return nil, 0
	}
	defer q.unlock() // also when the memory is gone
	set = q.set.Load()
	if set == nil {
		return nil, 0
	}
	for i, r := range set.rings {
		if r.dev.ShouldSignal() {
			due |= 1 << i
		}
	}
	return set, due
}
