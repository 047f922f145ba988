package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"millrace/control/ovsdb"
	"millrace/control/ovsdb/flowmodel"
)

// A named is a kind of row that flows refer to by name.
type named struct {
	table, word string // "Address_Set", "address set"
}

// A namedRow is one of them.
type namedRow struct {
	name, problem string
	lines         [][]string // of the table
	json          object
}

// find returns the row of a name, or nil.
func (d *flowDB) find(ctx context.Context, n named, name string) (*ovsdb.Change, error) {
	rows, err := d.Select(ctx, n.table, is("name", name))
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return &rows[0], nil
}

// namedAction builds a transaction about the row of a name; old is nil if there is
// none.
type namedAction func(cmd *cobra.Command, e *flowEdit, name string, args []string, old *ovsdb.Change) error

// onNamed is the RunE of a command that changes the row named by its first argument:
// it waits, and tells what is wrong with the row then.
func (a *app) onNamed(db *dbFlags, wait *waitFlags, n named, build namedAction) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return a.onFlows(db, wait.most, func(ctx context.Context, d *flowDB, args []string) error {
			old, err := d.find(ctx, n, args[0])
			if err != nil {
				return err
			}
			var e flowEdit
			if err := build(cmd, &e, args[0], args[1:], old); err != nil || e.n == 0 {
				return err
			}
			next, _, err := d.commit(ctx, &e)
			if err == nil {
				err = d.inForce(ctx, wait, next)
			}
			if err != nil {
				return err
			}
			return a.namedTold(ctx, d, wait, n, args[0])
		})(cmd, args)
	}
}

// namedTold tells what came of a row.
func (a *app) namedTold(ctx context.Context, d *flowDB, wait *waitFlags, n named, name string) error {
	row, err := d.find(ctx, n, name)
	if err != nil {
		return err
	}
	if row == nil { // it was deleted
		if a.json {
			return a.printJSON(object{{"deleted", []string{name}}})
		}
		return nil
	}
	buckets, err := d.buckets(ctx, n)
	if err != nil {
		return err
	}
	r := describeNamed(row, buckets)
	if a.json {
		if err := a.printJSON(r.json); err != nil {
			return err
		}
	}
	if r.problem != "" && !wait.noWait {
		return fmt.Errorf("%s %s: %s (its row stays)", n.word, name, r.problem)
	}
	return nil
}

// buckets returns the rows of Bucket by their UUIDs, if rows of n have any.
func (d *flowDB) buckets(ctx context.Context, n named) (map[string]*flowmodel.Bucket, error) {
	if n.table != flowmodel.GroupTable {
		return nil, nil
	}
	rows, err := d.Select(ctx, flowmodel.BucketTable, []any{})
	all := make(map[string]*flowmodel.Bucket, len(rows))
	for i := range rows {
		b := rows[i].Row.(*flowmodel.Bucket)
		all[b.UUID] = b
	}
	return all, err
}

// describeNamed is what is shown of a row; all are the buckets that there are.
func describeNamed(c *ovsdb.Change, all map[string]*flowmodel.Bucket) namedRow {
	switch r := c.Row.(type) {
	case *flowmodel.AddressSet:
		members := sortedOf(r.Addresses)
		return namedRow{name: r.Name, problem: value(r.Error), lines: [][]string{{r.Name, fmt.Sprint(len(members)), few(members), value(r.Error)}},
			json: object{{"uuid", r.UUID}, {"name", r.Name}, {"addresses", members}, {"error", value(r.Error)}}}
	case *flowmodel.PortGroup:
		members := sortedOf(r.Ports)
		return namedRow{name: r.Name, lines: [][]string{{r.Name, fmt.Sprint(len(members)), few(members)}},
			json: object{{"uuid", r.UUID}, {"name", r.Name}, {"ports", members}}}
	case *flowmodel.Meter:
		return namedRow{name: r.Name, problem: value(r.Error), lines: [][]string{{r.Name, count(uint64(r.Rate)), count(uint64(r.Burst)), r.Unit, value(r.Error)}},
			json: object{{"uuid", r.UUID}, {"name", r.Name}, {"unit", r.Unit}, {"rate", r.Rate}, {"burst", r.Burst}, {"error", value(r.Error)}}}
	case *flowmodel.Group:
		return describeGroup(r, all)
	}
	return namedRow{}
}

// describeGroup is what is shown of a group: a line for each bucket.
func describeGroup(r *flowmodel.Group, all map[string]*flowmodel.Bucket) namedRow {
	var buckets []*flowmodel.Bucket
	for _, uuid := range r.Buckets {
		if b := all[uuid]; b != nil {
			buckets = append(buckets, b)
		}
	}
	slices.SortFunc(buckets, func(x, y *flowmodel.Bucket) int {
		return cmp.Or(strings.Compare(x.Actions, y.Actions), cmp.Compare(x.Weight, y.Weight))
	})
	fields, list := sortedOf(r.HashFields), []object{}
	lines := [][]string{{r.Name, "", "(no buckets)", strings.Join(fields, ","), value(r.Error)}}
	for i, b := range buckets {
		if i > 0 {
			lines = append(lines, []string{"", "", "", "", ""})
		}
		lines[i][1], lines[i][2] = fmt.Sprint(b.Weight), b.Actions
		list = append(list, object{{"weight", b.Weight}, {"actions", b.Actions}})
	}
	return namedRow{name: r.Name, problem: value(r.Error), lines: lines,
		json: object{{"uuid", r.UUID}, {"name", r.Name}, {"hash_fields", fields}, {"buckets", list}, {"error", value(r.Error)}}}
}

// sortedOf is a set in order, never nil.
func sortedOf(list []string) []string {
	out := slices.Clone(list)
	slices.Sort(out)
	if out == nil {
		out = []string{}
	}
	return out
}

// few is the first of some words.
func few(list []string) string {
	const most = 8
	if len(list) > most {
		return strings.Join(list[:most], " ") + fmt.Sprintf(" and %d more", len(list)-most)
	}
	return strings.Join(list, " ")
}

// article is a word with its indefinite article.
func article(word string) string {
	if strings.ContainsRune("aeiou", rune(word[0])) {
		return "an " + word
	}
	return "a " + word
}

// namedDel is the command that deletes rows of a kind.
func (a *app) namedDel(n named, use, example string) *cobra.Command {
	var db dbFlags
	var wait waitFlags
	var ifExists bool
	cmd := &cobra.Command{
		Use:   "del NAME",
		Short: "Remove " + article(n.word),
		Long: `Removes ` + article(n.word) + ` from the Millrace database. Flows that name it are inactive until
there is one of that name again.`,
		Example: "  millrace flow " + use + " del " + example,
		Args:    exactly("NAME"),
	}
	db.add(cmd)
	wait.add(cmd)
	cmd.Flags().BoolVar(&ifExists, "if-exists", false, "it is no error if there is none")
	cmd.RunE = a.onNamed(&db, &wait, n, func(_ *cobra.Command, e *flowEdit, name string, _ []string, old *ovsdb.Change) error {
		switch {
		case old == nil && ifExists:
			return nil
		case old == nil:
			return fmt.Errorf("no such %s: %s: `millrace flow %s list` lists them", n.word, name, use)
		}
		e.remove(n.table, old.UUID)
		return nil
	})
	return cmd
}

// namedList is the command that lists rows of a kind.
func (a *app) namedList(n named, use string, heads ...string) *cobra.Command {
	var db dbFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List " + n.word + "s",
		Long:  "Lists the " + n.word + "s of the Millrace database, by name.",
		Example: "  millrace flow " + use + " list\n" +
			"  millrace flow " + use + " list --json | jq -r '.[].name'",
		Args: exactly(),
	}
	db.add(cmd)
	cmd.RunE = a.onFlows(&db, func() time.Duration { return longFlows }, func(ctx context.Context, d *flowDB, _ []string) error {
		rows, err := d.Select(ctx, n.table, []any{})
		if err != nil {
			return err
		}
		buckets, err := d.buckets(ctx, n)
		if err != nil {
			return err
		}
		list := make([]namedRow, len(rows))
		for i := range rows {
			list[i] = describeNamed(&rows[i], buckets)
		}
		slices.SortFunc(list, func(x, y namedRow) int { return strings.Compare(x.name, y.name) })
		all := []object{}
		t := newTable(heads...)
		for _, r := range list {
			all = append(all, r.json)
			for _, line := range r.lines {
				t.add(line...)
			}
		}
		if a.json {
			return a.printJSON(all)
		}
		t.print(a.out, "no "+n.word+"s")
		return nil
	})
	return cmd
}

// mutateSet adds elements to a set of a row, or takes them away.
func mutateSet(e *flowEdit, n named, id, column, how string, list []string) error {
	return e.op(ovsdb.Op{"op": "mutate", "table": n.table, "where": is("_uuid", uuid(id)), "mutations": []any{[]any{column, how, stringSet(list)}}})
}

// stringSet is strings as a set of OVSDB.
func stringSet(list []string) any {
	out := []any{}
	for _, s := range list {
		out = append(out, s)
	}
	return []any{"set", out}
}
