package agent

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"millrace/control/egress/konntest"
	"millrace/control/egress/policy"
)

// stockMetrics are the names of stock agents, with their labels, but for those of
// leases (see package leases).
var stockMetrics = map[string][]string{
	"dial_duration_seconds":           nil,
	"endpoint_dial_failure_total":     {"reason"},
	"open_server_connections":         nil,
	"known_server_count":              nil,
	"open_endpoint_connections":       nil,
	"stream_packets_total":            {"packet_type", "segment"},
	"stream_errors_total":             {"code", "packet_type", "segment"},
	"server_connection_failure_count": {"direction"},
}

// stockBounds are those of stock agents' buckets, in seconds.
var stockBounds = []float64{0.005, 0.025, 0.1, 0.5, 2.5, 10, 30}

// TestStockMetrics: what dashboards ask of stock agents is there, with the labels and
// the values of labels that those have.
func TestStockMetrics(t *testing.T) {
	s := &konntest.Server{ID: "s1"}
	r := start(t, func(c *Config) {
		c.Host = dialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == "127.0.0.1:9" {
				return nil, context.DeadlineExceeded
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		})
	}, s)
	target := listen(t, echo)
	if err := probe(t, ways[1], s, target); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"127.0.0.1:9", closedPort(t)} {
		if err := dialRaw(t.Context(), t, s, "tcp", address); err == nil {
			t.Fatalf("%s is connected", address)
		}
	}
	if _, err := s.Inject(junk()["a packet of 5 MiB"]); err != nil {
		t.Fatal(err)
	}
	const stock = "konnectivity_network_proxy_agent_"
	for _, tt := range []struct {
		name, label, value string
		want               float64
	}{
		{"endpoint_dial_failure_total", "reason", "timeout", 1},
		{"endpoint_dial_failure_total", "reason", "unknown", 1},
		{"server_connection_failure_count", "direction", "from_server", 1},
		{"stream_errors_total", "packet_type", "Unknown", 1},
		{"stream_packets_total", "packet_type", "CLOSE_RSP", 1},
		{"dial_duration_seconds", "", "", 1},
	} {
		eventually(t, fmt.Sprintf("%s%s of %s %s is %v", stock, tt.name, tt.label, tt.value, tt.want), func() bool {
			return r.metric(t, stock+tt.name, tt.label, tt.value) == tt.want
		})
	}
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, f := range families {
		name := strings.TrimPrefix(f.GetName(), stock)
		labels, theirs := stockMetrics[name]
		seen[name] = true
		for _, m := range f.GetMetric() {
			var has []string
			for _, l := range m.GetLabel() {
				has = append(has, l.GetName())
			}
			if theirs && !slices.Equal(has, labels) {
				t.Errorf("%s has the labels %v, want %v", f.GetName(), has, labels)
			}
			var bounds []float64
			for _, b := range m.GetHistogram().GetBucket() {
				bounds = append(bounds, b.GetUpperBound())
			}
			for _, b := range stockBounds {
				if name == "dial_duration_seconds" && !slices.Contains(bounds, b) {
					t.Errorf("no bucket of dials ends at %v s", b)
				}
			}
		}
	}
	for name := range stockMetrics {
		if !seen[name] {
			t.Errorf("there is no %s%s", stock, name)
		}
	}
}

// closedPort is an address at which nobody listens, and nobody else can until the test ends.
func closedPort(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", at.(*unix.SockaddrInet4).Port)
}

// TestOpenRequestsCount: bytes and stalls of a connection that is open are told while
// they happen, and never less than before.
func TestOpenRequestsCount(t *testing.T) {
	s := &konntest.Server{ID: "s1"}
	r := start(t, nil, s)
	flood := listen(t, func(c *net.TCPConn) { _, _ = io.Copy(c, zeros{}) })
	client, err := s.DialHTTP(t, t.Context(), flood) // which reads nothing
	if err != nil {
		t.Fatal(err)
	}
	deaf := push(t, s)
	bytes := func(dir string) float64 { return r.metric(t, "egress_bytes_total", "dir", dir) }
	stall := func(side string) float64 { return r.metric(t, "egress_stall_seconds_total", "side", side) }
	eventually(t, "bytes and stalls of open connections", func() bool {
		return bytes("to_client") > 0 && bytes("to_target") > 0 && stall("client") > 0.1 && stall("target") > 0.1
	})
	open, _ := r.Requests()
	if len(open) != 2 || open[0].StallC < 100*time.Millisecond || open[1].StallT < 100*time.Millisecond {
		t.Errorf("the account of open requests: %+v", open)
	}
	before := map[string]float64{"client": stall("client"), "target": stall("target")}
	over := make(chan struct{})
	go func() { defer close(over); _ = client.Close(); _ = deaf.Close() }()
	for last := false; !last; {
		select {
		case <-over:
			last = true
		default:
		}
		for side, was := range before {
			now := stall(side)
			if now < was {
				t.Errorf("the stall of the %s was %v, and is %v", side, was, now)
			}
			before[side] = now
		}
	}
}

// TestStall: whoever asks is never told less than before.
func TestStall(t *testing.T) {
	var s stall
	done := make(chan struct{})
	go func() {
		defer close(done)
		for at := time.Duration(1); at < 100_000*time.Second; at += 2 * time.Second {
			s.begin(at)
			s.end(at + time.Second)
		}
	}()
	var was time.Duration
	for open := true; open; {
		select {
		case <-done:
			open = false
		default:
		}
		now := s.at(0)
		if now < was {
			t.Fatalf("%v, and then %v", was, now)
		}
		was = now
	}
	if was != 50_000*time.Second {
		t.Errorf("%v in all", was)
	}
	s.begin(time.Hour)
	if d := s.at(time.Hour+stallLeast-1) - was; d != 0 {
		t.Errorf("a moment counts as %v", d)
	}
	if d := s.at(time.Hour+time.Minute) - was; d != time.Minute {
		t.Errorf("a stall of a minute that goes on counts as %v", d)
	}
	s.end(time.Hour + 2*time.Minute)
	if d := s.at(2*time.Hour) - was; d != 2*time.Minute {
		t.Errorf("a stall of 2 minutes counted as %v", d)
	}
}

// TestBroken: a connection that its target breaks off did not end well: so say the log,
// at a level that is seen, and metrics. One whose client has gone during the dial is no
// failure of the target.
func TestBroken(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	s := &konntest.Server{ID: "s1"}
	began := make(chan struct{})
	r := start(t, func(c *Config) {
		c.Log, c.DialTimeout, c.LogRequests = zap.New(core), time.Minute, zap.DebugLevel
		c.Host = dialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == "127.0.0.1:9" {
				close(began)
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		})
	}, s)
	rude := listen(t, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		_ = c.SetLinger(0) // a reset
	})
	c, err := s.DialHTTP(t, t.Context(), rude)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write([]byte("x"))
	if _, err := io.ReadAll(c); err != nil {
		t.Error(err)
	}
	if err := probe(t, ways[1], s, listen(t, echo)); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go s.DialGRPC(t, ctx, "127.0.0.1:9")
	<-began
	cancel()
	for result, want := range map[string]float64{"broken": 1, "ok": 1, "canceled": 1} {
		eventually(t, result, func() bool { return r.metric(t, "egress_requests_total", "result", result) == want })
	}
	eventually(t, "two lines of the log, and all three in the status", func() bool {
		return logs.FilterMessage("request").Len() >= 2 && r.Status().Totals.Requests == 3
	})
	if n := r.metric(t, "konnectivity_network_proxy_agent_endpoint_dial_failure_total", "", ""); n != 0 {
		t.Errorf("%v failures to reach a target are counted", n)
	}
	var states []string
	for _, e := range logs.FilterMessage("request").All() {
		q := e.ContextMap()["request"].(Request)
		states = append(states, q.State)
		if q.State == "broken" && (q.ClosedBy != byTarget || !strings.Contains(q.Error, "reset")) {
			t.Errorf("the account of a broken connection: %+v", q)
		}
	}
	if slices.Sort(states); !slices.Equal(states, []string{"broken", "canceled"}) {
		t.Errorf("at info the log has requests that ended %v", states)
	}
	if got := r.Status().Totals; got.Requests != 3 || got.Failed != 1 {
		t.Errorf("totals: %+v", got)
	}
}

// TestDeadAddress: a name whose first address does not answer is reached by its second
// one; how long dialling took is told of those that failed, too.
func TestDeadAddress(t *testing.T) {
	s := &konntest.Server{ID: "s1"}
	alive := listen(t, echo)
	_, port, _ := net.SplitHostPort(alive)
	r := start(t, func(c *Config) {
		c.DialTimeout = 2 * time.Second
		c.Static["two.test"] = []netip.Addr{netip.MustParseAddr("127.0.0.9"), netip.MustParseAddr("127.0.0.1")}
		c.Static["dead.test"] = c.Static["two.test"][:1]
		rules, err := policy.Parse(allow+" node=127.0.0.9", false)
		if err != nil {
			t.Fatal(err)
		}
		c.Policy = func() *policy.Policy { return rules }
		c.Host = dialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
			if strings.HasPrefix(address, "127.0.0.9") {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		})
	}, s)
	if err := probe(t, ways[1], s, "two.test:"+port); err != nil {
		t.Error(err)
	}
	if err := dialRaw(t.Context(), t, s, "tcp", "dead.test:"+port); err == nil || !strings.Contains(err.Error(), "timeout") {
		t.Errorf("a dead address: %v", err)
	}
	if err := dialRaw(t.Context(), t, s, "tcp", "nobody.test:"+port); err == nil || !strings.Contains(err.Error(), "no such host") {
		t.Errorf("a name that there is not: %v", err)
	}
	eventually(t, "accounts of all", func() bool { _, ended := r.Requests(); return len(ended) == 3 })
	_, ended := r.Requests()
	for _, q := range ended {
		name, _, _ := strings.Cut(q.Target, ":")
		want := map[string]string{"two.test": "node ok 127.0.0.1:" + port, "dead.test": "node timeout 127.0.0.9:" + port, "nobody.test": "unknown name "}[name]
		if got := q.Class + " " + q.State + " " + q.Address; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
		if name != "nobody.test" && q.Dialled < 900*time.Millisecond { // two addresses have half of what is left of 2 s each
			t.Errorf("%s: dialling took %v, as it is told", name, q.Dialled)
		}
	}
}

// TestAccounts: of a hundred requests, some of which come to nothing in several ways,
// each is one line of the log with the right end, and metrics have the same sums.
func TestAccounts(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	s := &konntest.Server{ID: "s1"}
	mute := "127.0.0.1:9"
	r := start(t, func(c *Config) {
		c.Log, c.LogRequests = zap.New(core), zap.InfoLevel
		c.Host = dialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == mute {
				return nil, context.DeadlineExceeded // as if the time were over: see TestDeadAddress
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		})
	}, s)
	good := listen(t, echo)
	rude := listen(t, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		_ = c.SetLinger(0) // a reset
	})
	want := map[string]int{}
	for target, n := range map[string]struct {
		times int
		state string
	}{good: {60, "ok"}, rude: {10, "broken"}, closedPort(t): {10, "refused"}, mute: {10, "timeout"}, "192.0.2.1:80": {10, "denied"}} {
		want[n.state] += n.times
		for range n.times {
			c, err := s.DialHTTP(t, t.Context(), target)
			if err != nil {
				continue
			}
			_, _ = c.Write([]byte("x"))
			_, _ = io.ReadFull(c, make([]byte, 1))
			_ = c.Close()
		}
	}
	const line = "request"
	eventually(t, "a line for each request", func() bool { return logs.FilterMessage(line).Len() >= 100 })
	got := map[string]int{}
	for _, e := range logs.FilterMessage(line).All() {
		q := e.ContextMap()["request"].(Request)
		got[q.State]++
		if (q.Error == "") != (q.State == "ok") || q.Target == "" || q.Server != "s1" || q.Agent == "" || q.Dial == 0 || q.ClosedBy == "" {
			t.Errorf("a line of the log: %+v", q)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("the log tells of %v, want %v", got, want)
	}
	for state, n := range want {
		if counted := r.metric(t, "egress_requests_total", "result", state); counted != float64(n) {
			t.Errorf("%v requests are counted as %s, want %d", counted, state, n)
		}
	}
	if n := r.metric(t, "egress_denied_total", "reason", "no-rule"); n != 10 {
		t.Errorf("%v denials are counted", n)
	}
}
