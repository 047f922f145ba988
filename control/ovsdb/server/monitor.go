package server

import (
	"slices"

	"millrace/control/ovsdb/engine"
	"millrace/control/ovsdb/jsonval"
	"millrace/control/ovsdb/schema"
)

// events are kinds of change, a set of bits.
type events uint8

// The kinds of change that <monitor-select> names.
const (
	onInitial events = 1 << iota
	onInsert
	onDelete
	onModify
	onAll = onInitial | onInsert | onDelete | onModify
)

// A monitorColumn is a column that a client watches.
type monitorColumn struct {
	*schema.Column
	on events // where it is told
}

// A monitorTable is a table that a client watches.
type monitorTable struct {
	table *schema.Table
	cols  []monitorColumn
	on    events
	where *engine.Condition
}

// A monitor is one monitor of a client. Its tables are replaced, never
// changed, since a session's writer may be reading them.
type monitor struct {
	of      *session
	db      *database
	id      jsonval.Value
	version int // 1: monitor, 2: monitor_cond, 3: monitor_cond_since
	tables  []*monitorTable
}

// monitor is RFC 7047 4.1.5 and ovsdb-server(7) 4.1.12 and 4.1.15.
func (h *hub) monitor(r *request) {
	db := h.databaseOf(r)
	if db == nil {
		return
	}
	m := &monitor{of: r.from, db: db, version: 1}
	want := 3
	switch r.method {
	case "monitor_cond":
		m.version = 2
	case "monitor_cond_since":
		m.version, want = 3, 4
	}
	if len(r.params) != want || r.params[2].Kind != jsonval.Object {
		h.refuse(r, schema.Errorf(schema.Syntax, "%s request needs %d parameters", r.method, want))
		return
	}
	m.id = r.params[1]
	if r.from.monitors[m.id.String()] != nil {
		h.refuse(r, schema.Errorf(schema.Syntax, "duplicate monitor ID"))
		return
	}
	if len(r.from.monitors) >= maxWaiting {
		h.refuse(r, schema.Errorf("resources exhausted", "too many monitors"))
		return
	}
	if err := m.parse(r.params[2]); err != nil {
		h.refuse(r, err)
		return
	}
	r.from.monitors[m.id.String()] = m
	db.monitors = append(db.monitors, m)
	h.out.send(delivery{r.from, m.initial(r.id)})
}

// parse reads <monitor-requests>.
func (m *monitor) parse(v jsonval.Value) (err *schema.Error) {
	v.Members(func(name string, reqs jsonval.Value) bool {
		t := m.db.schema.Table(name)
		if t == nil {
			err = schema.Errorf(schema.Syntax, "no table named %s", name)
			return false
		}
		mt := &monitorTable{table: t, where: &engine.Condition{}}
		list := reqs.Elems
		if reqs.Kind != jsonval.Array {
			list = []jsonval.Value{reqs}
		}
		for _, req := range list {
			if err = mt.parse(req, m.version > 1); err != nil {
				return false
			}
		}
		m.tables = append(m.tables, mt)
		return true
	})
	return err
}

// parse adds one <monitor-request>.
func (mt *monitorTable) parse(v jsonval.Value, conditional bool) (err *schema.Error) {
	if v.Kind != jsonval.Object {
		return schema.Errorf(schema.Syntax, "<monitor-request> must be an object")
	}
	on, allColumns := onAll, true
	v.Members(func(name string, val jsonval.Value) bool {
		switch {
		case name == "columns" && val.Kind == jsonval.Array:
			allColumns = false
		case name == "select" && val.Kind == jsonval.Object:
			on, err = parseSelect(val)
		case name == "where" && conditional && val.Kind == jsonval.Array:
			var c *engine.Condition
			if c, err = engine.ParseCondition(mt.table, val, nil); err == nil {
				mt.where = mt.where.With(c)
			}
		default:
			err = schema.Errorf(schema.Syntax, "member %q of <monitor-request> has the wrong type or is not allowed", name)
		}
		return err == nil
	})
	if err != nil {
		return err
	}
	cols := append([]*schema.Column{mt.table.Column("_version")}, mt.table.Columns...)
	if !allColumns {
		names, _ := v.Get("columns")
		if cols, err = engine.ParseColumns(mt.table, names); err != nil {
			return err
		}
	}
	return mt.add(cols, on)
}

// add watches more columns.
func (mt *monitorTable) add(cols []*schema.Column, on events) *schema.Error {
	mt.on |= on
	for _, c := range cols {
		if slices.ContainsFunc(mt.cols, func(o monitorColumn) bool { return o.Column == c }) {
			return schema.Errorf(schema.Syntax, "column %s is mentioned more than once", c.Name)
		}
		mt.cols = append(mt.cols, monitorColumn{c, on})
	}
	return nil
}

// parseSelect reads <monitor-select>.
func parseSelect(v jsonval.Value) (on events, err *schema.Error) {
	on = onAll
	v.Members(func(name string, val jsonval.Value) bool {
		bits := map[string]events{"initial": onInitial, "insert": onInsert, "delete": onDelete, "modify": onModify}[name]
		if bits == 0 || !val.IsBool() {
			err = schema.Errorf(schema.Syntax, "member %q of <monitor-select> is not allowed or no boolean", name)
			return false
		}
		if val.Kind == jsonval.False {
			on &^= bits
		}
		return true
	})
	return on, err
}

// table returns what m watches of t, or nil.
func (m *monitor) table(t *schema.Table) *monitorTable {
	for _, mt := range m.tables {
		if mt.table == t {
			return mt
		}
	}
	return nil
}

// dropMonitor forgets m.
func (db *database) dropMonitor(m *monitor) {
	db.monitors = slices.DeleteFunc(db.monitors, func(o *monitor) bool { return o == m })
}

// monitorCancel is RFC 7047 4.1.7.
func (h *hub) monitorCancel(r *request) {
	if len(r.params) != 1 {
		h.refuse(r, schema.Errorf(schema.Syntax, "monitor_cancel request needs 1 parameter"))
		return
	}
	key := r.params[0].String()
	m := r.from.monitors[key]
	if m == nil {
		h.refuseName(r, "unknown monitor")
		return
	}
	delete(r.from.monitors, key)
	m.db.dropMonitor(m)
	h.answer(r, []byte("{}"))
}

// monitorChange is ovsdb-server(7) 4.1.13. The rows that come and go by the
// new conditions are told before the answer.
func (h *hub) monitorChange(r *request) {
	if len(r.params) != 3 || r.params[2].Kind != jsonval.Object {
		h.refuse(r, schema.Errorf(schema.Syntax, "monitor_cond_change request needs 3 parameters"))
		return
	}
	m := r.from.monitors[r.params[0].String()]
	if m == nil {
		h.refuseName(r, "unknown monitor session")
		return
	}
	key := r.params[1].String()
	if other := r.from.monitors[key]; other != nil && other != m {
		h.refuse(r, schema.Errorf(schema.Syntax, "duplicate monitor ID"))
		return
	}
	where, err := m.parseWheres(r.params[2])
	if err != nil {
		h.refuse(r, err)
		return
	}
	delete(r.from.monitors, m.id.String())
	m.id = r.params[1]
	r.from.monitors[key] = m
	h.changeWhere(m, where)
	h.answer(r, []byte("{}"))
}

// parseWheres reads <monitor-cond-update-requests>: new conditions by table.
func (m *monitor) parseWheres(v jsonval.Value) (where map[*monitorTable]*engine.Condition, err *schema.Error) {
	where = map[*monitorTable]*engine.Condition{}
	v.Members(func(name string, reqs jsonval.Value) bool {
		t := m.db.schema.Table(name)
		if t == nil {
			err = schema.Errorf(schema.Syntax, "no table named %s", name)
			return false
		}
		mt := m.table(t)
		if mt == nil {
			err = schema.Errorf(schema.Syntax, "no table %s in the monitor", name)
			return false
		}
		list := reqs.Elems
		if reqs.Kind != jsonval.Array {
			list = []jsonval.Value{reqs}
		}
		for _, req := range list {
			w, _ := req.Get("where")
			var c *engine.Condition
			if w.Kind == jsonval.Null {
				w = jsonval.OfArray()
			}
			if c, err = engine.ParseCondition(t, w, nil); err != nil {
				return false
			}
			if where[mt] == nil {
				where[mt] = &engine.Condition{}
			}
			where[mt] = where[mt].With(c)
		}
		return true
	})
	return where, err
}
