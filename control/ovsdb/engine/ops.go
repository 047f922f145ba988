package engine

import (
	"slices"
	"strconv"
	"strings"

	"millrace/control/ovsdb/jsonval"
	"millrace/control/ovsdb/schema"
)

// tableOf reads the "table" member.
func (x *txn) tableOf(o *op) (*table, *schema.Error) {
	name := o.required("table", jsonval.String)
	if o.err != nil {
		return nil, o.err
	}
	t := x.db.byName[name.Str]
	if t == nil {
		return nil, schema.Errorf(schema.Syntax, "no table named %s", name.Str)
	}
	return t, nil
}

// where reads the "where" member.
func (x *txn) where(t *table, o *op) (*Condition, *schema.Error) {
	v := o.required("where", jsonval.Array)
	if o.err != nil {
		return nil, o.err
	}
	return ParseCondition(t.Table, v, x.symbol)
}

// columns reads the optional "columns" member: all columns if it is missing.
func (x *txn) columns(t *table, o *op) ([]*schema.Column, *schema.Error) {
	v, ok := o.optional("columns", jsonval.Array)
	if !ok || o.err != nil {
		all := append([]*schema.Column{t.Column("_uuid"), t.Column("_version")}, t.Columns...)
		return all, o.err
	}
	return ParseColumns(t.Table, v)
}

// ParseColumns reads an array of names of columns of t.
func ParseColumns(t *schema.Table, v jsonval.Value) ([]*schema.Column, *schema.Error) {
	cols := make([]*schema.Column, 0, len(v.Elems))
	for _, e := range v.Elems {
		c := t.Column(e.Str)
		if e.Kind != jsonval.String || c == nil {
			return nil, schema.Errorf(schema.Syntax, "%s is no column of table %s", e, t.Name)
		}
		if slices.Contains(cols, c) {
			return nil, schema.Errorf(schema.Syntax, "column %s is named twice", e.Str)
		}
		cols = append(cols, c)
	}
	return cols, nil
}

// A cell is a value for a column.
type cell struct {
	col *schema.Column
	val schema.Datum
}

// parseRow reads a <row> of table t.
func (x *txn) parseRow(t *table, v jsonval.Value) ([]cell, *schema.Error) {
	if v.Kind != jsonval.Object {
		return nil, schema.Errorf(schema.Syntax, "row must be an object")
	}
	var cells []cell
	var err *schema.Error
	v.Members(func(name string, val jsonval.Value) bool {
		col := t.Column(name)
		if col == nil {
			err = unknownColumn(t.Table, name)
			return false
		}
		var d schema.Datum
		d, err = col.Type.Parse(val, x.symbol)
		cells = append(cells, cell{col, d})
		return err == nil
	})
	return cells, err
}

// set writes cells into r, which is new to everybody. The columns that every
// table has are not for clients to write.
func set(r *Row, cells []cell) {
	for _, c := range cells {
		if c.col.Index >= 0 {
			r.Set(c.col, c.val)
		}
	}
}

// opInsert is RFC 7047 5.2.1, with the stock server's "uuid".
func (x *txn) opInsert(out []byte, o *op) ([]byte, *schema.Error) {
	t, err := x.tableOf(o)
	given, hasUUID := o.optional("uuid", jsonval.String)
	name, named := o.optional("uuid-name", jsonval.String)
	row := o.required("row", jsonval.Object)
	if named && !schema.IsID(name.Str) {
		o.fail("uuid-name %q is no <id>", name.Str)
	}
	if err != nil || o.err != nil {
		return out, first(err, o.err)
	}
	id, err := x.newID(t, given.Str, hasUUID, name.Str, named)
	if err != nil {
		return out, err
	}
	cells, err := x.parseRow(t, row)
	if err != nil {
		return out, err
	}
	r := NewRow(t.Table, id)
	set(r, cells)
	for _, c := range t.Columns {
		if d := r.cols[c.Index]; c.Type.Len(d) == 1 {
			if err := c.Type.CheckDatum(d); err != nil {
				return out, err
			}
		}
	}
	x.insert(t, r)
	out = append(out, `{"uuid":["uuid","`...)
	return append(id.Append(out), `"]}`...), nil
}

// first returns the first error there is.
func first(errs ...*schema.Error) *schema.Error {
	for _, e := range errs {
		if e != nil {
			return e
		}
	}
	return nil
}

// newID returns the UUID of a row to be inserted: the given one, the one that
// its name already has, or a new one.
func (x *txn) newID(t *table, given string, hasUUID bool, name string, named bool) (schema.UUID, *schema.Error) {
	id := schema.NewUUID()
	if hasUUID {
		var ok bool
		if id, ok = schema.ParseUUID(given); !ok {
			return "", schema.Errorf(schema.Syntax, "%q is no UUID", given)
		}
		if r := x.rows[t.num][id]; r != nil && (r.old != nil || r.new != nil) || t.rows[id] != nil {
			return "", schema.Errorf("duplicate uuid", "row %s exists or was deleted in this transaction", given)
		}
	}
	if !named {
		return id, nil
	}
	s := x.symbols[name]
	if s != nil && s.created {
		return "", schema.Errorf("duplicate uuid-name", "a row named %q was inserted before", name)
	}
	if s == nil {
		s = &symbol{id: id}
		x.symbols[name] = s
	} else if hasUUID {
		s.id = id
	}
	s.created = true
	return s.id, nil
}

// opSelect is RFC 7047 5.2.2. Rows that look the same are told once.
func (x *txn) opSelect(out []byte, o *op) ([]byte, *schema.Error) {
	t, err := x.tableOf(o)
	if err != nil {
		return out, err
	}
	c, err := x.where(t, o)
	if err != nil {
		return out, err
	}
	cols, err := x.columns(t, o)
	if err != nil {
		return out, err
	}
	out = append(out, `{"rows":[`...)
	seen := map[string]bool{}
	for _, r := range x.find(t, c) {
		mark := len(out)
		if len(seen) > 0 {
			out = append(out, ',')
		}
		start := len(out)
		out = AppendRow(out, r, cols)
		if text := string(out[start:]); seen[text] {
			out = out[:mark]
		} else {
			seen[text] = true
		}
	}
	return append(out, "]}"...), nil
}

// AppendRow adds the columns cols of r as a JSON object.
func AppendRow(b []byte, r *Row, cols []*schema.Column) []byte {
	b = append(b, '{')
	for i, c := range cols {
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendCell(b, c, r.Get(c))
	}
	return append(b, '}')
}

// AppendCell adds "column":value.
func AppendCell(b []byte, c *schema.Column, d schema.Datum) []byte {
	b = append(append(append(b, '"'), c.Name...), `":`...)
	return c.Type.Append(b, d)
}

// appendCount adds the result of an operation on n rows.
func appendCount(out []byte, n int) []byte {
	return append(strconv.AppendInt(append(out, `{"count":`...), int64(n), 10), '}')
}

// opUpdate is RFC 7047 5.2.3.
func (x *txn) opUpdate(out []byte, o *op) ([]byte, *schema.Error) {
	t, err := x.tableOf(o)
	row := o.required("row", jsonval.Object)
	where := o.required("where", jsonval.Array)
	if err != nil || o.err != nil {
		return out, first(err, o.err)
	}
	cells, err := x.parseRow(t, row)
	if err != nil {
		return out, err
	}
	for _, cl := range cells {
		if cl.col.Index < 0 {
			return out, schema.Errorf(schema.Constraint, "cannot change column %s", cl.col.Name)
		}
		if err := checkMutable(t.Table, cl.col); err != nil {
			return out, err
		}
	}
	c, err := ParseCondition(t.Table, where, x.symbol)
	if err != nil {
		return out, err
	}
	rows := x.find(t, c)
	for _, r := range rows {
		set(x.writable(t, r.ID), cells)
	}
	return appendCount(out, len(rows)), nil
}

// opMutate is RFC 7047 5.2.4.
func (x *txn) opMutate(out []byte, o *op) ([]byte, *schema.Error) {
	t, err := x.tableOf(o)
	muts := o.required("mutations", jsonval.Array)
	where := o.required("where", jsonval.Array)
	if err != nil || o.err != nil {
		return out, first(err, o.err)
	}
	mutations, err := parseMutations(t.Table, muts, x.symbol)
	if err != nil {
		return out, err
	}
	c, err := ParseCondition(t.Table, where, x.symbol)
	if err != nil {
		return out, err
	}
	rows := x.find(t, c)
	for _, r := range rows {
		w := x.writable(t, r.ID)
		for i := range mutations {
			m := &mutations[i]
			d, err := m.apply(w.cols[m.col.Index])
			if err != nil {
				return out, err
			}
			w.Set(m.col, d)
		}
	}
	return appendCount(out, len(rows)), nil
}

// opDelete is RFC 7047 5.2.5.
func (x *txn) opDelete(out []byte, o *op) ([]byte, *schema.Error) {
	t, err := x.tableOf(o)
	if err != nil {
		return out, err
	}
	c, err := x.where(t, o)
	if err != nil || o.err != nil {
		return out, first(err, o.err)
	}
	rows := x.find(t, c)
	for _, r := range rows {
		x.remove(t, r.ID)
	}
	return appendCount(out, len(rows)), nil
}

// opCommit is RFC 7047 5.2.7. All transactions here are durable.
func (x *txn) opCommit(out []byte, o *op) ([]byte, *schema.Error) {
	d := o.required("durable", jsonval.True, jsonval.False)
	x.durable = x.durable || d.Kind == jsonval.True
	return append(out, "{}"...), o.err
}

// opAbort is RFC 7047 5.2.8.
func (x *txn) opAbort(out []byte, _ *op) ([]byte, *schema.Error) {
	return out, schema.Errorf("aborted", "aborted by request")
}

// opComment is RFC 7047 5.2.9.
func (x *txn) opComment(out []byte, o *op) ([]byte, *schema.Error) {
	x.comment = append(x.comment, strings.Clone(o.required("comment", jsonval.String).Str))
	return append(out, "{}"...), o.err
}

// opAssert is RFC 7047 5.2.10.
func (x *txn) opAssert(out []byte, o *op) ([]byte, *schema.Error) {
	name := o.required("lock", jsonval.String)
	if o.err != nil {
		return out, o.err
	}
	if x.env.HoldsLock == nil || !x.env.HoldsLock(name.Str) {
		return out, schema.Errorf("not owner", "asserted lock %s is not held", name.Str)
	}
	return append(out, "{}"...), nil
}
