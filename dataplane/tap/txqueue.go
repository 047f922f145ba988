package tap

import (
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
)

const (
	// slotMax is the private memory of one frame to send: its virtio-net header
	// and its head.
	slotMax = hdrLen + packet.SlotSize

	// piecesMax is in how many pieces of memory a frame may lie, its head aside.
	// What lies in more is gathered.
	piecesMax = 3

	// lettersMax is how many frames one Tx takes: as many as the versions of a
	// batch's frames may ever be.
	lettersMax = 1024

	// lockTries is how often a worker looks for a free lane: for some 20
	// microseconds.
	lockTries = 1 << 10
)

// A TxQueue is what the kernel receives, for all workers. Each has a lane of its
// own in it from Tx to Commit.
//
// Frames are written to the queue of the device that belongs to the lane: the
// kernel sends the answers of a flow by the queue that the flow came by.
type TxQueue struct {
	dest  atomic.Pointer[dest] // where to write; nil: nowhere. Written by the port, and by lost
	port  *Port
	mem   *sys.Mapping
	lanes []lane
	hold  []hold // by lane
}

// A dest is a device that takes frames. It is never changed.
type dest struct {
	fds   []int32
	mtu   uint32
	takes packet.Takes
}

// A hold says whose a lane is.
type hold struct {
	owner atomic.Uintptr // the batch of the worker that has the lane; 0: nobody
	last  atomic.Uintptr // who had it last, and gets it again if it is free
	list  []packet.Ref   // of the Tx in hand
	fd    int32          // where it goes
}

// A lane is what one worker is about to write. It lies outside the Go heap, and
// only as much of it is touched as is used.
type lane struct {
	n      int
	frames [lettersMax]letter
	slots  [lettersMax][slotMax]byte
}

// A letter is one frame that Tx has taken.
type letter struct {
	iov  [1 + piecesMax]iovec
	nIOV int
	size int  // of the frame in bytes
	ref  int  // its place in the list
	asks bool // the kernel has something to do with it
}

// newTxQueue makes a queue without a device, for up to as many workers as there
// are CPUs.
func newTxQueue(p *Port) (*TxQueue, error) {
	n := max(runtime.NumCPU(), p.opts.Queues)
	mem, err := sys.MapAnonymous(n * laneSize)
	if err != nil {
		return nil, err
	}
	return &TxQueue{port: p, mem: mem, lanes: lanesOf(mem.Bytes()), hold: make([]hold, n)}, nil
}

// Takes is what the kernel takes that frames may ask for.
func (q *TxQueue) Takes() packet.Takes {
	if d := q.dest.Load(); d != nil {
		return d.takes
	}
	return 0
}

// Tx takes the frames of list, to be written by Commit.
func (q *TxQueue) Tx(b *packet.Batch, list []packet.Ref) {
	d := q.dest.Load()
	if d == nil {
		leave(list, packet.ReasonTxDown)
		return
	}
	for i := range list {
		if !b.Keep(int(list[i].Frame)) { // all that can fault, while no lane is held
			leave(list, packet.ReasonTxFull)
			return
		}
	}
	k := q.claim(batchID(b))
	if k < 0 {
		leave(list, packet.ReasonTxBusy)
		return
	}
	h, l := &q.hold[k], &q.lanes[k]
	h.list, h.fd = list, d.fds[k%len(d.fds)]
	l.n = 0
	for i := range list {
		f := int(list[i].Frame)
		switch {
		case !fits(b, f, d.mtu):
			list[i].Why = packet.ReasonTxTooLong
		case b.Needs(f)&^d.takes != 0:
			list[i].Why = packet.ReasonTxDown // another device since somebody looked
		case l.n == lettersMax || !l.put(b, f, i):
			list[i].Why = packet.ReasonTxFull
		}
	}
}

// leave marks all of list as left.
func leave(list []packet.Ref, why packet.Reason) {
	for i := range list {
		list[i].Why = why
	}
}

// fits reports whether frame i, or each of its segments, is not longer than the MTU
// allows.
func fits(b *packet.Batch, i int, mtu uint32) bool {
	n := b.WireLen(i)
	return n <= mtu+packet.FrameMin || n <= mtu+packet.FrameMin+tagLen && isTagged(b.Head(i))
}

// put makes frame f, which is number ref of the list, the next letter. Its head
// is copied: it may look otherwise when Commit comes. It reports whether the rest
// could be had in few enough pieces.
func (l *lane) put(b *packet.Batch, f, ref int) bool {
	e, slot := &l.frames[l.n], &l.slots[l.n]
	head := b.Head(f)
	b.PutHeader(f, slot[:hdrLen])
	copy(slot[hdrLen:], head)
	e.iov[0] = iovec{addrOf(slot), uintptr(hdrLen + len(head))}
	e.size, e.ref, e.asks = int(b.Frames[f].Len), ref, b.Needs(f) != 0
	if !e.pieces(b.Tail(f)) && !(b.Gather(f) && e.pieces(b.Tail(f))) {
		return false
	}
	l.n++
	return true
}

// pieces makes segs the rest of the letter. Those that lie side by side are one
// piece. It reports whether there were few enough.
func (e *letter) pieces(segs []packet.Seg) bool {
	e.nIOV = 1
	for _, s := range segs {
		last := &e.iov[e.nIOV-1]
		switch {
		case e.nIOV > 1 && s.Addr == last.addr+last.n:
			last.n += s.Len
		case e.nIOV == len(e.iov):
			return false
		default:
			e.iov[e.nIOV] = iovec{s.Addr, s.Len}
			e.nIOV++
		}
	}
	return true
}

// claim takes a lane for who: the one of last time, or any that is free. It
// returns -1 if there is none.
func (q *TxQueue) claim(who uintptr) int {
	for k := range q.hold {
		if h := &q.hold[k]; h.last.Load() == who && h.owner.CompareAndSwap(0, who) {
			return k
		}
	}
	for range lockTries {
		for k := range q.hold {
			if h := &q.hold[k]; h.owner.Load() == 0 && h.owner.CompareAndSwap(0, who) {
				h.last.Store(who)
				return k
			}
		}
	}
	return -1
}

// Commit writes what Tx took. A frame that the kernel does not take has Why set
// then.
func (q *TxQueue) Commit(b *packet.Batch) {
	who := batchID(b)
	for k := range q.hold {
		if h := &q.hold[k]; h.owner.Load() == who {
			q.write(b, &q.lanes[k], h)
			h.list = nil
			h.owner.Store(0)
			return
		}
	}
}

// write writes the letters of a lane.
func (q *TxQueue) write(b *packet.Batch, l *lane, h *hold) {
	for i := range l.n {
		e := &l.frames[i]
		if errno := writev(h.fd, e.iov[:e.nIOV]); errno != 0 {
			h.list[e.ref].Why = q.refused(h.fd, errno, e.asks)
			continue
		}
		b.Sent++
		b.SentBytes += uint64(e.size)
	}
}

// refused says why the kernel did not take a frame, which asks for something or does not.
func (q *TxQueue) refused(fd int32, errno unix.Errno, asks bool) packet.Reason {
	switch errno {
	case unix.EINVAL:
		if asks { // the kernel is of another opinion than packet.Batch.Judge: no reason to leave the device
			return packet.ReasonRxHeader
		}
	case unix.EAGAIN, unix.ENOMEM, unix.ENOBUFS, unix.EINTR:
		return packet.ReasonTxFull
	case unix.EIO: // the device is down, and we have not heard of it yet
		return packet.ReasonTxDown
	}
	q.port.lost(fd, "write", errno)
	return packet.ReasonTxDown
}

// Abort has nothing to forget: Tx takes a lane when nothing can fault any more.
func (q *TxQueue) Abort() {}

// Signal is nothing that the kernel waits for.
func (q *TxQueue) Signal() {}
