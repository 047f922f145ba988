package engine

import (
	"fmt"

	"millrace/control/ovsdb/schema"
)

// Put places a row, or removes it if r is nil, without any check. It is for
// reading a file; Finish must follow before anything else is done.
func (db *DB) Put(t *schema.Table, id schema.UUID, r *Row) {
	tab := db.byName[t.Name]
	if r == nil {
		delete(tab.rows, id)
		return
	}
	db.stamp(r)
	if e := tab.rows[id]; e != nil {
		e.row = r
		return
	}
	tab.rows[id] = &entry{row: r}
}

// Finish counts references and fills the indexes after Put.
func (db *DB) Finish() error {
	for _, t := range db.tables {
		for id, e := range t.rows {
			if err := db.link(t, e.row); err != nil {
				return err
			}
			for _, x := range t.indexes {
				key := x.key(e.row)
				if other, taken := x.rows[key]; taken {
					return fmt.Errorf("table %s: rows %s and %s have the same index", t.Name, other, id)
				}
				x.rows[key] = id
			}
		}
	}
	return nil
}

// link counts the references that r holds.
func (db *DB) link(t *table, r *Row) error {
	var missing error
	for i := range t.refs {
		ref := &t.refs[i]
		ref.each(r, func(id schema.UUID) {
			target := ref.target.rows[id]
			switch {
			case target == nil && !ref.weak:
				missing = fmt.Errorf("table %s column %s row %s references missing row %s of table %s",
					t.Name, ref.col.Name, r.ID, id, ref.target.Name)
			case target == nil:
			case ref.weak:
				target.addWeak(source{t, r.ID}, 1)
			default:
				target.refs++
			}
		})
	}
	return missing
}

// each calls f for every reference that r holds in this column.
func (ref *refColumn) each(r *Row, f func(schema.UUID)) {
	if r == nil {
		return
	}
	ref.changed(nil, r, nil, f)
}

// changed calls gone and come for the references by which two states of a row
// differ; either may be nil.
func (ref *refColumn) changed(before, after *Row, gone, come func(schema.UUID)) {
	var a, b schema.Datum
	if before != nil {
		a = before.Get(ref.col)
	}
	if after != nil {
		b = after.Get(ref.col)
	}
	if sameDatum(a, b) {
		return
	}
	ref.col.Type.Changed(a, b, ref.value,
		func(x schema.Atom) { gone(x.UUID()) }, func(x schema.Atom) { come(x.UUID()) })
}

// addWeak changes the number of weak references that s holds to e by n.
func (e *entry) addWeak(s source, n int) {
	if e.weak == nil {
		e.weak = map[source]int{}
	}
	if e.weak[s] += n; e.weak[s] <= 0 {
		delete(e.weak, s)
	}
}
