package control

import (
	"fmt"
	"testing"
	"time"

	"millrace/control/ovsdb"
	"millrace/control/ovsdb/flowmodel"
)

// manyFlow is an operation that inserts one of many different flows.
func manyFlow(i, priority int) ovsdb.Op {
	return ovsdb.Op{"op": "insert", "table": "Flow", "row": map[string]any{
		"bridge": "br0", "table": i % 4, "priority": priority, "cookie": i,
		"match":   fmt.Sprintf("ip4.src == 10.%d.%d.%d && ip4.dst == 192.168.%d.0/24 && tcp.dst == %d", i>>16, i>>8&255, i&255, i%250, 1+i%60000),
		"actions": fmt.Sprintf(`reg0 = %d; outport = "b"; output;`, i%7),
	}}
}

// putMany inserts flows, ten thousand at a time.
func (r *rig) putMany(n int) {
	for from := 0; from < n; from += 10_000 {
		var ops []ovsdb.Op
		for i := from; i < min(from+10_000, n); i++ {
			ops = append(ops, manyFlow(i, 100+i%1000))
		}
		r.put(ops...)
	}
}

// BenchmarkFlowStart: how long a control that starts takes until 100,000 rows of the
// database are in force in a dataplane that has none of them.
func BenchmarkFlowStart(b *testing.B) {
	const n = 100_000
	r := newFlowRig(b, (*rig).embedded)
	r.stop("control")
	r.putMany(n)
	for b.Loop() {
		b.StopTimer()
		r.stop("dataplane")
		r.dataplane()
		b.StartTimer()
		r.control()
		for r.sw.Tables().Rules() < n {
			time.Sleep(time.Millisecond)
		}
		b.StopTimer()
		r.stop("control")
		b.StartTimer()
	}
}

// BenchmarkFlowChange: how long it takes from the commit of a transaction until its
// rows are in force, beside 100,000 others.
func BenchmarkFlowChange(b *testing.B) {
	for _, n := range []int{1, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := newFlowRig(b, (*rig).embedded)
			r.putMany(100_000)
			r.until("all rules are in force", func() bool { return r.sw.Tables().Rules() > 100_000 })
			time.Sleep(3 * time.Second) // until all is told
			c := r.flowDB()
			defer c.Close()
			rows, err := c.Select(b.Context(), flowmodel.FlowTable, []any{[]any{"cookie", "<", n}})
			if err != nil || len(rows) != n {
				b.Fatal(len(rows), err)
			}
			round := 0
			b.ResetTimer()
			var total time.Duration
			for b.Loop() {
				round++
				ops := []ovsdb.Op{}
				for i := range rows {
					ops = append(ops, ovsdb.Op{"op": "update", "table": "Flow", "where": []any{[]any{"_uuid", "==", []any{"uuid", rows[i].UUID}}}, "row": map[string]any{"priority": 2000 + round%1000}})
				}
				before := r.sw.Tables().Version()
				if _, err := c.Transact(b.Context(), ops...); err != nil {
					b.Fatal(err)
				}
				began := time.Now()
				for r.sw.Tables().Version() == before {
					time.Sleep(50 * time.Microsecond)
				}
				total += time.Since(began)
			}
			b.ReportMetric(float64(total.Microseconds())/float64(b.N), "us-from-commit")
		})
	}
}

// BenchmarkFlowReplace: how long it takes from the commit of a transaction in which
// 10,000 rows go and 10,000 others come until these are in force.
func BenchmarkFlowReplace(b *testing.B) {
	const n = 10_000
	r := newFlowRig(b, (*rig).embedded)
	c := r.flowDB()
	defer c.Close()
	var ops [2][]ovsdb.Op
	for g := range ops {
		ops[g] = append(ops[g], ovsdb.Op{"op": "delete", "table": "Flow", "where": []any{}})
		for i := range n {
			ops[g] = append(ops[g], manyFlow(g*n+i, 100))
		}
	}
	var total time.Duration
	round := 0
	for b.Loop() {
		before := r.sw.Tables().Version()
		if _, err := c.Transact(b.Context(), ops[round%2]...); err != nil {
			b.Fatal(err)
		}
		round++
		began := time.Now()
		for r.sw.Tables().Version() == before {
			time.Sleep(50 * time.Microsecond)
		}
		total += time.Since(began)
		time.Sleep(300 * time.Millisecond) // until all is told
	}
	b.ReportMetric(float64(total.Microseconds())/float64(b.N), "us-from-commit")
}
