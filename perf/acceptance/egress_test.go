package acceptance

import (
	"context"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/control/egress/agent"
	"millrace/control/egress/kernel"
	"millrace/control/egress/konntest"
	"millrace/control/egress/policy"
	"millrace/dataplane/tap/taptest"
)

// TestEgress has a control plane reach a pod on the switch through the tunnel of
// an agent, whose way to pods is a port of the switch. What the policy does not
// let through, and what leads nowhere, is answered in words.
func TestEgress(t *testing.T) {
	need(t)
	needRoot(t)
	const size = 64 << 20
	s := beginIn(t, syscall.CLONE_NEWNET, "run")
	pod, egress := pause(t), pause(t)
	s.cli("port", "add", "br0", "pod", "--type", "tap", "--netns", pod.Path, "--ip", "10.7.0.1/24", "--wait=10s")
	s.cli("port", "add", "br0", "egress0", "--type", "tap", "--netns", egress.Path, "--ip", "10.7.0.2/24", "--wait=10s")
	serveBytes(t, pod, "10.7.0.1:80", size)
	server := tunnel(t, egress.Path, "pods=10.7.0.0/24@80,81")

	conn, err := server.DialGRPC(t, t.Context(), "10.7.0.1:80")
	check(t, err)
	start := time.Now()
	n, err := io.Copy(io.Discard, conn)
	check(t, err)
	if n != size {
		t.Errorf("%d bytes of %d came", n, size)
	}
	t.Logf("%.2f Gbit/s from the pod through the switch and the tunnel, gRPC in front", float64(n)*8/time.Since(start).Seconds()/1e9)
	_ = conn.Close()

	for target, part := range map[string]string{"10.7.0.1:81": "connection refused", "10.7.0.1:22": "other ports", "10.8.0.1:80": "no rule"} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if _, err := server.DialHTTP(t, ctx, target); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v; want %q", target, err, part)
		}
		cancel()
	}
}

// tunnel runs a server and an agent whose port is in a network namespace, and
// waits until they are connected.
func tunnel(t *testing.T, namespace, rules string) *konntest.Server {
	t.Helper()
	server := &konntest.Server{ID: "server"}
	server.Start(t, "127.0.0.1:0")
	port, err := kernel.Open(namespace, "")
	check(t, err)
	p, err := policy.Parse(rules, false)
	check(t, err)
	a := agent.New(agent.Config{Name: "node", Servers: []string{server.Addr()}, Policy: func() *policy.Policy { return p }, Port: port, DrainTimeout: time.Second})
	ctx, stop := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { defer close(over); a.Run(ctx) }()
	t.Cleanup(func() { stop(); <-over; port.Close() })
	eventually(t, func() bool { _, ready := server.Backends(); return ready > 0 }, "an agent at the server")
	return server
}

// serveBytes has a server in a pod send each client so many bytes.
func serveBytes(t *testing.T, pod *taptest.Namespace, addr string, size int64) {
	t.Helper()
	var l net.Listener
	pod.Do(t, func() (err error) { l, err = net.Listen("tcp", addr); return err })
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close() //nolint:errcheck // nothing is lost
				_, _ = io.CopyN(c, endless{}, size)
			}()
		}
	}()
}

// endless is bytes without an end.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }
