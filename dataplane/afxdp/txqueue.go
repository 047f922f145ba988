package afxdp

import (
	"runtime"
	"sync/atomic"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
)

// A TxQueue is what the device sends, on all of its queues. Workers share it,
// but each sends on a queue of its own as long as there are enough: flows keep
// their order, for they keep their worker. A queue is locked from Tx to Commit
// or Abort, one of which follows.
//
// A worker that finds its queue locked tries for some microseconds and then
// gives up: its frames are left as ReasonTxBusy.
type TxQueue struct {
	set atomic.Pointer[txSet] // sockets that take frames; nil for none. Written by the port
	mtu atomic.Uint32         // longest payload, 0 for no limit. Written by the port

	homes [homesMax]atomic.Uintptr // batches, in the order in which they came: each has the queue of its place
}

// homesMax is how many workers have a queue of their own, if there are as many.
const homesMax = 64

// A txSet is the sockets that take frames. It is never changed.
type txSet struct{ sockets []*socket }

// A lane is the lock of one socket's sending half.
type lane struct {
	owner  atomic.Uintptr // who holds it: 0 nobody, else the batch in Tx
	thread atomic.Int32   // of the owner, if there are several lanes
}

// lockTries is how often a worker tries to lock: for some 20 microseconds.
const lockTries = 1 << 14

func (l *lane) lock(who uintptr) bool {
	for range lockTries {
		if l.owner.Load() == 0 && l.owner.CompareAndSwap(0, who) {
			return true
		}
	}
	return false
}

func (l *lane) unlock() { l.owner.Store(0) }

// exchange makes sockets the ones that take frames. It waits until no worker is
// between Tx and Commit: nobody holds a lane of the old ones afterwards.
func (q *TxQueue) exchange(sockets []*socket) {
	old := q.set.Load()
	if old != nil {
		for _, s := range old.sockets {
			for !s.lane.lock(ownerPort) {
				runtime.Gosched()
			}
		}
	}
	var set *txSet
	if len(sockets) > 0 {
		set = &txSet{sockets}
	}
	q.set.Store(set)
	if old != nil {
		for _, s := range old.sockets {
			s.lane.unlock()
		}
	}
}

// ownerPort is an owner of a lane that is no batch: no batch has this address.
const ownerPort = 1

// socketOf returns the socket that the worker with batch who sends on.
func (q *TxQueue) socketOf(set *txSet, who uintptr) *socket {
	if len(set.sockets) == 1 {
		return set.sockets[0]
	}
	for i := range q.homes {
		h := &q.homes[i]
		if at := h.Load(); at == who || at == 0 && (h.CompareAndSwap(0, who) || h.Load() == who) {
			return set.sockets[i%len(set.sockets)]
		}
	}
	return set.sockets[int(who>>12)%len(set.sockets)]
}

// Tx copies the frames of list to the device's chunks. A frame that is left has
// Why set.
func (q *TxQueue) Tx(b *packet.Batch, list []packet.Ref) {
	set := q.set.Load()
	if set == nil {
		leave(list, packet.ReasonTxDown)
		return
	}
	who := b.SlotAddr(0, 0)
	s := q.socketOf(set, who)
	if !s.lane.lock(who) {
		leave(list, packet.ReasonTxBusy)
		return
	}
	if q.set.Load() != set { // the port has exchanged it meanwhile
		s.lane.unlock()
		leave(list, packet.ReasonTxDown)
		return
	}
	if len(set.sockets) > 1 {
		s.lane.thread.Store(int32(sys.Thread()))
	}
	mtu := q.mtu.Load()
	if s.run != nil && s.tx.ring.idle() && s.run.stage(b, list, mtu) { // nothing that is to go before is in the ring
		return
	}
	if err := s.tx.send(b, list, mtu); err != nil {
		leave(list, packet.ReasonTxDown)
		s.broke(err)
	}
}

// Commit shows the kernel what Tx took, if it took anything, or has it sent.
func (q *TxQueue) Commit(b *packet.Batch) {
	set := q.set.Load()
	if set == nil {
		return
	}
	who := b.SlotAddr(0, 0)
	s := q.socketOf(set, who)
	if s.lane.owner.Load() != who {
		return // Tx has not locked
	}
	if s.run != nil && s.run.n > 0 {
		s.run.commit(b)
	} else {
		s.tx.commit(b)
		s.pending.Store(true)
	}
	s.lane.unlock()
}

// Abort forgets what Tx took. It is for the worker that is in Tx or Commit, or
// between them.
func (q *TxQueue) Abort() {
	set := q.set.Load()
	if set == nil {
		return
	}
	me := int32(sys.Thread())
	for _, s := range set.sockets {
		if s.lane.owner.Load() != 0 && (len(set.sockets) == 1 || s.lane.thread.Load() == me) {
			s.tx.abort()
			if s.run != nil {
				s.run.abort()
			}
			s.lane.unlock()
			return
		}
	}
}

// Signal has the kernel send what was committed, if it wants to be told. What
// another worker has committed goes with it.
func (q *TxQueue) Signal() {
	set := q.set.Load()
	if set == nil {
		return
	}
	for _, s := range set.sockets {
		if s.pending.Load() && s.pending.CompareAndSwap(true, false) {
			s.kick()
		}
	}
}
