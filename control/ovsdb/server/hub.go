package server

import (
	"context"
	"time"

	"millrace/control/ovsdb/jsonval"
	"millrace/control/ovsdb/schema"
)

// A request is one JSON-RPC request.
type request struct {
	from   *session
	id     jsonval.Value
	method string
	params []jsonval.Value
	text   jsonval.Value // params as they came, for messages
	size   int           // bytes of the message
	at     time.Time     // when it came
}

// A hub runs requests, one at a time.
type hub struct {
	srv   *Server
	calls chan func()
	done  chan struct{} // closed when the hub no longer takes calls
	out   *flusher
	dbs   []*database // with _Server, which is the last
	id    schema.UUID // of this server
	locks map[string]*lock
	timer *time.Timer // for the transaction whose wait ends next
	buf   []byte      // for log records
}

// call runs f in the hub's goroutine, some time. It reports false if the hub
// has ended.
func (h *hub) call(f func()) bool {
	select {
	case h.calls <- f:
		return true
	case <-h.done:
		return false
	}
}

// run is the hub's goroutine.
func (h *hub) run(ctx context.Context) {
	defer close(h.done)
	for {
		select {
		case f := <-h.calls:
			f()
		case <-h.timer.C:
			h.retryAll()
		case <-ctx.Done():
			return
		}
	}
}

// database returns the database of that name, or nil.
func (h *hub) database(name string) *database {
	for _, db := range h.dbs {
		if db.schema.Name == name {
			return db
		}
	}
	return nil
}

// send sends a message to s when all before it is durable.
func (h *hub) send(s *session, data []byte) { h.out.send(delivery{s, item{data: data}}) }

// answer answers r with a result.
func (h *hub) answer(r *request, result []byte) {
	if r.id.Kind != jsonval.Null {
		h.send(r.from, reply(r.id, result))
	}
}

// refuse answers r with an error.
func (h *hub) refuse(r *request, err *schema.Error) {
	if r.id.Kind != jsonval.Null {
		h.send(r.from, refusal(r.id, err.JSON()))
	}
}

// refuseName answers r with an error that is a name only.
func (h *hub) refuseName(r *request, name string) {
	h.send(r.from, refusal(r.id, jsonval.OfString(name)))
}

// notify sends a notification.
func (h *hub) notify(s *session, method string, params []byte) {
	b := append([]byte(`{"id":null,"method":"`), method...)
	b = append(append(b, `","params":`...), params...)
	h.send(s, append(b, '}'))
}

// handle runs one request.
func (h *hub) handle(r *request) {
	switch r.method {
	case "transact":
		h.transact(r)
	case "cancel":
		h.cancel(r)
	case "monitor", "monitor_cond", "monitor_cond_since":
		h.monitor(r)
	case "monitor_cond_change":
		h.monitorChange(r)
	case "monitor_cancel":
		h.monitorCancel(r)
	case "lock", "steal":
		h.lock(r)
	case "unlock":
		h.unlock(r)
	case "list_dbs":
		h.listDatabases(r)
	case "get_schema":
		if db := h.databaseOf(r); db != nil {
			h.answer(r, []byte(db.schema.Text))
		}
	case "get_server_id":
		h.answer(r, jsonval.AppendString(nil, h.id.String()))
	case "set_db_change_aware":
		h.setAware(r)
	case "convert":
		h.convert(r)
	default:
		if !h.private(r) {
			h.refuseName(r, "unknown method")
		}
	}
}

// databaseOf returns the database that the first parameter names. If there is
// none it refuses the request.
func (h *hub) databaseOf(r *request) *database {
	if len(r.params) == 0 || r.params[0].Kind != jsonval.String {
		h.refuse(r, schema.Errorf(schema.Syntax, "%s request params must begin with <db-name>", r.method))
		return nil
	}
	db := h.database(r.params[0].Str)
	if db == nil {
		h.refuse(r, schema.Errorf("unknown database", "%s request specifies unknown database %s", r.method, r.params[0].Str))
	}
	return db
}

func (h *hub) listDatabases(r *request) {
	names := jsonval.OfArray()
	for _, db := range h.dbs {
		names.Elems = append(names.Elems, jsonval.OfString(db.schema.Name))
	}
	h.answer(r, names.Append(nil))
}

// drop forgets a session that has ended.
func (h *hub) drop(s *session) {
	for _, m := range s.monitors {
		m.db.dropMonitor(m)
	}
	for _, w := range s.waiting {
		w.db.dropWaiting(w)
	}
	for _, w := range s.waiters {
		h.release(w)
	}
}
