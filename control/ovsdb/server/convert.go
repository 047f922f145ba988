package server

import (
	"slices"
	"strings"

	"millrace/control/ovsdb/engine"
	"millrace/control/ovsdb/jsonval"
	"millrace/control/ovsdb/schema"
)

// convert is ovsdb-server(7) 4.1.19: a database gets another schema while it is
// served. The answer comes when a file with the new schema has replaced the
// old one.
func (h *hub) convert(r *request) {
	db := h.databaseOf(r)
	if db == nil {
		return
	}
	s, rows, err := h.converted(db, r)
	if err != nil {
		h.refuse(r, err)
		return
	}
	db.schema, db.rows = s, rows
	h.out.compact(&compactJob{db: db, schema: s, snapshot: rows.Snapshot(), convert: true, done: make(chan error, 1)})
	db.commits++
	h.abandon(db)
	h.publish(db)
	h.answer(r, []byte("{}"))
	h.sendAway()
	h.follow(db, nil)
}

// converted returns the schema that r asks for and db's rows under it.
func (h *hub) converted(db *database, r *request) (*schema.Database, *engine.DB, *schema.Error) {
	if len(r.params) != 2 {
		return nil, nil, schema.Errorf(schema.Syntax, "%s request needs 2 parameters", r.method)
	}
	s, err := schema.FromJSON(r.params[1])
	if err != nil {
		return nil, nil, schema.Errorf(schema.Syntax, "%s", err)
	}
	if s.Name != db.schema.Name || db.log == nil {
		return nil, nil, schema.Errorf("invalid parameters", "new schema name (%s) does not match database name (%s), or that cannot be converted", s.Name, db.schema.Name)
	}
	if had, err := jsonval.Parse([]byte(db.schema.Text)); err == nil && sorted(had).String() == sorted(r.params[1]).String() {
		s.Text = db.schema.Text // only the order differs: _Server has nothing to tell
	}
	rows, bad := db.rows.ConvertStrictly(s)
	return s, rows, bad
}

// sorted returns v with the members of all objects in the order of their names.
func sorted(v jsonval.Value) jsonval.Value {
	elems := make([]jsonval.Value, len(v.Elems))
	for i, e := range v.Elems {
		elems[i] = sorted(e)
	}
	v.Elems = elems
	if v.Kind == jsonval.Object {
		pairs := slices.SortedFunc(slices.Chunk(elems, 2), func(a, b []jsonval.Value) int { return strings.Compare(a[0].Str, b[0].Str) })
		v.Elems = slices.Concat(pairs...)
	}
	return v
}

// abandon ends all that clients do with db under its old schema.
func (h *hub) abandon(db *database) {
	for _, m := range db.monitors {
		delete(m.of.monitors, m.id.String())
		if m.of.aware {
			h.notify(m.of, "monitor_canceled", jsonval.OfArray(m.id).Append(nil))
		}
	}
	db.monitors = nil
	for len(db.waiting) > 0 {
		w := db.waiting[0]
		db.dropWaiting(w)
		h.send(w.from, refusal(w.id, jsonval.OfString("canceled")))
	}
}

// publish tells the _Server database of db's schema.
func (h *hub) publish(db *database) {
	str := jsonval.OfString
	h.execute(h.dbs[len(h.dbs)-1], jsonval.OfObject(
		str("op"), str("update"), str("table"), str("Database"),
		str("where"), jsonval.OfArray(jsonval.OfArray(str("name"), str("=="), str(db.schema.Name))),
		str("row"), jsonval.OfObject(str("schema"), str(db.schema.Text))))
}

// sendAway ends the sessions of clients that have not said, by
// set_db_change_aware, that they know that a schema may change. What they are
// to get, they get first.
func (h *hub) sendAway() {
	h.srv.mu.Lock()
	defer h.srv.mu.Unlock()
	for s := range h.srv.sessions {
		if !s.aware {
			h.out.send(delivery{s, item{last: true}})
		}
	}
}

// setAware is ovsdb-server(7) 4.1.18.
func (h *hub) setAware(r *request) {
	if len(r.params) != 1 || !r.params[0].IsBool() {
		h.refuse(r, schema.Errorf(schema.Syntax, "%s request needs a boolean", r.method))
		return
	}
	r.from.aware = r.params[0].Kind == jsonval.True
	h.answer(r, []byte("{}"))
}
