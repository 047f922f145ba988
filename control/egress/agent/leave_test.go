package agent

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/control/egress/konntest"
	"millrace/waittest"
)

// ownAddress is an address of this machine that nobody else connects from: a port of it stays free until
// it is listened at again.
const ownAddress = "127.77.0.2"

// again starts a server at an address that was left free.
func again(t *testing.T, s *konntest.Server, address string) {
	t.Helper()
	var l net.Listener
	eventually(t, "the address is free", func() (ok bool) {
		var err error
		l, err = net.Listen("tcp", address)
		return err == nil
	})
	s.Serve(l)
	t.Cleanup(s.Stop)
}

// TestServerRetires: a server that ends when its agents have left is left by its idle streams at once,
// and what is open goes on, while new requests come by another server.
func TestServerRetires(t *testing.T) {
	t.Parallel() // it waits, for the most part
	s, next := &konntest.Server{ID: "s1"}, &konntest.Server{ID: "s2"}
	r := start(t, nil, s)
	target := listen(t, echo)
	long, err := s.DialHTTP(t, t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer long.Close()
	_ = long.SetDeadline(time.Now().Add(probeTime))
	over := s.Retire()
	if err := probe(t, ways[1], s, target); err != nil { // which has no stream made in its place
		t.Errorf("while the server waits: %v", err)
	}
	eventually(t, "only what is open is left", func() bool { all, ready := s.Backends(); return all == 1 && ready == 0 })
	if r.Status().Ready {
		t.Error("it is ready, though no server can send requests")
	}
	if err := ping(long, 1000); err != nil {
		t.Fatalf("a connection that was open: %v", err)
	}
	again(t, next, s.Addr())
	eventually(t, "the next server", func() bool { _, ready := next.Backends(); return ready == 8 })
	if err := probe(t, ways[1], next, target); err != nil {
		t.Error(err)
	}
	if err := ping(long, 1000); err != nil {
		t.Fatalf("a connection that was open: %v", err)
	}
	select {
	case <-over:
		t.Error("the server has ended: the test shows nothing")
	default:
	}
	_ = long.Close()
	select {
	case <-over:
	case <-time.After(waittest.Most):
		t.Error("the server waits for ever")
	}
}

// TestHuntedServerRetires: behind a balancer, a server that is left stands for no other: the one that
// takes its place is looked for.
func TestHuntedServerRetires(t *testing.T) {
	t.Parallel() // it waits, for the most part
	servers := map[string]*konntest.Server{}
	for _, id := range []string{"a", "b", "c"} {
		servers[id] = &konntest.Server{ID: id, Count: 2}
		servers[id].Start(t, "127.0.0.1:0")
	}
	var leads atomic.Pointer[konntest.Server]
	leads.Store(servers["a"])
	balancer := listen(t, func(c *net.TCPConn) {
		far, err := net.Dial("tcp", leads.Load().Addr())
		if err != nil {
			return
		}
		defer far.Close()
		go func() { _, _ = io.Copy(far, c); _ = far.Close() }()
		_, _ = io.Copy(c, far)
	})
	start(t, func(c *Config) { c.Servers, c.Links = []string{balancer}, 1 }, servers["a"])
	leads.Store(servers["b"])
	serves := func(s *konntest.Server) func() bool {
		return func() bool { _, ready := s.Backends(); return ready > 0 }
	}
	eventually(t, "the other server is found", serves(servers["b"]))
	long, err := servers["b"].DialHTTP(t, t.Context(), listen(t, echo))
	if err != nil {
		t.Fatal(err)
	}
	defer long.Close()
	_ = long.SetDeadline(time.Now().Add(probeTime))
	leads.Store(servers["c"])
	servers["b"].Retire()
	eventually(t, "the next server is found", serves(servers["c"]))
	if err := ping(long, 1000); err != nil {
		t.Errorf("a connection that was open: %v", err)
	}
}

// TestAddressesChange: when a name stands for another address, the one before is left when something is
// connected there and not earlier, and what is open goes on.
func TestAddressesChange(t *testing.T) {
	t.Parallel() // it waits, for the most part
	old, next := &konntest.Server{ID: "s1"}, &konntest.Server{ID: "s2"}
	old.Start(t, "127.0.0.1:0")
	r := start(t, nil, &konntest.Server{ID: "other"})
	ctx, stop := context.WithCancel(t.Context())
	stops := map[netip.AddrPort]context.CancelFunc{}
	var all sync.WaitGroup
	t.Cleanup(func() { stop(); r.stop(); all.Wait() })
	standsFor := func(address string) {
		r.match(ctx, "servers.test:1", []netip.AddrPort{netip.MustParseAddrPort(address)}, stops, &all)
	}
	standsFor(old.Addr())
	eventually(t, "a connection", func() bool { _, ready := old.Backends(); return ready == 8 })
	long, err := old.DialHTTP(t, t.Context(), listen(t, echo))
	if err != nil {
		t.Fatal(err)
	}
	defer long.Close()
	_ = long.SetDeadline(time.Now().Add(2 * probeTime))
	l, err := net.Listen("tcp", ownAddress+":0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil { // there is nobody for now
		t.Fatal(err)
	}
	standsFor(address)
	time.Sleep(2 * linger)
	standsFor(address)
	eventually(t, "all streams wait at the address before, with none at the next", func() bool { _, ready := old.Backends(); return ready == 8 })
	again(t, next, address)
	eventually(t, "the next address is connected, and that before is left", func() bool {
		standsFor(address)
		left, _ := old.Backends()
		_, ready := next.Backends()
		return left == 1 && ready == 8
	})
	time.Sleep(2 * linger) // far longer than DrainTimeout
	if err := ping(long, 1000); err != nil {
		t.Errorf("a connection that was open: %v", err)
	}
	_ = long.Close()
	eventually(t, "nothing is left", func() bool { left, _ := old.Backends(); return left == 0 })
}

// TestNoStreams: an agent to which no server can send requests is not ready, though its connections live.
func TestNoStreams(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	for _, token := range []string{"old", "new"} {
		if err := os.WriteFile(file+token, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bears := func(token string) {
		if err := os.Rename(file+token, file); err != nil {
			t.Fatal(err)
		}
	}
	bears("old")
	s := &konntest.Server{ID: "s1", Token: "old"}
	r := start(t, func(c *Config) { c.Files.Token, c.Links, c.Idle = file, 1, 1 }, s)
	eventually(t, "it is ready", func() bool { return r.Status().Ready })
	since := r.Status().Links[0].Since
	s.SetToken("new")
	if err := probe(t, ways[1], s, listen(t, echo)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is not ready", func() bool { return !r.Status().Ready })
	bears("new")
	eventually(t, "it is ready again", func() bool { return r.Status().Ready })
	if links := r.Status().Links; len(links) != 1 || !links[0].Since.Equal(since) {
		t.Errorf("it has another connection: %+v", links)
	}
}
