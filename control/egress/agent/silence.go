package agent

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// silence is how long a link may give no sign of life before it is doubted.
const silence = 3 * time.Second

// errSilent says that a link was cut for a time.
var errSilent = errors.New("the server's machine was silent for a time: what is open stays on that connection, and new requests get another")

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

// lose notes a connection whose server may take it for a live one: it had no
// word of its end.
func (ad *address) lose(c *serverConn) {
	if c == nil || !c.vanished.Load() {
		return
	}
	ad.mu.Lock()
	defer ad.mu.Unlock()
	ad.lost = append(ad.lost, c.LocalAddr())
}

func (ad *address) hasLost() bool {
	ad.mu.Lock()
	defer ad.mu.Unlock()
	return len(ad.lost) > 0
}

// Bounds of knocking.
const (
	knockMost = 500 * time.Millisecond
	lostMost  = 64
)

// knock tells a server, which can be reached, that connections are dead. If it
// did not know, it would send dials there, and they would fail. A SYN from a
// dead connection's port has its kernel ask whether there is such a connection
// (RFC 5961, 4.2), and ours answers that there is none.
func (ad *address) knock(ctx context.Context) {
	ad.mu.Lock()
	lost := ad.lost
	ad.lost = nil
	ad.mu.Unlock()
	var all sync.WaitGroup
	for _, from := range lost[max(0, len(lost)-lostMost):] {
		all.Go(func() {
			d := net.Dialer{LocalAddr: from, Timeout: knockMost}
			c, err := d.DialContext(ctx, "tcp", ad.addrPort.String())
			if err != nil {
				return // the port has another owner by now, or the address is not ours any more
			}
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		})
	}
	all.Wait()
}
