package ovsdb

import (
	"encoding/json"
	"hash/maphash"
	"testing"

	"millrace/control/ovsdb/model"
)

// FuzzCallerRows: rows that no server should send are an error, never a panic,
// and those that are read have the UUID under which they come.
func FuzzCallerRows(f *testing.F) {
	for _, s := range []string{
		`[{"_uuid":["uuid","a"],"name":"x","flood_vlans":["set",[1,2]],"other_config":["map",[["k","v"]]],"ports":["uuid","p"]}]`,
		`[{"_uuid":["uuid","a"],"flood_vlans":[]}]`, `[{"name":5}]`, `[{"_uuid":"a"}]`, `{}`, `null`, `[{"_uuid":["uuid","a"],"nonsense":1}]`,
	} {
		f.Add([]byte(s))
	}
	sh, err := newShape(&model.Bridge{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		rows, err := (&Caller{shapes: map[string]*shape{model.BridgeTable: sh}, known: &strs{seed: maphash.MakeSeed()}}).decode(model.BridgeTable, json.RawMessage(data))
		if err != nil {
			return
		}
		for uuid, r := range rows {
			if b, ok := r.Row.(*model.Bridge); !ok || b.UUID != uuid || r.UUID != uuid {
				t.Errorf("%s: %+v", uuid, r.Row)
			}
		}
	})
}
