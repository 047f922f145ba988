package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"millrace/control/ovsdb"
	"millrace/control/ovsdb/flowmodel"
	"millrace/control/ovsdb/jsonval"
)

// A flowDB is a connection to the Millrace database.
type flowDB struct {
	*ovsdb.Caller
}

// flowTables are the tables and columns that commands read.
func flowTables() []ovsdb.Table {
	return []ovsdb.Table{
		{Name: flowmodel.GlobalTable, Row: &flowmodel.Global{}, Watch: []string{"cur_cfg", "next_cfg"}},
		{Name: flowmodel.FlowTable, Row: &flowmodel.Flow{}, Watch: []string{"actions", "bridge", "cookie", "error", "match", "n_bytes", "n_packets", "priority", "status", "table"}},
		{Name: flowmodel.AddressSetTable, Row: &flowmodel.AddressSet{}, Watch: []string{"addresses", "error", "name"}},
		{Name: flowmodel.PortGroupTable, Row: &flowmodel.PortGroup{}, Watch: []string{"name", "ports"}},
		{Name: flowmodel.MeterTable, Row: &flowmodel.Meter{}, Watch: []string{"burst", "error", "name", "rate", "unit"}},
		{Name: flowmodel.GroupTable, Row: &flowmodel.Group{}, Watch: []string{"buckets", "error", "hash_fields", "name"}},
		{Name: flowmodel.BucketTable, Row: &flowmodel.Bucket{}, Watch: []string{"actions", "weight"}},
	}
}

// dialFlows connects to the Millrace database, on the server that has the bridges.
func (a *app) dialFlows(ctx context.Context, f *dbFlags) (*flowDB, error) {
	secure, err := f.tls.client()
	if err != nil {
		return nil, err
	}
	endpoints, from := f.where(a.runDir)
	c, err := ovsdb.Dial(ctx, ovsdb.Config{Endpoints: endpoints, TLS: secure, Schema: flowmodel.Schema(), Tables: flowTables()})
	switch {
	case errors.Is(err, ovsdb.ErrNoDatabase):
		return nil, fmt.Errorf("%w: have the server serve millrace.ovsschema as well: `ovsdb-tool create flows.db millrace.ovsschema`, then `ovs-appctl -t ovsdb-server ovsdb-server/add-db flows.db`", err)
	case err != nil:
		return nil, &noDatabaseError{from, err}
	}
	return &flowDB{c}, nil
}

// A flowAction is what a command does with the Millrace database.
type flowAction func(ctx context.Context, d *flowDB, args []string) error

// onFlows makes a flowAction a command's RunE, with a time limit that grows by how
// long it may wait.
func (a *app) onFlows(f *dbFlags, waits func() time.Duration, do flowAction) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return dialled(cmd, args, f, waits, a.dialFlows, do)
	}
}

// A flowEdit is a transaction of rows in the making, as JSON.
type flowEdit struct {
	text []byte
	n    int // operations
}

// op adds an operation, which is an object.
func (e *flowEdit) op(o ovsdb.Op) error {
	b, err := marshal(o)
	if err != nil {
		return err
	}
	e.raw(b)
	return nil
}

// raw adds an operation as JSON.
func (e *flowEdit) raw(b []byte) {
	if e.n > 0 {
		e.text = append(e.text, ',')
	}
	e.text, e.n = append(e.text, b...), e.n+1
}

// insertFlow adds a row of Flow.
func (e *flowEdit) insertFlow(r *flowmodel.Flow) {
	if e.n > 0 {
		e.text = append(e.text, ',')
	}
	b := append(e.text, `{"op":"insert","table":"Flow","row":{"bridge":`...)
	b = append(jsonval.AppendString(b, r.Bridge), `,"match":`...)
	b = append(jsonval.AppendString(b, r.Match), `,"actions":`...)
	b = append(jsonval.AppendString(b, r.Actions), `,"table":`...)
	b = append(strconv.AppendInt(b, int64(r.Table), 10), `,"priority":`...)
	b = append(strconv.AppendInt(b, int64(r.Priority), 10), `,"cookie":`...)
	e.text, e.n = append(strconv.AppendInt(b, int64(r.Cookie), 10), "}}"...), e.n+1
}

// remove deletes a row.
func (e *flowEdit) remove(table, id string) {
	e.raw([]byte(`{"op":"delete","table":"` + table + `","where":[["_uuid","==",["uuid","` + id + `"]]]}`))
}

// commit makes the transaction, counts next_cfg up and returns what it is then,
// and what each of its own operations yields.
func (d *flowDB) commit(ctx context.Context, e *flowEdit) (next int, results []ovsdb.Result, err error) {
	own := e.n
	rows, err := d.Select(ctx, flowmodel.GlobalTable, []any{})
	if err != nil {
		return 0, nil, err
	}
	ops := []ovsdb.Op{{"op": "comment", "comment": "millrace"}}
	if len(rows) == 0 {
		ops = append(ops,
			ovsdb.Op{"op": "wait", "table": flowmodel.GlobalTable, "where": []any{}, "columns": []string{"next_cfg"}, "until": "==", "rows": []any{}, "timeout": 0},
			ovsdb.Op{"op": "insert", "table": flowmodel.GlobalTable, "row": map[string]any{}})
	}
	ops = append(ops,
		ovsdb.Op{"op": "mutate", "table": flowmodel.GlobalTable, "where": []any{}, "mutations": []any{[]any{"next_cfg", "+=", 1}}},
		ovsdb.Op{"op": "select", "table": flowmodel.GlobalTable, "where": []any{}, "columns": []string{"next_cfg"}})
	for _, o := range ops {
		if err := e.op(o); err != nil {
			return 0, nil, err
		}
	}
	if results, err = d.TransactText(ctx, e.text, e.n); err != nil {
		return 0, nil, unknownFate(err)
	}
	next, err = oneNumber(results[len(results)-1].Rows, "next_cfg")
	return next, results[:own], err
}

// inForce waits until cur_cfg has come to next.
func (d *flowDB) inForce(ctx context.Context, f *waitFlags, next int) error {
	return inForce(ctx, d.Caller, flowmodel.GlobalTable, f, next)
}

// flowRows are the rows of Flow that meet conditions, by table, the highest
// priority first.
func (d *flowDB) flowRows(ctx context.Context, where []any) ([]*flowmodel.Flow, error) {
	rows, err := d.Select(ctx, flowmodel.FlowTable, where)
	if err != nil {
		return nil, err
	}
	out := make([]*flowmodel.Flow, len(rows))
	for i := range rows {
		out[i] = rows[i].Row.(*flowmodel.Flow)
	}
	slices.SortStableFunc(out, compareFlows)
	return out, nil
}
