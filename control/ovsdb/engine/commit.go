package engine

import (
	"slices"
	"strings"

	"millrace/control/ovsdb/schema"
)

// commit checks the transaction and makes it the database, or does nothing and
// returns what is wrong. The order is the stock server's.
func (x *txn) commit() ([]Change, *schema.Error) {
	x.dropSame()
	changed := x.changedRows()
	if len(changed) == 0 {
		return nil, nil
	}
	if err := x.countReferences(changed); err != nil {
		return nil, err
	}
	x.collectGarbage()
	if err := x.checkMaxRows(); err != nil {
		return nil, err
	}
	if err := x.dropWeak(); err != nil {
		return nil, err
	}
	changed = x.changedRows()
	if err := x.checkIndexes(changed); err != nil {
		return nil, err
	}
	return x.apply(changed), nil
}

// dropSame makes rows that were written with what they held as if untouched.
func (x *txn) dropSame() {
	for _, rows := range x.rows {
		for _, r := range rows {
			if r.old != nil && r.new != nil && r.changed() && sameRow(r.old, r.new) {
				r.new, r.mine = r.old, false
			}
		}
	}
}

// changedRows returns the rows that differ from before, by table and UUID.
func (x *txn) changedRows() []*txnRow {
	var out []*txnRow
	for _, rows := range x.rows {
		start := len(out)
		for _, r := range rows {
			if r.changed() {
				out = append(out, r)
			}
		}
		slices.SortFunc(out[start:], func(a, b *txnRow) int { return strings.Compare(string(a.id), string(b.id)) })
	}
	return out
}

// countReferences brings refs up to date, and checks that every strong
// reference leads to a row.
func (x *txn) countReferences(changed []*txnRow) *schema.Error {
	var err *schema.Error
	for _, r := range changed {
		for i := range r.table.refs {
			ref := &r.table.refs[i]
			if ref.weak {
				continue
			}
			ref.changed(r.old, r.new,
				func(id schema.UUID) { x.unref(ref.target, id) },
				func(id schema.UUID) {
					if target := x.touch(ref.target, id); target != nil {
						target.refs++
						return
					}
					if err == nil {
						err = schema.Errorf(schema.Integrity, "table %s column %s row %s references nonexistent row %s in table %s",
							r.table.Name, ref.col.Name, r.id, id, ref.target.Name)
					}
				})
		}
	}
	if err != nil {
		return err
	}
	for _, r := range changed {
		if r.new == nil && r.refs > 0 {
			return schema.Errorf(schema.Integrity, "cannot delete %s row %s because of %d remaining reference(s)", r.table.Name, r.id, r.refs)
		}
	}
	return nil
}

// unref takes one reference from a row that may be gone.
func (x *txn) unref(t *table, id schema.UUID) {
	if r := x.touch(t, id); r != nil {
		r.refs--
	}
}

// collectGarbage deletes touched rows that nothing references and that are not
// roots, and what only they referenced.
func (x *txn) collectGarbage() {
	var work []*txnRow
	for i, rows := range x.rows {
		if x.db.tables[i].IsRoot {
			continue
		}
		for _, r := range rows {
			if r.new != nil && r.refs == 0 {
				work = append(work, r)
			}
		}
	}
	for len(work) > 0 {
		r := work[len(work)-1]
		work = work[:len(work)-1]
		gone := r.new
		if r.new = nil; gone == nil {
			continue
		}
		for i := range r.table.refs {
			ref := &r.table.refs[i]
			if ref.weak {
				continue
			}
			ref.each(gone, func(id schema.UUID) {
				x.unref(ref.target, id)
				t := x.touch(ref.target, id)
				if t != nil && t.new != nil && t.refs == 0 && !ref.target.IsRoot {
					work = append(work, t)
				}
			})
		}
	}
}

// checkMaxRows checks the sizes of tables that grew.
func (x *txn) checkMaxRows() *schema.Error {
	for i, rows := range x.rows {
		t := x.db.tables[i]
		n := len(t.rows)
		for _, r := range rows {
			if r.old == nil && r.new != nil {
				n++
			}
			if r.old != nil && r.new == nil {
				n--
			}
		}
		if n > t.MaxRows && n > len(t.rows) {
			return schema.Errorf(schema.Constraint, "table %s would have %d rows; the schema allows %d", t.Name, n, t.MaxRows)
		}
	}
	return nil
}

// dropWeak removes weak references to rows that do not exist.
func (x *txn) dropWeak() *schema.Error {
	for _, rows := range x.rows {
		for _, r := range rows {
			if r.old == nil || r.new != nil {
				continue
			}
			for s := range r.table.rows[r.id].weak {
				x.touch(s.table, s.id)
			}
		}
	}
	for _, rows := range x.rows {
		for _, r := range rows {
			if r.new == nil {
				continue
			}
			if err := x.dropWeakOf(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// dropWeakOf removes the weak references of one row that lead nowhere.
func (x *txn) dropWeakOf(r *txnRow) *schema.Error {
	for i := range r.table.refs {
		ref := &r.table.refs[i]
		if !ref.weak {
			continue
		}
		at := 0
		if ref.value {
			at = 1
		}
		t, d := &ref.col.Type, r.new.Get(ref.col)
		kept := t.Filter(d, func(e schema.Datum) bool { return x.row(ref.target, e[at].UUID()) != nil })
		if len(kept) == len(d) {
			continue
		}
		if t.Len(kept) < t.Min {
			return schema.Errorf(schema.Constraint, "weak reference column %s of table %s row %s would be left with %d elements; at least %d are needed",
				ref.col.Name, r.table.Name, r.id, t.Len(kept), t.Min)
		}
		x.writable(r.table, r.id).Set(ref.col, kept)
	}
	return nil
}

// checkIndexes checks that no two rows have the same values where an index
// keeps them apart.
func (x *txn) checkIndexes(changed []*txnRow) *schema.Error {
	seen := map[*index]map[string]schema.UUID{}
	for _, r := range changed {
		for _, ix := range r.table.indexes {
			if r.new == nil {
				continue
			}
			key := ix.key(r.new)
			other, taken := seen[ix][key]
			if !taken {
				other, taken = ix.rows[key]
				if o := x.rows[r.table.num][other]; taken && o != nil {
					taken = o.new != nil && ix.key(o.new) == key && other != r.id
				}
			}
			if taken && other != r.id {
				return schema.Errorf(schema.Constraint, "transaction causes rows %s and %s of table %s to have identical values for an index on %s",
					other, r.id, r.table.Name, columnNames(ix.cols))
			}
			if seen[ix] == nil {
				seen[ix] = map[string]schema.UUID{}
			}
			seen[ix][key] = r.id
		}
	}
	return nil
}

// columnNames returns the names of cols for a message.
func columnNames(cols []*schema.Column) string {
	var names []string
	for _, c := range cols {
		names = append(names, c.Name)
	}
	return strings.Join(names, ", ")
}

// apply makes the overlay the database. Nothing can fail any more.
func (x *txn) apply(changed []*txnRow) []Change {
	changes := make([]Change, 0, len(changed))
	for _, r := range changed {
		for _, ix := range r.table.indexes {
			if r.old != nil {
				delete(ix.rows, ix.key(r.old))
			}
		}
	}
	for _, r := range changed {
		x.applyRow(r)
		changes = append(changes, Change{r.table.Table, r.old, r.new})
	}
	for i, rows := range x.rows {
		for id, r := range rows {
			if e := x.db.tables[i].rows[id]; e != nil {
				e.refs = r.refs
			}
		}
	}
	for _, r := range changed {
		x.applyWeak(r)
	}
	return changes
}

// applyRow puts the new state of r into its table and indexes.
func (x *txn) applyRow(r *txnRow) {
	t := r.table
	switch e := t.rows[r.id]; {
	case r.new == nil:
		delete(t.rows, r.id)
		return
	case e == nil:
		t.rows[r.id] = &entry{row: r.new}
	default:
		e.row = r.new
	}
	for _, ix := range t.indexes {
		ix.rows[ix.key(r.new)] = r.id
	}
}

// applyWeak notes at the targets which weak references r holds now.
func (x *txn) applyWeak(r *txnRow) {
	for i := range r.table.refs {
		ref := &r.table.refs[i]
		if !ref.weak {
			continue
		}
		count := func(n int) func(schema.UUID) {
			return func(id schema.UUID) {
				if e := ref.target.rows[id]; e != nil {
					e.addWeak(source{r.table, r.id}, n)
				}
			}
		}
		ref.changed(r.old, r.new, count(-1), count(1))
	}
}
