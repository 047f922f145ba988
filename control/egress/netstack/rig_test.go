package netstack

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/dataplane/packet"
	"millrace/vhost"
)

// patience is how long anything may take on a busy machine.
const patience = time.Minute

// A wire is a switch of two vhost-user ports: what comes in by one goes out by the
// other.
type wire struct {
	t     *testing.T
	paths [2]string
	plain [2]bool
	lose  int // one frame of so many; 0: none
	lost  atomic.Int64

	turn  sync.Mutex // held while frames are carried
	ports [2]*vhost.Port
	stop  func()
}

func newWire(t *testing.T, plain ...bool) *wire {
	t.Helper()
	w := &wire{t: t}
	dir := t.TempDir()
	for i := range w.paths {
		w.paths[i] = filepath.Join(dir, fmt.Sprint(i))
		w.plain[i] = i < len(plain) && plain[i]
	}
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

// start is a switch that comes to life.
func (w *wire) start() {
	w.t.Helper()
	for i := range w.ports {
		p, err := vhost.Open(vhost.Options{Path: w.paths[i], Role: vhost.Listen, Plain: w.plain[i], Quiesce: func() { w.turn.Lock(); w.turn.Unlock() }}) //nolint:staticcheck // the point is to have waited
		if err != nil {
			w.t.Fatal(err)
		}
		w.ports[i] = p
	}
	quit := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { w.carry(quit) })
	w.stop = sync.OnceFunc(func() {
		close(quit)
		running.Wait()
		for _, p := range w.ports {
			if err := p.Close(); err != nil {
				w.t.Error(err)
			}
		}
	})
}

func (w *wire) carry(quit chan struct{}) {
	b := packet.NewBatch()
	for {
		select {
		case <-quit:
			return
		default:
		}
		n := 0
		w.turn.Lock()
		for i, p := range w.ports {
			rx, tx := p.RxQueues()[0], w.ports[1-i].TxQueue()
			b.Reset()
			rx.Rx(b)
			var list []packet.Ref
			for k := range b.N {
				if w.lose > 0 && rand.IntN(w.lose) == 0 {
					w.lost.Add(1)
					continue
				}
				list = append(list, packet.Ref{Frame: uint16(k)})
			}
			tx.Tx(b, list)
			rx.Release()
			tx.Commit(b)
			rx.Signal()
			tx.Signal()
			n += b.N
		}
		w.turn.Unlock()
		if n == 0 {
			time.Sleep(10 * time.Microsecond)
		}
	}
}

// ends returns two stacks at the ends of a wire, 10.9.0.1 and .2, fd09::1 and ::2.
func ends(t *testing.T, w *wire) (a, b *Stack) {
	t.Helper()
	var s [2]*Stack
	for i := range s {
		var err error
		s[i], err = New(Config{
			Socket: w.paths[i], MAC: [6]byte{2, 0, 0, 0, 0, byte(i + 1)},
			Addresses: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.9.0.%d/24", i+1)), netip.MustParsePrefix(fmt.Sprintf("fd09::%d/64", i+1))},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s[i].Close(); err != nil {
				t.Error(err)
			}
			select {
			case err := <-s[i].Broken():
				t.Error(err)
			default:
			}
		})
	}
	for end := time.Now().Add(patience); !s[0].Up() || !s[1].Up(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no connection")
		}
	}
	return s[0], s[1]
}

// serve has each connection to an address of s handled by f.
func serve(t *testing.T, s *Stack, at string, f func(net.Conn)) {
	t.Helper()
	l, err := s.Listen(netip.MustParseAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f(c)
			}()
		}
	}()
}

func echo(c net.Conn) { _, _ = io.Copy(c, c) }

func dial(t *testing.T, s *Stack, network, to string) net.Conn {
	t.Helper()
	c, err := s.DialContext(t.Context(), network, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}
