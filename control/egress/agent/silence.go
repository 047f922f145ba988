package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
)

// silence is how long a link may give no sign of life before it is doubted.
const silence = 3 * time.Second

// errLeft says that a link lives perhaps, and is left.
var errLeft = errors.New("what is open stays on that connection, and new requests get another")

// errSilent says that a link was cut for a time.
var errSilent = fmt.Errorf("the server's machine was silent for a time: %w", errLeft)

// A watch looks after one link's silence.
//
// While nothing comes through, the server's kernel waits twice as long before
// each attempt to send what it has for us. So a link that was cut for 8 seconds
// may bring nothing for 5 more when it is whole again, and dials wait that long.
// It is left as soon as its server can be reached.
type watch struct {
	link    *link
	doubted bool
	trying  sync.Mutex
	free    chan struct{} // the server can be reached
}

// look reports whether the link was silent, and is not now.
func (w *watch) look(ctx context.Context) bool {
	seen, ok := w.link.lastSeen()
	switch {
	case !ok:
		return false
	case seen > silence:
		w.doubted = true
	case w.doubted:
		return true
	}
	if w.doubted {
		w.link.agent.work.Go(func() { w.try(ctx) })
	}
	return false
}

// try connects to the server, and says so if it can.
func (w *watch) try(ctx context.Context) {
	if !w.trying.TryLock() {
		return // another one does
	}
	defer w.trying.Unlock()
	c, err := dialServer(ctx, w.link.addr.addrPort.String())
	if err != nil {
		return // it cannot be reached
	}
	_ = c.Close()
	select {
	case w.free <- struct{}{}:
	default:
	}
}

// A lostConn is our end of a connection of which the server may think that it lives.
type lostConn struct {
	from  net.Addr
	tries int
	next  time.Time // when to knock again
}

// lose notes a connection whose server may take it for a live one: it had no
// word of its end. Only the first call counts.
func (ad *address) lose(c *serverConn) {
	if c == nil || !c.vanished.CompareAndSwap(true, false) {
		return
	}
	ad.mu.Lock()
	defer ad.mu.Unlock()
	ad.lost = append(ad.lost, lostConn{from: c.LocalAddr()})
	ad.lost = ad.lost[max(0, len(ad.lost)-lostMost):]
}

// hasLost reports whether the server may still send dials to dead connections.
func (ad *address) hasLost() bool {
	ad.mu.Lock()
	defer ad.mu.Unlock()
	return len(ad.lost) > 0
}

// Bounds of knocking.
const (
	knockMost  = 500 * time.Millisecond
	knockAgain = time.Second // after one that nobody answered
	knockTries = 5
	lostMost   = 64
)

// knock tells a server, which can be reached, that connections are dead. If it
// did not know, it would send dials there, and they would fail. A SYN from a
// dead connection's port has its kernel ask whether there is such a connection
// (RFC 5961, 4.2), and ours answers that there is none. The next SYN is taken
// for a new connection, so one that comes about proves that the old one is gone.
//
// Who calls while another knocks waits for what comes of that: a link that were
// ready before would have requests made that go to dead ones.
func (ad *address) knock(ctx context.Context) {
	ad.knocking.Lock()
	defer ad.knocking.Unlock()
	ad.mu.Lock()
	list := slices.Clone(ad.lost)
	ad.mu.Unlock()
	var all sync.WaitGroup
	for _, c := range list {
		if time.Now().After(c.next) {
			all.Go(func() { ad.knocked(c.from, ad.knockFrom(ctx, c.from)) })
		}
	}
	all.Wait()
}

func (ad *address) knockFrom(ctx context.Context, from net.Addr) error {
	d := net.Dialer{LocalAddr: from, Timeout: knockMost}
	c, err := d.DialContext(ctx, "tcp", ad.addrPort.String())
	if err != nil {
		return err
	}
	_ = c.(*net.TCPConn).SetLinger(0)
	return c.Close()
}

// knocked takes a connection out of those that are lost, or has it knocked again
// if nobody has answered. Refusal is an answer; that the address is not ours
// any more leaves no way to ask.
func (ad *address) knocked(from net.Addr, err error) {
	ad.mu.Lock()
	defer ad.mu.Unlock()
	i := slices.IndexFunc(ad.lost, func(c lostConn) bool { return c.from == from })
	if i < 0 {
		return // too many have come since
	}
	c := &ad.lost[i]
	c.tries++
	c.next = time.Now().Add(knockAgain)
	if err == nil || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EADDRNOTAVAIL) || c.tries == knockTries {
		ad.lost = slices.Delete(ad.lost, i, i+1)
	}
}
