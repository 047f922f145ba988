package netstack

import (
	"errors"
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

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"millrace/dataplane/packet"
	"millrace/dataplane/tap"
	"millrace/vhost"
	"millrace/waittest"
)

// patience is how long anything may take on a busy machine.
const patience = time.Minute

// A wire is a switch of two ports: what comes in by one goes out by the other. Both are
// vhost-user ports, or the second one is a device of the kernel.
type wire struct {
	t     *testing.T
	paths [2]string
	plain [2]bool
	linux bool         // the second one is a device, 10.9.0.2/24
	lose  atomic.Int64 // one frame of so many; 0: none
	lost  atomic.Int64

	turn  sync.Mutex // held while frames are carried
	ports [2]port
	stop  func()
}

// A port is one of a wire.
type port struct {
	rx interface {
		Rx(b *packet.Batch)
		Release()
		Signal()
	}
	tx interface {
		Tx(b *packet.Batch, list []packet.Ref)
		Commit(b *packet.Batch)
		Signal()
	}
	close func() error
}

func newWire(t *testing.T, plain ...bool) *wire {
	t.Helper()
	w := &wire{t: t}
	w.connect(plain...)
	return w
}

// connect makes the wire's ports, which are there until the test ends.
func (w *wire) connect(plain ...bool) {
	t := w.t
	t.Helper()
	dir := t.TempDir()
	for i := range w.paths {
		w.paths[i] = filepath.Join(dir, fmt.Sprint(i))
		w.plain[i] = i < len(plain) && plain[i]
	}
	w.start()
	t.Cleanup(func() { w.stop() })
}

// start is a switch that comes to life.
func (w *wire) start() {
	w.t.Helper()
	for i := range w.ports {
		w.ports[i] = w.open(i)
	}
	quit := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { w.carry(quit) })
	w.stop = sync.OnceFunc(func() {
		close(quit)
		running.Wait()
		for _, p := range w.ports {
			if err := p.close(); err != nil {
				w.t.Error(err)
			}
		}
	})
}

func (w *wire) open(i int) port {
	w.t.Helper()
	quiesce := func() { w.turn.Lock(); w.turn.Unlock() } //nolint:staticcheck // the point is to have waited
	if i == 1 && w.linux {
		k := new(tap.Kernel)
		p, err := tap.Open(tap.Options{Name: "wire", Plain: w.plain[i], Kernel: k, Quiesce: quiesce,
			Settings: tap.Settings{Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.0.2/24")}}})
		if err != nil {
			w.t.Fatal(err)
		}
		waittest.Until(w.t, "the device is up", func() bool { return p.State().Link == tap.LinkUp })
		return port{p.RxQueues()[0], p.TxQueue(), func() error { return errors.Join(p.Close(), k.Close()) }}
	}
	p, err := vhost.Open(vhost.Options{Path: w.paths[i], Role: vhost.Listen, Plain: w.plain[i], Quiesce: quiesce})
	if err != nil {
		w.t.Fatal(err)
	}
	return port{p.RxQueues()[0], p.TxQueue(), p.Close}
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
			rx, tx := p.rx, w.ports[1-i].tx
			b.Reset()
			rx.Rx(b)
			var list []packet.Ref
			for k := range b.N {
				if n := w.lose.Load(); n > 0 && rand.Int64N(n) == 0 {
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
	a, b = w.end(0, nil), w.end(1, nil)
	a.await(t)
	b.await(t)
	return a, b
}

// end returns a stack at one end of a wire, and probe looks on at its TCP.
func (w *wire) end(i int, probe tcp.TCPProbeFunc) *Stack {
	t := w.t
	t.Helper()
	cfg := Config{
		Socket: w.paths[i], MAC: [6]byte{2, 0, 0, 0, 0, byte(i + 1)},
		Addresses: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.9.0.%d/24", i+1)), netip.MustParsePrefix(fmt.Sprintf("fd09::%d/64", i+1))},
	}
	if probe != nil {
		cfg.tcp = tcp.NewProtocolProbe(probe)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		select {
		case err := <-s.Broken():
			t.Error(err)
		default:
		}
	})
	if probe != nil {
		if err := s.inner.SetTransportProtocolOption(tcp.ProtocolNumber, ptr(tcpip.CongestionControlOption("cubic"))); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// await waits until the stack has a switch.
func (s *Stack) await(t *testing.T) {
	t.Helper()
	waittest.Until(t, "connected to the switch", s.Up)
}

// serve has each connection to an address of s handled by f.
func serve(t *testing.T, s *Stack, at string, f func(net.Conn)) {
	t.Helper()
	l, err := s.Listen(netip.MustParseAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	serveAll(t, l, f)
}

// serveAll has each connection of a listener handled by f.
func serveAll(t *testing.T, l net.Listener, f func(net.Conn)) {
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
