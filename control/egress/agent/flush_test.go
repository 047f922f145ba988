package agent

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"millrace/control/egress/konntest"
	"millrace/waittest"
)

// narrow dials with buffers that hold little.
func narrow(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err == nil {
		err = c.(*net.TCPConn).SetWriteBuffer(32 << 10)
	}
	return c, err
}

// writeAll writes b in packets of 32 KiB.
func writeAll(t *testing.T, c net.Conn, b []byte) {
	t.Helper()
	for len(b) > 0 {
		n := min(len(b), 32<<10)
		if _, err := c.Write(b[:n]); err != nil {
			t.Fatal(err)
		}
		b = b[n:]
	}
}

// only is the request that is open.
func (r *rig) only(t *testing.T) *request {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.live) != 1 {
		t.Fatalf("%d requests are open, want 1", len(r.live))
	}
	for q := range r.live {
		return q
	}
	return nil
}

// has is how many bytes of the client a request has had, but for a packet that is being carried.
func (r *request) has() int64 {
	n := r.toward.Load()
	r.queue.mu.Lock()
	defer r.queue.mu.Unlock()
	for _, c := range r.queue.chunks {
		n += int64(len(c.bytes))
	}
	return n
}

// TestTargetSaysNoMore: a target that ends what it says, and reads on, gets what the client has
// sent by then, whether that has closed or not. The client is told at once.
func TestTargetSaysNoMore(t *testing.T) {
	t.Parallel() // it waits, for the most part
	sent := pattern(960<<10, 3)
	s := &konntest.Server{ID: "s1"}
	r := start(t, func(c *Config) { c.Host = dialFunc(narrow) }, s)
	hush, read, got := make(chan struct{}), make(chan struct{}), make(chan []byte, 1)
	target := listen(t, func(c *net.TCPConn) {
		_ = c.SetReadBuffer(32 << 10)
		<-hush
		_ = c.CloseWrite()
		<-read
		all, _ := io.ReadAll(c)
		got <- all
	})
	for _, closes := range []bool{true, false} {
		c, err := s.DialGRPC(t, t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		writeAll(t, c, sent)
		q := r.only(t)
		eventually(t, "the agent has all", func() bool { return q.has() >= int64(len(sent)-32<<10) })
		if n := q.toward.Load(); n > int64(len(sent)-128<<10) {
			t.Fatalf("sockets hold %d bytes: the test shows nothing", n)
		}
		if closes {
			go c.Close() // which waits for an answer
			eventually(t, "the agent knows", func() bool { return q.state.Load() == closing })
		}
		hush <- struct{}{}
		if !closes {
			if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("the client reads %d bytes, %v; want EOF", n, err)
			}
		} else {
			time.Sleep(100 * time.Millisecond) // for the agent to hear it
		}
		read <- struct{}{}
		select {
		case all := <-got:
			if !bytes.Equal(all, sent) {
				t.Errorf("the client closes: %v: %d of %d bytes arrived", closes, len(all), len(sent))
			}
		case <-time.After(waittest.Most):
			t.Fatal("the upload does not end")
		}
		eventually(t, "it ends", func() bool { return r.Status().Requests == 0 })
		_, ended := r.Requests()
		if by := map[bool]string{true: byClient, false: byTarget}[closes]; ended[0].ClosedBy != by || ended[0].State != "ok" || ended[0].ToTarget != int64(len(sent)) {
			t.Errorf("the client closes: %v: %+v", closes, ended[0])
		}
	}
}

// TestTargetSaysNoMoreAndStalls: one that ends what it says, and does not read, is left in time.
func TestTargetSaysNoMoreAndStalls(t *testing.T) {
	t.Parallel() // it waits, for the most part
	s := &konntest.Server{ID: "s1"}
	r := start(t, func(c *Config) { c.Host, c.CloseTimeout = dialFunc(narrow), 500*time.Millisecond }, s)
	hush, over := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(over) })
	target := listen(t, func(c *net.TCPConn) {
		_ = c.SetReadBuffer(32 << 10)
		<-hush
		_ = c.CloseWrite()
		<-over
	})
	c, err := s.DialGRPC(t, t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	writeAll(t, c, make([]byte, 960<<10))
	q := r.only(t)
	eventually(t, "the agent has all", func() bool { return q.has() >= 928<<10 })
	close(hush)
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the client reads %d bytes, %v; want EOF", n, err)
	}
	eventually(t, "it ends", func() bool { return r.Status().Requests == 0 })
	if _, ended := r.Requests(); ended[0].ClosedBy != byTarget || ended[0].State != "broken" || ended[0].Error != "timeout: the target takes nothing" {
		t.Errorf("%+v", ended[0])
	}
}

// TestSlowTarget: a target that takes some of a large packet in --stall-timeout is not given up.
func TestSlowTarget(t *testing.T) {
	t.Parallel() // it waits, for the most part
	sent := pattern(3<<20, 5)
	s := &konntest.Server{ID: "s1"}
	start(t, func(c *Config) { c.Host, c.StallTimeout = dialFunc(narrow), time.Second }, s)
	got := make(chan []byte, 1)
	target := listen(t, func(c *net.TCPConn) {
		_ = c.SetReadBuffer(32 << 10)
		var all []byte
		for buf := make([]byte, 64<<10); ; time.Sleep(100 * time.Millisecond) {
			n, err := io.ReadFull(c, buf)
			if all = append(all, buf[:n]...); err != nil {
				break
			}
		}
		got <- all
	})
	c, err := s.DialGRPC(t, t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(sent); err != nil { // one packet
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second) // before it closes: what is left has --close-timeout then
	select {
	case all := <-got:
		t.Fatalf("it was given up after %d bytes", len(all))
	default:
	}
	_ = c.Close()
	if all := <-got; !bytes.Equal(all, sent) {
		t.Errorf("%d of %d bytes arrived", len(all), len(sent))
	}
}

// A lateConn sets its first deadline of writes late: when the channel is closed.
type lateConn struct {
	net.Conn
	first atomic.Bool
	late  chan struct{}
}

func (c *lateConn) SetWriteDeadline(at time.Time) error {
	if c.first.CompareAndSwap(false, true) {
		<-c.late
	}
	return c.Conn.SetWriteDeadline(at)
}

// TestCloseWhileItBegins: a client that closes while a packet is about to be written leaves the target
// the time that there is after a close, and not that of a stall.
func TestCloseWhileItBegins(t *testing.T) {
	t.Parallel() // it waits, for the most part
	late := make(chan struct{})
	s := &konntest.Server{ID: "s1"}
	r := start(t, func(c *Config) {
		c.CloseTimeout, c.StallTimeout = 300*time.Millisecond, time.Hour
		c.Host = dialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := narrow(ctx, network, address)
			return &lateConn{Conn: c, late: late}, err
		})
	}, s)
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	c, err := s.DialGRPC(t, t.Context(), listen(t, func(c *net.TCPConn) {
		_ = c.SetReadBuffer(32 << 10)
		<-over
	}))
	if err != nil {
		t.Fatal(err)
	}
	writeAll(t, c, make([]byte, 960<<10))
	q := r.only(t)
	go c.Close() // which waits for an answer
	eventually(t, "the agent knows", func() bool { return q.state.Load() == closing })
	time.Sleep(100 * time.Millisecond) // for the time after a close to be set
	close(late)
	eventually(t, "it ends", func() bool { return r.Status().Requests == 0 })
}
