package server_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"testing"

	"millrace/control/ovsdb/schema"
	"millrace/control/ovsdb/server"
)

// A maker draws random operations over a schema, from few values, so that they
// collide, and with some nonsense.
type maker struct {
	*rand.Rand
	db    *schema.Database
	of    string     // table that the operation in the making is about
	names []uuidName // of the transaction in the making
}

// A uuidName is how a transaction calls a row that it inserts.
type uuidName struct{ name, table string }

// chance is true once in n times.
func (m *maker) chance(n int) bool { return m.IntN(n) == 0 }

func pick[T any](m *maker, from ...T) T { return from[m.IntN(len(from))] }

// uuid returns one of the few UUIDs that rows of table t have.
func (m *maker) uuid(t string) string {
	h := 0
	for _, c := range t {
		h = h*31 + int(c)
	}
	return fmt.Sprintf("%08x-0000-4000-8000-%012x", uint32(h), m.IntN(8))
}

func (m *maker) table() *schema.Table {
	names := []string{"Open_vSwitch", "Bridge", "Port", "Interface", "Mirror", "QoS", "Queue", "Manager", "Flow_Table", "Controller", "NetFlow", "Datapath", "CT_Zone", "SSL", "AutoAttach"}
	if m.chance(3) {
		return pick(m, m.db.Tables...)
	}
	return m.db.Table(pick(m, names...))
}

func (m *maker) column(t *schema.Table) *schema.Column { return pick(m, t.Columns...) }

// atom draws a value of a base type.
func (m *maker) atom(b *schema.Base) any {
	if m.chance(60) {
		return pick[any](m, "x", 1, true, 1.5, nil, list{"uuid", "zz"}, list{"named-uuid", "nobody"}, object{}, list{})
	}
	switch b.Atomic {
	case schema.Integer:
		if len(b.Enum) > 0 && !m.chance(6) {
			return pick(m, b.Enum...).Int()
		}
		return pick[int64](m, 0, 1, 2, 7, 63, 100, 1024, 4095, 4096, 65535, -1, 1<<40, -1<<63, 1<<63-1)
	case schema.Real:
		return pick[any](m, 0, 1, -1.5, 1e10, 0.25)
	case schema.Boolean:
		return m.chance(2)
	case schema.UUIDType:
		if names := m.others(b.RefTable); len(names) > 0 && m.chance(2) {
			return list{"named-uuid", pick(m, names...).name}
		}
		table := b.RefTable
		if table == "" {
			table = "Bridge"
		}
		return list{"uuid", m.uuid(table)}
	}
	if len(b.Enum) > 0 && !m.chance(6) {
		return pick(m, b.Enum...).Str()
	}
	return pick(m, "", "a", "b", "br0", "p1", "é", "vlan \"1\"\n", "60:00:00:00:00:01")
}

// others are the names that may be drawn as references to a table: ovsdb-server takes
// a row's reference to itself even if it is to be to a row of another table, which is not there.
func (m *maker) others(to string) []uuidName {
	return slices.DeleteFunc(slices.Clone(m.names), func(n uuidName) bool { return n.table == m.of && m.of != to })
}

// value draws a value of a type, or of roughly n elements of it.
func (m *maker) value(t *schema.Type, n int) any {
	if n == 1 && t.Value == nil && !m.chance(3) {
		return m.atom(&t.Key)
	}
	elems := list{}
	for range n {
		if t.Value != nil {
			elems = append(elems, list{m.atom(&t.Key), m.atom(t.Value)})
		} else {
			elems = append(elems, m.atom(&t.Key))
		}
	}
	if t.Value != nil {
		return list{"map", elems}
	}
	return list{"set", elems}
}

// size draws how many elements a column gets, seldom too many.
func (m *maker) size(t *schema.Type) int {
	if t.Max == 1 && !m.chance(20) {
		if t.Min == 1 {
			return 1
		}
		return m.IntN(2)
	}
	return m.IntN(4)
}

func (m *maker) row(t *schema.Table) object {
	row := object{}
	for range m.IntN(4) {
		c := m.column(t)
		row[c.Name] = m.value(&c.Type, m.size(&c.Type))
	}
	if t.Column("name") != nil && !m.chance(4) {
		row["name"] = pick(m, "a", "b", "c", "d", "e", "f")
	}
	if m.chance(80) {
		row[pick(m, "_uuid", "_version", "nosuch")] = list{"uuid", m.uuid(t.Name)}
	}
	return row
}

// where draws conditions: mostly one row, sometimes more.
func (m *maker) where(t *schema.Table) list {
	w := list{}
	if !m.chance(4) {
		w = append(w, list{"_uuid", pick(m, "==", "==", "==", "!=", "includes", "excludes"), list{"uuid", m.uuid(t.Name)}})
	}
	for m.chance(3) {
		w = append(w, m.clause(t))
	}
	return w
}

func (m *maker) clause(t *schema.Table) any {
	if m.chance(20) {
		return m.chance(2)
	}
	c := m.column(t)
	f := pick(m, "==", "!=", "includes", "excludes", "includes", "<", ">=", "<=", ">")
	if m.chance(60) {
		f = "~"
	}
	n := m.size(&c.Type)
	if c.Type.Value == nil && f[0] == '<' || f[0] == '>' {
		n = 1
	}
	return list{c.Name, f, m.value(&c.Type, n)}
}

func (m *maker) columns(t *schema.Table) list {
	out := list{}
	for range 1 + m.IntN(3) {
		if n := m.column(t).Name; !slices.Contains(out, any(n)) || m.chance(20) {
			out = append(out, n)
		}
	}
	return out
}

// mutations draws some, mostly of a kind that fits the column.
func (m *maker) mutations(t *schema.Table) list {
	out := list{}
	for range 1 + m.IntN(2) {
		c := m.column(t)
		op := pick(m, "insert", "delete")
		n := m.IntN(3)
		if c.Type.IsScalar() || c.Type.Key.Atomic <= schema.Real && m.chance(3) {
			op, n = pick(m, "+=", "-=", "*=", "/=", "%="), 1
		}
		if m.chance(50) {
			op = "^="
		}
		typ := c.Type
		if op == "delete" && m.chance(2) {
			typ.Value = nil
		}
		out = append(out, list{c.Name, op, m.value(&typ, n)})
	}
	return out
}

func (m *maker) op() object {
	t := m.table()
	m.of = t.Name
	o := object{"table": t.Name}
	switch m.IntN(20) {
	case 0:
		o["op"], o["where"] = "delete", m.where(t)
	case 1, 2:
		o["op"], o["where"] = "select", m.where(t)
		if !m.chance(3) {
			o["columns"] = m.columns(t)
		}
	case 3, 4, 5:
		o["op"], o["where"], o["row"] = "update", m.where(t), m.row(t)
	case 6, 7, 8, 9:
		o["op"], o["where"], o["mutations"] = "mutate", m.where(t), m.mutations(t)
	case 10:
		o["op"], o["where"], o["until"], o["timeout"] = "wait", m.where(t), pick(m, "==", "!="), 0
		cols := m.columns(t)
		o["columns"] = cols
		row := object{}
		for _, c := range cols {
			typ := &t.Column(c.(string)).Type
			row[c.(string)] = m.value(typ, m.size(typ))
		}
		o["rows"] = list{row}
	case 11:
		return pick(m, object{"op": "abort"}, object{"op": "comment", "comment": "c"}, object{"op": "commit", "durable": true}, object{"op": "assert", "lock": "l"}, object{"op": "nosuch"}, object{"op": "comment"})
	default:
		return m.insert(t)
	}
	if m.chance(150) {
		o["extra"] = 1
	}
	if m.chance(150) {
		delete(o, "where")
	}
	if m.chance(150) {
		o["table"] = "Nosuch"
	}
	return o
}

// insert draws an insert, with what references the row where it would be
// garbage otherwise.
func (m *maker) insert(t *schema.Table) object {
	o := object{"op": "insert", "table": t.Name, "uuid": m.uuid(t.Name), "row": m.row(t)}
	if m.chance(2) {
		name := pick(m, "x", "y", "z")
		o["uuid-name"] = name
		m.names = append(m.names, uuidName{name, t.Name})
	}
	return o
}

// operations draws a transaction.
func (m *maker) operations() list {
	m.names = nil
	ops := list{"Open_vSwitch"}
	for range 1 + m.IntN(5) {
		ops = append(ops, m.op())
	}
	if m.chance(3) {
		ops = append(ops, m.chain()...)
	}
	return ops
}

// chain draws rows that reference each other from the root down.
func (m *maker) chain() list {
	brs, ports := list{}, list{}
	ops := list{}
	for i := range 1 + m.IntN(2) {
		in, pn, bn := "in"+strconv.Itoa(i), "pn"+strconv.Itoa(i), "bn"+strconv.Itoa(i)
		ops = append(ops,
			object{"op": "insert", "table": "Interface", "uuid": m.uuid("Interface"), "uuid-name": in, "row": object{"name": pick(m, "a", "b", "c", "d", "e", "f", "g", "h")}},
			object{"op": "insert", "table": "Port", "uuid": m.uuid("Port"), "uuid-name": pn, "row": object{"name": pick(m, "a", "b", "c", "d", "e", "f", "g", "h"), "interfaces": list{"named-uuid", in}}})
		ports = append(ports, list{"named-uuid", pn})
		if m.chance(2) {
			mn := "mn" + strconv.Itoa(i)
			ops = append(ops,
				object{"op": "insert", "table": "Mirror", "uuid": m.uuid("Mirror"), "uuid-name": mn, "row": object{"name": "m", "select_src_port": list{"set", ports}}},
				object{"op": "insert", "table": "Bridge", "uuid": m.uuid("Bridge"), "uuid-name": bn, "row": object{"name": pick(m, "a", "b", "c", "d", "e"), "ports": list{"set", ports}, "mirrors": list{"named-uuid", mn}}})
			brs = append(brs, list{"named-uuid", bn})
			ports = list{}
		}
	}
	return append(ops, object{"op": "mutate", "table": "Open_vSwitch", "where": list{}, "mutations": list{list{"bridges", "insert", list{"set", brs}}}},
		object{"op": "mutate", "table": "Bridge", "where": list{list{"_uuid", "==", list{"uuid", m.uuid("Bridge")}}}, "mutations": list{list{"ports", "insert", list{"set", ports}}}})
}

// normal returns v without what may differ between two right servers: texts of
// errors, versions, whether an error comes with a null result, the order of rows, and how a number is written.
func normal(v any) any {
	switch v := v.(type) {
	case json.Number:
		f, _ := v.Float64()
		return f
	case object:
		out := object{}
		for k, e := range v {
			if k == "_version" || k == "result" && e == nil || v["error"] != nil && (k == "details" || k == "syntax") {
				continue
			}
			out[k] = normal(e)
		}
		if rows, ok := out["rows"].([]any); ok {
			sort.Slice(rows, func(i, j int) bool { return fmt.Sprint(rows[i]) < fmt.Sprint(rows[j]) })
		}
		return out
	case list:
		out := make(list, len(v))
		for i := range v {
			out[i] = normal(v[i])
		}
		return out
	}
	return v
}

// monitors are requests for monitors in all forms.
func (m *maker) monitors() []list {
	// Answers to a right request are compared; a wrong one is refused by both.
	all, some := object{}, object{}
	where := object{}
	for _, t := range m.db.Tables {
		all[t.Name] = list{object{}}
		some[t.Name] = object{"columns": m.columns(t), "select": object{pick(m, "initial", "insert", "delete", "modify"): m.chance(2), "modify": !m.chance(4)}}
		where[t.Name] = list{object{"columns": list{t.Columns[0].Name, t.Columns[len(t.Columns)-1].Name, "_uuid"}, "where": list{m.goodClause(t)}}}
	}
	return []list{
		{"monitor", list{"Open_vSwitch", "all", all}},
		{"monitor", list{"Open_vSwitch", "some", some}},
		{"monitor_cond", list{"Open_vSwitch", list{"cond"}, all}},
		{"monitor_cond", list{"Open_vSwitch", nil, where}},
		{"monitor_cond_since", list{"Open_vSwitch", object{"a": 1}, where, "00000000-0000-0000-0000-000000000000"}},
	}
}

// goodClause draws a condition that is right.
func (m *maker) goodClause(t *schema.Table) any {
	if m.chance(5) {
		return m.chance(2)
	}
	return list{"_uuid", pick(m, "!=", "=="), list{"uuid", m.uuid(t.Name)}}
}

// TestAgainstStock runs random transactions and monitors on our server and on
// ovsdb-server, and wants the same answers, errors by name, and notifications.
func TestAgainstStock(t *testing.T) {
	need(t, "ovsdb-server", "ovsdb-tool")
	db, err := schema.Parse(schema.OpenVSwitch)
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	if s := os.Getenv("MILLRACE_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	n := 3000
	if s := os.Getenv("MILLRACE_TRANSACTIONS"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	t.Logf("seed %d, %d transactions (MILLRACE_SEED, MILLRACE_TRANSACTIONS)", seed, n)
	m := &maker{Rand: rand.New(rand.NewPCG(seed, 0)), db: db}

	dir := t.TempDir()
	schemaFile := filepath.Join(dir, "schema")
	if err := os.WriteFile(schemaFile, []byte(schema.OpenVSwitch), 0o600); err != nil {
		t.Fatal(err)
	}
	stockFile := filepath.Join(dir, "stock.db")
	run(t, "ovsdb-tool", "create", stockFile, schemaFile)
	stockSocket, stopStock := serveStock(t, dir, stockFile)
	_, socket, stop := serve(t, dir, nil)
	ours, stock := dial(t, socket), dial(t, stockSocket)

	failed, count := map[string]int{}, 0
	same := func(method string, params any) {
		t.Helper()
		got, want := ours.call(method, params), stock.call(method, params)
		text, _ := json.Marshal(params)
		blur(params, got, want)
		if g, w := normal(got), normal(want); !reflect.DeepEqual(g, w) {
			t.Fatalf("seed %d, call %d: %s %s\n got %v\nwant %v\n(ours %v,\nstock %v)", seed, count, method, text, g, w, got, want)
		}
		if g, w := notes(ours), notes(stock); !reflect.DeepEqual(g, w) {
			t.Fatalf("seed %d, call %d: %s %s\nnotified %v\n    want %v", seed, count, method, text, g, w)
		}
		count++
		for _, name := range errorNames(want) {
			failed[name]++
		}
	}
	root := list{"Open_vSwitch", object{"op": "insert", "table": "Open_vSwitch", "uuid": m.uuid("Open_vSwitch"), "row": object{}}}
	same("transact", root)
	for i := range n {
		if i == n/10 {
			for _, req := range m.monitors() {
				same(req[0].(string), req[1])
			}
		}
		if i > n/10 && m.chance(20) {
			t := m.table()
			same("monitor_cond_change", list{object{"a": 1}, object{"a": 1}, object{t.Name: list{object{"where": list{m.goodClause(t)}}}}})
		}
		same("transact", m.operations())
	}
	same("monitor_cond_change", list{list{"cond"}, "new id", object{"Bridge": list{object{"where": list{false}}}}})
	same("transact", list{"Open_vSwitch", object{"op": "update", "table": "Open_vSwitch", "where": list{}, "row": object{"next_cfg": 77}}})
	same("monitor_cancel", list{"new id"})
	same("monitor_cancel", list{"new id"})
	t.Logf("errors seen: %v", failed)

	want := contents(db, ours)
	if got := contents(db, stock); !reflect.DeepEqual(got, want) {
		t.Fatalf("seed %d: databases differ\n ours %v\nstock %v", seed, want, got)
	}
	stop()
	stopStock()
	swapped(t, db, filepath.Join(dir, "conf.db"), stockFile, want)
}

// swapped gives each server the other's file, and wants the same rows.
func swapped(t *testing.T, db *schema.Database, ourFile, stockFile string, want object) {
	t.Helper()
	dir := t.TempDir()
	stockSocket, _ := serveStock(t, dir, ourFile)
	if got := contents(db, dial(t, stockSocket)); !reflect.DeepEqual(got, want) {
		t.Errorf("ovsdb-server reads our file as\n%v\nwant %v", got, want)
	}
	_, socket, stop := serve(t, dir, func(c *server.Config) { c.Databases[0].Path = stockFile })
	if got := contents(db, dial(t, socket)); !reflect.DeepEqual(got, want) {
		t.Errorf("we read ovsdb-server's file as\n%v\nwant %v", got, want)
	}
	stop()
	run(t, "ovsdb-tool", "compact", stockFile)
}

// contents returns all rows of a database, with the columns that last.
func contents(db *schema.Database, c *client) object {
	out := object{}
	for _, t := range db.Tables {
		cols := list{"_uuid"}
		for _, col := range t.Columns {
			if !col.Ephemeral {
				cols = append(cols, col.Name)
			}
		}
		res := c.transact(object{"op": "select", "table": t.Name, "where": list{}, "columns": cols})
		out[t.Name] = normal(res[0])
	}
	return out
}

// blur makes two errors equal that say what is wrong with one of several
// columns of a row, or how one of several rows cannot be changed: which one is
// looked at first is nobody's business.
func blur(params any, answers ...map[string]any) {
	ops, _ := params.(list)
	for i, o := range ops[1:] {
		op, ok := o.(object)
		if !ok {
			continue
		}
		row, _ := op["row"].(object)
		if rows, ok := op["rows"].(list); ok {
			row = rows[0].(object)
		}
		muts, _ := op["mutations"].(list)
		if len(row) < 2 && len(muts) == 0 {
			continue
		}
		for _, a := range answers {
			if res, ok := a["result"].(list); ok && i < len(res) {
				e, _ := res[i].(object)
				switch e["error"] {
				case schema.Syntax, schema.Constraint, schema.Duplicate, schema.Range, schema.Domain, "unknown column":
					e["error"] = "bad value"
				}
			}
		}
	}
}

// notes returns the notifications before the last answer, comparable.
func notes(c *client) []any {
	var out []any
	for _, n := range c.notes {
		out = append(out, normal(n))
	}
	sort.Slice(out, func(i, j int) bool { return fmt.Sprint(out[i]) < fmt.Sprint(out[j]) })
	return out
}

// errorNames returns the errors in an answer.
func errorNames(m map[string]any) []string {
	var out []string
	if res, ok := m["result"].(list); ok {
		for _, r := range res {
			if o, ok := r.(object); ok && o["error"] != nil {
				out = append(out, fmt.Sprint(o["error"]))
			}
		}
	}
	return out
}
