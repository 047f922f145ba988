package tap

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
)

const (
	// tailMax is how much of a frame the queue's own memory takes: what the head
	// does not, and one byte more, by which one that is too long is known.
	tailMax = packet.SuperMax - packet.HeadMax + 1

	// tailAlign is what tails begin at a multiple of, in bytes. They lie one behind the
	// other.
	tailAlign = 64

	// tailsMax is the size of the queue's own memory: there is room for tailMax at its end
	// behind as many frames as a batch may have, super-frames (SuperBytes) or others.
	tailsMax = packet.BatchMax*(packet.FrameMax+tailAlign) + tailMax
)

// An RxQueue is what the kernel sends by one queue of the device. One worker
// calls its methods; without a device it receives nothing.
type RxQueue struct {
	fd    atomic.Int32 // -1: none. Written by the port, and by fail
	ready atomic.Bool  // the lookout has seen frames, or fd is new

	port *Port
	look *lookout
	iov  [2]iovec // first bytes, rest
	hot  bool     // the worker's: the last read found a frame
	idle uint32   // the worker's: turns without one; it begins anywhere
	mem  *sys.Mapping
	tail uintptr // address of mem
	next uintptr // where the next tail goes

	takes packet.Takes // what frames may ask for. Written by the port while fd is -1
}

// wakeNone is WakeFD of a queue without a device.
const wakeNone = -1

// newRxQueue makes a queue without a device.
func newRxQueue(p *Port) (*RxQueue, error) {
	mem, err := sys.MapAnonymous(tailsMax)
	if err != nil {
		return nil, err
	}
	look := &p.opts.Kernel.lookout
	q := &RxQueue{port: p, look: look, idle: look.phase.Add(1), mem: mem, tail: packet.Addr(mem.Bytes())}
	q.fd.Store(wakeNone)
	return q, nil
}

// Rx fills b, which is empty, with what the kernel has sent. What b borrows stays
// until the next Rx.
func (q *RxQueue) Rx(b *packet.Batch) {
	if !q.hot && !q.worthwhile() {
		return
	}
	fd := q.fd.Load()
	if fd < 0 {
		q.hot = false
		return
	}
	q.hot = true
	q.next = q.tail
	for b.N+b.NEarly < b.Max() && b.Bytes < packet.SuperBytes {
		n, errno := q.read(fd, b)
		if errno != 0 {
			q.hot = false
			q.failed(fd, errno)
			break
		}
		q.accept(b, n)
	}
	b.Last()
}

// worthwhile reports whether there are frames in a queue that was empty.
func (q *RxQueue) worthwhile() bool {
	if !q.ready.Load() {
		if q.idle++; q.idle&q.look.share.Load() != 0 {
			return false // it is another one's turn
		}
		q.look.out()
		if !q.ready.Load() {
			return false
		}
	}
	q.ready.Store(false)
	return true
}

// read reads one frame, with its header, into the place of the next one of b.
func (q *RxQueue) read(fd int32, b *packet.Batch) (int, unix.Errno) {
	q.iov[0] = iovec{b.SlotAddr(b.N, packet.HeadRoom-hdrLen), hdrLen + packet.HeadMax}
	q.iov[1] = iovec{q.next, tailMax}
	return readv(fd, &q.iov)
}

// accept takes what read has put in b, n bytes with its header, as the next
// frame. One that cannot be is dropped.
func (q *RxQueue) accept(b *packet.Batch, n int) {
	i, size := b.N, n-hdrLen
	switch {
	case size < packet.FrameMin:
		b.DropEarly(packet.ReasonRxTooShort)
		return
	case size > packet.SuperMax:
		b.DropEarly(packet.ReasonRxTooLong)
		return
	}
	f := packet.Frame{Off: packet.HeadRoom, HeadLen: uint16(min(size, packet.HeadMax)), Len: uint32(size), Seg: uint32(b.NSegs)}
	b.Frames[i] = f
	if why := b.Judge(i, b.Slot(i)[packet.HeadRoom-hdrLen:packet.HeadRoom], q.takes); why != packet.ReasonNone {
		b.DropEarly(why)
		return
	}
	if n := size - packet.HeadMax; n > 0 {
		b.Segs[b.NSegs] = packet.Seg{Addr: q.next, Len: uintptr(n)}
		b.NSegs++
		b.Frames[i].NSeg = 1
		q.next += uintptr(n+tailAlign-1) &^ (tailAlign - 1)
	}
	b.N++
	b.Bytes += uint64(size)
}

// failed takes a read that got nothing. That there is nothing is no failure.
func (q *RxQueue) failed(fd int32, errno unix.Errno) {
	if errno != unix.EAGAIN && errno != unix.EINTR {
		q.port.lost(fd, "read", errno)
	}
}

// Release ends the loan of the last Rx, for which the kernel does not wait.
func (q *RxQueue) Release() {}

// Signal is nothing that the kernel wants.
func (q *RxQueue) Signal() {}

// Arm reports whether there are frames already. WakeFD becomes readable by those
// that come, without being asked to.
func (q *RxQueue) Arm() bool {
	fd := q.fd.Load()
	if fd >= 0 && readable(fd) {
		q.ready.Store(true)
		return true
	}
	return false
}

// Disarm has nothing to take back.
func (q *RxQueue) Disarm() {}

// WakeFD is the queue's descriptor, or -1 without a device. It changes only
// before a Quiesce.
func (q *RxQueue) WakeFD() int { return int(q.fd.Load()) }
