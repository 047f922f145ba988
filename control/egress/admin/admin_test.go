package admin

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"millrace/control/egress/agent"
)

// A fake is an agent that says what it was told.
type fake struct{ status agent.Status }

func (f *fake) Status() agent.Status { return f.status }
func (f *fake) Requests() (open, ended []agent.Request) {
	return []agent.Request{}, []agent.Request{{Target: "a:1"}}
}
func (f *fake) Explain(_ context.Context, p, a string) agent.Explanation {
	return agent.Explanation{Target: p + " " + a}
}

// TestProbes: the paths of stock agents answer; readiness says why there is none.
func TestProbes(t *testing.T) {
	f := &fake{agent.Status{Trouble: "nobody answers"}}
	r := prometheus.NewRegistry()
	r.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "some_total"}))
	s := httptest.NewServer(Probes(f, r))
	defer s.Close()
	get := func(path string) (int, string) {
		resp, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	for _, ready := range []bool{false, true} {
		f.status.Ready = ready
		for _, path := range []string{"/readyz", "/ready"} {
			code, text := get(path)
			if ready && code != http.StatusOK || !ready && (code != http.StatusServiceUnavailable || !strings.Contains(text, "nobody answers")) {
				t.Errorf("ready %v: %s says %d, %s", ready, path, code, text)
			}
		}
		if code, text := get("/healthz"); code != http.StatusOK || text != "ok\n" {
			t.Errorf("ready %v: /healthz says %d, %s", ready, code, text)
		}
	}
	if code, text := get("/metrics"); code != http.StatusOK || !strings.Contains(text, "some_total 0") {
		t.Errorf("/metrics says %d, %s", code, text)
	}
}

// TestAsk: an agent is asked by its socket. One that is not there is told from one that
// cannot be asked.
func TestAsk(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ask := func(socket, path string, v any) error {
		return Ask(ctx, socket, path, url.Values{"protocol": {"tcp"}, "address": {"b:2"}}, v)
	}
	if err := ask(socket, "/status", nil); !errors.Is(err, ErrNoAgent) {
		t.Errorf("no socket: %v", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, Local(&fake{agent.Status{Ready: true}})) }()
	var status agent.Status
	var requests Requests
	var e agent.Explanation
	for path, v := range map[string]any{"/status": &status, "/requests": &requests, "/explain": &e} {
		if err := ask(socket, path, v); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if !status.Ready || len(requests.Ended) != 1 || e.Target != "tcp b:2" {
		t.Errorf("%+v, %+v, %+v", status, requests, e)
	}
	if err := ask(socket, "/nothing", &status); err == nil || errors.Is(err, ErrNoAgent) || !strings.HasSuffix(err.Error(), "404 Not Found: 404 page not found") {
		t.Errorf("a path that there is not: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ask(filepath.Join(file, "s"), "/status", nil); err == nil || errors.Is(err, ErrNoAgent) || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("a socket that cannot be reached: %v", err)
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if f, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"}); err == nil {
		f.SetUnlinkOnClose(false) // as one that was killed
		_ = f.Close()
	}
	if err := Ask(t.Context(), socket, "/status", nil, nil); !errors.Is(err, ErrNoAgent) || !strings.Contains(err.Error(), socket) {
		t.Errorf("a dead agent's socket: %v", err)
	}
}
