package tap

import (
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"millrace/dataplane/sys"
)

const (
	// lookEvery is how often idle queues are looked after while a worker polls.
	// A look takes 0.2 microseconds, whatever the number of queues.
	lookEvery = 5 * time.Microsecond

	// looksMax is how many queues with frames one look finds.
	looksMax = 64
)

// A lookout sees which queues have frames: an epoll instance with the
// descriptors of all of them, level-triggered. Workers look when they come by
// and it is time; what one finds, it tells all.
type lookout struct {
	fd     atomic.Int32               // of the epoll instance; 0: none. Written before queues are
	every  uint64                     // ticks between two looks; fixed once fd is there
	next   atomic.Uint64              // time stamp of the next look
	queues atomic.Pointer[[]*RxQueue] // by their place, which events name; never changed in place

	// Also the look at the clock is shared, as it takes 10 nanoseconds: with n
	// queues each does every n-th one.
	share atomic.Uint32 // a power of two less one
	phase atomic.Uint32 // counts queues ever made

	mu   sync.Mutex // held to change queues and poll
	poll sys.FD
}

// shareMax bounds share: a queue may be the only one of its worker, whose turns
// take 10 microseconds each when others keep it busy.
const shareMax = 8

// out looks, if it is time.
func (l *lookout) out() {
	fd := l.fd.Load()
	if fd == 0 {
		return
	}
	t := sys.TSC()
	if next := l.next.Load(); t < next || !l.next.CompareAndSwap(next, t+l.every) {
		return
	}
	var events [looksMax]unix.EpollEvent
	n := ready(int(fd), &events)
	queues := *l.queues.Load()
	for i := range events[:n] {
		if q := queues[events[i].Fd]; q != nil { // else removed meanwhile
			q.ready.Store(true)
		}
	}
}

// add looks after q, whose descriptor is fd, from now on.
func (l *lookout) add(q *RxQueue, fd int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.open(); err != nil {
		return err
	}
	list := slices.Clone(*l.queues.Load())
	place := slices.Index(list, nil)
	if place < 0 {
		place, list = len(list), append(list, nil)
	}
	list[place] = q
	l.have(list)
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(place)}
	if err := unix.EpollCtl(l.poll.Int(), unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		l.drop(place)
		return fmt.Errorf("add descriptor %d to epoll: %w", fd, err)
	}
	return nil
}

// remove ends that. fd is about to be closed.
func (l *lookout) remove(q *RxQueue, fd int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.poll.Valid() {
		return
	}
	if place := slices.Index(*l.queues.Load(), q); place >= 0 {
		_ = unix.EpollCtl(l.poll.Int(), unix.EPOLL_CTL_DEL, fd, nil)
		l.drop(place)
	}
}

// drop empties a place.
func (l *lookout) drop(place int) {
	list := slices.Clone(*l.queues.Load())
	list[place] = nil
	l.have(list)
}

// have makes list the queues that there are.
func (l *lookout) have(list []*RxQueue) {
	l.queues.Store(&list)
	n := 0
	for _, q := range list {
		if q != nil {
			n++
		}
	}
	n = min(max(n, 1), shareMax)
	l.share.Store(1<<(bits.Len(uint(n))-1) - 1)
}

// open makes the epoll instance if there is none.
func (l *lookout) open() error {
	if l.poll.Valid() {
		return nil
	}
	n, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("create epoll: %w", err)
	}
	l.every = uint64(lookEvery.Seconds() * sys.TSCHz())
	l.poll = sys.NewFD(n)
	l.queues.Store(&[]*RxQueue{})
	l.fd.Store(int32(n))
	return nil
}

// close ends the epoll instance. No worker looks any more.
func (l *lookout) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fd.Store(0)
	return l.poll.Close()
}
