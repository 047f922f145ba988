package engine

import (
	"slices"
	"strings"
	"time"

	"millrace/control/ovsdb/schema"
)

// A txnRow is a row as a transaction sees it: changed, or with a changed
// number of references.
type txnRow struct {
	table *table
	id    schema.UUID
	old   *Row // nil if the row was inserted
	new   *Row // nil if the row was deleted; == old if it was not changed
	refs  int  // strong references when the transaction is done
	mine  bool // new is the transaction's own and may be changed in place
}

// changed reports whether the row is different from before.
func (r *txnRow) changed() bool { return r.old != r.new }

// A symbol is a row's name within a transaction.
type symbol struct {
	id      schema.UUID
	created bool
}

// A txn is the overlay of one transaction.
type txn struct {
	db      *DB
	env     *Env
	rows    []map[schema.UUID]*txnRow // by table number
	symbols map[string]*symbol
	comment []string
	durable bool
	wait    time.Duration // of a wait that is not over: how long it may last; -1 for ever
	waiting bool
}

// An Env is what a transaction may know about who asks.
type Env struct {
	HoldsLock func(name string) bool // nil: none
	Waited    time.Duration          // since the request was made
	ReadOnly  bool                   // refuse changes
}

func newTxn(db *DB, env *Env) *txn {
	return &txn{db: db, env: env, rows: make([]map[schema.UUID]*txnRow, len(db.tables)), symbols: map[string]*symbol{}}
}

// symbol returns the UUID that the transaction's row of that name has or will have.
func (x *txn) symbol(name string) schema.UUID {
	s := x.symbols[name]
	if s == nil {
		s = &symbol{id: schema.NewUUID()}
		x.symbols[name] = s
	}
	return s.id
}

// touch returns row id of t in the overlay, nil if there is no such row.
func (x *txn) touch(t *table, id schema.UUID) *txnRow {
	if r := x.rows[t.num][id]; r != nil {
		return r
	}
	e := t.rows[id]
	if e == nil {
		return nil
	}
	return x.add(&txnRow{table: t, id: id, old: e.row, new: e.row, refs: e.refs})
}

// add puts r into the overlay.
func (x *txn) add(r *txnRow) *txnRow {
	if x.rows[r.table.num] == nil {
		x.rows[r.table.num] = map[schema.UUID]*txnRow{}
	}
	x.rows[r.table.num][r.id] = r
	return r
}

// row returns the state of a row in the transaction, or nil.
func (x *txn) row(t *table, id schema.UUID) *Row {
	if r := x.rows[t.num][id]; r != nil {
		return r.new
	}
	if e := t.rows[id]; e != nil {
		return e.row
	}
	return nil
}

// writable returns row id of t, which exists, for the transaction to change.
func (x *txn) writable(t *table, id schema.UUID) *Row {
	r := x.touch(t, id)
	if !r.mine {
		r.new, r.mine = r.new.Clone(), true
		x.db.stamp(r.new)
	}
	return r.new
}

// insert adds a row that nobody else holds.
func (x *txn) insert(t *table, row *Row) {
	x.db.stamp(row)
	x.add(&txnRow{table: t, id: row.ID, new: row, mine: true})
}

// remove deletes row id of t.
func (x *txn) remove(t *table, id schema.UUID) { x.touch(t, id).new = nil }

// find returns the rows of t that fulfil c, by UUID.
func (x *txn) find(t *table, c *Condition) []*Row {
	if rows, ok := x.lookup(t, c); ok {
		return rows
	}
	var out []*Row
	for id, e := range t.rows {
		if _, touched := x.rows[t.num][id]; !touched && c.All(e.row) {
			out = append(out, e.row)
		}
	}
	for _, r := range x.rows[t.num] {
		if r.new != nil && c.All(r.new) {
			out = append(out, r.new)
		}
	}
	slices.SortFunc(out, func(a, b *Row) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return out
}

// lookup is find for conditions that name a row by UUID or index.
func (x *txn) lookup(t *table, c *Condition) (rows []*Row, ok bool) {
	if d, ok := c.equalTo(t.Column("_uuid")); ok {
		return x.keep(nil, x.row(t, d[0].UUID()), c), true
	}
	for _, ix := range t.indexes {
		key, ok := c.indexKey(ix)
		if !ok {
			continue
		}
		if id, there := ix.rows[key]; there {
			if _, touched := x.rows[t.num][id]; !touched {
				rows = x.keep(rows, t.rows[id].row, c)
			}
		}
		for _, r := range x.rows[t.num] {
			rows = x.keep(rows, r.new, c)
		}
		slices.SortFunc(rows, func(a, b *Row) int { return strings.Compare(string(a.ID), string(b.ID)) })
		return rows, true
	}
	return nil, false
}

// keep adds r to rows if it exists and fulfils c.
func (x *txn) keep(rows []*Row, r *Row, c *Condition) []*Row {
	if r != nil && c.All(r) {
		rows = append(rows, r)
	}
	return rows
}

// indexKey returns the key of the index that c asks for, if it names all columns.
func (c *Condition) indexKey(ix *index) (string, bool) {
	for _, col := range ix.cols {
		if _, ok := c.equalTo(col); !ok {
			return "", false
		}
	}
	return indexKey(ix.cols, func(col *schema.Column) schema.Datum {
		d, _ := c.equalTo(col)
		return d
	}), true
}
