package ovsdb

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
)

// An Op is one operation of a transaction (RFC 7047 section 5.2), as JSON has it.
type Op map[string]any

// A Result is what an operation yields (RFC 7047 section 5.2).
type Result struct {
	Count int             `json:"count"`
	UUID  json.RawMessage `json:"uuid"`
	Rows  json.RawMessage `json:"rows"`

	Error   string `json:"error"`
	Details string `json:"details"`
}

// A TransactError is a transaction that the database has refused.
type TransactError struct {
	Op      int    // index of the operation; as many as there are: at commit
	Name    string // such as "constraint violation"
	Details string
}

// Error implements error.
func (e *TransactError) Error() string {
	if e.Details == "" {
		return "the database refuses: " + e.Name
	}
	return fmt.Sprintf("the database refuses: %s: %s", e.Name, e.Details)
}

// TimedOut is the TransactError.Name of a wait operation that waited in vain.
const TimedOut = "timed out"

// A CallError is a call that the database has refused.
type CallError struct {
	Method string
	Text   string // JSON
}

// Error implements error.
func (e *CallError) Error() string { return fmt.Sprintf("%s: the database says %s", e.Method, e.Text) }

// A Caller asks a database one thing after the other. Unlike a Client it
// follows no tables and does not connect again: it is for commands.
type Caller struct {
	k        *conn
	endpoint string
	db       string
	tables   []Table
	shapes   map[string]*shape // of the tables
	known    *strs
}

// Dial connects to the first endpoint that answers and has the database. Of
// cfg it uses Endpoints, TLS, the name of Schema, and Tables, which are those that Rows
// reads.
func Dial(ctx context.Context, cfg Config) (*Caller, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, fmt.Errorf("%w: none is given", ErrEndpoint)
	}
	shapes := make(map[string]*shape, len(cfg.Tables))
	for _, t := range cfg.Tables {
		sh, err := newShape(t.Row)
		if err != nil {
			return nil, fmt.Errorf("model of table %s: %w", t.Name, err)
		}
		shapes[t.Name] = sh
	}
	var errs []error
	for _, text := range cfg.Endpoints {
		e, err := ParseEndpoint(text)
		if err != nil {
			return nil, err
		}
		k, err := dialCaller(ctx, e, cfg.TLS, cfg.Schema.Name)
		if err == nil {
			return &Caller{k: k, endpoint: e.String(), db: cfg.Schema.Name, tables: cfg.Tables, shapes: shapes, known: &strs{seed: maphash.MakeSeed()}}, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// dialCaller connects to one endpoint, which must have the database.
func dialCaller(ctx context.Context, e Endpoint, secure *tls.Config, db string) (*conn, error) {
	one, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := e.dial(one, secure)
	if err != nil {
		return nil, err
	}
	k := newConn(raw, func(string, json.RawMessage) error { return nil })
	var names []string
	err = k.call(one, "list_dbs", []any{}, &names)
	if err == nil && !slices.Contains(names, db) {
		err = fmt.Errorf("%w %s: it has %v", ErrNoDatabase, db, names)
	}
	if err != nil {
		k.close(ErrNotConnected)
		return nil, fmt.Errorf("database at %s: %w", e, err)
	}
	return k, nil
}

// Close ends the connection.
func (c *Caller) Close() { c.k.close(ErrNotConnected) }

// Endpoint is where the Caller is connected.
func (c *Caller) Endpoint() string { return c.endpoint }

// Call makes any call of the server. The error is a *CallError if the server
// refuses.
func (c *Caller) Call(ctx context.Context, method string, params []any, result any) error {
	if params == nil {
		params = []any{} // null is no list
	}
	return c.k.call(ctx, method, params, result)
}

// Transact makes the operations one transaction and returns what each yields.
// The error is a *TransactError if the database refuses, and wraps ErrLost if
// nobody knows.
func (c *Caller) Transact(ctx context.Context, ops ...Op) ([]Result, error) {
	params := []any{c.db}
	for _, op := range ops {
		params = append(params, op)
	}
	var results []*Result
	if err := c.k.call(ctx, "transact", params, &results); err != nil {
		return nil, err
	}
	return outcome(results, len(ops))
}

// outcome is what n operations yield.
func outcome(results []*Result, n int) ([]Result, error) {
	if len(results) < n {
		return nil, fmt.Errorf("transact: %d results for %d operations", len(results), n)
	}
	out := make([]Result, n)
	for i, r := range results {
		switch {
		case r == nil && i < n: // an earlier one has failed
		case r != nil && r.Error != "":
			return nil, &TransactError{i, r.Error, r.Details}
		case r != nil && i < n:
			out[i] = *r
		}
	}
	return out, nil
}

// Rows returns all rows of the tables, as they were at one moment, by table in
// the order of the tables and by UUID.
func (c *Caller) Rows(ctx context.Context) ([]Change, error) {
	ops := make([]Op, len(c.tables))
	for i, t := range c.tables {
		ops[i] = Op{"op": "select", "table": t.Name, "where": []any{}, "columns": slices.Concat([]string{"_uuid"}, t.Watch, t.Once)}
	}
	results, err := c.Transact(ctx, ops...)
	if err != nil {
		return nil, err
	}
	var out []Change
	for i, r := range results {
		if out, err = c.add(out, c.tables[i].Name, r.Rows); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// add adds rows of a table, by UUID.
func (c *Caller) add(out []Change, table string, text json.RawMessage) ([]Change, error) {
	rows, err := c.decode(table, text)
	if err != nil {
		return nil, fmt.Errorf("rows of %s: %w", table, err)
	}
	for _, uuid := range slices.Sorted(maps.Keys(rows)) {
		out = append(out, rows[uuid])
	}
	return out, nil
}

// A Query is the rows of a table that meet conditions (RFC 7047 5.1, <condition>).
// The table is one of those that Rows reads.
type Query struct {
	Table string
	Where []any
}

// Select returns the rows of a table that meet conditions, by UUID.
func (c *Caller) Select(ctx context.Context, table string, where []any) ([]Change, error) {
	rows, err := c.Read(ctx, nil, Query{table, where})
	if err != nil {
		return nil, err
	}
	return rows[0], nil
}

// Read makes operations and then reads rows, in one transaction. It returns the rows of
// each query, by UUID.
func (c *Caller) Read(ctx context.Context, ops []Op, queries ...Query) ([][]Change, error) {
	for _, q := range queries {
		i := slices.IndexFunc(c.tables, func(t Table) bool { return t.Name == q.Table })
		if i < 0 {
			return nil, fmt.Errorf("table %s is not among those that are read", q.Table)
		}
		t := c.tables[i]
		ops = append(ops, Op{"op": "select", "table": q.Table, "where": q.Where, "columns": slices.Concat([]string{"_uuid"}, t.Watch, t.Once)})
	}
	results, err := c.Transact(ctx, ops...)
	if err != nil {
		return nil, err
	}
	rows, first := make([][]Change, len(queries)), len(ops)-len(queries)
	for i, q := range queries {
		if rows[i], err = c.add(nil, q.Table, results[first+i].Rows); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// TransactText is Transact for operations that are JSON already, separated by
// commas: n of them.
func (c *Caller) TransactText(ctx context.Context, ops []byte, n int) ([]Result, error) {
	params := append(append([]byte(`["`), c.db...), `",`...)
	params = append(append(params, ops...), ']')
	var results []*Result
	if err := c.k.callRaw(ctx, "transact", params, &results); err != nil {
		return nil, err
	}
	return outcome(results, n)
}

// decode reads rows of one table, by UUID.
func (c *Caller) decode(table string, text json.RawMessage) (map[string]Change, error) {
	in := &scanner{text: text, known: c.known}
	rows := map[string]Change{}
	sh := c.shapes[table]
	in.array(func() {
		start := *in
		id := in.rowID()
		*in = scanner{text: start.text, pos: start.pos, err: in.err, known: start.known}
		row := sh.selected(in, id)
		rows[id] = Change{table, id, row}
	})
	if in.err == nil && in.peek() != 0 {
		in.fail("more than one value")
	}
	return rows, in.err
}

// rowID looks ahead for the UUID of a row.
func (s *scanner) rowID() (id string) {
	s.object(func(name []byte) {
		if string(name) == "_uuid" && s.peek() == '[' {
			id = s.text1()
			return
		}
		s.skip()
	})
	if id == "" {
		s.fail("row without a UUID")
	}
	return id
}
