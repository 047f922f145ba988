package server

import (
	"context"
	"encoding/json"
	"time"

	"millrace/control/ovsdb/schema"
)

// Methods that RFC 7047 does not have. They are answered on Unix sockets only:
// whoever can open one may do as much to the file.
const (
	MethodStats   = "millrace.db_stats"   // [name]: DatabaseStats
	MethodCompact = "millrace.db_compact" // [name]: DatabaseStats, when the file is compact
)

// compactTimeout is how long the file may take to become compact.
const compactTimeout = 10 * time.Minute

// private runs a request of our own methods, and reports whether it was one.
func (h *hub) private(r *request) bool {
	if r.method != MethodStats && r.method != MethodCompact || r.from.conn.LocalAddr().Network() != "unix" {
		return false
	}
	db := h.databaseOf(r)
	switch {
	case db == nil:
	case r.method == MethodStats:
		h.answerStats(r, db)
	case db.log == nil:
		h.refuse(r, schema.Errorf("not supported", "database %s is kept in memory", db.schema.Name))
	default:
		done := make(chan error, 1)
		h.compact(db, done)
		go h.whenCompact(r, db, done)
	}
	return true
}

// whenCompact answers r when the compaction is done.
func (h *hub) whenCompact(r *request, db *database, done <-chan error) {
	ctx, cancel := context.WithTimeout(context.Background(), compactTimeout)
	defer cancel()
	var err error
	select {
	case err = <-done:
	case <-h.done:
		return
	case <-ctx.Done():
		err = ctx.Err()
	}
	h.call(func() {
		if err != nil {
			h.refuse(r, schema.Errorf("I/O error", "%s", err.Error()))
			return
		}
		h.answerStats(r, db)
	})
}

func (h *hub) answerStats(r *request, db *database) {
	st := db.stats()
	st.Sessions = h.srv.countSessions()
	b, err := json.Marshal(st)
	if err != nil {
		h.refuse(r, schema.Errorf("internal error", "%s", err.Error()))
		return
	}
	h.answer(r, b)
}

func (srv *Server) countSessions() int {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return len(srv.sessions)
}

// stats returns the counts of a database. It runs in the hub.
func (db *database) stats() DatabaseStats {
	st := DatabaseStats{
		Name: db.schema.Name, Path: db.path, Version: db.schema.Version, Rows: db.rows.Len(), Tables: map[string]int{}, Monitors: len(db.monitors),
		Waiting: len(db.waiting), Transactions: db.commits, FileSize: db.size.Load(), Compactions: db.compactions.Load(),
	}
	if at := db.compacted.Load(); at != 0 {
		st.Compacted = time.UnixMilli(at)
	}
	for _, t := range db.schema.Tables {
		if n := len(db.rows.Rows(t)); n > 0 {
			st.Tables[t.Name] = n
		}
	}
	return st
}
