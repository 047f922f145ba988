package server

import (
	"bufio"
	"strings"

	"millrace/control/ovsdb/engine"
	"millrace/control/ovsdb/jsonval"
	"millrace/control/ovsdb/schema"
)

// zeroTxn is the id of a transaction that a server without a history gives.
const zeroTxn = "00000000-0000-0000-0000-000000000000"

// What the answer to a monitor request counts for in the queue, before it is
// written: itself, and each row that it will hold.
const streamCost, rowCost = 1 << 10, 8

// initial returns the answer to a monitor request: the rows as they are now,
// whenever it is written.
func (m *monitor) initial(id jsonval.Value) item {
	tables, version := m.tables, m.version
	rows := make([][]*engine.Row, len(tables))
	holds := streamCost
	for i, mt := range tables {
		if mt.on&onInitial != 0 {
			rows[i] = m.db.rows.Rows(mt.table)
			holds += rowCost * len(rows[i])
		}
	}
	return item{holds: holds, stream: func(w *bufio.Writer) {
		frame := strings.SplitN(string(reply(id, []byte("\x00"))), "\x00", 2)
		_, _ = w.WriteString(frame[0]) // Flush tells, here and below
		if version == 3 {
			_, _ = w.WriteString(`[false,"` + zeroTxn + `",`)
		}
		writeTables(w, version, tables, rows)
		if version == 3 {
			_ = w.WriteByte(']')
		}
		_, _ = w.WriteString(frame[1])
	}}
}

// writeTables writes <table-updates> with whole rows.
func writeTables(w *bufio.Writer, version int, tables []*monitorTable, rows [][]*engine.Row) {
	u := updates{version: version}
	for i, mt := range tables {
		for _, r := range rows[i] {
			if !mt.where.Any(r) {
				continue
			}
			u.add(mt, onInitial, nil, r)
			if len(u.b) > 1<<14 {
				_, _ = w.Write(u.b)
				u.b = u.b[:0]
			}
		}
	}
	_, _ = w.Write(u.finish())
}

// tell sends m what it wants to know of some changes.
func (h *hub) tell(m *monitor, changes []engine.Change) {
	u := updates{version: m.version}
	for i := range changes {
		c := &changes[i]
		mt := m.table(c.Table)
		if mt == nil {
			continue
		}
		before := c.Old != nil && mt.where.Any(c.Old)
		after := c.New != nil && mt.where.Any(c.New)
		switch {
		case before && after:
			u.add(mt, onModify, c.Old, c.New)
		case before:
			u.add(mt, onDelete, c.Old, nil)
		case after:
			u.add(mt, onInsert, nil, c.New)
		}
	}
	h.update(m, &u)
}

// changeWhere gives m new conditions, and tells it which rows come and go.
func (h *hub) changeWhere(m *monitor, where map[*monitorTable]*engine.Condition) {
	u := updates{version: m.version}
	tables := make([]*monitorTable, len(m.tables))
	for i, mt := range m.tables {
		tables[i] = mt
		next := where[mt]
		if next == nil {
			continue
		}
		for _, r := range m.db.rows.Rows(mt.table) {
			before, after := mt.where.Any(r), next.Any(r)
			if before && !after {
				u.add(mt, onDelete, r, nil)
			}
			if after && !before {
				u.add(mt, onInsert, nil, r)
			}
		}
		changed := *mt
		changed.where = next
		tables[i] = &changed
	}
	m.tables = tables
	h.update(m, &u)
}

// update sends m a notification of u, unless it is empty.
func (h *hub) update(m *monitor, u *updates) {
	if !u.any {
		return
	}
	method := [...]string{1: "update", 2: "update2", 3: "update3"}[m.version]
	b := append(m.id.Append([]byte{'['}), ',')
	if m.version == 3 {
		b = append(b, `"`+zeroTxn+`",`...)
	}
	h.notify(m.of, method, append(append(b, u.finish()...), ']'))
}

// updates is <table-updates> in the making, in the format of a version. Tables
// must be added one after another.
type updates struct {
	version int
	b       []byte
	table   *schema.Table
	any     bool
}

// add adds a row, if mt wants such changes.
func (u *updates) add(mt *monitorTable, on events, old, now *engine.Row) {
	if mt.on&on == 0 || on == onModify && !mt.differs(old, now) {
		return
	}
	switch {
	case u.table == mt.table:
		u.b = append(u.b, ',')
	case u.table != nil:
		u.b = append(u.b, "},"...)
		fallthrough
	default:
		if u.table == nil {
			u.b = append(u.b, '{')
		}
		u.b = append(jsonval.AppendString(u.b, mt.table.Name), ":{"...)
		u.table = mt.table
	}
	u.any = true
	id := old
	if id == nil {
		id = now
	}
	u.b = append(id.ID.Append(append(u.b, '"')), `":`...)
	if u.version == 1 {
		u.b = mt.appendRow1(u.b, on, old, now)
	} else {
		u.b = mt.appendRow2(u.b, on, old, now)
	}
}

// finish returns what was added since it was last taken, with the end.
func (u *updates) finish() []byte {
	if u.table == nil {
		return []byte("{}")
	}
	return append(u.b, "}}"...)
}

// differs reports whether a watched column changed.
func (mt *monitorTable) differs(old, now *engine.Row) bool {
	for _, c := range mt.cols {
		if !schema.Equal(old.Get(c.Column), now.Get(c.Column)) {
			return true
		}
	}
	return false
}

// appendCells adds the columns for which want is true, as an object.
func (mt *monitorTable) appendCells(b []byte, on events, want func(c *schema.Column) (schema.Datum, bool)) []byte {
	b = append(b, '{')
	start := len(b)
	for _, c := range mt.cols {
		if c.on&on == 0 {
			continue
		}
		d, ok := want(c.Column)
		if !ok {
			continue
		}
		if len(b) > start {
			b = append(b, ',')
		}
		b = engine.AppendCell(b, c.Column, d)
	}
	return append(b, '}')
}

// appendRow1 adds a <row-update> (RFC 7047 4.1.6).
func (mt *monitorTable) appendRow1(b []byte, on events, old, now *engine.Row) []byte {
	b = append(b, '{')
	if old != nil {
		b = mt.appendCells(append(b, `"old":`...), on, func(c *schema.Column) (schema.Datum, bool) {
			d := old.Get(c)
			return d, now == nil || !schema.Equal(d, now.Get(c))
		})
	}
	if now != nil {
		if old != nil {
			b = append(b, ',')
		}
		b = mt.appendCells(append(b, `"new":`...), on, func(c *schema.Column) (schema.Datum, bool) { return now.Get(c), true })
	}
	return append(b, '}')
}

// appendRow2 adds a <row-update2> (ovsdb-server(7) 4.1.14).
func (mt *monitorTable) appendRow2(b []byte, on events, old, now *engine.Row) []byte {
	switch on {
	case onDelete:
		return append(b, `{"delete":null}`...)
	case onModify:
		b = mt.appendCells(append(b, `{"modify":`...), on, func(c *schema.Column) (schema.Datum, bool) {
			before, after := old.Get(c), now.Get(c)
			return c.Type.Diff(before, after), !schema.Equal(before, after)
		})
		return append(b, '}')
	case onInitial:
		b = append(b, `{"initial":`...)
	default:
		b = append(b, `{"insert":`...)
	}
	b = mt.appendCells(b, on, func(c *schema.Column) (schema.Datum, bool) {
		d := now.Get(c)
		return d, !schema.Equal(d, c.Default)
	})
	return append(b, '}')
}
