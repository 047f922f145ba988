package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"millrace/control/egress/konntest"
)

// An authority signs certificates for 127.0.0.1.
type authority struct{ *konntest.Authority }

func newAuthority(t testing.TB) authority {
	t.Helper()
	a, err := konntest.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	return authority{a}
}

// issue writes a pair for 127.0.0.1 that is good until end, and the authority.
func (a authority) issue(t testing.TB, dir string, end time.Time) (ca, cert, key string) {
	t.Helper()
	f, err := a.Issue(dir, "127.0.0.1", end)
	if err != nil {
		t.Fatal(err)
	}
	return f.CA, f.Cert, f.Key
}

// serverTLS is a server's side that wants certificates of an authority.
func (a authority) serverTLS(t testing.TB) grpc.ServerOption {
	t.Helper()
	f, err := a.Issue(t.TempDir(), "127.0.0.1", time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	o, err := f.Server()
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// TestCertificates: both sides show theirs; a wrong one is told of in words, and
// one that is put in its place holds at the next attempt.
func TestCertificates(t *testing.T) {
	good, wrong := newAuthority(t), newAuthority(t)
	s := &konntest.Server{ID: "s1", Options: []grpc.ServerOption{good.serverTLS(t)}}
	s.Start(t, "127.0.0.1:0")
	dir := t.TempDir()
	r := start(t, func(c *Config) {
		c.Files.CA, c.Files.Cert, c.Files.Key = wrong.issue(t, dir, time.Now().Add(time.Hour))
		c.Servers = []string{s.Addr()}
	})
	says := func(part string) {
		t.Helper()
		eventually(t, part, func() bool { return strings.Contains(r.Status().Trouble, part) })
	}
	says("unknown authority")
	good.issue(t, dir, time.Now().Add(-time.Minute))
	says("expired certificate")
	if n := r.metric(t, "konnectivity_network_proxy_agent_server_connection_failure_count", "direction", "connect"); n == 0 {
		t.Error("no failure is counted")
	}
	good.issue(t, dir, time.Now().Add(time.Hour))
	eventually(t, "the right certificate is accepted", func() bool { return r.Status().Ready })
	if err := os.WriteFile(filepath.Join(dir, "ca"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := probe(t, ways[1], s, listen(t, echo)); err != nil {
		t.Errorf("a connection that is there minds its files: %v", err)
	}
}
