package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"millrace/control/ovsdb"
	"millrace/control/ovsdb/model"
)

// waitFlags say how long a command that writes rows waits for them to be in
// force.
type waitFlags struct {
	noWait  bool
	timeout time.Duration
}

func (f *waitFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.noWait, "no-wait", false, "return when the database has it, without waiting until it is in force")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 5*time.Second, "how long to wait until it is in force")
}

// most is how long it may take until a change is in force.
func (f *waitFlags) most() time.Duration { return f.timeout }

// editTries is how often a transaction is built anew because others changed
// what it is built on.
const editTries = 20

// columns are the values of a row's columns: string, int, *int, *string, []int,
// []string (of UUIDs), map[string]string, or what JSON has for others.
type columns map[string]any

// An edit is a transaction in the making.
type edit struct {
	expects []ovsdb.Op // what must still be so
	ops     []ovsdb.Op
	root    any // condition value: UUID of the Open_vSwitch row
	named   int
}

// encode is a value as RFC 7047 5.1 has it.
func encode(v any) any {
	switch v := v.(type) {
	case *int:
		if v == nil {
			return []any{"set", []any{}}
		}
		return *v
	case *string:
		if v == nil {
			return []any{"set", []any{}}
		}
		return *v
	case []int:
		list := []any{}
		for _, n := range v {
			list = append(list, n)
		}
		return []any{"set", list}
	case map[string]string:
		list := []any{}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			list = append(list, []any{k, v[k]})
		}
		return []any{"map", list}
	}
	return v
}

func (c columns) encode() map[string]any {
	row := make(map[string]any, len(c))
	for k, v := range c {
		row[k] = encode(v)
	}
	return row
}

func uuid(id string) any { return []any{"uuid", id} }

func is(column string, v any) []any { return []any{[]any{column, "==", v}} }

// insert adds a row and returns how to refer to it.
func (e *edit) insert(table string, c columns) any {
	e.named++
	name := fmt.Sprintf("row%d", e.named)
	e.ops = append(e.ops, ovsdb.Op{"op": "insert", "table": table, "uuid-name": name, "row": c.encode()})
	return []any{"named-uuid", name}
}

// mutate changes sets and maps of a row, and nothing that others put there.
func (e *edit) mutate(table string, id any, mutations ...[]any) {
	e.ops = append(e.ops, ovsdb.Op{"op": "mutate", "table": table, "where": is("_uuid", id), "mutations": mutations})
}

// change gives a row the values in which now differs from old. Of maps it
// touches no other keys.
func (e *edit) change(table, id string, old, now columns) {
	update := columns{}
	var mutations [][]any
	for _, name := range slices.Sorted(maps.Keys(now)) {
		was, will := old[name], now[name]
		m, isMap := will.(map[string]string)
		switch {
		case isMap:
			mutations = append(mutations, mapMutations(name, was.(map[string]string), m)...)
		case !reflect.DeepEqual(encode(was), encode(will)):
			update[name] = will
		}
	}
	if len(update) > 0 {
		e.ops = append(e.ops, ovsdb.Op{"op": "update", "table": table, "where": is("_uuid", uuid(id)), "row": update.encode()})
	}
	if len(mutations) > 0 {
		e.mutate(table, uuid(id), mutations...)
	}
}

// mapMutations turns one map into another.
func mapMutations(column string, old, now map[string]string) (list [][]any) {
	gone, come := []any{}, map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(old)) {
		if v, ok := now[k]; !ok || v != old[k] {
			gone = append(gone, k)
		}
	}
	for k, v := range now {
		if was, ok := old[k]; !ok || was != v {
			come[k] = v
		}
	}
	if len(gone) > 0 {
		list = append(list, []any{column, "delete", []any{"set", gone}})
	}
	if len(come) > 0 {
		list = append(list, []any{column, "insert", encode(come)})
	}
	return list
}

// expect makes the transaction depend on a row that has these values.
func (e *edit) expect(table, id string, c columns) {
	e.wait(table, is("_uuid", uuid(id)), slices.Sorted(maps.Keys(c)), c.encode())
}

// wait makes the transaction depend on what a condition selects.
func (e *edit) wait(table string, where []any, names []string, rows ...any) {
	if rows == nil {
		rows = []any{}
	}
	e.expects = append(e.expects, ovsdb.Op{"op": "wait", "table": table, "where": where, "columns": names, "until": "==", "rows": rows, "timeout": 0})
}

// absent makes the transaction depend on there being no row of that name.
func (e *edit) absent(table, name string) { e.wait(table, is("name", name), []string{"name"}) }

// begin finds the Open_vSwitch row, or makes it as ovs-vsctl does.
func (e *edit) begin(v *vswitch) {
	if v.Root != nil {
		e.root = uuid(v.uuid)
		return
	}
	e.wait(model.OpenvSwitchTable, []any{}, []string{"next_cfg"})
	e.root = e.insert(model.OpenvSwitchTable, columns{})
}

// edit makes the transaction that build makes of the rows, again if others
// changed them meanwhile. It returns the next_cfg that stands for it.
func (d *database) edit(ctx context.Context, build func(*vswitch, *edit) error) (next int, err error) {
	var last error
	for range editTries {
		v, err := d.read(ctx)
		if err != nil {
			return 0, err
		}
		e := &edit{}
		e.begin(v)
		before := len(e.ops)
		if err := build(v, e); err != nil {
			return 0, err
		}
		if len(e.ops) == before && v.Root != nil {
			return v.Root.NextCfg, nil // nothing to do
		}
		next, err = d.commit(ctx, e)
		if err == nil || !e.overtaken(err) {
			return next, err
		}
		last = err
	}
	return 0, fmt.Errorf("others change the database all the time, try again: %w", last)
}

// overtaken reports whether an edit was refused because the rows are not any
// more what it was built on: a wait says so, or, when two rows would have one
// name, the commit, which comes after all operations.
func (e *edit) overtaken(err error) bool {
	var refused *ovsdb.TransactError
	return errors.As(err, &refused) &&
		(refused.Op < len(e.expects) && refused.Name == ovsdb.TimedOut || refused.Op > len(e.expects)+len(e.ops) && refused.Name == "constraint violation")
}

// unknownFate says of a change during which the database was lost that nobody knows
// whether it was made.
func unknownFate(err error) error {
	if errors.Is(err, ovsdb.ErrLost) {
		return fmt.Errorf("change the database: %w: the change was made or not; `millrace status` says how the database is", err)
	}
	return err
}

// commit makes the transaction and counts next_cfg up.
func (d *database) commit(ctx context.Context, e *edit) (int, error) {
	comment := ovsdb.Op{"op": "comment", "comment": "millrace"}
	count := ovsdb.Op{"op": "mutate", "table": model.OpenvSwitchTable, "where": []any{}, "mutations": []any{[]any{"next_cfg", "+=", 1}}}
	read := ovsdb.Op{"op": "select", "table": model.OpenvSwitchTable, "where": []any{}, "columns": []string{"next_cfg"}}
	results, err := d.Transact(ctx, slices.Concat(e.expects, e.ops, []ovsdb.Op{comment, count, read})...)
	if err != nil {
		return 0, unknownFate(err)
	}
	return oneNumber(results[len(results)-1].Rows, "next_cfg")
}

// oneNumber reads a column of the one row that there must be.
func oneNumber(rows json.RawMessage, column string) (int, error) {
	var list []map[string]int
	if err := json.Unmarshal(rows, &list); err != nil || len(list) != 1 {
		return 0, fmt.Errorf("the table of %s has not one row but %d: %w", column, len(list), err)
	}
	return list[0][column], nil
}

// inForce waits until cur_cfg has come to next.
func (d *database) inForce(ctx context.Context, f *waitFlags, next int) error {
	return inForce(ctx, d.Caller, model.OpenvSwitchTable, f, next)
}

// inForce waits until cur_cfg of the one row of a table has come to next.
func inForce(ctx context.Context, d *ovsdb.Caller, table string, f *waitFlags, next int) error {
	if f.noWait {
		return nil
	}
	for end := time.Now().Add(f.timeout); ; {
		r, err := d.Transact(ctx, ovsdb.Op{"op": "select", "table": table, "where": []any{}, "columns": []string{"cur_cfg"}})
		if err != nil {
			return err
		}
		now, err := oneNumber(r[0].Rows, "cur_cfg")
		if err != nil || now >= next {
			return err
		}
		left := time.Until(end)
		if left <= 0 {
			return fmt.Errorf("the database has it, but it is not in force after %s (cur_cfg is %d, not %d): `millrace status` says whether control runs", span(f.timeout), now, next)
		}
		_, err = d.Transact(ctx, ovsdb.Op{"op": "wait", "table": table, "where": []any{}, "columns": []string{"cur_cfg"},
			"until": "!=", "rows": []any{map[string]int{"cur_cfg": now}}, "timeout": left.Milliseconds() + 1})
		var refused *ovsdb.TransactError
		if err != nil && !(errors.As(err, &refused) && refused.Name == ovsdb.TimedOut) {
			return err
		}
	}
}
