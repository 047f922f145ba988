package ovsdb

import (
	"fmt"
	"strings"
	"testing"

	"millrace/control/ovsdb/flowmodel"
	"millrace/control/ovsdb/model"
)

// bridgeUpdate is a Bridge row with n ports, as a server sends it.
func bridgeUpdate(n int) string {
	var ports []string
	for i := range n {
		ports = append(ports, fmt.Sprintf(`["uuid","00000000-0000-0000-0000-%012d"]`, i))
	}
	return `{"Bridge":{"11111111-0000-0000-0000-000000000000":{"initial":{"name":"br0","ports":["set",[` + strings.Join(ports, ",") + `]]}}}}`
}

// BenchmarkUpdate is a Bridge row with 1,000 ports, which comes with every
// port that is added.
func BenchmarkUpdate(b *testing.B) {
	s, err := newStore(model.Schema(), []Table{{Name: model.BridgeTable, Row: &model.Bridge{}}})
	if err != nil {
		b.Fatal(err)
	}
	text := []byte(bridgeUpdate(1000))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.apply(text); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkModify adds a port to a bridge of 1,000.
func BenchmarkModify(b *testing.B) {
	s, err := newStore(model.Schema(), []Table{{Name: model.BridgeTable, Row: &model.Bridge{}}})
	if err != nil {
		b.Fatal(err)
	}
	step := func(text string) {
		if _, err := s.apply([]byte(text)); err != nil {
			b.Fatal(err)
		}
	}
	step(bridgeUpdate(1000))
	b.ReportAllocs()
	for b.Loop() { // in and out
		step(`{"Bridge":{"11111111-0000-0000-0000-000000000000":{"modify":{"ports":["set",[["uuid","22222222-0000-0000-0000-000000000000"]]]}}}}`)
	}
}

// TestApply follows rows through updates as servers send them.
func TestApply(t *testing.T) {
	s, err := newStore(model.Schema(), []Table{{Name: model.InterfaceTable, Row: &model.Interface{}}, {Name: model.BridgeTable, Row: &model.Bridge{}}})
	if err != nil {
		t.Fatal(err)
	}
	const u = "11111111-0000-0000-0000-000000000000"
	for _, tt := range []struct {
		name, table, update string
		want                string // of the row; empty: it is gone
		err                 string
		same                bool // nothing is told
	}{
		{name: "initial", table: "Interface", update: `{"initial":{"name":"p","ofport":5,"options":["map",[["a","1"],["b","2"]]]}}`, want: "p 5 map[a:1 b:2] 0"},
		{name: "map and optional", table: "Interface", update: `{"modify":{"ofport":["set",[]],"options":["map",[["a","1"],["b","3"],["c","4"]]]}}`, want: "p nil map[b:3 c:4] 0"},
		{name: "last of a map", table: "Interface", update: `{"modify":{"options":["map",[["b","3"],["c","4"]]]}}`, want: "p nil map[] 0"},
		{name: "integer", table: "Interface", update: `{"modify":{"ingress_policing_rate":7,"ofport":["set",[9]]}}`, want: "p 9 map[] 7"},
		{name: "nothing that is watched", table: "Interface", update: `{"modify": { }}`, want: "p 9 map[] 7", same: true},
		{name: "unknown column", table: "Interface", update: `{"modify":{"surprise":7}}`, err: "surprise"},
		{name: "wrong type", table: "Interface", update: `{"modify":{"name":7}}`, err: "name"},
		{name: "deleted", table: "Interface", update: `{"delete":null}`},
		{name: "modified after that", table: "Interface", update: `{"modify":{"ofport":1}}`, err: "never there"},
		{name: "set", table: "Bridge", update: `{"insert":{"name":"b","flood_vlans":["set",[1,2]]}}`, want: "b [1 2]"},
		{name: "out and in", table: "Bridge", update: `{"modify":{"flood_vlans":["set",[1,3]]}}`, want: "b [2 3]"},
		{name: "one element", table: "Bridge", update: `{"modify":{"flood_vlans":2}}`, want: "b [3]"},
		{name: "last of a set", table: "Bridge", update: `{"modify":{"flood_vlans":3}}`, want: "b []"},
		{name: "table that is not known", table: "Port", update: `{"insert":{"name":"b"}}`, same: true},
	} {
		before := fmt.Sprint(s.rows)
		changes, err := s.apply([]byte(`{"` + tt.table + `":{"` + u + `":` + tt.update + `}}`))
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.err)
		}
		if err != nil && fmt.Sprint(s.rows) != before {
			t.Errorf("%s: row was changed", tt.name)
		}
		if err == nil && (len(changes) == 0) != tt.same {
			t.Errorf("%s: %d changes are told", tt.name, len(changes))
		}
		if got := show(s.rows[tt.table][u]); err == nil && got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func show(row any) string {
	switch r := row.(type) {
	case *model.Interface:
		n := "nil"
		if r.Ofport != nil {
			n = fmt.Sprint(*r.Ofport)
		}
		return fmt.Sprint(r.Name, " ", n, " ", r.Options, " ", r.IngressPolicingRate)
	case *model.Bridge:
		return fmt.Sprint(r.Name, " ", r.FloodVLANs)
	}
	return ""
}

// flowUpdate is n rows of Flow, as a server sends them to a new monitor.
func flowUpdate(n int) []byte {
	var b strings.Builder
	b.WriteString(`{"Flow":{`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"11111111-0000-0000-0000-%012d":{"initial":{"bridge":"br0","table":%d,"priority":%d,"cookie":%d,"match":"ip4.src == 10.%d.%d.%d && ip4.dst == 192.168.%d.0/24 && tcp.dst == %d","actions":"reg0 = %d; outport = \"p2\"; output;"}}`,
			i, i%4, i%1000, i, i>>16, i>>8&255, i&255, i%250, 1+i%60000, i%7)
	}
	b.WriteString("}}")
	return []byte(b.String())
}

// BenchmarkFlows reads rows of Flow into structs.
func BenchmarkFlows(b *testing.B) {
	text := flowUpdate(10_000)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		s, err := newStore(flowmodel.Schema(), []Table{{Name: flowmodel.FlowTable, Row: &flowmodel.Flow{}}})
		if err != nil {
			b.Fatal(err)
		}
		if rows, err := s.apply(text); err != nil || len(rows) != 10_000 {
			b.Fatal(len(rows), err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*10_000), "ns/row")
}
