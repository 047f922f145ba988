package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	konn "sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"

	"millrace/control/egress/konntest"
	"millrace/control/egress/policy"
	"millrace/waittest"
)

// junk are packets that no server should send.
func junk() map[string]*konn.Packet {
	broken := &konn.Packet{Type: konn.PacketType_DATA}
	broken.ProtoReflect().SetUnknown([]byte{0xff, 0xff, 0xff}) // a varint without an end
	return map[string]*konn.Packet{
		"bytes that are no packet":     broken,
		"a packet of 5 MiB":            dataPacket(1, make([]byte, 5<<20)),
		"a type that there is not":     {Type: 99},
		"data without data":            {Type: konn.PacketType_DATA},
		"data of nobody":               dataPacket(12345, []byte("hello")),
		"an end of nobody":             {Type: konn.PacketType_CLOSE_REQ, Payload: &konn.Packet_CloseRequest{CloseRequest: &konn.CloseRequest{ConnectID: 12345}}},
		"an end of no dial":            {Type: konn.PacketType_DIAL_CLS, Payload: &konn.Packet_CloseDial{CloseDial: &konn.CloseDial{Random: 12345}}},
		"a dial without a target":      {Type: konn.PacketType_DIAL_REQ},
		"what only agents may say":     dialResponse(1, 2, "x"),
		"the end that only agents say": closeResponse(1, "x"),
		"a drain from a server":        {Type: konn.PacketType_DRAIN, Payload: &konn.Packet_Drain{Drain: &konn.Drain{}}},
	}
}

// TestJunk: whatever comes on one stream, connections on others go on, and new
// ones come. What is not understood at all is counted, and costs its stream only.
func TestJunk(t *testing.T) {
	s := &konntest.Server{ID: "s1"}
	r := start(t, nil, s)
	target := listen(t, echo)
	long, err := s.DialHTTP(t, t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer long.Close()
	eventually(t, "both connections to the server", func() bool { return len(r.Status().Links) == 2 })
	links := r.Status().Links
	before := runtime.NumGoroutine()
	givenUp := map[string]string{"bytes that are no packet": "Internal", "a packet of 5 MiB": "ResourceExhausted"}
	for name, p := range junk() {
		code := givenUp[name]
		for i := range 3 {
			var ended <-chan struct{}
			eventually(t, name+" is sent", func() (ok bool) {
				var err error
				ended, err = s.Inject(p)
				return err == nil
			})
			if code == "" {
				continue
			}
			select {
			case <-ended: // the next one comes on another stream
			case <-time.After(waittest.Most):
				t.Fatalf("%s: the stream goes on", name)
			}
			counted := func() float64 { return r.metric(t, streamErrors, "code", code) }
			eventually(t, name+" is counted", func() bool { return counted() > float64(i) })
			if n := counted(); n != float64(i+1) {
				t.Fatalf("%s: %v streams given up are counted, want %d", name, n, i+1)
			}
		}
		_ = long.SetDeadline(time.Now().Add(probeTime))
		if err := ping(long, 100); err != nil {
			t.Fatalf("%s: a connection on another stream: %v", name, err)
		}
		for _, w := range ways {
			eventually(t, name+": a new connection", func() bool { return probe(t, w, s, target) == nil })
		}
	}
	for i, l := range r.Status().Links {
		if !l.Since.Equal(links[i].Since) {
			t.Errorf("the connection to the server was given up: %+v", l)
		}
	}
	eventually(t, "nothing is left", func() bool { return runtime.NumGoroutine() <= before+100 })
}

const streamErrors = "konnectivity_network_proxy_agent_stream_errors_total"

// metric is the sum of a metric's values whose label is value; of all if label is empty.
func (r *rig) metric(t *testing.T, name, label, value string) (sum float64) {
	t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			fits := f.GetName() == name && label == ""
			for _, l := range m.GetLabel() {
				fits = fits || f.GetName() == name && l.GetName() == label && l.GetValue() == value
			}
			if fits {
				sum += m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

// TestMuteServers: a server that takes connections and says nothing, one that
// greets no stream, and one that is none at all, are told of in words, and
// counted; a good one beside them serves.
func TestMuteServers(t *testing.T) {
	rude := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, st grpc.ServerStream) error { <-st.Context().Done(); return nil }))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go rude.Serve(l)
	t.Cleanup(rude.Stop)
	for name, tt := range map[string]struct{ addr, part string }{
		"greets no stream": {l.Addr().String(), "has not greeted a stream in"},
		"is no server":     {listen(t, func(c *net.TCPConn) { _, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }), "connection"},
		"says nothing":     {listen(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }), "has not greeted a stream in"},
		"says too much":    {boastful(t), "wait for the server's header"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &konntest.Server{ID: "s1"}
			s.Start(t, "127.0.0.1:0")
			r := start(t, func(c *Config) { c.Servers, c.headerTimeout = []string{tt.addr, s.Addr()}, 200*time.Millisecond })
			eventually(t, "trouble with "+tt.part, func() bool { return strings.Contains(r.Status().Trouble, tt.part) })
			failures := func() float64 {
				return r.metric(t, "konnectivity_network_proxy_agent_server_connection_failure_count", "", "")
			}
			if failures() == 0 {
				t.Error("no failure is counted")
			}
			eventually(t, "the other server has all idle streams", func() bool {
				_, ready := s.Backends()
				return ready >= r.cfg.Idle && len(r.Status().Links) == 2
			}) // or their goroutines would count as left of attempts
			few, tried := runtime.NumGoroutine(), failures()
			eventually(t, "more attempts", func() bool { return failures() >= tried+5 })
			eventually(t, "nothing is left of attempts", func() bool { return runtime.NumGoroutine() <= few+20 })
			if err := probe(t, ways[1], s, listen(t, echo)); err != nil {
				t.Error(err)
			}
		})
	}
}

// boastful is a server whose name is a MiB long.
func boastful(t *testing.T) string {
	s := &konntest.Server{ID: strings.Repeat("x", 1<<20)}
	s.Start(t, "127.0.0.1:0")
	return s.Addr()
}

// TestCrowd: a server that says there are more than there can be is not believed.
func TestCrowd(t *testing.T) {
	a := New(Config{})
	a.counted(1 << 30)
	for i := range mostServers {
		if a.links[&link{server: fmt.Sprint(i)}] = struct{}{}; a.missesServers() != (i+1 < mostServers) {
			t.Fatalf("with %d servers the agent misses more: %v", i+1, i+1 >= mostServers)
		}
	}
}

// TestHugeTargets: what is kept of requests to be shown does not keep what a server
// sent in their place.
func TestHugeTargets(t *testing.T) {
	s := &konntest.Server{ID: "s1"}
	r := start(t, nil, s)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	huge := strings.Repeat("a", 3<<20)
	const n = 40
	for i := range n {
		protocol, address := "tcp", huge
		if i%2 == 1 {
			protocol, address = huge, "127.0.0.1:1"
		}
		if err := dialRaw(t.Context(), t, s, protocol, address); err == nil || len(err.Error()) > 1000 {
			t.Fatalf("a dial of %d bytes: %.100v", len(huge), err)
		}
	}
	eventually(t, "all have ended", func() bool { _, ended := r.Requests(); return len(ended) == n })
	eventually(t, "their bytes are gone", func() bool {
		runtime.GC()
		runtime.ReadMemStats(&after)
		return after.HeapAlloc < before.HeapAlloc+n/4*uint64(len(huge))
	})
}

// TestNamesOfDenied: a name that may be looked up opens nothing that its address does
// not, however that is written.
func TestNamesOfDenied(t *testing.T) {
	rules, err := policy.Parse("node=0.0.0.0/0,::/0 deny=10.0.0.0/8,fd00::/8 host-names=*.test", false)
	if err != nil {
		t.Fatal(err)
	}
	for address, reason := range map[string]policy.Reason{
		"10.1.2.3": policy.Denied, "::ffff:10.1.2.3": policy.Denied, "fd00::1": policy.Denied,
		"127.0.0.1": policy.NoRule, "::1": policy.NoRule, "::ffff:127.0.0.1": policy.NoRule,
		"169.254.169.254": policy.NoRule, "::ffff:169.254.169.254": policy.NoRule, "fe80::1": policy.NoRule,
		"0.0.0.0": policy.BadAddress, "::": policy.BadAddress, "224.0.0.1": policy.BadAddress, "ff02::1": policy.BadAddress, "255.255.255.255": policy.BadAddress,
	} {
		a := New(Config{
			Policy: func() *policy.Policy { return rules }, HostNames: lookupFunc(func() []netip.Addr { return []netip.Addr{netip.MustParseAddr(address)} }),
			Host: dialFunc(func(_ context.Context, _, address string) (net.Conn, error) {
				t.Errorf("%s was dialled", address)
				return nil, net.ErrClosed
			}),
		})
		_, v, err := a.reach(t.Context(), "tcp", "innocent.test:80")
		if d, ok := errors.AsType[*policy.DeniedError](err); !ok || d.Reason != reason || v.Class != policy.Deny {
			t.Errorf("a name of %s: %v, class %s; want %s", address, err, v.Class, reason)
		}
	}
}

// TestRebinding: a name is looked up once, and what is dialled is what was
// judged, whatever it stands for a moment later. Of several addresses only those
// that are allowed are dialled.
func TestRebinding(t *testing.T) {
	good, bad := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.0.2.66")
	for name, tt := range map[string]struct {
		answers [][]netip.Addr
		part    string // of the error; empty: it connects
	}{
		"good, then bad": {[][]netip.Addr{{good}, {bad}}, ""},
		"bad, then good": {[][]netip.Addr{{bad}, {good}}, "no rule"},
		"both":           {[][]netip.Addr{{bad, good}}, ""},
		"mapped":         {[][]netip.Addr{{netip.MustParseAddr("::ffff:192.0.2.66")}}, "no rule"},
		"mapped good":    {[][]netip.Addr{{netip.MustParseAddr("::ffff:127.0.0.1")}}, ""},
		"none":           {[][]netip.Addr{{}}, "no such host"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &konntest.Server{ID: "s1"}
			asked := new(atomic.Int64)
			var dialled atomic.Pointer[string]
			start(t, func(c *Config) {
				c.HostNames = lookupFunc(func() []netip.Addr { return tt.answers[min(int(asked.Add(1)), len(tt.answers))-1] })
				c.Host = dialFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
					dialled.Store(&address)
					return new(net.Dialer).DialContext(ctx, network, address)
				})
			}, s)
			_, port, _ := net.SplitHostPort(listen(t, echo))
			err := dialRaw(t.Context(), t, s, "tcp", "changes.test:"+port)
			if (err == nil) != (tt.part == "") || err != nil && !strings.Contains(err.Error(), tt.part) {
				t.Errorf("%v; want %q", err, tt.part)
			}
			if n := asked.Load(); n != 1 {
				t.Errorf("the name was looked up %d times", n)
			}
			want := "127.0.0.1:" + port
			if d := dialled.Load(); tt.part == "" && (d == nil || *d != want) || tt.part != "" && d != nil {
				t.Errorf("%s was dialled", fmt.Sprint(d))
			}
		})
	}
}

// TestOneOfManyIsDead: a name of which one address does not answer is reached by another, within
// the time that a dial may take.
func TestOneOfManyIsDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rules, err := policy.Parse("node=192.0.2.0/24 host-names=*.test", false)
		if err != nil {
			t.Fatal(err)
		}
		var tried []string
		a := New(Config{
			Policy: func() *policy.Policy { return rules },
			Static: map[string][]netip.Addr{"many.test": {netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")}},
			Host: dialFunc(func(ctx context.Context, _, address string) (net.Conn, error) {
				if tried = append(tried, address); address == "192.0.2.3:80" {
					near, _ := net.Pipe()
					return near, nil
				}
				<-ctx.Done()
				return nil, ctx.Err()
			}),
		})
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
		defer cancel()
		start := time.Now()
		c, _, err := a.reach(ctx, "tcp", "many.test:80")
		if err != nil || len(tried) != 3 || time.Since(start) != 4*time.Second {
			t.Fatalf("after %v: %v, tried %v", time.Since(start), err, tried)
		}
		_ = c.Close()
	})
}

type lookupFunc func() []netip.Addr

func (f lookupFunc) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return f(), nil
}
