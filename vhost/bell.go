package vhost

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"millrace/dataplane/sys"
)

// stuckAfter is how long a signal may take. One that takes longer, at most
// twice as long, has met an eventfd that is full.
const stuckAfter = 10 * time.Millisecond

// A bell is an eventfd of the peer, which the port writes to: a ring's call or
// error descriptor.
//
// The peer shares the open file. It can fill the counter and make the file
// blocking, so that whoever writes waits for ever. So writers note when they
// begin and end, and the guard drains an eventfd that holds one up.
type bell struct {
	fd    sys.FD
	name  string // for the reason: "call eventfd of ring 3"
	s     *session
	began atomic.Uint32 // writes begun, by any worker
	ended atomic.Uint32 // writes done

	seen  uint32 // the guard's: ended when it last looked
	stuck bool   // the guard's: was a write in progress then
}

// ring writes to the bell.
func (b *bell) ring() {
	b.began.Add(1)
	b.s.p.guard.watch()
	_ = sys.Signal(b.fd)
	b.ended.Add(1)
}

// heldUp reports whether the same writes have been in progress since the last
// call, because the eventfd is full. A worker that has lost its CPU in the middle of a
// write is not held up by the peer.
func (b *bell) heldUp() bool {
	ended := b.ended.Load()
	busy := b.began.Load() != ended
	was := b.stuck && b.seen == ended
	b.seen, b.stuck = ended, busy
	return busy && was && !writable(b.fd.Int())
}

// writable reports whether a write to a descriptor would not block now.
func writable(n int) bool {
	fds := []unix.PollFd{{Fd: int32(n), Events: unix.POLLOUT}}
	_, err := unix.Poll(fds, 0)
	return err == nil && fds[0].Revents&unix.POLLOUT != 0
}

// A guard looks after a port's bells, and after sessions that have been told to
// end. It is asleep unless bells ring.
type guard struct {
	alarm    chan struct{} // capacity 1: something to look at
	watching atomic.Bool   // it looks at the bells by itself
	quit     chan struct{}
	ended    chan struct{}

	mu    sync.Mutex // held to add, close or drain a bell
	bells map[*bell]struct{}
}

func (g *guard) init() {
	g.alarm, g.quit, g.ended = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	g.bells = map[*bell]struct{}{}
}

// end ends the guard's goroutine.
func (g *guard) end() {
	close(g.quit)
	<-g.ended
}

// wake has the guard look. It does not wait.
func (g *guard) wake() {
	select {
	case g.alarm <- struct{}{}:
	default: // it will
	}
}

// watch makes the guard look at the bells for a while.
func (g *guard) watch() {
	if !g.watching.Load() && g.watching.CompareAndSwap(false, true) {
		g.wake()
	}
}

// run is the guard's goroutine.
func (g *guard) run(p *Port) {
	defer close(g.ended)
	tick := time.NewTimer(time.Hour)
	defer tick.Stop()
	idle := 0
	for {
		select {
		case <-g.quit:
			return
		case <-g.alarm:
			if s := p.session.Load(); s != nil && s.trouble.Load() != nil {
				s.cut()
			}
			idle = 0
		case <-tick.C:
		}
		switch g.look() {
		case bellsStuck:
			tick.Reset(stuckAfter / 10)
			idle = 0
		case bellsBusy:
			tick.Reset(stuckAfter)
			idle = 0
		case bellsQuiet:
			// Nobody wrote for two looks: whoever writes next must say so.
			if idle++; idle < 2 {
				tick.Reset(stuckAfter)
			} else if g.watching.Swap(false) && g.anyBegun() {
				g.watch()
			}
		}
	}
}

// What a look at the bells finds.
const (
	bellsQuiet = iota // nobody has written since the last look
	bellsBusy
	bellsStuck // somebody is held up
)

// look drains the bells that hold somebody up, and cuts off whose they are.
func (g *guard) look() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	found := bellsQuiet
	for b := range g.bells {
		seen := b.seen
		if b.heldUp() {
			drainNow(b.fd.Int())
			b.s.heldUp.Store(true)
			b.s.fail(fmt.Sprintf("%s was full, and blocked the switch (the port serves again after %v)", b.name, longPenance))
			b.s.cut()
			found = bellsStuck
		} else if found == bellsQuiet && (b.stuck || b.seen != seen) {
			found = bellsBusy
		}
	}
	return found
}

// anyBegun reports whether somebody has written since the last look.
func (g *guard) anyBegun() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for b := range g.bells {
		if b.began.Load() != b.seen {
			return true
		}
	}
	return false
}

// drainNow empties eventfd n, whether its file is blocking or not. A file whose
// peer makes it blocking again must not hold up the guard in its turn.
func drainNow(n int) {
	var b [8]byte
	_, err := unix.Preadv2(n, [][]byte{b[:]}, -1, unix.RWF_NOWAIT)
	if err != unix.EOPNOTSUPP && err != unix.ENOSYS {
		return
	}
	_ = unix.SetNonblock(n, true) // kernels before 5.8
	_, _ = unix.Read(n, b[:])
}

// newBell takes eventfd fd into the guard's care.
func (g *guard) newBell(s *session, fd sys.FD, name string) *bell {
	b := &bell{fd: fd, name: name, s: s}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.bells[b] = struct{}{}
	return b
}

// closeBell closes b, which nobody rings any more. Nil is no bell.
func (g *guard) closeBell(b *bell) {
	if b == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.bells, b)
	_ = b.fd.Close()
}
