package netstack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"millrace/dataplane/packet"
)

// exchange sends random bytes to an echo, all of which must come back.
func exchange(t *testing.T, c net.Conn, n int) {
	t.Helper()
	sent := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(sent)
	var writing sync.WaitGroup
	defer writing.Wait()
	writing.Go(func() {
		if _, err := c.Write(sent); err != nil {
			t.Error(err)
		}
	})
	got := make([]byte, n)
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) {
		t.Error("other bytes came back")
	}
}

// pours counts calls of pour.
var pours atomic.Uint32

// pour sends bytes from one stack to another, all of which must arrive.
func pour(t *testing.T, from, to *Stack, n int64) {
	t.Helper()
	pourAfter(t, from, to, n, func() {})
}

// pourAfter is pour that calls begun when there is a connection, or none.
func pourAfter(t *testing.T, from, to *Stack, n int64, begun func()) {
	t.Helper()
	at := netip.AddrPortFrom(to.address4(), uint16(10_000+pours.Add(1))) // one that was just left is kept for a while
	l, err := to.Listen(at)
	if err != nil {
		begun()
		t.Error(err)
		return
	}
	defer l.Close()
	got := make(chan int64, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- -1
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		n, _ := io.Copy(io.Discard, c)
		got <- n
	}()
	c, err := from.DialContext(t.Context(), "tcp", at.String())
	begun()
	if err != nil {
		t.Error(err)
		return
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.CopyN(c, endless{}, n); err != nil {
		t.Error(err)
	}
	if one, all := c.(*conn).Retransmits(), from.Retransmits(); one > all {
		t.Errorf("%d segments of one connection were sent again, %d of all", one, all)
	}
	_ = c.Close()
	if g := <-got; g != n {
		t.Errorf("%d bytes of %d arrive", g, n)
	}
}

// endless is bytes without an end.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// address4 is the stack's IPv4 address.
func (s *Stack) address4() netip.Addr {
	a, _ := s.inner.GetMainNICAddress(PortNIC, header.IPv4ProtocolNumber)
	return netip.AddrFrom4(a.Address.As4())
}

// TestStream has two stacks exchange bytes over ports that take super-frames, and
// over ports that do not: all arrive as they are.
func TestStream(t *testing.T) {
	for name, plain := range map[string]bool{"offload": false, "plain": true} {
		t.Run(name, func(t *testing.T) {
			const size = 16 << 20
			w := newWire(t, plain, plain)
			a, b := ends(t, w)
			for _, at := range []string{"10.9.0.2:7", "[fd09::2]:7"} {
				serve(t, b, at, echo)
				start := time.Now()
				exchange(t, dial(t, a, "tcp", at), size/8)
				t.Logf("%s: %.2f Gbit/s there and back", at, 2*size/time.Since(start).Seconds()/1e9)
			}
			start := time.Now()
			pour(t, a, b, size)
			t.Logf("%.2f Gbit/s one way", 8*size/time.Since(start).Seconds()/1e9)
			for _, s := range []*Stack{a, b} {
				if c := s.Counters(); c.BadSum.Load()+c.Short.Load() > 0 {
					t.Errorf("%d frames with wrong checksums, %d short", c.BadSum.Load(), c.Short.Load())
				}
			}
			frames := a.inner.NICInfo()[PortNIC].Stats.Tx
			if mean := frames.Bytes.Value() / frames.Packets.Value(); !plain && mean < 3000 {
				t.Errorf("frames of %d bytes on average: no super-frames", mean)
			}
		})
	}
}

// TestMany has many connections at once, which come and go: each gets its own bytes,
// and all memory is given back.
func TestMany(t *testing.T) {
	a, b := ends(t, newWire(t))
	serve(t, b, "10.9.0.2:7", echo)
	left := a.budget.left
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			for range 3 {
				c, err := a.DialContext(t.Context(), "tcp", "10.9.0.2:7")
				if err != nil {
					t.Error(err)
					return
				}
				_ = c.SetDeadline(time.Now().Add(patience))
				exchange(t, c, 20_000)
				_ = c.Close()
				_ = c.Close()
			}
		})
	}
	all.Wait()
	if a.budget.left != left {
		t.Errorf("%d bytes of %d are not given back", left-a.budget.left, left)
	}
	// Who closes first remembers the connection for a time, and that takes memory, too.
	for end := time.Now().Add(3 * timeWait); len(a.inner.RegisteredEndpoints()) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the stack remembers %d connections that were closed %v ago", len(a.inner.RegisteredEndpoints()), 3*timeWait)
		}
	}
}

// TestRefused: what cannot be reached is said as the kernel says it.
func TestRefused(t *testing.T) {
	a, _ := ends(t, newWire(t))
	for _, tt := range []struct {
		to   string
		want error
	}{
		{"10.9.0.2:8", syscall.ECONNREFUSED},
		{"[fd09::2]:8", syscall.ECONNREFUSED},
		{"10.10.0.2:8", syscall.EHOSTUNREACH},
		{"10.9.0.77:8", syscall.EHOSTUNREACH}, // nobody answers ARP
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		c, err := a.DialContext(ctx, "tcp", tt.to)
		cancel()
		if c != nil || !errors.Is(err, tt.want) && !(tt.want == syscall.EHOSTUNREACH && errors.Is(err, syscall.ENETUNREACH)) {
			t.Errorf("%s: %v, want %v", tt.to, err, tt.want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := a.DialContext(ctx, "tcp", "10.9.0.78:8"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a dial that is given up: %v", err)
	}
	if _, err := a.DialContext(t.Context(), "tcp", "name:80"); err == nil {
		t.Error("a name was dialled")
	}
}

// TestBudget: connections beyond what there is memory for are refused, and may come
// when others have ended.
func TestBudget(t *testing.T) {
	a, b := ends(t, newWire(t))
	serve(t, b, "10.9.0.2:7", echo)
	a.budget.left = shareMin
	c := dial(t, a, "tcp", "10.9.0.2:7")
	if _, err := a.DialContext(t.Context(), "tcp", "10.9.0.2:7"); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("one too many: %v", err)
	}
	_ = c.Close()
	exchange(t, dial(t, a, "tcp", "10.9.0.2:7"), 1000)
}

// TestDatagrams sends a question and gets an answer, as a resolver does.
func TestDatagrams(t *testing.T) {
	a, b := ends(t, newWire(t))
	for _, at := range []string{"10.9.0.2:53", "[fd09::2]:53"} {
		to := netip.MustParseAddrPort(at)
		l, err := gonet.DialUDP(b.inner, ptr(full(to)), nil, family(to.Addr()))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			var p [2000]byte
			for {
				n, from, err := l.ReadFrom(p[:])
				if err != nil {
					return
				}
				_, _ = l.WriteTo(p[:n], from)
			}
		}()
		c := dial(t, a, "udp", at)
		for _, n := range []int{1, 1000, 1472} {
			exchange(t, c, n)
		}
	}
}

// TestReconnect has the switch die while bytes are on their way: connections outlive
// it, and go on soon.
func TestReconnect(t *testing.T) {
	w := newWire(t)
	a, b := ends(t, w)
	for range 3 {
		var under, dialled sync.WaitGroup
		dialled.Add(2) // the switch dies when bytes are on their way
		under.Go(func() { pourAfter(t, a, b, 16<<20, dialled.Done) })
		under.Go(func() { pourAfter(t, b, a, 16<<20, dialled.Done) })
		dialled.Wait()
		time.Sleep(time.Millisecond)
		w.stop()
		time.Sleep(20 * time.Millisecond)
		began := time.Now()
		w.start()
		under.Wait()
		t.Logf("all there %v after the switch", time.Since(began))
	}
}

// TestLoss has a wire that loses frames: TCP mends that before long.
func TestLoss(t *testing.T) {
	w := newWire(t)
	w.lose.Store(100)
	a, b := ends(t, w)
	start := time.Now()
	pour(t, a, b, 8<<20)
	pour(t, b, a, 8<<20)
	if w.lost.Load() == 0 {
		t.Error("nothing was lost: the test shows nothing")
	}
	t.Logf("%v, %d lost, %d times sent again", time.Since(start), w.lost.Load(), a.Retransmits()+b.Retransmits())
}

// TestLate has a stack that is there before the switch.
func TestLate(t *testing.T) {
	w := newWire(t)
	w.stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		time.Sleep(50 * time.Millisecond)
		w.start()
	}()
	a, b := ends(t, w)
	<-done
	serve(t, b, "10.9.0.2:7", echo)
	exchange(t, dial(t, a, "tcp", "10.9.0.2:7"), 1000)
}

// FuzzFrame gives a stack whatever a switch may: it must not fall over.
func FuzzFrame(f *testing.F) {
	l := &link{address: "\x02\x00\x00\x00\x00\x01", closed: true}
	l.mtu.Store(1500)
	s := &Stack{inner: newInner(tcp.NewProtocolCUBIC), link: l}
	if err := s.configure(Config{Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24"), netip.MustParsePrefix("fd09::1/64")}}); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.inner.Close(); s.inner.Wait() })
	l.receiver.gro.Init(true)
	l.receiver.gro.Dispatcher = (*toStack)(l)
	tcp4 := []byte("\x45\x00\x00\x28\x00\x00\x00\x00\x40\x06\x00\x00\x0a\x09\x00\x02\x0a\x09\x00\x01\x00\x07\x00\x07\x00\x00\x00\x00\x00\x00\x00\x00\x50\x02\x10\x00\x00\x00\x00\x00")
	eth := []byte("\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x08\x00")
	f.Add(make([]byte, 12), append(eth, tcp4...), 20)
	f.Add([]byte("\x01\x01\x00\x00\x10\x00\x22\x00\x10\x00\x00\x00"), append(eth, tcp4...), 0)
	f.Add(make([]byte, 12), append(append([]byte{}, eth[:12]...), "\x86\xdd\x60\x00\x00\x00\x00\x14\x06\x40"...), 3)
	f.Fuzz(func(_ *testing.T, header, frame []byte, cut int) {
		if len(header) < 12 || len(frame) > packet.SuperMax {
			return
		}
		cut = min(max(cut, 0), len(frame))
		l.frame([][]byte{append(append([]byte{}, header[:12]...), frame[:cut]...), frame[cut:]})
		l.flush()
	})
}
