package server_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/go-logr/logr"
	libclient "github.com/ovn-kubernetes/libovsdb/client"
	"github.com/ovn-kubernetes/libovsdb/database/inmemory"
	"github.com/ovn-kubernetes/libovsdb/model"
	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"millrace/waittest"
)

// bridgeModel is part of a row of table Bridge.
type bridgeModel struct {
	UUID        string            `ovsdb:"_uuid"`
	Name        string            `ovsdb:"name"`
	ExternalIDs map[string]string `ovsdb:"external_ids"`
	Ports       []string          `ovsdb:"ports"`
}

// rootModel is part of the row of table Open_vSwitch.
type rootModel struct {
	UUID    string   `ovsdb:"_uuid"`
	Bridges []string `ovsdb:"bridges"`
	NextCfg int      `ovsdb:"next_cfg"`
}

// TestLibovsdb drives the server with the client that control uses.
func TestLibovsdb(t *testing.T) {
	_, socket, _ := serve(t, t.TempDir(), nil)
	dbModel, err := model.NewClientDBModel("Open_vSwitch", map[string]model.Model{"Bridge": &bridgeModel{}, "Open_vSwitch": &rootModel{}})
	if err != nil {
		t.Fatal(err)
	}
	log := logr.Discard()
	c, err := libclient.NewOVSDBClient(dbModel, libclient.WithEndpoint("unix:"+socket), libclient.WithLogger(&log), libclient.WithLeaderOnly(true))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.MonitorAll(ctx); err != nil {
		t.Fatal(err)
	}
	root := &rootModel{UUID: "root", Bridges: []string{"bridge"}}
	bridge := &bridgeModel{UUID: "bridge", Name: "br0", ExternalIDs: map[string]string{"a": "1"}}
	ops, err := c.Create(bridge)
	if err != nil {
		t.Fatal(err)
	}
	more, err := c.Create(root)
	if err != nil {
		t.Fatal(err)
	}
	transactLib(ctx, t, c, append(ops, more...))
	found := &bridgeModel{Name: "br0"} // found by its name, which is an index
	eventually(t, "the bridge is in the cache", func() bool { return c.Get(ctx, found) == nil })
	ops, err = c.Where(found).Mutate(found, model.Mutation{Field: &found.ExternalIDs, Mutator: ovsdb.MutateOperationInsert, Value: map[string]string{"b": "2"}})
	if err != nil {
		t.Fatal(err)
	}
	transactLib(ctx, t, c, ops)
	eventually(t, "the cache has both ids", func() bool { return c.Get(ctx, found) == nil && len(found.ExternalIDs) == 2 })
	var roots []rootModel
	if err := c.List(ctx, &roots); err != nil || len(roots) != 1 {
		t.Fatalf("%d roots, %v", len(roots), err)
	}
	roots[0].Bridges = nil
	if ops, err = c.Where(&roots[0]).Update(&roots[0], &roots[0].Bridges); err != nil {
		t.Fatal(err)
	}
	transactLib(ctx, t, c, ops)
	eventually(t, "the bridge is gone, as garbage", func() bool { return c.Get(ctx, found) != nil })
}

func transactLib(ctx context.Context, t *testing.T, c libclient.Client, ops []ovsdb.Operation) {
	t.Helper()
	res, err := c.Transact(ctx, ops...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ovsdb.CheckOperationResults(res, ops); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	waittest.Until(t, what, ok)
}

// flowModel is a row of flowSchema.
type flowModel struct {
	UUID        string            `ovsdb:"_uuid"`
	Table       int               `ovsdb:"table"`
	Priority    int               `ovsdb:"priority"`
	Match       string            `ovsdb:"match"`
	Actions     string            `ovsdb:"actions"`
	Datapath    *string           `ovsdb:"datapath"`
	ExternalIDs map[string]string `ovsdb:"external_ids"`
}

// BenchmarkLibovsdbEngine measures a transaction of 1,000 inserts in libovsdb's
// own database: the figure for which ours was written.
func BenchmarkLibovsdbEngine(b *testing.B) {
	dbModel, err := model.NewClientDBModel("Flows", map[string]model.Model{"Flow": &flowModel{}})
	if err != nil {
		b.Fatal(err)
	}
	var s ovsdb.DatabaseSchema
	if err := json.Unmarshal([]byte(flowSchema), &s); err != nil {
		b.Fatal(err)
	}
	log := logr.Discard()
	db := inmemory.NewDatabase(map[string]model.ClientDBModel{"Flows": dbModel}, &log)
	if err := db.CreateDatabase("Flows", s); err != nil {
		b.Fatal(err)
	}
	const rows = 1000
	for b.Loop() {
		var ops []ovsdb.Operation
		for i := range rows {
			ops = append(ops, ovsdb.Operation{Op: "insert", Table: "Flow", Row: ovsdb.Row{"table": i, "match": "ip4", "actions": "next;"}})
		}
		_, update := db.NewTransaction("Flows").Transact(ops...)
		if err := db.Commit("Flows", [16]byte{}, update); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)/rows*1e6, "us/row")
}
