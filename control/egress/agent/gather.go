package agent

import (
	"context"
	"net"
	"runtime"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// A gatherer is a connection on which small writes that come together go out together:
// in one TLS record and by one system call, either of which costs both ends more than what
// is in it. A write returns when it is noted; a goroutine sends what has been noted, after
// those that could run already have had their turn. Large writes go out as they are, in order.
//
// gRPC does so itself, but only for what is less than 1,000 bytes.
type gatherer struct {
	net.Conn

	mu      sync.Mutex
	change  sync.Cond
	noted   []byte
	spare   []byte // the memory of noted when that is being sent
	sending bool
	closed  bool
	err     error // of a write, for those after it
}

// Bounds of what is gathered, in bytes.
const (
	gatherLarge = 16 << 10 // a write that fills a TLS record gains nothing
	gatherMost  = 64 << 10
)

func newGatherer(c net.Conn) *gatherer {
	g := &gatherer{Conn: c}
	g.change.L = &g.mu
	go g.send()
	return g
}

func (g *gatherer) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(b) >= gatherLarge {
		return g.pass(b)
	}
	for g.err == nil && len(g.noted)+len(b) > gatherMost {
		g.change.Wait()
	}
	if g.err != nil {
		return 0, g.err
	}
	g.noted = append(g.noted, b...)
	g.change.Broadcast()
	return len(b), nil
}

// pass writes b after what was noted before it. It is called with mu held, but does not
// hold it all the time.
func (g *gatherer) pass(b []byte) (int, error) {
	for g.err == nil && (g.sending || len(g.noted) > 0) {
		g.change.Wait()
	}
	if g.err != nil {
		return 0, g.err
	}
	return g.writeLocked(b)
}

// writeLocked writes b, without mu meanwhile.
func (g *gatherer) writeLocked(b []byte) (int, error) {
	g.sending = true
	g.mu.Unlock()
	n, err := g.Conn.Write(b)
	g.mu.Lock()
	g.sending = false
	if g.err == nil {
		g.err = err
	}
	g.change.Broadcast()
	return n, err
}

// send sends what is noted, until the connection is closed or fails. Then whoever reads
// is told so, too.
func (g *gatherer) send() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.await() {
		g.mu.Unlock()
		runtime.Gosched() // what others have to say goes along
		g.mu.Lock()
		if g.sending {
			continue
		}
		b := g.noted
		g.noted, g.spare = g.spare[:0], nil
		if _, err := g.writeLocked(b); err != nil {
			_ = g.Conn.Close()
		}
		g.spare = b
	}
}

// await waits, with mu held, for something to send, and reports whether there is.
func (g *gatherer) await() bool {
	for g.err == nil && (g.sending || len(g.noted) == 0 && !g.closed) {
		g.change.Wait()
	}
	return g.err == nil && len(g.noted) > 0
}

// closeMost is how long what was noted may take to go out before a connection is closed.
const closeMost = time.Second

// Close sends what was noted first, if the peer takes it.
func (g *gatherer) Close() error {
	late := false
	wake := time.AfterFunc(closeMost, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		late = true
		g.change.Broadcast()
	})
	defer wake.Stop()
	g.mu.Lock()
	g.closed = true
	g.change.Broadcast()
	for g.err == nil && !late && (g.sending || len(g.noted) > 0) {
		g.change.Wait()
	}
	if g.err == nil {
		g.err = net.ErrClosed
	}
	g.change.Broadcast()
	g.mu.Unlock()
	return g.Conn.Close()
}

// gathering is the security of connections on which small writes are gathered.
type gathering struct {
	credentials.TransportCredentials
}

func (c gathering) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		return nil, nil, err
	}
	return newGatherer(conn), info, nil
}

func (c gathering) Clone() credentials.TransportCredentials {
	return gathering{c.TransportCredentials.Clone()}
}
