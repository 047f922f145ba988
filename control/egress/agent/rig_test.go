package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zaptest"

	"millrace/control/egress/konntest"
	"millrace/control/egress/policy"
	"millrace/waittest"
)

// A rig is an agent with servers, on loopback.
type rig struct {
	*Agent
	servers  []*konntest.Server
	registry *prometheus.Registry
	stop     context.CancelFunc
	over     chan struct{}
}

// allow is the policy of most tests: what they themselves listen on.
const allow = "node=127.0.0.1 host-names=*.test"

// start runs an agent of servers until the test ends. change may be nil.
func start(t testing.TB, change func(*Config), servers ...*konntest.Server) *rig {
	t.Helper()
	rules, err := policy.Parse(allow, false)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{servers: servers, registry: prometheus.NewRegistry(), over: make(chan struct{})}
	cfg := Config{Name: "node1", Policy: func() *policy.Policy { return rules }, Host: new(net.Dialer), Registry: r.registry,
		Static:       map[string][]netip.Addr{"me.test": {netip.MustParseAddr("127.0.0.1")}, "away.test": {netip.MustParseAddr("192.0.2.1")}},
		DrainTimeout: 100 * time.Millisecond, Log: zaptest.NewLogger(t, zaptest.Level(levelWarn))}
	for _, s := range servers {
		if s.Addr() == "" {
			s.Start(t, "127.0.0.1:0")
		}
		cfg.Servers = append(cfg.Servers, s.Addr())
	}
	if change != nil {
		change(&cfg)
	}
	r.Agent = New(cfg)
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() { defer close(r.over); r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		select {
		case <-r.over:
		case <-time.After(waittest.Most):
			t.Errorf("the agent did not end:\n%s", stacks())
		}
		if left := r.budget.left.Load(); left != budgetAll {
			t.Errorf("%d bytes of the budget are not given back", budgetAll-left)
		}
	})
	r.await(t)
	return r
}

// await waits until every server has idle streams.
func (r *rig) await(t testing.TB) {
	t.Helper()
	eventually(t, "all servers have idle streams", func() bool {
		for _, s := range r.servers {
			if _, ready := s.Backends(); ready == 0 {
				return false
			}
		}
		return true
	})
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(waittest.Most); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s\n%s", what, stacks())
		}
	}
}

func stacks() string {
	b := make([]byte, 1<<20)
	return string(b[:runtime.Stack(b, true)])
}

// A way is how an API server asks for connections.
type way struct {
	name string
	dial func(s *konntest.Server, t testing.TB, ctx context.Context, address string) (net.Conn, error)
}

var ways = []way{{"grpc", (*konntest.Server).DialGRPC}, {"http", (*konntest.Server).DialHTTP}}

// listen has serve called for each connection to an address of its own.
func listen(t testing.TB, serve func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				serve(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

func echo(c *net.TCPConn) { _, _ = io.Copy(c, c) }

// probeTime is long enough for any machine: a request that is stalled takes for ever.
const probeTime = waittest.Most

// probe opens a connection to an echo, and has a KiB come back.
func probe(t testing.TB, w way, s *konntest.Server, target string) error {
	ctx, cancel := context.WithTimeout(context.Background(), probeTime)
	defer cancel()
	c, err := w.dial(s, t, ctx, target)
	if err != nil {
		return err
	}
	defer c.Close()
	dead := time.AfterFunc(probeTime, func() { _ = c.Close() })
	defer dead.Stop()
	sent, got := pattern(1024, 1), make([]byte, 1024)
	if _, err := c.Write(sent); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(sent) != string(got) {
		return errors.New("other bytes came back than were sent")
	}
	return nil
}

// pattern is n bytes that are wrong if any are lost, doubled or exchanged.
func pattern(n int, seed uint32) []byte {
	b := make([]byte, n)
	for i := range b {
		seed = seed*1664525 + 1013904223
		b[i] = byte(seed >> 24)
	}
	return b
}
