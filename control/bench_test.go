package control

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	libovsdb "github.com/ovn-kubernetes/libovsdb/ovsdb"

	"millrace/control/ovsdb"
	"millrace/control/ovsdb/model"
)

// BenchmarkAddPort is the time from the commit of a port's rows to its ofport
// as another client of the database sees it, at 10 and at 1,000 ports.
func BenchmarkAddPort(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := newRig(b)
			r.setUp(n)
			c := r.client()
			bridge := r.vsctl("--no-wait", "get", "bridge", "br0", "_uuid")
			var took []time.Duration
			for b.Loop() { // each adds to them
				name := fmt.Sprint("more", len(took))
				began := time.Now()
				c.add(bridge, name)
				c.until(b, func(row *model.Interface) bool { return row != nil && row.Name == name && row.Ofport != nil })
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms/median")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms/p99")
		})
	}
}

// A watcher is another client of the database.
type watcher struct {
	*ovsdb.Client
	t testing.TB
}

func (r *rig) client() watcher {
	r.t.Helper()
	c, err := ovsdb.New(ovsdb.Config{Endpoints: []string{r.endpoint()}, Schema: model.Schema(), Tables: []ovsdb.Table{
		{Name: model.InterfaceTable, Row: &model.Interface{}, Watch: []string{"name", "ofport"}},
	}})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { c.Run(ctx); close(ended) }()
	r.t.Cleanup(func() { cancel(); <-ended })
	r.until("second client", func() bool { return c.Take().Connected })
	return watcher{c, r.t}
}

// until waits for an Interface row.
func (w watcher) until(t testing.TB, ok func(*model.Interface) bool) {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case <-w.Ready():
		case <-late:
			t.Fatal("row did not come")
		}
		for _, c := range w.Take().Changes {
			if row, _ := c.Row.(*model.Interface); ok(row) {
				return
			}
		}
	}
}

func (w watcher) transact(ops ...libovsdb.Operation) {
	w.t.Helper()
	if err := w.Transact(w.t.Context(), ops...); err != nil {
		w.t.Fatal(err)
	}
}

// where is the condition of a bridge's UUID.
func where(uuid string) []libovsdb.Condition {
	return []libovsdb.Condition{libovsdb.NewCondition("_uuid", libovsdb.ConditionEqual, libovsdb.UUID{GoUUID: uuid})}
}

// add makes the rows of a port, as CNI plugins do.
func (w watcher) add(bridge, name string) {
	w.t.Helper()
	w.transact(
		libovsdb.Operation{Op: "insert", Table: "Interface", UUIDName: "i", Row: libovsdb.Row{"name": name, "type": "dpdkvhostuser"}},
		libovsdb.Operation{Op: "insert", Table: "Port", UUIDName: "p", Row: libovsdb.Row{"name": name, "interfaces": libovsdb.UUID{GoUUID: "i"}}},
		libovsdb.Operation{Op: "mutate", Table: "Bridge", Where: where(bridge), Mutations: []libovsdb.Mutation{
			{Column: "ports", Mutator: "insert", Value: libovsdb.OvsSet{GoSet: []any{libovsdb.UUID{GoUUID: "p"}}}},
		}},
	)
}
