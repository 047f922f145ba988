package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"millrace/control/ovsdb/schema"
)

// ErrUnknown means that the server has no database of a given name.
var ErrUnknown = errors.New("unknown database")

// ErrClosed means that the server does not run.
var ErrClosed = errors.New("database server does not run")

// A Server serves databases. Open makes it, Serve runs it.
type Server struct {
	cfg       Config
	hub       *hub
	flusher   *flusher
	listeners []net.Listener
	remotes   *remotes
	cut       atomic.Uint64

	mu       sync.Mutex
	sessions map[*session]struct{}
	count    map[*remote]int  // sessions by remote; nil is all of Listen
	full     map[*remote]bool // the log has heard that count is at its limit
	over     bool             // no more sessions
	clients  sync.WaitGroup
}

// Open reads the databases, making files that are missing, and listens. Nobody
// is answered before Serve.
func Open(cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	srv := &Server{cfg: cfg, flusher: newFlusher(cfg.Log), sessions: map[*session]struct{}{},
		count: map[*remote]int{}, full: map[*remote]bool{}}
	srv.hub = &hub{srv: srv, calls: make(chan func()), done: make(chan struct{}), out: srv.flusher,
		id: schema.NewUUID(), locks: map[string]*lock{}, timer: time.NewTimer(time.Hour)}
	if err := srv.open(); err != nil {
		return nil, errors.Join(err, srv.Close())
	}
	return srv, nil
}

// open is Open's work. What it has opened when it fails is Close's.
func (srv *Server) open() error {
	for _, d := range srv.cfg.Databases {
		db, err := openDatabase(d)
		if err != nil {
			return err
		}
		srv.hub.dbs = append(srv.hub.dbs, db)
		if db.log.Torn > 0 {
			srv.cfg.Log.Warn("database file had a torn end; it was cut off and kept",
				zap.String("file", d.Path), zap.Int64("bytes", db.log.Torn), zap.String("kept", d.Path+".torn"))
		}
	}
	self, err := newServerDatabase(srv.hub.dbs)
	if err != nil {
		return err
	}
	srv.hub.dbs = append(srv.hub.dbs, self)
	if srv.remotes, err = newRemotes(srv); err != nil {
		return err
	}
	for _, endpoint := range srv.cfg.Listen {
		l, err := listen(endpoint, srv.cfg.TLS)
		if err != nil {
			return err
		}
		srv.listeners = append(srv.listeners, l)
	}
	return nil
}

// Addrs returns the addresses that are listened on, in the order of Listen.
func (srv *Server) Addrs() []net.Addr {
	var out []net.Addr
	for _, l := range srv.listeners {
		out = append(out, l.Addr())
	}
	return out
}

// Serve answers clients until ctx ends, or until the disk fails. It may be
// called once.
func (srv *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	flushed := make(chan error, 1)
	go func() {
		flushed <- srv.flusher.run()
		cancel()
	}()
	for _, l := range srv.listeners {
		go srv.accept(ctx, l, nil)
	}
	for _, db := range srv.hub.dbs {
		srv.hub.follow(db, nil)
	}
	var remotes sync.WaitGroup
	remotes.Go(func() { srv.remotes.run(ctx) })
	srv.hub.run(ctx)
	remotes.Wait()
	for _, l := range srv.listeners {
		l.Close()
	}
	srv.flusher.stop()
	err := <-flushed
	srv.closeSessions()
	return err
}

// accept takes clients of a remote, nil for an endpoint of Listen, until l is
// closed.
func (srv *Server) accept(ctx context.Context, l net.Listener, r *remote) {
	for ctx.Err() == nil {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			srv.cfg.Log.Warn("accept a database client", zap.Error(err))
			time.Sleep(100 * time.Millisecond) // out of descriptors; the next call would fail as well
			continue
		}
		srv.add(conn, r)
	}
}

// add starts a session. It returns nil if there may be no more.
func (srv *Server) add(conn net.Conn, r *remote) *session {
	s := newSession(srv, conn, r)
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if srv.over || srv.count[r] >= srv.cfg.MaxSessions {
		if !srv.over && !srv.full[r] {
			srv.full[r] = true
			srv.cfg.Log.Warn("database clients are refused: too many connections", zap.Int("limit", srv.cfg.MaxSessions))
		}
		conn.Close()
		return nil
	}
	if r != nil && !r.join(s) {
		conn.Close()
		return nil
	}
	srv.sessions[s] = struct{}{}
	srv.count[r]++
	srv.clients.Go(s.serve)
	if r != nil {
		r.signal()
	}
	return s
}

// forget ends what a session had.
func (srv *Server) forget(s *session) {
	srv.mu.Lock()
	delete(srv.sessions, s)
	if srv.count[s.remote]--; srv.count[s.remote] == 0 {
		delete(srv.count, s.remote)
	}
	delete(srv.full, s.remote)
	srv.mu.Unlock()
	if s.remote != nil {
		s.remote.leave(s)
	}
	srv.hub.call(func() { srv.hub.drop(s) })
	close(s.ended)
}

// closeSessions ends all sessions and waits for them.
func (srv *Server) closeSessions() {
	srv.mu.Lock()
	srv.over = true
	for s := range srv.sessions {
		s.close()
	}
	srv.mu.Unlock()
	srv.clients.Wait()
}

// Close closes the files. Serve must have returned, or not been called.
func (srv *Server) Close() error {
	var errs []error
	for _, l := range srv.listeners {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	for _, db := range srv.hub.dbs {
		if db.log != nil {
			errs = append(errs, db.log.Close())
		}
	}
	return errors.Join(errs...)
}

// ask runs f in the hub and waits for it.
func (srv *Server) ask(ctx context.Context, f func()) error {
	ran := make(chan struct{})
	go srv.hub.call(func() {
		f()
		close(ran)
	})
	select {
	case <-ran:
		return nil
	case <-srv.hub.done:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Compact rewrites the file of a database without its history, while it is
// being served.
func (srv *Server) Compact(ctx context.Context, name string) error {
	done := make(chan error, 1)
	err := srv.ask(ctx, func() {
		db := srv.hub.database(name)
		if db == nil || db.log == nil {
			done <- ErrUnknown
			return
		}
		srv.hub.compact(db, done)
	})
	if err != nil {
		return fmt.Errorf("compact database %s: %w", name, err)
	}
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("compact database %s: %w", name, err)
	}
	return nil
}

// Stats returns counts of a server that runs.
func (srv *Server) Stats(ctx context.Context) (Stats, error) {
	st := Stats{Cut: srv.cut.Load()}
	srv.mu.Lock()
	st.Sessions = len(srv.sessions)
	srv.mu.Unlock()
	var dbs []DatabaseStats
	err := srv.ask(ctx, func() {
		for _, db := range srv.hub.dbs {
			dbs = append(dbs, db.stats())
		}
	})
	if err == nil { // else the hub may be at them yet
		st.Databases = dbs
	}
	return st, err
}
