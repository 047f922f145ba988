package bridge

import (
	"fmt"
	"path/filepath"
	"testing"

	"millrace/control/ovsdb/model"
)

// BenchmarkFrom is what a pass over 1,000 ports costs before anything is
// applied.
func BenchmarkFrom(b *testing.B) {
	rows := Rows{
		Root:    &model.OpenvSwitch{Bridges: []string{"b"}},
		Bridges: map[string]*model.Bridge{}, Ports: map[string]*model.Port{}, Interfaces: map[string]*model.Interface{},
	}
	br := &model.Bridge{UUID: "b", Name: "br0"}
	rows.Bridges["b"] = br
	for i := range 1000 {
		id := fmt.Sprint("p", i)
		br.Ports = append(br.Ports, id)
		rows.Ports[id] = &model.Port{UUID: id, Name: id, Interfaces: []string{id}}
		rows.Interfaces[id] = &model.Interface{UUID: id, Name: id, Type: TypeVhostClient, Options: map[string]string{"vhost-server-path": "/run/vhost/" + id}}
	}
	policy := Policy{RunDir: b.TempDir(), Follow: filepath.EvalSymlinks}
	b.ReportAllocs()
	for b.Loop() {
		st := From(rows, policy)
		if len(Diff(Have{Ports: st.Ports, Bridges: st.Bridges}, st)) != 0 {
			b.Fatal("changes")
		}
	}
}
