package server

import (
	"slices"
	"time"

	"millrace/control/ovsdb/engine"
	"millrace/control/ovsdb/jsonval"
	"millrace/control/ovsdb/schema"
)

// maxWaiting is how many transactions of a client may wait at a time.
const maxWaiting = 1000

// A waiting transaction is executed again when its database changes.
type waiting struct {
	*request
	db    *database
	key   string    // text of the request's id
	until time.Time // zero: for ever
}

// transact is RFC 7047 4.1.3.
func (h *hub) transact(r *request) {
	db := h.databaseOf(r)
	if db == nil {
		return
	}
	if r.from.waiting[r.id.String()] != nil { // cancel would not know which
		h.refuse(r, schema.Errorf(schema.Syntax, "duplicate request ID"))
		return
	}
	res := db.rows.Execute(r.params[1:], h.env(db, r))
	if res.Waiting {
		h.hold(db, r, res.Timeout)
		return
	}
	h.finish(db, r, res)
	h.retry(db, len(res.Changes) > 0)
}

// env returns what r's transaction may know.
func (h *hub) env(db *database, r *request) engine.Env {
	return engine.Env{
		HoldsLock: func(name string) bool { return h.holds(r.from, name) },
		Waited:    time.Since(r.at),
		ReadOnly:  db.log == nil,
	}
}

// finish makes the outcome of a transaction known: to the log, to monitors,
// and last to the client.
func (h *hub) finish(db *database, r *request, res engine.Result) {
	h.spread(db, res)
	h.answer(r, res.Reply)
}

// spread makes the changes of a transaction known to the log and to monitors.
func (h *hub) spread(db *database, res engine.Result) {
	if len(res.Changes) == 0 {
		return
	}
	h.record(db, res)
	for _, m := range db.monitors {
		h.tell(m, res.Changes)
	}
	h.follow(db, res.Changes)
}

// execute runs a transaction of the server's own, which has no wait.
func (h *hub) execute(db *database, ops ...jsonval.Value) {
	res := db.rows.Execute(ops, engine.Env{})
	h.spread(db, res)
	h.retry(db, len(res.Changes) > 0)
}

// record writes what lasts of a transaction to the log.
func (h *hub) record(db *database, res engine.Result) {
	db.commits++
	buf, lasting := engine.AppendRecord(h.buf[:0], res.Changes, res.Comment, time.Now().UnixMilli())
	if h.buf = buf; cap(buf) > 1<<20 {
		h.buf = nil
	}
	if lasting && db.log != nil {
		h.out.write(db, buf)
	}
	if db.wantsCompact.CompareAndSwap(true, false) {
		h.compact(db, make(chan error, 1))
	}
}

// compact starts a compaction from the present state.
func (h *hub) compact(db *database, done chan error) {
	h.out.compact(&compactJob{db: db, schema: db.schema, snapshot: db.rows.Snapshot(), done: done})
}

// hold puts a transaction aside until its wait is over.
func (h *hub) hold(db *database, r *request, timeout time.Duration) {
	s := r.from
	if len(s.waiting) >= maxWaiting || s.waitSize+r.size > h.srv.cfg.MaxMessage {
		h.refuse(r, schema.Errorf("resources exhausted", "too many transactions wait already"))
		return
	}
	w := &waiting{request: r, db: db, key: r.id.String()}
	if timeout >= 0 {
		w.until = r.at.Add(timeout)
	}
	s.waiting[w.key] = w
	s.waitSize += r.size
	db.waiting = append(db.waiting, w)
	h.setTimer()
}

// dropWaiting forgets w.
func (db *database) dropWaiting(w *waiting) {
	if s := w.from; s.waiting[w.key] == w {
		delete(s.waiting, w.key)
	}
	w.from.waitSize -= w.size
	db.waiting = slices.DeleteFunc(db.waiting, func(o *waiting) bool { return o == w })
}

// retry executes waiting transactions again as long as db changes. The order
// is that in which they came.
func (h *hub) retry(db *database, changed bool) {
	for changed && len(db.waiting) > 0 {
		changed = h.retryOnce(db)
	}
}

// retryOnce executes all waiting transactions of db, and reports whether one
// changed it.
func (h *hub) retryOnce(db *database) bool {
	changed := false
	for _, w := range slices.Clone(db.waiting) {
		res := db.rows.Execute(w.params[1:], h.env(db, w.request))
		if res.Waiting {
			continue
		}
		db.dropWaiting(w)
		h.finish(db, w.request, res)
		changed = changed || len(res.Changes) > 0
	}
	return changed
}

// retryAll executes all waiting transactions, because one has run out of time.
func (h *hub) retryAll() {
	for _, db := range h.dbs {
		h.retry(db, true)
	}
	h.setTimer()
}

// setTimer sets the timer for the wait that ends first.
func (h *hub) setTimer() {
	var next time.Time
	for _, db := range h.dbs {
		for _, w := range db.waiting {
			if !w.until.IsZero() && (next.IsZero() || w.until.Before(next)) {
				next = w.until
			}
		}
	}
	h.timer.Stop()
	if !next.IsZero() {
		h.timer.Reset(max(time.Until(next), time.Millisecond))
	}
}

// cancel is RFC 7047 4.1.4, a notification.
func (h *hub) cancel(r *request) {
	if len(r.params) != 1 {
		return
	}
	w := r.from.waiting[r.params[0].String()]
	if w == nil {
		return
	}
	w.db.dropWaiting(w)
	h.send(w.from, refusal(w.id, jsonval.OfString("canceled")))
}
