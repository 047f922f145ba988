package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	konnclient "sigs.k8s.io/apiserver-network-proxy/konnectivity-client/pkg/client"

	"millrace/control/egress/konntest"
	"millrace/control/egress/policy"
)

// Programs of sigs.k8s.io/apiserver-network-proxy, built by whoever wants these
// tests: its module cannot be required.
const (
	serverVariable = "KONN_PROXY_SERVER"
	agentVariable  = "KONN_PROXY_AGENT"
)

// A stock is a real proxy-server that runs.
type stock struct {
	mode      string // grpc or http-connect
	socket    string
	agentPort string
	tls       [3]string // authority, certificate, key, for agents
}

// startStock runs the proxy-server that the environment names.
func startStock(t *testing.T, program, mode string) *stock {
	t.Helper()
	a := newAuthority(t)
	s := &stock{mode: mode, socket: filepath.Join(t.TempDir(), "front"), agentPort: freePort(t)}
	s.tls[0], s.tls[1], s.tls[2] = a.issue(t, t.TempDir(), time.Now().Add(time.Hour))
	command(t, program, "--mode="+mode, "--uds-name="+s.socket, "--server-port=0", "--agent-port="+s.agentPort, "--agent-bind-address=127.0.0.1",
		"--health-port="+freePort(t), "--admin-port="+freePort(t), "--server-id=stock", "--v=0",
		"--cluster-ca-cert="+s.tls[0], "--cluster-cert="+s.tls[1], "--cluster-key="+s.tls[2])
	return s
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// command runs a program until the test ends.
func command(t *testing.T, program string, args ...string) {
	t.Helper()
	c := exec.Command(program, args...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
}

// ours connects our agent.
func (s *stock) ours(t *testing.T) {
	t.Helper()
	rules, err := policy.Parse(allow, false)
	if err != nil {
		t.Fatal(err)
	}
	a := New(Config{Name: "node1", Servers: []string{"127.0.0.1:" + s.agentPort}, Policy: func() *policy.Policy { return rules }, Host: new(net.Dialer),
		Files: Files{CA: s.tls[0], Cert: s.tls[1], Key: s.tls[2]}, DrainTimeout: 100 * time.Millisecond})
	ctx, stop := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { defer close(over); a.Run(ctx) }()
	t.Cleanup(func() { stop(); <-over })
	eventually(t, "a connection to the proxy-server", func() bool { return a.Status().Ready })
}

// theirs connects the stock agent that the environment names.
func (s *stock) theirs(t *testing.T, program string) {
	t.Helper()
	command(t, program, "--proxy-server-host=127.0.0.1", "--proxy-server-port="+s.agentPort, "--ca-cert="+s.tls[0], "--agent-cert="+s.tls[1], "--agent-key="+s.tls[2],
		"--health-server-port="+freePort(t), "--admin-server-port="+freePort(t), "--v=0")
	target := listen(t, echo)
	eventually(t, "a connection of the stock agent", func() bool { _, err := s.probe(target, time.Second); return err == nil })
}

// dial asks for a connection as an API server does.
func (s *stock) dial(ctx context.Context, target string) (net.Conn, error) {
	if s.mode == "grpc" {
		dialer := grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.socket)
		})
		tunnel, err := konnclient.CreateSingleUseGrpcTunnelWithContext(ctx, context.Background(), "passthrough:///front", dialer, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, err
		}
		return tunnel.DialContext(ctx, "tcp", target)
	}
	c, err := new(net.Dialer).DialContext(ctx, "unix", s.socket)
	if err != nil {
		return nil, err
	}
	return konntest.Connect(c, target)
}

// probe is one connection on which a KiB comes back.
func (s *stock) probe(target string, most time.Duration) (time.Duration, error) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		c, err := s.dial(ctx, target)
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		if _, err = c.Write(make([]byte, 1024)); err == nil {
			_, err = io.ReadFull(c, make([]byte, 1024))
		}
		done <- err
	}()
	select {
	case err := <-done:
		return time.Since(start), err
	case <-ctx.Done():
		return most, ctx.Err()
	}
}

// TestStockServer has a real proxy-server drive the agent, and says beside it
// what a stock agent does with the same.
func TestStockServer(t *testing.T) {
	server, agent := os.Getenv(serverVariable), os.Getenv(agentVariable)
	if server == "" {
		t.Skip("needs a built proxy-server: its path in " + serverVariable + ", and that of a proxy-agent in " + agentVariable)
	}
	for _, mode := range []string{"grpc", "http-connect"} {
		t.Run(mode+"/ours", func(t *testing.T) {
			s := startStock(t, server, mode)
			s.ours(t)
			r := s.examine(t)
			t.Log(r)
			if r.failed > 0 || r.uploaded != uploadSize || mode == "http-connect" && r.first < firstTries {
				t.Error("the agent does not do what it is for")
			}
		})
		if agent == "" {
			continue
		}
		t.Run(mode+"/theirs", func(t *testing.T) {
			s := startStock(t, server, mode)
			s.theirs(t, agent)
			t.Log(s.examine(t))
		})
	}
}

const (
	uploadSize   = 8 << 20
	downloadSize = 512 << 20
	firstTries   = 50
	probesTried  = 40
)

// A report is what came of one agent behind one server.
type report struct {
	down, up  float64 // Gbit/s of one connection
	p99       time.Duration
	uploaded  int // of 8 MiB, when the client closes at once; -1: the target saw no end
	first     int // of 50 connections whose target speaks first, whole
	failed    int // of 40 probes, while a client and a target stall
	stalled99 time.Duration
}

func (r report) String() string {
	return fmt.Sprintf("down %.2f Gbit/s, up %.2f Gbit/s, new connection and KiB at most %v; while two stall %d of %d failed, at most %v; %d of %d bytes arrive after a close; target first %d of %d",
		r.down, r.up, r.p99.Round(10*time.Microsecond), r.failed, probesTried, r.stalled99.Round(10*time.Microsecond), r.uploaded, uploadSize, r.first, firstTries)
}

func (s *stock) examine(t *testing.T) (r report) {
	t.Helper()
	target := listen(t, echo)
	r.p99, _ = s.probes(target)
	r.down, r.up = s.throughput(t)
	r.uploaded = s.upload(t)
	r.first = s.firsts(t)
	stop := s.stall(t)
	defer stop()
	r.stalled99, r.failed = s.probes(target)
	return r
}

// probes returns the longest of some, and how many failed. It gives up after six.
func (s *stock) probes(target string) (longest time.Duration, failed int) {
	var took []time.Duration
	for len(took) < probesTried && failed < 6 {
		d, err := s.probe(target, 3*time.Second)
		if took = append(took, d); err != nil {
			failed++
		}
	}
	return slices.Max(took), failed
}

func (s *stock) throughput(t *testing.T) (down, up float64) {
	t.Helper()
	source := listen(t, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		_, _ = io.CopyN(c, zeros{}, downloadSize)
	})
	got := make(chan time.Time, 1)
	sink := listen(t, func(c *net.TCPConn) { _, _ = io.CopyN(io.Discard, c, downloadSize); got <- time.Now() })
	rate := func(from, to time.Time) float64 { return downloadSize * 8 / to.Sub(from).Seconds() / 1e9 }
	c, err := s.dial(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, _ = c.Write([]byte("x"))
	if n, err := io.Copy(io.Discard, c); n != downloadSize {
		t.Errorf("%d of %d bytes came down: %v", n, downloadSize, err)
	}
	down = rate(start, time.Now())
	_ = c.Close()
	if c, err = s.dial(t.Context(), sink); err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	for b, n := make([]byte, 32<<10), 0; n < downloadSize; n += len(b) {
		if _, err := c.Write(b); err != nil {
			t.Errorf("up: %v", err)
			return down, 0
		}
	}
	up = rate(start, <-got)
	_ = c.Close()
	return down, up
}

// upload counts what arrives of what a client writes before it closes.
func (s *stock) upload(t *testing.T) int {
	t.Helper()
	got := make(chan int, 1)
	slow := listen(t, func(c *net.TCPConn) {
		n := 0
		for b := make([]byte, 64<<10); ; time.Sleep(time.Millisecond) {
			k, err := c.Read(b)
			if n += k; err != nil {
				got <- n
				return
			}
		}
	})
	c, err := s.dial(t.Context(), slow)
	if err != nil {
		t.Fatal(err)
	}
	for b, n := make([]byte, 32<<10), 0; n < uploadSize; n += len(b) {
		if _, err := c.Write(b); err != nil {
			break
		}
	}
	_ = c.Close()
	select {
	case n := <-got:
		return n
	case <-time.After(20 * time.Second):
		return -1
	}
}

// firsts counts connections on which all comes of what a target says at once.
func (s *stock) firsts(t *testing.T) (whole int) {
	t.Helper()
	target := listen(t, func(c *net.TCPConn) { _, _ = c.Write(make([]byte, 64<<10)) })
	for range firstTries {
		c, err := s.dial(t.Context(), target)
		if err != nil {
			continue
		}
		dead := time.AfterFunc(2*time.Second, func() { _ = c.Close() })
		if n, _ := io.Copy(io.Discard, c); n == 64<<10 {
			whole++
		}
		dead.Stop()
		_ = c.Close()
	}
	return whole
}

// stall has a client and a target that do not read, until stop.
func (s *stock) stall(t *testing.T) (stop func()) {
	t.Helper()
	never := make(chan struct{})
	flood := listen(t, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 1)) // who speaks first is firsts' subject
		_, _ = io.Copy(c, zeros{})
	})
	deaf := listen(t, func(*net.TCPConn) { <-never })
	client, err := s.dial(t.Context(), flood)
	if err != nil {
		t.Fatal(err)
	}
	pushy, err := s.dial(t.Context(), deaf)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for b := make([]byte, 32<<10); ; {
			if _, err := pushy.Write(b); err != nil {
				return
			}
		}
	}()
	_, _ = client.Write([]byte("x"))
	time.Sleep(300 * time.Millisecond)
	return func() { close(never); _ = client.Close(); _ = pushy.Close() }
}
