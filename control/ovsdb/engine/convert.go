package engine

import (
	"fmt"

	"millrace/control/ovsdb/jsonval"
	"millrace/control/ovsdb/schema"
)

// ConvertStrictly returns the rows of db under another schema, as the stock
// server's "convert" does (ovsdb-server(7) 4.1.19): tables and columns that the
// other does not have are left out, a value that the other does not allow is an
// error, and so is what breaks its references, indexes or limits. db stays as
// it is.
func (db *DB) ConvertStrictly(s *schema.Database) (*DB, *schema.Error) {
	x := newTxn(New(s), &Env{})
	for _, t := range db.tables {
		to := x.db.byName[t.Name]
		if to == nil {
			continue
		}
		for id, e := range t.rows {
			r, err := convertRowStrictly(t.Table, to.Table, e.row)
			if err != nil {
				return nil, schema.Errorf(err.Name, "table %s row %s: %s", t.Name, id, err.Details)
			}
			x.insert(to, r)
		}
	}
	if _, err := x.commit(); err != nil {
		return nil, err
	}
	return x.db, nil
}

// convertRowStrictly returns r, a row of table from, as a row of table to.
func convertRowStrictly(from, to *schema.Table, r *Row) (*Row, *schema.Error) {
	n := NewRow(to, r.ID)
	for _, c := range to.Columns {
		old := from.Column(c.Name)
		if old == nil {
			continue
		}
		d, err := convertDatum(&old.Type, &c.Type, r.Get(old))
		if err != nil {
			return nil, schema.Errorf(err.Name, "column %s: %s", c.Name, err.Details)
		}
		n.Set(c, d)
	}
	return n, nil
}

// convertDatum returns d, of type from, as a value of type to: what its JSON
// says there.
func convertDatum(from, to *schema.Type, d schema.Datum) (schema.Datum, *schema.Error) {
	if sameAtoms(from, to) && to.CheckDatum(d) == nil {
		if n := to.Len(d); n < to.Min || n > to.Max {
			return nil, schema.Errorf(schema.Constraint, "%d elements; allowed are %d to %d", n, to.Min, to.Max)
		}
		return d, nil
	}
	v, err := jsonval.Parse(from.Append(nil, d))
	if err != nil {
		return nil, schema.Errorf(schema.Constraint, "value %.60s cannot be kept", fmt.Sprint(d))
	}
	out, bad := to.Parse(v, nil)
	if bad != nil {
		return nil, schema.Errorf(schema.Constraint, "value %.60s cannot be kept: %s", v, bad)
	}
	return out, nil
}

// sameAtoms reports whether values of both types are made of the same atoms.
func sameAtoms(a, b *schema.Type) bool {
	return a.Key.Atomic == b.Key.Atomic && (a.Value == nil) == (b.Value == nil) &&
		(a.Value == nil || a.Value.Atomic == b.Value.Atomic)
}

// Convert returns the rows of db under another version of its schema. Tables,
// columns and values that the other does not know are left out.
func (db *DB) Convert(s *schema.Database) *DB {
	out := New(s)
	for _, t := range db.tables {
		nt := s.Table(t.Name)
		if nt == nil {
			continue
		}
		for id, e := range t.rows {
			out.Put(nt, id, convertRow(t.Table, nt, e.row))
		}
	}
	return out
}

// convertRow returns r, a row of table from, as a row of table to.
func convertRow(from, to *schema.Table, r *Row) *Row {
	n := NewRow(to, r.ID)
	for _, c := range to.Columns {
		old := from.Column(c.Name)
		if old == nil || !sameAtoms(&old.Type, &c.Type) {
			continue
		}
		d := r.Get(old)
		if size := c.Type.Len(d); size < c.Type.Min || size > c.Type.Max || c.Type.CheckDatum(d) != nil {
			continue
		}
		n.Set(c, d)
	}
	return n
}
