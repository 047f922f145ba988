package engine

import (
	"strings"
	"testing"

	"millrace/control/ovsdb/jsonval"
	"millrace/control/ovsdb/schema"
)

// BenchmarkInsert measures a transaction of 1,000 inserts, as the server's
// BenchmarkLibovsdbEngine does with libovsdb's.
func BenchmarkInsert(b *testing.B) {
	s, err := schema.Parse(`{"name":"Flows","version":"1.0.0","tables":{"Flow":{"columns":{"table":{"type":"integer"},"priority":{"type":"integer"},
		"match":{"type":"string"},"actions":{"type":"string"},"datapath":{"type":{"key":"uuid","min":0,"max":1}},
		"external_ids":{"type":{"key":"string","value":"string","min":0,"max":"unlimited"}}}}}}`)
	if err != nil {
		b.Fatal(err)
	}
	db := New(s)
	const rows = 1000
	text := []byte("[" + strings.TrimSuffix(strings.Repeat(`{"op":"insert","table":"Flow","row":{"table":7,"match":"ip4","actions":"next;"}},`, rows), ",") + "]")
	for b.Loop() {
		v, err := jsonval.Parse(text)
		if err != nil {
			b.Fatal(err)
		}
		if res := db.Execute(v.Elems, Env{}); len(res.Changes) != rows {
			b.Fatalf("%.200s", res.Reply)
		}
	}
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)/rows*1e6, "us/row")
}
