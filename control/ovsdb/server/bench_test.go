package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"millrace/control/ovsdb/server"
)

// BenchmarkTransact measures durable transactions that change one row.
func BenchmarkTransact(b *testing.B) {
	for _, clients := range []int{1, 16} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			_, socket, _ := serve(b, b.TempDir(), quiet)
			dial(b, socket).transact(object{"op": "insert", "table": "Open_vSwitch", "row": object{}})
			b.ResetTimer()
			var wg sync.WaitGroup
			for i := range clients {
				n := b.N / clients
				if i == 0 {
					n = b.N - n*(clients-1)
				}
				wg.Go(func() { mutateTimes(b, socket, n) })
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "transactions/s")
		})
	}
}

func quiet(c *server.Config) { c.Log = zap.NewNop() }

// mutateTimes runs n transactions, one after another.
func mutateTimes(b *testing.B, socket string, n int) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		b.Error(err)
		return
	}
	defer conn.Close()
	answers := json.NewDecoder(conn)
	req := []byte(`{"id":1,"method":"transact","params":["Open_vSwitch",{"op":"mutate","table":"Open_vSwitch","where":[],"mutations":[["next_cfg","+=",1]]}]}`)
	for range n {
		var answer json.RawMessage
		if _, err := conn.Write(req); err != nil {
			b.Error(err)
			return
		}
		if err := answers.Decode(&answer); err != nil || strings.Contains(string(answer), `"details"`) {
			b.Errorf("%s: %v", answer, err)
			return
		}
	}
}

// flowSchema is a table of the shape of a logical flow.
const flowSchema = `{"name":"Flows","version":"1.0.0","tables":{"Flow":{"isRoot":true,"columns":{
	"table":{"type":"integer"},"priority":{"type":"integer"},"match":{"type":"string"},"actions":{"type":"string"},
	"datapath":{"type":{"key":"uuid","min":0,"max":1}},"external_ids":{"type":{"key":"string","value":"string","min":0,"max":"unlimited"}}}}}}`

// loadFlows inserts n rows in transactions of 1,000.
func loadFlows(b *testing.B, c *client, n int) {
	for start := 0; start < n; start += 1000 {
		ops := list{"Flows"}
		for i := start; i < start+1000; i++ {
			ops = append(ops, object{"op": "insert", "table": "Flow", "row": object{
				"table": i % 30, "priority": i % 1000, "match": fmt.Sprintf("inport == \"lsp-%d\" && ip4.dst == 10.%d.%d.%d && tcp.dst == 80", i, i>>16&255, i>>8&255, i&255),
				"actions": fmt.Sprintf("reg0 = %d; next;", i), "datapath": list{"uuid", fmt.Sprintf("00000000-0000-4000-8000-%012x", i%100)},
				"external_ids": list{"map", list{list{"source", "northd.c:12345"}, list{"stage-name", "ls_in_acl"}}}}})
		}
		m := c.call("transact", ops)
		if m["error"] != nil {
			b.Fatal(m)
		}
	}
}

// BenchmarkLoad measures how long a client that monitors takes to get 100,000
// rows, how much memory they take, and how long the file takes to open.
func BenchmarkLoad(b *testing.B) {
	const rows = 100_000
	dir := b.TempDir()
	path := filepath.Join(dir, "flows.db")
	flows := func(c *server.Config) {
		quiet(c)
		c.Databases = []server.Database{{Path: path, Schema: flowSchema}}
	}
	srv, socket, stop := serve(b, dir, flows)
	before := heap()
	start := time.Now()
	loadFlows(b, dial(b, socket), rows)
	inserted := time.Since(start)
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	if err := srv.Compact(ctx, "Flows"); err != nil {
		b.Fatal(err)
	}
	st, err := srv.Stats(ctx)
	if err != nil {
		b.Fatal(err)
	}
	memory := float64(heap()-before) / float64(st.Databases[0].FileSize)
	stop()
	start = time.Now()
	_, socket, _ = serve(b, dir, flows)
	opened := time.Since(start)
	for b.Loop() {
		c := dial(b, socket)
		c.send("monitor_cond", list{"Flows", 1, object{"Flow": object{}}})
		raw, err := c.raw()
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(raw)))
		c.conn.Close()
	}
	b.ReportMetric(inserted.Seconds(), "s/insert")
	b.ReportMetric(opened.Seconds(), "s/open")
	b.ReportMetric(memory, "heap/file")
}

// heap returns the bytes in use.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
