package server

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"millrace/control/ovsdb/engine"
	"millrace/control/ovsdb/jsonval"
	"millrace/control/ovsdb/schema"
)

// writeStatus writes how remotes are into the columns is_connected and status
// of their rows (ovs-vswitchd.conf.db(5), table Manager), in one transaction.
func (rs *remotes) writeStatus() {
	live := map[string]*remote{}
	for target, r := range rs.live {
		live[target] = r
	}
	rs.srv.hub.call(func() {
		for _, db := range rs.srv.hub.dbs {
			if ops := rs.statusOps(db, live); len(ops) > 0 {
				rs.srv.hub.execute(db, ops...)
			}
		}
	})
}

// statusOps returns the operations that write the state of live remotes into
// rows of db.
func (rs *remotes) statusOps(db *database, live map[string]*remote) []jsonval.Value {
	var ops []jsonval.Value
	now := time.Now()
	for _, rc := range rs.columns {
		if rc.db != db.schema.Name {
			continue
		}
		rc.rows(rs.srv.hub, func(t *schema.Table, row *engine.Row) {
			r := live[row.Get(t.Column("target"))[0].Str()]
			if r != nil && isStatus(t) {
				ops = append(ops, statusOp(t, row.ID, r.status(rs.srv.hub, now)))
			}
		})
	}
	return ops
}

// isStatus reports whether t has the columns for the state of a remote.
func isStatus(t *schema.Table) bool {
	c, s := t.Column("is_connected"), t.Column("status")
	return c != nil && c.Type.IsScalar() && c.Type.Key.Atomic == schema.Boolean &&
		s != nil && s.Type.Key.Atomic == schema.String && s.Type.Value != nil && s.Type.Value.Atomic == schema.String
}

// statusOp returns the operation that writes a state into a row.
func statusOp(t *schema.Table, id schema.UUID, st remoteStatus) jsonval.Value {
	str := jsonval.OfString
	pairs := jsonval.OfArray()
	for _, p := range st.pairs {
		pairs.Elems = append(pairs.Elems, jsonval.OfArray(str(p[0]), str(p[1])))
	}
	return jsonval.OfObject(
		str("op"), str("update"), str("table"), str(t.Name),
		str("where"), jsonval.OfArray(jsonval.OfArray(str("_uuid"), str("=="), jsonval.OfArray(str("uuid"), str(id.String())))),
		str("row"), jsonval.OfObject(
			str("is_connected"), jsonval.OfBool(st.connected),
			str("status"), jsonval.OfArray(str("map"), pairs)))
}

// A remoteStatus is what a row is told of its remote.
type remoteStatus struct {
	connected bool
	pairs     [][2]string // of column status
}

// status returns how r is. What it says of a connection is of the oldest one.
// It runs in the hub.
func (r *remote) status(h *hub, now time.Time) remoteStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := remoteStatus{connected: len(r.sessions) > 0}
	add := func(key, value string) {
		if value != "" {
			st.pairs = append(st.pairs, [2]string{key, value})
		}
	}
	seconds := func(since time.Time) string { return strconv.Itoa(int(now.Sub(since) / time.Second)) }
	state := r.state
	if st.connected {
		s := r.sessions[0]
		if state = "ACTIVE"; s.idle.Load() {
			state = "IDLE"
		}
		add("sec_since_connect", seconds(s.since))
		held, waits, lost := h.locksOf(s)
		add("locks_held", held)
		add("locks_waiting", waits)
		add("locks_lost", lost)
	}
	if !r.ended.IsZero() {
		add("sec_since_disconnect", seconds(r.ended))
	}
	add("state", state)
	add("last_error", r.problem)
	if n := len(r.sessions); n > 1 {
		add("n_connections", strconv.Itoa(n))
	}
	if r.port != 0 {
		add("bound_port", strconv.Itoa(r.port))
	}
	return st
}

// locksOf returns the names of the locks that s holds, waits for, and was
// robbed of.
func (h *hub) locksOf(s *session) (held, waits, lost string) {
	var names [3][]string
	for name, w := range s.waiters {
		i := 2
		if h.holds(s, name) {
			i = 0
		} else if l := h.locks[name]; l != nil && slices.Contains(l.queue, w) {
			i = 1
		}
		names[i] = append(names[i], name)
	}
	for i := range names {
		slices.Sort(names[i])
	}
	return strings.Join(names[0], " "), strings.Join(names[1], " "), strings.Join(names[2], " ")
}
