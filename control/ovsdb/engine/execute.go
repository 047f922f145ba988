package engine

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"millrace/control/ovsdb/jsonval"
	"millrace/control/ovsdb/schema"
)

// A Result is what became of a transaction.
type Result struct {
	Reply   []byte   // the JSON array for the client
	Changes []Change // by table and UUID; none if it failed or changed nothing
	Comment string
	Durable bool // the client asked to be told only when it is on disk

	// Waiting says that a "wait" is not fulfilled yet: nothing else is set, and
	// the transaction is to be executed again when the database changes, or
	// when Timeout has passed since it was asked for (-1: never).
	Waiting bool
	Timeout time.Duration
}

// Execute runs a transaction's operations. Either all of them take effect, or
// none.
func (db *DB) Execute(ops []jsonval.Value, env Env) Result {
	x := newTxn(db, &env)
	out := []byte{'['}
	var failed *schema.Error
	for i, v := range ops {
		if i > 0 {
			out = append(out, ',')
		}
		if failed != nil {
			out = append(out, "null"...)
			continue
		}
		mark := len(out)
		out, failed = x.run(out, v)
		if x.waiting {
			return Result{Waiting: true, Timeout: x.wait}
		}
		if failed != nil {
			out = failed.JSON().Append(out[:mark])
		}
	}
	if failed != nil {
		return Result{Reply: append(out, ']')}
	}
	changes, err := x.commit()
	if err != nil {
		if len(ops) > 0 {
			out = append(out, ',')
		}
		return Result{Reply: append(err.JSON().Append(out), ']')}
	}
	return Result{Reply: append(out, ']'), Changes: changes, Comment: strings.Join(x.comment, "\n"), Durable: x.durable}
}

// An op is one operation while it is read. The first thing that is wrong with
// its members stays.
type op struct {
	v   jsonval.Value
	err *schema.Error
}

// optional returns member name, if it is there.
func (o *op) optional(name string, kinds ...jsonval.Kind) (jsonval.Value, bool) {
	m, ok := o.v.Get(name)
	if !ok {
		return m, false
	}
	for _, k := range kinds {
		if m.Kind == k {
			return m, true
		}
	}
	if len(kinds) > 0 {
		o.fail("member %q has the wrong type", name)
	}
	return m, true
}

// required returns member name.
func (o *op) required(name string, kinds ...jsonval.Kind) jsonval.Value {
	m, ok := o.optional(name, kinds...)
	if !ok {
		o.fail("required member %q is missing", name)
	}
	return m
}

func (o *op) fail(format string, args ...any) {
	if o.err == nil {
		o.err = schema.Errorf(schema.Syntax, "parse operation: "+format, args...)
	}
}

// members are the names of all that an operation may have besides "op".
func members(op string) []string {
	switch op {
	case "insert":
		return []string{"table", "uuid", "uuid-name", "row"}
	case "select":
		return []string{"table", "where", "columns"}
	case "update":
		return []string{"table", "where", "row"}
	case "mutate":
		return []string{"table", "where", "mutations"}
	case "delete":
		return []string{"table", "where"}
	case "wait":
		return []string{"timeout", "table", "where", "columns", "until", "rows"}
	case "commit":
		return []string{"durable"}
	case "comment":
		return []string{"comment"}
	case "assert":
		return []string{"lock"}
	}
	return nil
}

// finish checks that no member is there that the operation does not have.
func (o *op) finish() *schema.Error {
	name, _ := o.v.Get("op")
	known := members(name.Str)
	o.v.Members(func(name string, _ jsonval.Value) bool {
		if name != "op" && !slices.Contains(known, name) {
			o.fail("member %q is not allowed here", name)
		}
		return o.err == nil
	})
	return o.err
}

// run executes one operation and adds its result to out.
func (x *txn) run(out []byte, v jsonval.Value) ([]byte, *schema.Error) {
	o := &op{v: v}
	if v.Kind != jsonval.Object {
		return out, schema.Errorf(schema.Syntax, "parse operation: object expected, found %s", fmt.Sprintf("%.60s", v))
	}
	name := o.required("op", jsonval.String).Str
	if o.err != nil {
		return out, o.err
	}
	run := executors(name)
	if run == nil {
		return out, schema.Errorf(schema.Syntax, "no operation %q", name)
	}
	if x.env.ReadOnly && changes(name) {
		return out, schema.Errorf("not allowed", "%s operation on a read-only database", name)
	}
	out, err := run(x, out, o)
	if x.waiting {
		return out, nil
	}
	if bad := o.finish(); bad != nil {
		return out, bad
	}
	return out, err
}

// executors returns the function that executes operations of that name.
func executors(name string) func(*txn, []byte, *op) ([]byte, *schema.Error) {
	switch name {
	case "insert":
		return (*txn).opInsert
	case "select":
		return (*txn).opSelect
	case "update":
		return (*txn).opUpdate
	case "mutate":
		return (*txn).opMutate
	case "delete":
		return (*txn).opDelete
	case "wait":
		return (*txn).opWait
	case "commit":
		return (*txn).opCommit
	case "abort":
		return (*txn).opAbort
	case "comment":
		return (*txn).opComment
	case "assert":
		return (*txn).opAssert
	}
	return nil
}

// changes reports whether an operation is refused on a read-only database.
func changes(name string) bool {
	switch name {
	case "insert", "update", "mutate", "delete", "commit", "comment":
		return true
	}
	return false
}
