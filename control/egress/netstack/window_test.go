package netstack

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"millrace/dataplane/netnstest"
	"millrace/waittest"
)

// standsStill is more than a few losses in a row take to be mended.
const standsStill = 10 * time.Second

// TestClosedWindow has windows close and open again, time after time, on a wire that
// loses one frame of twenty each way: no connection stands still while its reader
// waits. With the stack's own pauses some do for up to a minute. The readers' end is Linux,
// as that of most pods.
func TestClosedWindow(t *testing.T) {
	if testing.Short() {
		t.Skip("the sender is the same as in TestClosedWindowOfItsOwn")
	}
	t.Parallel() // it waits, for the most part
	if !netnstest.Alone(t) {
		return
	}
	for name, plain := range map[string]bool{"offload": false, "plain": true} {
		t.Run(name, func(t *testing.T) { // one after the other: both have the same device
			w := &wire{t: t, linux: true}
			w.lose.Store(20)
			w.connect(plain, plain)
			a := w.end(0, nil)
			a.await(t)
			l, err := net.Listen("tcp", "10.9.0.2:7")
			if err != nil {
				t.Fatal(err)
			}
			r := &readers{}
			serveAll(t, l, func(c net.Conn) {
				_ = c.(*net.TCPConn).SetReadBuffer(128 << 10) // so that it does not grow
				r.read(c)
			})
			r.writeAll(t, w, a)
			if n := r.stood.Load(); n > 0 {
				t.Errorf("%d connections stood still for %v while their readers waited", n, standsStill)
			}
		})
	}
}

// TestClosedWindowOfItsOwn is TestClosedWindow with the stack itself at the readers' end. That takes back some
// bytes of a window that it has offered, so its peer may come to have a segment to send again for which there is no
// room, though the window is open; it has no timer then, and waits for a word of the receiver (decision 0085).
// Nothing else makes a connection stand still.
func TestClosedWindowOfItsOwn(t *testing.T) {
	t.Parallel() // it waits, for the most part
	for name, plain := range map[string]bool{"offload": false, "plain": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWire(t, plain, plain)
			w.lose.Store(20)
			r := &readers{senders: map[uint16]tcp.TCPSenderState{}}
			a, b := w.end(0, r.note), w.end(1, nil)
			a.await(t)
			b.await(t)
			if err := b.inner.SetTransportProtocolOption(tcp.ProtocolNumber, &tcpip.TCPReceiveBufferSizeRangeOption{Min: bufferMin, Default: 256 << 10, Max: bufferMax}); err != nil {
				t.Fatal(err)
			}
			serve(t, b, "10.9.0.2:7", r.read)
			r.writeAll(t, w, a)
			if n := r.stood.Load(); n > 0 {
				t.Errorf("%d connections stood still for %v while their readers waited, though not for want of room: %+v", n, standsStill, r.odd.Load())
			}
			if n := r.known.Load(); n > 0 {
				t.Logf("%d connections had no room for a segment that was lost, and no timer", n)
			}
		})
	}
}

// readers are the readers of a test, and what has become of them.
type readers struct {
	reading      atomic.Int64
	written      atomic.Bool  // nothing more will be: they read without pauses
	longest      atomic.Int64 // that one had to wait
	stood, known atomic.Int64 // that waited for standsStill, and of those whose sender is known to wait for them
	odd          atomic.Pointer[tcp.TCPSenderState]

	mu      sync.Mutex
	senders map[uint16]tcp.TCPSenderState // by their ports: as of the last segment that came; nil: not known
	left    map[uint16]bool               // those that are known to wait
}

// note takes note of a sender.
func (r *readers) note(s *tcp.TCPEndpointState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.senders[s.ID.LocalPort] = s.Sender
}

// read reads all of a connection, or gives it up when it stands still.
func (r *readers) read(c net.Conn) {
	r.reading.Add(1)
	defer r.reading.Add(-1)
	e, ok := errors.AsType[net.Error](r.readSlowly(c))
	if !ok || !e.Timeout() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	from := port16(c.RemoteAddr())
	s, known := r.senders[from]
	if known && s.SndUna != s.SndNxt && s.SndWnd > 0 && int(s.SndWnd) < s.MaxPayloadSize {
		r.known.Add(1)
		if r.left == nil {
			r.left = map[uint16]bool{}
		}
		r.left[from] = true
		return
	}
	r.stood.Add(1)
	r.odd.Store(&s)
}

// gaveUp reports whether the reader of a connection has given it up, as may be.
func (r *readers) gaveUp(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.left[port16(c.LocalAddr())]
}

func port16(a net.Addr) uint16 { return uint16(a.(*net.TCPAddr).Port) }

// writeAll has many connections at a time written to, for a time.
func (r *readers) writeAll(t *testing.T, w *wire, a *Stack) {
	t.Helper()
	var all sync.WaitGroup
	many := 30
	if testing.Short() {
		many = 8 // with the race detector more would wait for the processor
	}
	end := time.Now().Add(3 * time.Second)
	for range many {
		all.Go(func() {
			for time.Now().Before(end) {
				if err := r.write(a); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	r.written.Store(true)
	w.lose.Store(0) // what is left comes soon, or not at all
	waittest.Until(t, "all readers have ended", func() bool { return r.reading.Load() == 0 })
	t.Logf("a reader waited for %v at most; %d frames lost, %d segments sent again", time.Duration(r.longest.Load()).Round(time.Millisecond), w.lost.Load(), a.Retransmits())
	if w.lost.Load() == 0 {
		t.Error("nothing was lost: the test shows nothing")
	}
}

// write opens a connection, and writes as much as goes out.
func (r *readers) write(s *Stack) error {
	c, err := s.DialContext(context.Background(), "tcp", "10.9.0.2:7")
	if err != nil {
		return err
	}
	buf := make([]byte, 100<<10)
	for stop := time.Now().Add(2 * time.Second); time.Now().Before(stop); {
		_ = c.SetWriteDeadline(time.Now().Add(patience))
		if _, err := c.Write(buf[:1+rand.IntN(len(buf))]); err != nil {
			_ = c.Close()
			if r.gaveUp(c) {
				return nil
			}
			return err
		}
	}
	return c.Close()
}

// readSlowly reads in pieces, with pauses in which the window closes.
func (r *readers) readSlowly(c net.Conn) error {
	buf := make([]byte, 64<<10)
	for {
		if !r.written.Load() && rand.IntN(3) == 0 {
			time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		}
		_ = c.SetReadDeadline(time.Now().Add(standsStill))
		began := time.Now()
		_, err := c.Read(buf[:1+rand.IntN(len(buf))])
		for d, was := int64(time.Since(began)), r.longest.Load(); d > was && !r.longest.CompareAndSwap(was, d); was = r.longest.Load() {
		}
		if err != nil {
			return err
		}
	}
}
