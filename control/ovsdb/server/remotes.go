package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"millrace/control/ovsdb/engine"
	"millrace/control/ovsdb/schema"
)

// ErrRemotes means that Config.Remotes names no column with remotes.
var ErrRemotes = errors.New("want db:DATABASE,TABLE,COLUMN, a column that references rows with a target")

// How often the state of remotes goes into their rows, and the least time
// between two writes when something happens. The first is the stock server's.
const (
	statusEvery = 2500 * time.Millisecond
	statusGap   = 250 * time.Millisecond
)

// A remoteColumn is a column whose rows say where to listen and connect, like
// Open_vSwitch.manager_options. Names, because schemas may change.
type remoteColumn struct{ db, table, column string }

// A remoteSpec is what a row says of a remote. Of rows with the same target
// the first counts.
type remoteSpec struct {
	target     string
	maxBackoff time.Duration // 0: the default
	probe      time.Duration // 0: the default; negative: never
}

// remotes keeps listeners and connections that a database asks for. One
// goroutine, run, owns live.
type remotes struct {
	srv     *Server
	columns []remoteColumn
	keys    *keyring
	changed chan struct{} // buffered: want is new, or a remote's state

	mu   sync.Mutex
	want []remoteSpec

	live map[string]*remote // by target
}

// parseRemoteColumn reads an element of Config.Remotes.
func parseRemoteColumn(s string) (remoteColumn, error) {
	f := strings.Split(strings.TrimPrefix(s, "db:"), ",")
	if !strings.HasPrefix(s, "db:") || len(f) != 3 {
		return remoteColumn{}, fmt.Errorf("remotes %q: %w", s, ErrRemotes)
	}
	return remoteColumn{f[0], f[1], f[2]}, nil
}

// newRemotes checks what the configuration says of remotes.
func newRemotes(srv *Server) (*remotes, error) {
	rs := &remotes{srv: srv, changed: make(chan struct{}, 1), live: map[string]*remote{}, keys: &keyring{fixed: srv.cfg.TLS}}
	for _, s := range srv.cfg.Remotes {
		rc, err := parseRemoteColumn(s)
		if err != nil {
			return nil, err
		}
		if from, to := rc.tables(srv.hub); from == nil || to == nil {
			return nil, fmt.Errorf("remotes %q: %w", s, ErrRemotes)
		}
		rs.columns = append(rs.columns, rc)
	}
	return rs, nil
}

// tables returns the tables that hold the column and the rows that it
// references; nil if the schema does not have them any more.
func (rc remoteColumn) tables(h *hub) (from, to *schema.Table) {
	db := h.database(rc.db)
	if db == nil {
		return nil, nil
	}
	if from = db.schema.Table(rc.table); from == nil {
		return nil, nil
	}
	c := from.Column(rc.column)
	if c == nil || c.Type.Key.RefTable == "" {
		return from, nil
	}
	to = db.schema.Table(c.Type.Key.RefTable)
	if t := to.Column("target"); t == nil || !t.Type.IsScalar() || t.Type.Key.Atomic != schema.String {
		return from, nil
	}
	return from, to
}

// rows calls f for each row that the column references.
func (rc remoteColumn) rows(h *hub, f func(t *schema.Table, r *engine.Row)) {
	from, to := rc.tables(h)
	if to == nil {
		return
	}
	db := h.database(rc.db)
	for _, holder := range db.rows.Rows(from) {
		for _, a := range holder.Get(from.Column(rc.column)) {
			if r := db.rows.Row(to, a.UUID()); r != nil {
				f(to, r)
			}
		}
	}
}

// follow looks whether changes of db, nil for any, say something new of
// remotes. It runs in the hub.
func (h *hub) follow(db *database, changes []engine.Change) {
	rs := h.srv.remotes
	if len(rs.columns) == 0 || db.log == nil {
		return
	}
	if changes != nil && !slices.ContainsFunc(changes, func(c engine.Change) bool { return rs.reads(h, db, c.Table) }) {
		return
	}
	var want []remoteSpec
	for _, rc := range rs.columns {
		rc.rows(h, func(t *schema.Table, r *engine.Row) { want = append(want, readSpec(t, r)) })
	}
	slices.SortFunc(want, func(a, b remoteSpec) int { return strings.Compare(a.target, b.target) })
	want = slices.CompactFunc(want, func(a, b remoteSpec) bool { return a.target == b.target })
	keysChanged := rs.keys.follow(h.keyFiles(rs.columns))
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if keysChanged || !slices.Equal(want, rs.want) {
		rs.want = want
		rs.signal()
	}
}

// reads reports whether a table says something of remotes.
func (rs *remotes) reads(h *hub, db *database, t *schema.Table) bool {
	for _, rc := range rs.columns {
		from, to := rc.tables(h)
		if rc.db == db.schema.Name && (t == from || t == to || t.Name == sslTable) {
			return true
		}
	}
	return false
}

// readSpec reads a row.
func readSpec(t *schema.Table, r *engine.Row) remoteSpec {
	spec := remoteSpec{target: r.Get(t.Column("target"))[0].Str()}
	ms := func(name string) (time.Duration, bool) {
		c := t.Column(name)
		if c == nil || c.Type.Key.Atomic != schema.Integer || len(r.Get(c)) == 0 {
			return 0, false
		}
		n := min(max(r.Get(c)[0].Int(), 0), int64(24*time.Hour/time.Millisecond))
		return time.Duration(n) * time.Millisecond, true
	}
	spec.maxBackoff, _ = ms("max_backoff")
	if probe, set := ms("inactivity_probe"); set && probe == 0 {
		spec.probe = -1
	} else if set {
		spec.probe = max(probe, time.Second)
	}
	return spec
}

func (rs *remotes) signal() {
	select {
	case rs.changed <- struct{}{}:
	default:
	}
}

// run holds remotes to what the rows say until ctx ends.
func (rs *remotes) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			for _, r := range rs.live {
				r.stop()
			}
			return
		case <-rs.changed:
			rs.reconcile(ctx)
			timer.Reset(max(0, time.Until(last.Add(statusGap))))
		case <-timer.C:
			if len(rs.live) > 0 {
				rs.writeStatus()
				last = time.Now()
				timer.Reset(statusEvery)
			}
		}
	}
}

// reconcile stops remotes that no row asks for, starts new ones, and gives the
// others their settings.
func (rs *remotes) reconcile(ctx context.Context) {
	rs.mu.Lock()
	want := rs.want
	rs.mu.Unlock()
	keep := map[string]bool{}
	for _, spec := range want {
		keep[spec.target] = true
	}
	for target, r := range rs.live {
		if !keep[target] {
			r.stop()
			delete(rs.live, target)
		}
	}
	for _, spec := range want {
		r := rs.live[spec.target]
		if r == nil {
			r = newRemote(rs, spec.target)
			rs.live[spec.target] = r
			r.set(spec)
			r.start(ctx)
			continue
		}
		r.set(spec)
	}
}
