// Package admin shows an egress agent to people and to monitoring: JSON on a
// socket of the run directory, metrics and probes by HTTP.
package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"millrace/control/egress/agent"
)

// SocketName is the agent's socket in the run directory.
const SocketName = "egress.sock"

// An Agent is what is shown.
type Agent interface {
	Status() agent.Status
	Requests() (open, ended []agent.Request)
	Explain(ctx context.Context, protocol, address string) agent.Explanation
}

// Requests is what the socket says at /requests.
type Requests struct {
	Open  []agent.Request `json:"open"`
	Ended []agent.Request `json:"ended"`
}

// Probes answers /healthz, /readyz and /metrics, the paths of stock agents.
func Probes(a Agent, metrics prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	ready := func(w http.ResponseWriter, _ *http.Request) {
		if s := a.Status(); !s.Ready {
			http.Error(w, "no server has answered in the last 10 s: "+s.Trouble, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
	mux.HandleFunc("GET /readyz", ready)
	mux.HandleFunc("GET /ready", ready)
	return mux
}

// Local answers what the command line asks.
func Local(a Agent) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { Reply(w, a.Status()) })
	mux.HandleFunc("GET /requests", func(w http.ResponseWriter, _ *http.Request) {
		open, ended := a.Requests()
		Reply(w, Requests{open, ended})
	})
	mux.HandleFunc("GET /explain", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		Reply(w, a.Explain(r.Context(), q.Get("protocol"), q.Get("address")))
	})
	return mux
}

// Reply answers with v as JSON.
func Reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the peer is gone if that fails
}

// Serve serves h by l until ctx ends.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// ErrNoAgent says that nobody serves the socket.
var ErrNoAgent = errors.New("no egress agent is running in this run directory: start one with `millrace egress agent`, or add an egress port with `millrace port add`")

// ErrInUse says that another agent serves the socket.
var ErrInUse = errors.New("another egress agent is running there (another --run-dir lets two run)")

// Ask has the agent of a socket answer a path, into v.
func Ask(ctx context.Context, socket, path string, query url.Values, v any) error {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+path+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		err = op
		if errors.Is(op, syscall.ENOENT) || errors.Is(op, syscall.ECONNREFUSED) {
			return fmt.Errorf("%w (%s: %w)", ErrNoAgent, socket, op.Err)
		}
	}
	if err != nil {
		return fmt.Errorf("ask the egress agent: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return fmt.Errorf("ask the egress agent: %s: %s", resp.Status, bytes.TrimSpace(text))
	}
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		return fmt.Errorf("read the egress agent's answer: %w", err)
	}
	return nil
}
