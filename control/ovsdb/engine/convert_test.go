package engine

import (
	"strings"
	"testing"

	"millrace/control/ovsdb/jsonval"
	"millrace/control/ovsdb/schema"
)

// convertible returns a database with a root row that has two children.
func convertible(t testing.TB) *DB {
	db := testDB(t)
	do(t, db, `[{"op":"insert","table":"Root","row":{"name":"r","n":["set",[1,50]],"kids":["set",[["named-uuid","a"],["named-uuid","b"]]],"seen":true},"uuid-name":"r"},
		{"op":"insert","table":"Kid","row":{"x":"a","best":["named-uuid","r"]},"uuid-name":"a"},
		{"op":"insert","table":"Kid","row":{"x":"b","best":["named-uuid","r"]},"uuid-name":"b"}]`)
	if db.Len() != 3 {
		t.Fatalf("%d rows", db.Len())
	}
	return db
}

// TestConvertStrictly converts rows to schemas that have room for them, and to
// such that have not.
func TestConvertStrictly(t *testing.T) {
	tests := []struct {
		name, from, to string // what is replaced in the schema
		want           string // error, or the rows that are left
	}{
		{"the same", "", "", "3 rows"},
		{"more tables", `"Kid":{"columns"`, `"New":{"columns":{"a":{"type":"string"}}},"Kid":{"columns"`, "3 rows"},
		{"an element more", `"maxInteger":100`, `"maxInteger":101`, "3 rows"},
		{"integers to reals", `{"type":"integer","minInteger":0,"maxInteger":100}`, `"real"`, "3 rows"},
		{"no references", `"kids":`, `"kinder":`, "1 rows"}, // children are garbage then
		{"smaller range", `"maxInteger":100`, `"maxInteger":49`, schema.Constraint},
		{"fewer elements", `"min":0,"max":"unlimited"}},
		"kids"`, `"min":0,"max":1}},
		"kids"`, schema.Constraint},
		{"another enum", `["set",["","a","b"]]`, `["set",["","a"]]`, schema.Constraint},
		{"string to integer", `"name":{"type":"string"`, `"name":{"type":"integer"`, schema.Constraint},
		{"a new index", `"Kid":{"columns"`, `"Kid":{"indexes":[["best"]],"columns"`, schema.Constraint},
		{"fewer rows", `"Kid":{"columns"`, `"Kid":{"maxRows":1,"columns"`, schema.Constraint},
		{"references elsewhere", `"refTable":"Kid"},"min":0,"max":"unlimited"}},
		"seen"`, `"refTable":"Root"},"min":0,"max":"unlimited"}},
		"seen"`, schema.Integrity},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if !strings.Contains(testSchema, tt.from) {
				t.Fatalf("schema has no %q", tt.from)
			}
			s, err := schema.Parse(strings.Replace(testSchema, tt.from, tt.to, 1))
			if err != nil {
				t.Fatal(err)
			}
			db := convertible(t)
			got, bad := db.ConvertStrictly(s)
			consistent(t, db)
			if bad != nil {
				if bad.Name != tt.want {
					t.Errorf("%v, want %s", bad, tt.want)
				}
				return
			}
			consistent(t, got)
			if n := strings.Split(tt.want, " ")[0]; n != string(rune('0'+got.Len())) {
				t.Errorf("%d rows are left, want %s", got.Len(), tt.want)
			}
		})
	}
}

// FuzzConvert converts rows to any schema: it is refused, or the rows are in
// order under it.
func FuzzConvert(f *testing.F) {
	f.Add([]byte(testSchema))
	f.Add([]byte(schema.OpenVSwitch))
	f.Add([]byte(`{"name":"T","version":"1.0.0","tables":{"Root":{"columns":{"name":{"type":{"key":"string","value":"integer","min":0}},"n":{"type":{"key":"real","max":9}}},"indexes":[["n","name"]]}}}`))
	f.Add([]byte(`{"name":"T","version":"1.0.0","tables":{"Root":{"columns":{"kids":{"type":{"key":{"type":"uuid","refTable":"Root"},"min":0}},"n":{"type":{"key":{"type":"integer","enum":["set",[1,50]]}}}},"indexes":[[]]}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		v, err := jsonval.Parse(text)
		if err != nil {
			return
		}
		s, err := schema.FromJSON(v)
		if err != nil {
			return
		}
		again, err := schema.Parse(s.Text)
		if err != nil || len(again.Tables) != len(s.Tables) {
			t.Fatalf("schema reads back with %v", err)
		}
		db, bad := convertible(t).ConvertStrictly(s)
		if bad != nil {
			return
		}
		consistent(t, db)
		for _, tab := range s.Tables {
			v, err := jsonval.Parse(append(jsonval.AppendString([]byte(`[{"op":"insert","row":{},"table":`), tab.Name), `}]`...))
			if err != nil {
				t.Fatal(err)
			}
			db.Execute(v.Elems, Env{})
			consistent(t, db)
		}
	})
}
