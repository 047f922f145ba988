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
)

// standsStill is more than a few losses in a row take to be mended.
const standsStill = 10 * time.Second

// TestClosedWindow has windows close and open again, time after time, on a wire that
// loses one frame of twenty each way: no connection stands still while its reader
// waits. With the stack's own pauses some do for up to a minute.
func TestClosedWindow(t *testing.T) {
	for name, plain := range map[string]bool{"offload": false, "plain": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it waits, for the most part
			w := newWire(t, plain, plain)
			w.lose = 20
			a, b := ends(t, w)
			if err := b.inner.SetTransportProtocolOption(tcp.ProtocolNumber, &tcpip.TCPReceiveBufferSizeRangeOption{Min: bufferMin, Default: 256 << 10, Max: bufferMax}); err != nil {
				t.Fatal(err)
			}
			var longest, stood atomic.Int64
			serve(t, b, "10.9.0.2:7", func(c net.Conn) {
				if e, ok := errors.AsType[net.Error](readSlowly(c, &longest)); ok && e.Timeout() {
					stood.Add(1)
				}
			})
			var all sync.WaitGroup
			end := time.Now().Add(10 * time.Second)
			for range 30 {
				all.Go(func() {
					if err := writeUntil(a, end); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			t.Logf("a reader waited for %v at most; %d frames lost, %d segments sent again", time.Duration(longest.Load()).Round(time.Millisecond), w.lost.Load(), a.Retransmits())
			if n := stood.Load(); n > 0 {
				t.Errorf("%d connections stood still for %v while their readers waited", n, standsStill)
			}
			if w.lost.Load() == 0 {
				t.Error("nothing was lost: the test shows nothing")
			}
		})
	}
}

// readSlowly reads in pieces, with pauses in which the window closes. longest is how
// long it had to wait.
func readSlowly(c net.Conn, longest *atomic.Int64) error {
	buf := make([]byte, 64<<10)
	for {
		if rand.IntN(3) == 0 {
			time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		}
		_ = c.SetReadDeadline(time.Now().Add(standsStill))
		began := time.Now()
		_, err := c.Read(buf[:1+rand.IntN(len(buf))])
		for d, was := int64(time.Since(began)), longest.Load(); d > was && !longest.CompareAndSwap(was, d); was = longest.Load() {
		}
		if err != nil {
			return err
		}
	}
}

// writeUntil opens connections one after the other, and writes as much as goes out.
func writeUntil(s *Stack, end time.Time) error {
	buf := make([]byte, 100<<10)
	for time.Now().Before(end) {
		c, err := s.DialContext(context.Background(), "tcp", "10.9.0.2:7")
		if err != nil {
			return err
		}
		for stop := time.Now().Add(2 * time.Second); time.Now().Before(stop); {
			_ = c.SetWriteDeadline(time.Now().Add(patience))
			if _, err := c.Write(buf[:1+rand.IntN(len(buf))]); err != nil {
				_ = c.Close()
				return err
			}
		}
		if err := c.Close(); err != nil {
			return err
		}
	}
	return nil
}
