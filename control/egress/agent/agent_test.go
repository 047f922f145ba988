package agent

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	konn "sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"

	"millrace/control/egress/konntest"
	"millrace/control/egress/policy"
	"millrace/waittest"
)

const levelWarn = zap.ErrorLevel // warnings of lost servers are what some tests are about

func TestBothWays(t *testing.T) {
	s := &konntest.Server{ID: "s1"}
	r := start(t, nil, s)
	target := listen(t, echo)
	for _, w := range ways {
		if err := probe(t, w, s, target); err != nil {
			t.Errorf("%s: %v", w.name, err)
		}
	}
	open, ended := r.Requests()
	eventually(t, "both requests have ended", func() bool { open, ended = r.Requests(); return len(open) == 0 && len(ended) == 2 })
	for _, q := range ended {
		if q.State != "ok" || q.ClosedBy != byClient || q.ToTarget != 1024 || q.ToClient != 1024 || q.Address != target || q.Class != "node" {
			t.Errorf("account of a request: %+v", q)
		}
	}
}

// TestBytes: uploads and downloads arrive whole, and a client that closes after
// its last byte takes nothing from the target, however slowly that reads.
func TestBytes(t *testing.T) {
	const size = 8 << 20
	sent := pattern(size, 7)
	s := &konntest.Server{ID: "s1"}
	start(t, nil, s)
	got := make(chan []byte, 1)
	upload := listen(t, func(c *net.TCPConn) {
		var all []byte
		for buf := make([]byte, 256<<10); ; time.Sleep(time.Millisecond) {
			n, err := c.Read(buf)
			if all = append(all, buf[:n]...); err != nil {
				break
			}
		}
		got <- all
	})
	download := listen(t, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		_, _ = c.Write(sent)
	})
	for _, w := range ways {
		c, err := w.dial(s, t, t.Context(), upload)
		if err != nil {
			t.Fatal(w.name, err)
		}
		for rest := sent; len(rest) > 0; rest = rest[32<<10:] { // one write is one packet to some
			if _, err := c.Write(rest[:32<<10]); err != nil {
				t.Fatal(w.name, err)
			}
		}
		_ = c.Close()
		select {
		case all := <-got:
			if !bytes.Equal(all, sent) {
				t.Errorf("%s: %d of %d bytes of the upload arrived", w.name, len(all), size)
			}
		case <-time.After(waittest.Most):
			t.Fatalf("%s: the upload does not end", w.name)
		}
		c, err = w.dial(s, t, t.Context(), download)
		if err != nil {
			t.Fatal(w.name, err)
		}
		_, _ = c.Write([]byte("x"))
		all, _ := io.ReadAll(c)
		if !bytes.Equal(all, sent) {
			t.Errorf("%s: %d of %d bytes of the download arrived", w.name, len(all), size)
		}
	}
}

// TestTargetSpeaksFirst: nothing of what a target says at once is lost, for it waits until its client
// has had time to hear that it is connected.
func TestTargetSpeaksFirst(t *testing.T) {
	const hold = time.Second
	sent := pattern(64<<10, 3)
	s := &konntest.Server{ID: "s1"}
	start(t, func(c *Config) { c.hold = hold }, s)
	target := listen(t, func(c *net.TCPConn) { _, _ = c.Write(sent) })
	var all sync.WaitGroup
	for _, w := range ways {
		for i := range 20 {
			all.Go(func() {
				began := time.Now()
				c, err := w.dial(s, t, t.Context(), target)
				if err != nil {
					t.Errorf("%s: dial %d: %v", w.name, i, err)
					return
				}
				if got, _ := io.ReadAll(c); !bytes.Equal(got, sent) {
					t.Errorf("%s: dial %d: %d bytes of %d, or others", w.name, i, len(got), len(sent))
				}
				if took := time.Since(began); took < hold {
					t.Errorf("%s: dial %d: all is there after %v", w.name, i, took)
				}
			})
		}
	}
	all.Wait()
}

// TestStalls: a client that stops reading, and a target that does, stop nobody else.
func TestStalls(t *testing.T) {
	for name, rate := range map[string]int64{"calm": 0, "hurry": -1} {
		for _, w := range ways {
			t.Run(name+"/"+w.name, func(t *testing.T) { testStalls(t, w, rate) })
		}
	}
}

func testStalls(t *testing.T, w way, hurryRate int64) {
	s := &konntest.Server{ID: "s1"}
	r := start(t, func(c *Config) { c.hurryRate = hurryRate }, s)
	if hurryRate < 0 {
		r.awaitHurry(t)
	}
	flood := listen(t, func(c *net.TCPConn) {
		for b := make([]byte, 64<<10); ; {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	})
	target := listen(t, echo)
	c, err := w.dial(s, t, t.Context(), flood)
	if err != nil {
		t.Fatal(err)
	}
	defer runtime.KeepAlive(c) // it ends with the server: closing waits for an answer
	defer push(t, s).Close()
	eventually(t, "what is between them is full", func() bool {
		open, _ := r.Requests()
		return len(open) == 2 && open[0].StallC > 50*time.Millisecond && open[1].StallT > 50*time.Millisecond
	})
	for range 30 {
		r.await(t) // without an idle stream a server takes any, one that is stalled too
		if err := probe(t, w, s, target); err != nil {
			t.Errorf("while others stalled: %v", err)
		}
	}
}

// push has a client send without end to a target that does not read.
func push(t *testing.T, s *konntest.Server) net.Conn {
	never := make(chan struct{})
	t.Cleanup(func() { close(never) })
	c, err := s.DialHTTP(t, t.Context(), listen(t, func(*net.TCPConn) { <-never }))
	if err != nil {
		t.Fatal(err)
	}
	go io.Copy(c, zeros{})
	return c
}

// TestStalledOnASharedStream: with a server that knows no DRAIN, a target that
// does not read loses its own connection, and no other.
func TestStalledOnASharedStream(t *testing.T) {
	s := &konntest.Server{ID: "s1", Old: true}
	r := start(t, func(c *Config) { c.Shared, c.Links, c.Idle = true, 1, 1 }, s)
	target := listen(t, echo)
	defer push(t, s).Close()
	eventually(t, "the connection is closed", func() bool {
		_, ended := r.Requests()
		return len(ended) > 0 && strings.Contains(ended[0].Error, "others share the stream")
	})
	if err := probe(t, ways[1], s, target); err != nil {
		t.Error(err)
	}
}

// TestForgotten: a connection whose client has gone without a word, as some
// servers have it, is ended.
func TestForgotten(t *testing.T) {
	s := &konntest.Server{ID: "s1"}
	r := start(t, func(c *Config) { c.UnusedTimeout = 100 * time.Millisecond }, s)
	gone := make(chan struct{})
	idle := listen(t, func(c *net.TCPConn) { _, _ = c.Read(make([]byte, 1)); close(gone) })
	forgotten, err := s.DialHTTP(t, t.Context(), idle)
	if err != nil {
		t.Fatal(err)
	}
	defer forgotten.Close()
	select {
	case <-gone:
	case <-time.After(waittest.Most):
		t.Fatal("it is not ended")
	}
	eventually(t, "an account that says why", func() bool {
		_, ended := r.Requests()
		return slices.ContainsFunc(ended, func(q Request) bool { return q.ClosedBy == byUs && strings.Contains(q.Error, "forgotten") })
	})
}

// TestNotForgotten: a connection whose client never says anything goes on as long as its target does.
func TestNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const unused, ticks = 300 * time.Millisecond, 10
		rules, err := policy.Parse("node=192.0.2.1", false)
		if err != nil {
			t.Fatal(err)
		}
		near, far := net.Pipe()
		a := New(Config{Policy: func() *policy.Policy { return rules }, UnusedTimeout: unused,
			Host: dialFunc(func(context.Context, string, string) (net.Conn, error) { return near, nil })})
		end := &deadEnd{ctx: t.Context(), sent: make(chan *konn.Packet, 100)}
		l := &link{agent: a, addr: &address{}, streams: map[*stream]struct{}{}, want: make(chan struct{}, 1), failed: make(chan error, 1)}
		s := &stream{link: l, cs: end, cancel: func() {}, dials: map[int64]*request{}, requests: map[int64]*request{}}
		s.take(dialRequest(1, "192.0.2.1:80"))
		for range ticks {
			time.Sleep(unused * 2 / 3)
			if _, err := far.Write([]byte("tick")); err != nil {
				t.Fatal(err)
			}
		}
		_ = far.Close()
		a.work.Wait()
		n := 0
		for len(end.sent) > 0 {
			n += len((<-end.sent).GetData().GetData())
		}
		_, ended := a.Requests()
		if n != 4*ticks || len(ended) != 1 || ended[0].ClosedBy != byTarget {
			t.Errorf("%d of %d bytes came from a target that speaks: %+v", n, 4*ticks, ended)
		}
	})
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func TestDenied(t *testing.T) {
	s := &konntest.Server{ID: "s1"}
	r := start(t, nil, s)
	target := listen(t, echo)
	_, port, _ := net.SplitHostPort(target)
	for _, tt := range []struct{ protocol, address, part string }{
		{"unix", "/run/containerd/containerd.sock", "protocol"},
		{"udp", "127.0.0.1:53", "protocol"},
		{"tcp", "192.0.2.1:80", "no rule"},
		{"tcp", "127.0.0.1:0", "port"},
		{"tcp", "away.test:80", "no rule"},
		{"tcp", "other.example:80", "looked up"},
		{"tcp", "[::ffff:192.0.2.1]:80", "no rule"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), waittest.Most)
		// the library of API servers refuses all but tcp itself: speak for it
		err := dialRaw(ctx, t, s, tt.protocol, tt.address)
		cancel()
		if err == nil || !strings.Contains(err.Error(), tt.part) {
			t.Errorf("%s %s: %v; want a denial with %q", tt.protocol, tt.address, err, tt.part)
		}
	}
	for _, good := range []string{"me.test:" + port, "[::ffff:127.0.0.1]:" + port} {
		if err := probe(t, ways[1], s, good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	denied := 0.0
	for _, f := range families {
		if f.GetName() == "egress_denied_total" {
			for _, m := range f.GetMetric() {
				denied += m.GetCounter().GetValue()
			}
		}
	}
	if denied != 7 {
		t.Errorf("egress_denied_total is %g, want 7", denied)
	}
}

// TestDialIsCanceled: a client that goes while its dial is under way has it
// broken off.
func TestDialIsCanceled(t *testing.T) {
	s := &konntest.Server{ID: "s1"}
	began, canceled := make(chan struct{}), make(chan struct{})
	start(t, func(c *Config) {
		c.DialTimeout = time.Minute
		c.Host = dialFunc(func(ctx context.Context, _, _ string) (net.Conn, error) {
			close(began)
			<-ctx.Done()
			close(canceled)
			return nil, ctx.Err()
		})
	}, s)
	ctx, cancel := context.WithCancel(t.Context())
	go s.DialGRPC(t, ctx, "127.0.0.1:9")
	<-began
	cancel()
	select {
	case <-canceled:
	case <-time.After(waittest.Most):
		t.Error("the dial goes on")
	}
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

func (f dialFunc) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return f(ctx, network, address)
}

// TestServerRestarts: a server that is gone is connected to again.
func TestServerRestarts(t *testing.T) {
	s, next := &konntest.Server{ID: "s1"}, &konntest.Server{ID: "s1"}
	s.Start(t, ownAddress+":0")
	r := start(t, nil, s)
	target := listen(t, echo)
	s.Stop()
	eventually(t, "the agent notices", func() bool { return !r.Status().Ready })
	again(t, next, s.Addr())
	r.servers = []*konntest.Server{next}
	back := time.Now()
	r.await(t)
	if err := probe(t, ways[0], next, target); err != nil {
		t.Error(err)
	}
	if d := time.Since(back); d > 3*time.Second {
		t.Errorf("usable %v after the server's return", d)
	}
}

// TestTwoServers: both are connected to, and one is enough.
func TestTwoServers(t *testing.T) {
	a, b := &konntest.Server{ID: "a", Count: 2}, &konntest.Server{ID: "b", Count: 2}
	r := start(t, nil, a, b)
	target := listen(t, echo)
	eventually(t, "two servers", func() bool { st := r.Status(); return st.ServersUp == 2 && st.ServersKnown == 2 && st.Ready })
	a.Stop()
	if err := probe(t, ways[0], b, target); err != nil {
		t.Error(err)
	}
}

// TestBehindABalancer: two servers behind one address are both found.
func TestBehindABalancer(t *testing.T) {
	a, b := &konntest.Server{ID: "a", Count: 2}, &konntest.Server{ID: "b", Count: 2}
	for _, s := range []*konntest.Server{a, b} {
		s.Start(t, "127.0.0.1:0")
	}
	var n atomic.Int64
	balancer := listen(t, func(c *net.TCPConn) {
		to := []*konntest.Server{a, a, a, b}[n.Add(1)%4].Addr()
		far, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer far.Close()
		go func() { _, _ = io.Copy(far, c); _ = far.Close() }()
		_, _ = io.Copy(c, far)
	})
	r := start(t, func(c *Config) { c.Servers, c.Links = []string{balancer}, 1 }, a, b)
	eventually(t, "two servers are connected", func() bool { return r.Status().ServersUp == 2 })
}

// TestDrain: an agent that ends takes no more dials, and lets open connections
// end by themselves.
func TestDrain(t *testing.T) {
	s := &konntest.Server{ID: "s1"}
	r := start(t, func(c *Config) { c.DrainTimeout = 2 * waittest.Most }, s)
	target := listen(t, echo)
	c, err := s.DialHTTP(t, t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	r.stop()
	eventually(t, "no stream is ready", func() bool { _, ready := s.Backends(); return ready == 0 })
	for range 10 {
		if _, err := c.Write([]byte("still here")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	_ = c.Close()
	select {
	case <-r.over:
	case <-time.After(waittest.Most):
		t.Error("the agent does not end, though its last request has")
	}
}

// TestOldServer: one that takes no notice of DRAIN works as well as with its
// own agents, once the agent knows that it is one: until then it ends streams to which such a
// server may send a dial at this very moment.
func TestOldServer(t *testing.T) {
	s := &konntest.Server{ID: "s1", Old: true}
	r := start(t, func(c *Config) { c.Links = 1 }, s)
	target := listen(t, echo)
	tried, lost := 0, 0
	eventually(t, "the agent knows", func() bool {
		if tried++; probe(t, ways[1], s, target) != nil {
			lost++
		}
		return r.Status().Links[0].NoDrain
	})
	if lost > 1+tried/20 {
		t.Errorf("%d of %d requests were lost before the agent knew", lost, tried)
	}
	eventually(t, "streams that were ended before are gone", func() bool {
		all, _ := s.Backends()
		return all == r.Status().Links[0].Streams
	})
	for range 200 {
		if err := probe(t, ways[1], s, target); err != nil {
			t.Fatal(err)
		}
	}
}

func TestToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &konntest.Server{ID: "s1", Token: "new"}
	s.Start(t, "127.0.0.1:0")
	r := start(t, func(c *Config) { c.Files.Token, c.Servers = file, []string{s.Addr()} })
	eventually(t, "the agent says that its token is refused", func() bool { return strings.Contains(r.Status().Trouble, "token is not valid") })
	if err := os.WriteFile(file, []byte("new\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the rotated token is accepted", func() bool { return r.Status().Ready })
}

// TestIdentity: each stream is an agent of its own, with what the node says of itself.
func TestIdentity(t *testing.T) {
	s := &konntest.Server{ID: "s1"}
	start(t, func(c *Config) { c.Identifiers = func() string { return "ipv4=10.0.0.1" } }, s)
	eventually(t, "all idle streams", func() bool { _, ready := s.Backends(); return ready >= 8 })
	for id, md := range s.Metadata() {
		if !strings.HasPrefix(id, "node1-") || md.Get("agentIdentifiers")[0] != "ipv4=10.0.0.1" {
			t.Errorf("%s said %v", id, md)
		}
	}
	if n := s.Packets(konn.PacketType_DRAIN); n != 0 {
		t.Errorf("%d streams were drained though nothing was dialled", n)
	}
}
