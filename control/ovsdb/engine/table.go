package engine

import (
	"millrace/control/ovsdb/schema"
)

// A refColumn is a column whose keys or values name rows of target.
type refColumn struct {
	col    *schema.Column
	value  bool // the map's values, not the keys
	weak   bool
	target *table
}

// A source names a row that holds weak references.
type source struct {
	table *table
	id    schema.UUID
}

// An entry is a row's place in its table.
type entry struct {
	row  *Row
	refs int            // strong references to the row, from all tables
	weak map[source]int // rows with weak references to this one, and how many
}

// An index keeps rows with the same values in some columns apart, and finds them.
type index struct {
	cols []*schema.Column
	rows map[string]schema.UUID
}

// A table is the rows of one table.
type table struct {
	*schema.Table
	num     int // in DB.tables
	rows    map[schema.UUID]*entry
	indexes []*index
	refs    []refColumn
}

// key returns what r has in the columns of the index.
func (x *index) key(r *Row) string {
	return indexKey(x.cols, r.Get)
}

// indexKey returns the values of cols as a string: a lone string as it is.
func indexKey(cols []*schema.Column, get func(*schema.Column) schema.Datum) string {
	if c := cols[0]; len(cols) == 1 && c.Type.IsScalar() && c.Type.Key.Atomic == schema.String {
		return get(c)[0].Str()
	}
	var b []byte
	for _, c := range cols {
		b = append(c.Type.Append(b, get(c)), ',')
	}
	return string(b)
}

// A DB is one database.
type DB struct {
	Schema  *schema.Database
	tables  []*table // as in Schema.Tables
	byName  map[string]*table
	version uint64 // the last one given to a row
}

// New returns an empty database.
func New(s *schema.Database) *DB {
	db := &DB{Schema: s, byName: map[string]*table{}, version: randomVersion()}
	for i, ts := range s.Tables {
		t := &table{Table: ts, num: i, rows: map[schema.UUID]*entry{}}
		for _, cols := range ts.Indexes {
			t.indexes = append(t.indexes, &index{cols: cols, rows: map[string]schema.UUID{}})
		}
		db.tables = append(db.tables, t)
		db.byName[ts.Name] = t
	}
	for _, t := range db.tables {
		for _, c := range t.Columns {
			db.addRef(t, c, &c.Type.Key, false)
			if c.Type.Value != nil {
				db.addRef(t, c, c.Type.Value, true)
			}
		}
	}
	return db
}

// addRef notes that column c of t holds references, if it does.
func (db *DB) addRef(t *table, c *schema.Column, b *schema.Base, value bool) {
	if b.RefTable != "" {
		t.refs = append(t.refs, refColumn{c, value, b.Weak, db.byName[b.RefTable]})
	}
}

// randomVersion starts the versions of a process where no other has been.
func randomVersion() uint64 {
	var n uint64
	for _, c := range []byte(schema.NewUUID()) {
		n = n<<8 | uint64(c)
	}
	return n
}

// Rows returns the present state of all rows of table t, in no order.
func (db *DB) Rows(t *schema.Table) []*Row {
	tab := db.byName[t.Name]
	rows := make([]*Row, 0, len(tab.rows))
	for _, e := range tab.rows {
		rows = append(rows, e.row)
	}
	return rows
}

// Row returns the present state of a row, or nil.
func (db *DB) Row(t *schema.Table, id schema.UUID) *Row {
	if e := db.byName[t.Name].rows[id]; e != nil {
		return e.row
	}
	return nil
}

// Len returns the number of rows.
func (db *DB) Len() int {
	n := 0
	for _, t := range db.tables {
		n += len(t.rows)
	}
	return n
}

// stamp gives r a version of its own.
func (db *DB) stamp(r *Row) {
	db.version++
	r.version = db.version
}
