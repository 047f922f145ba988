package engine

import (
	"bufio"
	"bytes"
	"maps"
	"strings"
	"testing"

	"millrace/control/ovsdb/jsonval"
	"millrace/control/ovsdb/schema"
)

// testSchema has all that a transaction has to look after: strong and weak
// references, an index, a limit, an immutable and an ephemeral column.
const testSchema = `{"name":"T","version":"1.0.0","tables":{
	"Root":{"isRoot":true,"maxRows":3,"indexes":[["name"]],"columns":{
		"name":{"type":"string","mutable":false},"n":{"type":{"key":{"type":"integer","minInteger":0,"maxInteger":100},"min":0,"max":"unlimited"}},
		"kids":{"type":{"key":{"type":"uuid","refTable":"Kid"},"min":0,"max":"unlimited"}},
		"seen":{"ephemeral":true,"type":"boolean"}}},
	"Kid":{"columns":{"x":{"type":{"key":{"type":"string","enum":["set",["","a","b"]]}}},
		"map":{"type":{"key":"string","value":{"type":"uuid","refTable":"Kid"},"min":0,"max":"unlimited"}},
		"friends":{"type":{"key":{"type":"uuid","refTable":"Root","refType":"weak"},"min":0,"max":"unlimited"}},
		"best":{"type":{"key":{"type":"uuid","refTable":"Root","refType":"weak"}}}}}}}`

func testDB(t testing.TB) *DB {
	s, err := schema.Parse(testSchema)
	if err != nil {
		t.Fatal(err)
	}
	return New(s)
}

// do runs operations and returns the reply.
func do(t testing.TB, db *DB, ops string) string {
	t.Helper()
	v, err := jsonval.Parse([]byte(ops))
	if err != nil {
		t.Fatal(err)
	}
	res := db.Execute(v.Elems, Env{})
	consistent(t, db)
	return string(res.Reply)
}

// consistent compares the counts and indexes that db keeps with those that are
// made anew from its rows.
func consistent(t testing.TB, db *DB) {
	t.Helper()
	again := New(db.Schema)
	for _, tab := range db.tables {
		for id, e := range tab.rows {
			again.Put(tab.Table, id, e.row)
		}
	}
	if err := again.Finish(); err != nil {
		t.Fatal(err)
	}
	for i, tab := range db.tables {
		for id, e := range tab.rows {
			want := again.tables[i].rows[id]
			if e.refs != want.refs || len(e.weak) != len(want.weak) {
				t.Fatalf("table %s row %s: %d references and %d weak ones, want %d and %d", tab.Name, id, e.refs, len(e.weak), want.refs, len(want.weak))
			}
			if e.refs == 0 && !tab.IsRoot {
				t.Fatalf("table %s row %s is garbage", tab.Name, id)
			}
		}
		for n, ix := range tab.indexes {
			if !maps.Equal(ix.rows, again.tables[i].indexes[n].rows) {
				t.Fatalf("table %s: index %d is %v, want %v", tab.Name, n, ix.rows, again.tables[i].indexes[n].rows)
			}
		}
	}
}

// TestReread writes what a database holds, as a snapshot and as a record for each
// change, and wants the same back.
func TestReread(t *testing.T) {
	db, replayed := testDB(t), testDB(t)
	for _, ops := range []string{
		`[{"op":"insert","table":"Root","row":{"name":"a","n":["set",[1,2,3]],"kids":["named-uuid","k"]}},{"op":"insert","table":"Kid","uuid-name":"k","row":{"x":"a","best":["named-uuid","r"]}},{"op":"insert","table":"Root","uuid-name":"r","row":{"name":"b"}}]`,
		`[{"op":"mutate","table":"Root","where":[],"mutations":[["n","insert",["set",[5,7]]],["n","delete",2]]}]`,
		`[{"op":"update","table":"Kid","where":[],"row":{"map":["map",[]]}}]`,
		`[{"op":"update","table":"Root","where":[["name","==","b"]],"row":{"n":["set",[]],"seen":true}}]`,
		`[{"op":"update","table":"Root","where":[["name","==","a"]],"row":{"kids":["set",[]]}}]`,
	} {
		v, _ := jsonval.Parse([]byte(ops))
		res := db.Execute(v.Elems, Env{})
		if len(res.Changes) == 0 && !strings.Contains(ops, `"map"`) {
			t.Fatalf("%s: %s", ops, res.Reply)
		}
		if rec, lasting := AppendRecord(nil, res.Changes, "why", 1); lasting {
			replay(t, replayed, rec)
		}
		var buf bytes.Buffer
		if err := db.Snapshot().Write(bufio.NewWriter(&buf), 1); err != nil {
			t.Fatal(err)
		}
		fresh := testDB(t)
		replay(t, fresh, buf.Bytes())
		same(t, db, fresh)
		same(t, db, replayed)
	}
}

func replay(t *testing.T, db *DB, record []byte) {
	t.Helper()
	v, err := jsonval.Parse(record)
	if err == nil {
		err = db.Replay(v)
	}
	if err != nil {
		t.Fatalf("%s: %v", record, err)
	}
}

// same compares the lasting columns of two databases.
func same(t *testing.T, a, b *DB) {
	t.Helper()
	if a.Len() != b.Len() {
		t.Fatalf("%d rows, want %d", b.Len(), a.Len())
	}
	for _, tab := range a.tables {
		for id, e := range tab.rows {
			got, want := appendLasting(nil, tab.Table, b.Row(tab.Table, id)), appendLasting(nil, tab.Table, e.row)
			if !bytes.Equal(got, want) {
				t.Fatalf("row %s: %s, want %s", id, got, want)
			}
		}
	}
}

// TestConstraints names what a transaction must not do, and the error.
func TestConstraints(t *testing.T) {
	const base = `[{"op":"insert","table":"Kid","uuid":"00000000-0000-4000-8000-000000000002","uuid-name":"k","row":{"best":["named-uuid","r"],"friends":["set",[["named-uuid","r"],["uuid","00000000-0000-4000-8000-000000000009"]]]}},
		{"op":"insert","table":"Root","uuid":"00000000-0000-4000-8000-000000000001","row":{"name":"a","n":5,"kids":["named-uuid","k"]}},
		{"op":"insert","table":"Root","uuid-name":"r","row":{"name":"b"}}]`
	tests := []struct{ name, ops, want string }{
		{"immutable", `[{"op":"update","table":"Root","where":[],"row":{"name":"z"}}]`, schema.Constraint},
		{"range", `[{"op":"mutate","table":"Root","where":[],"mutations":[["n","+=",99]]}]`, schema.Constraint},
		{"overflow", `[{"op":"mutate","table":"Root","where":[],"mutations":[["n","*=",9223372036854775807]]}]`, schema.Range},
		{"division", `[{"op":"mutate","table":"Root","where":[],"mutations":[["n","%=",0]]}]`, schema.Domain},
		{"enum", `[{"op":"update","table":"Kid","where":[],"row":{"x":"c"}}]`, schema.Constraint},
		{"index", `[{"op":"insert","table":"Root","row":{"name":"a"}}]`, schema.Constraint},
		{"rows", `[{"op":"insert","table":"Root","row":{"name":"c"}},{"op":"insert","table":"Root","row":{"name":"d"}}]`, schema.Constraint},
		{"delete referenced", `[{"op":"delete","table":"Kid","where":[]}]`, schema.Integrity},
		{"dangling", `[{"op":"mutate","table":"Root","where":[],"mutations":[["kids","insert",["uuid","00000000-0000-4000-8000-00000000000f"]]]}]`, schema.Integrity},
		{"last weak", `[{"op":"delete","table":"Root","where":[["name","==","b"]]}]`, schema.Constraint},
		{"garbage", `[{"op":"update","table":"Root","where":[["name","==","a"]],"row":{"kids":["set",[]]}},{"op":"select","table":"Kid","where":[],"columns":["x"]}]`, `"rows":[{"x":""}]`},
		{"weak is dropped", `[{"op":"select","table":"Kid","where":[["friends","includes",["uuid","00000000-0000-4000-8000-000000000009"]]]}]`, `"rows":[]`},
		{"swap under an index", `[{"op":"delete","table":"Root","where":[["name","==","a"]]},{"op":"insert","table":"Root","row":{"name":"a"}}]`, `"uuid"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			db := testDB(t)
			do(t, db, base)
			if got := do(t, db, tt.ops); !strings.Contains(got, tt.want) {
				t.Errorf("%s\n%s\nwant %s", tt.ops, got, tt.want)
			}
		})
	}
}

// FuzzTransact runs any operations, and wants a reply that is JSON, and a
// database that is right in itself.
func FuzzTransact(f *testing.F) {
	f.Add([]byte(`[{"op":"insert","table":"Root","uuid-name":"r","row":{"name":"a","kids":["named-uuid","k"]}},{"op":"insert","table":"Kid","uuid-name":"k","row":{"best":["named-uuid","r"],"map":["map",[["k",["named-uuid","k"]]]]}}]`))
	f.Add([]byte(`[{"op":"insert","table":"Root","row":{"name":"a","n":["set",[1,2]]}},{"op":"mutate","table":"Root","where":[["n","includes",1]],"mutations":[["n","+=",1],["n","delete",3]]},{"op":"delete","table":"Root","where":[["n","<",3]]}]`))
	f.Add([]byte(`[{"op":"wait","table":"Root","where":[],"columns":["n"],"until":"==","rows":[{"n":1}],"timeout":0},{"op":"abort"},{"op":"commit","durable":true},{"op":"assert","lock":"a"}]`))
	f.Fuzz(func(t *testing.T, in []byte) {
		v, err := jsonval.Parse(in)
		if err != nil || v.Kind != jsonval.Array {
			return
		}
		db := testDB(t)
		do(t, db, `[{"op":"insert","table":"Root","row":{"name":"q","n":5}}]`)
		for range 2 {
			res := db.Execute(v.Elems, Env{})
			if _, err := jsonval.Parse(res.Reply); err != nil && !res.Waiting {
				t.Fatalf("%s: reply %s: %v", in, res.Reply, err)
			}
			consistent(t, db)
		}
	})
}
