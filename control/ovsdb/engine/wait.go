package engine

import (
	"maps"
	"time"

	"millrace/control/ovsdb/jsonval"
	"millrace/control/ovsdb/schema"
)

// opWait is RFC 7047 5.2.6. A wait that is not fulfilled and may go on makes
// the transaction wait.
func (x *txn) opWait(out []byte, o *op) ([]byte, *schema.Error) {
	timeout, err := waitTimeout(o)
	if err != nil {
		return out, err
	}
	t, err := x.tableOf(o)
	if err != nil {
		return out, err
	}
	until := o.required("until", jsonval.String)
	rows := o.required("rows", jsonval.Array)
	c, err := x.where(t, o)
	if err != nil || o.err != nil {
		return out, first(err, o.err)
	}
	if until.Str != "==" && until.Str != "!=" {
		return out, schema.Errorf(schema.Syntax, `"until" must be "==" or "!="`)
	}
	cols, err := x.columns(t, o)
	if err != nil {
		return out, err
	}
	want, err := x.wanted(t, rows, cols)
	if err != nil {
		return out, err
	}
	if sameSet(x.present(t, c, cols), want) == (until.Str == "==") {
		return append(out, "{}"...), nil
	}
	if bad := o.finish(); bad != nil {
		return out, bad
	}
	if timeout >= 0 && x.env.Waited >= timeout {
		return out, schema.Errorf("timed out", "wait lasted %d ms", timeout.Milliseconds())
	}
	x.waiting, x.wait = true, timeout
	return out, nil
}

// waitTimeout reads how long a wait may last; -1 is for ever.
func waitTimeout(o *op) (time.Duration, *schema.Error) {
	v, ok := o.optional("timeout", jsonval.Integer, jsonval.Real)
	if !ok || o.err != nil {
		return -1, o.err
	}
	const longest = 1 << 40 // milliseconds, 35 years
	ms := v.Float()
	if ms < 0 {
		return 0, schema.Errorf(schema.Syntax, "timeout must be nonnegative")
	}
	if ms > longest {
		return -1, nil
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// wanted returns the rows that a wait names, as texts. ovs-vsctl sends a wait
// for nearly every row it has read, so no Row is made for it.
func (x *txn) wanted(t *table, rows jsonval.Value, cols []*schema.Column) ([]string, *schema.Error) {
	want := make([]string, 0, len(rows.Elems))
	for _, v := range rows.Elems {
		cells, err := x.parseRow(t, v)
		if err != nil {
			return nil, err
		}
		want = append(want, string(appendProjection(nil, cols, cells)))
	}
	return want, nil
}

// appendProjection adds what a row of the given cells has in cols.
func appendProjection(b []byte, cols []*schema.Column, cells []cell) []byte {
	for _, c := range cols {
		d := c.Default
		for _, cl := range cells {
			if cl.col == c {
				d = cl.val
			}
		}
		b = AppendCell(b, c, d)
	}
	return b
}

// present returns the rows that fulfil c, as texts.
func (x *txn) present(t *table, c *Condition, cols []*schema.Column) []string {
	rows := x.find(t, c)
	have := make([]string, 0, len(rows))
	for _, r := range rows {
		var b []byte
		for _, col := range cols {
			b = AppendCell(b, col, r.Get(col))
		}
		have = append(have, string(b))
	}
	return have
}

// sameSet reports whether a and b hold the same texts, however often.
func sameSet(a, b []string) bool {
	if len(a) == 1 && len(b) == 1 {
		return a[0] == b[0]
	}
	in := func(list []string) map[string]bool {
		m := make(map[string]bool, len(list))
		for _, s := range list {
			m[s] = true
		}
		return m
	}
	return maps.Equal(in(a), in(b))
}
