package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Times of remotes, as in the stock server (reconnect.h).
const (
	minBackoff     = time.Second
	defaultBackoff = 8 * time.Second
	dialTime       = 10 * time.Second
	defaultPort    = "6640"
)

// A remote is an endpoint that a row asks for: a listener, or a connection
// that is made again when it is lost. Its sessions end with it.
type remote struct {
	srv    *Server
	target string
	keys   *keyring
	signal func() // something for the row has happened

	maxBackoff, probeTime atomic.Int64 // nanoseconds; probeTime is 0 for the server's own, negative for never

	cancel context.CancelFunc
	done   chan struct{}

	mu       sync.Mutex
	over     bool
	state    string // of a connection that is to be made; empty for a listener
	problem  string // what went wrong last, empty when all is well
	port     int    // that is listened on, or 0
	ended    time.Time
	sessions []*session // the oldest first
}

func newRemote(rs *remotes, target string) *remote {
	return &remote{srv: rs.srv, target: target, keys: rs.keys, signal: rs.signal, done: make(chan struct{})}
}

// set gives r what its row says.
func (r *remote) set(spec remoteSpec) {
	r.probeTime.Store(int64(spec.probe))
	backoff := spec.maxBackoff
	if backoff == 0 {
		backoff = defaultBackoff
	}
	r.maxBackoff.Store(int64(max(backoff, minBackoff)))
}

// probe is the silence after which a client of r is asked for an echo.
func (r *remote) probe() time.Duration {
	if p := time.Duration(r.probeTime.Load()); p != 0 {
		return p
	}
	return r.srv.cfg.Probe
}

// start runs r until ctx ends or stop.
func (r *remote) start(ctx context.Context) {
	ctx, r.cancel = context.WithCancel(ctx)
	go func() {
		defer close(r.done)
		r.run(ctx)
	}()
}

// stop closes what r has, and its sessions.
func (r *remote) stop() {
	r.cancel()
	r.mu.Lock()
	r.over = true
	sessions := slices.Clone(r.sessions)
	r.mu.Unlock()
	for _, s := range sessions {
		s.close()
	}
	<-r.done
}

// run opens r again and again, with growing pauses while that fails.
func (r *remote) run(ctx context.Context) {
	pause := minBackoff
	for ctx.Err() == nil {
		began := time.Now()
		err := r.once(ctx)
		if ctx.Err() != nil {
			return
		}
		r.report(err)
		if time.Since(began) > pause {
			pause = minBackoff
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, time.Duration(r.maxBackoff.Load()))
	}
}

// report notes why r is not open. The log hears of it when it is news.
func (r *remote) report(err error) {
	text := ""
	var op *net.OpError
	if errors.As(err, &op) { // without its addresses: ports differ from time to time
		text = op.Op + ": " + op.Err.Error()
	} else if err != nil {
		text = err.Error()
	}
	r.mu.Lock()
	news := text != "" && text != r.problem
	if text != "" {
		r.problem = text
	}
	if r.state != "" {
		r.state = "BACKOFF"
	}
	r.mu.Unlock()
	if news {
		r.srv.cfg.Log.Warn("database remote cannot be opened; it is tried again", zap.String("remote", r.target), zap.Error(err))
	}
	r.signal()
}

// opened notes that r works.
func (r *remote) opened(port int) {
	r.mu.Lock()
	r.problem, r.port = "", port
	r.mu.Unlock()
	r.srv.cfg.Log.Info("database remote is open", zap.String("remote", r.target))
	r.signal()
}

// once opens r and serves it until it ends.
func (r *remote) once(ctx context.Context) error {
	switch kind, _, _ := strings.Cut(r.target, ":"); kind {
	case "ptcp", "pssl", "punix":
		return r.listen(ctx, kind)
	case "tcp", "ssl", "unix":
		return r.connect(ctx, kind)
	}
	return errors.New("unknown kind of target; known are ptcp, pssl, punix, tcp, ssl and unix")
}

// listen accepts clients until ctx ends.
func (r *remote) listen(ctx context.Context, kind string) error {
	var conf *tls.Config
	if kind == "pssl" {
		if _, err := r.keys.server(); err != nil {
			return err
		}
		conf = &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return r.keys.server() }}
	}
	if path, ok := strings.CutPrefix(r.target, "punix:"); ok && !filepath.IsAbs(path) {
		return fmt.Errorf("path %q is not absolute", path)
	}
	l, err := listen(r.target, conf)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	port := 0
	if a, ok := l.Addr().(*net.TCPAddr); ok {
		port = a.Port
	}
	r.opened(port)
	r.srv.accept(ctx, l, r)
	return l.Close()
}

// connect connects and serves that connection until it ends.
func (r *remote) connect(ctx context.Context, kind string) error {
	r.setState("CONNECTING")
	conn, err := r.dial(ctx, kind)
	if err != nil {
		return err
	}
	r.setState("ACTIVE")
	s := r.srv.add(conn, r)
	if s == nil {
		return errors.New("too many connections")
	}
	r.opened(0)
	<-s.ended
	return nil
}

func (r *remote) setState(s string) {
	r.mu.Lock()
	r.state = s
	r.mu.Unlock()
	r.signal()
}

// dial connects to the target.
func (r *remote) dial(ctx context.Context, kind string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	address := strings.TrimPrefix(r.target, kind+":")
	if kind == "unix" {
		if !filepath.IsAbs(address) {
			return nil, fmt.Errorf("path %q is not absolute", address)
		}
		return (&net.Dialer{}).DialContext(ctx, "unix", address)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port = strings.Trim(address, "[]"), defaultPort
	}
	address = net.JoinHostPort(host, port)
	if kind == "tcp" {
		return (&net.Dialer{}).DialContext(ctx, "tcp", address)
	}
	conf, err := r.keys.client()
	if err != nil {
		return nil, err
	}
	return (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", address)
}

// join makes s one of r's sessions. It reports false if r is over.
func (r *remote) join(s *session) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over {
		r.sessions = append(r.sessions, s)
	}
	return !r.over
}

// leave forgets s.
func (r *remote) leave(s *session) {
	r.mu.Lock()
	r.sessions = slices.DeleteFunc(r.sessions, func(o *session) bool { return o == s })
	r.ended = time.Now()
	r.mu.Unlock()
	r.signal()
}
