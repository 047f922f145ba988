package engine

import (
	"bufio"
	"fmt"
	"strconv"

	"millrace/control/ovsdb/jsonval"
	"millrace/control/ovsdb/schema"
)

// AppendRecord adds the log record of a transaction (ovsdb(5), Standalone
// Format) to b: inserted rows whole, changed rows as differences. date is in
// milliseconds since 1970. It reports false if nothing of it lasts.
func AppendRecord(b []byte, changes []Change, comment string, date int64) ([]byte, bool) {
	start := len(b)
	b = append(b, '{')
	var table *schema.Table
	for i := range changes {
		c := &changes[i]
		if c.Old != nil && c.New != nil && !lastingChange(c) {
			continue
		}
		if c.Table != table {
			if table != nil {
				b = append(b, "},"...)
			}
			table = c.Table
			b = append(jsonval.AppendString(b, table.Name), ":{"...)
		} else {
			b = append(b, ',')
		}
		b = append(append(c.ID().Append(append(b, '"')), '"'), ':')
		b = appendChange(b, c)
	}
	if table == nil {
		return b[:start], false
	}
	b = append(b, `},"_date":`...)
	b = strconv.AppendInt(b, date, 10)
	if comment != "" {
		b = jsonval.AppendString(append(b, `,"_comment":`...), comment)
	}
	return append(b, `,"_is_diff":true}`...), true
}

// lastingChange reports whether a change of a row is to be written.
func lastingChange(c *Change) bool {
	for i, col := range c.Table.Columns {
		if !col.Ephemeral && !sameDatum(c.Old.cols[i], c.New.cols[i]) {
			return true
		}
	}
	return false
}

// appendChange adds one row of a record.
func appendChange(b []byte, c *Change) []byte {
	if c.New == nil {
		return append(b, "null"...)
	}
	if c.Old == nil {
		return appendLasting(b, c.Table, c.New)
	}
	b = append(b, '{')
	start := len(b)
	for i, col := range c.Table.Columns {
		if col.Ephemeral || sameDatum(c.Old.cols[i], c.New.cols[i]) {
			continue
		}
		if len(b) > start {
			b = append(b, ',')
		}
		b = AppendCell(b, col, col.Type.Diff(c.Old.cols[i], c.New.cols[i]))
	}
	return append(b, '}')
}

// appendLasting adds the columns of r that are written and not the default.
func appendLasting(b []byte, t *schema.Table, r *Row) []byte {
	b = append(b, '{')
	start := len(b)
	for i, col := range t.Columns {
		if col.Ephemeral || sameDatum(r.cols[i], col.Default) {
			continue
		}
		if len(b) > start {
			b = append(b, ',')
		}
		b = AppendCell(b, col, r.cols[i])
	}
	return append(b, '}')
}

// Replay applies a record. Finish must follow the last one.
func (db *DB) Replay(v jsonval.Value) error {
	if v.Kind != jsonval.Object {
		return fmt.Errorf("record is no object")
	}
	m, _ := v.Get("_is_diff")
	diff := m.Kind == jsonval.True
	var err error
	v.Members(func(name string, rows jsonval.Value) bool {
		if name == "_date" || name == "_comment" || name == "_is_diff" {
			return true
		}
		t := db.Schema.Table(name)
		if t == nil {
			err = fmt.Errorf("record names unknown table %s", name)
			return false
		}
		rows.Members(func(id string, row jsonval.Value) bool {
			if err = db.replayRow(t, id, row, diff); err != nil {
				err = fmt.Errorf("table %s row %s: %w", name, id, err)
			}
			return err == nil
		})
		return err == nil
	})
	return err
}

// replayRow applies one row of a record.
func (db *DB) replayRow(t *schema.Table, text string, v jsonval.Value, diff bool) error {
	id, ok := schema.ParseUUID(text)
	if !ok {
		return fmt.Errorf("%q is no UUID", text)
	}
	old := db.Row(t, id)
	if v.Kind == jsonval.Null {
		db.Put(t, id, nil)
		return nil
	}
	r := NewRow(t, id)
	if old != nil {
		r = old.Clone()
	}
	var err error
	v.Members(func(name string, val jsonval.Value) bool {
		col := t.Column(name)
		if col == nil || col.Index < 0 {
			err = fmt.Errorf("unknown column %s", name)
			return false
		}
		apply := diff && old != nil && col.Type.Max > 1
		var d schema.Datum
		if d, err = readDatum(col, val, apply); err != nil {
			err = fmt.Errorf("column %s: %w", name, err)
			return false
		}
		if apply {
			d = col.Type.Apply(r.cols[col.Index], d)
		}
		r.Set(col, d)
		return true
	})
	if err == nil {
		db.Put(t, id, r)
	}
	return err
}

// readDatum reads a column's value, or a difference of any size.
func readDatum(col *schema.Column, v jsonval.Value, diff bool) (schema.Datum, error) {
	var d schema.Datum
	var err *schema.Error
	if diff {
		d, err = col.Type.ParseDiff(v)
	} else {
		d, err = col.Type.Parse(v, nil)
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

// A Snapshot is the state of a database at one moment. Any goroutine may use it.
type Snapshot struct {
	tables []*schema.Table
	rows   [][]*Row
}

// Snapshot returns the present state.
func (db *DB) Snapshot() Snapshot {
	var s Snapshot
	for _, t := range db.tables {
		s.tables = append(s.tables, t.Table)
		s.rows = append(s.rows, db.Rows(t.Table))
	}
	return s
}

// Write writes the snapshot as one record.
func (s Snapshot) Write(w *bufio.Writer, date int64) error {
	var b []byte
	_ = w.WriteByte('{') // a bufio.Writer keeps its first error for Flush
	for i, t := range s.tables {
		if len(s.rows[i]) == 0 {
			continue
		}
		b = append(jsonval.AppendString(b[:0], t.Name), ":{"...)
		for n, r := range s.rows[i] {
			if n > 0 {
				b = append(b, ',')
			}
			b = append(append(r.ID.Append(append(b, '"')), '"'), ':')
			b = appendLasting(b, t, r)
			_, _ = w.Write(b)
			b = b[:0]
		}
		_, _ = w.WriteString("},")
	}
	_, _ = fmt.Fprintf(w, `"_date":%d,"_comment":"compacting database online"}`, date)
	return w.Flush()
}
