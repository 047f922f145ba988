package ovsdb_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"millrace/control/ovsdb"
	"millrace/control/ovsdb/flowmodel"
	"millrace/control/ovsdb/schema"
	"millrace/control/ovsdb/server"
)

// flowRows is how many rows of Flow the benchmarks have.
const flowRows = 100_000

// insertFlows puts rows into a database, some thousands at a time.
func insertFlows(b *testing.B, endpoint string) {
	b.Helper()
	c, err := ovsdb.Dial(b.Context(), ovsdb.Config{Endpoints: []string{endpoint}, Schema: flowmodel.Schema()})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for from := 0; from < flowRows; from += 10_000 {
		var ops []ovsdb.Op
		for i := from; i < min(from+10_000, flowRows); i++ {
			ops = append(ops, ovsdb.Op{"op": "insert", "table": "Flow", "row": map[string]any{
				"bridge": "br0", "table": i % 4, "priority": i % 1000, "cookie": i,
				"match":   fmt.Sprintf("ip4.src == 10.%d.%d.%d && ip4.dst == 192.168.%d.0/24 && tcp.dst == %d", i>>16, i>>8&255, i&255, i%250, 1+i%60000),
				"actions": fmt.Sprintf(`reg0 = %d; outport = "p%d"; output;`, i%7, 1+i%4),
			}})
		}
		if _, err := c.Transact(b.Context(), ops...); err != nil {
			b.Fatal(err)
		}
	}
}

// flowClient reads all rows of Flow, and returns how long it took.
func flowClient(b *testing.B, endpoint string) time.Duration {
	b.Helper()
	c, err := ovsdb.New(ovsdb.Config{Endpoints: []string{endpoint}, Schema: flowmodel.Schema(), Tables: []ovsdb.Table{{
		Name: flowmodel.FlowTable, Row: &flowmodel.Flow{},
		Watch: []string{"actions", "bridge", "cookie", "match", "priority", "table"}, Once: []string{"error", "n_bytes", "n_packets", "status"},
	}}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	began := time.Now()
	go c.Run(ctx)
	for range c.Ready() {
		if batch := c.Take(); batch.Reset {
			if len(batch.Changes) != flowRows {
				b.Fatalf("%d rows", len(batch.Changes))
			}
			return time.Since(began)
		}
	}
	return 0
}

// BenchmarkLoadFlows: 100,000 rows of Flow from a server into structs.
func BenchmarkLoadFlows(b *testing.B) {
	for _, kind := range []string{"embedded", "stock"} {
		b.Run(kind, func(b *testing.B) {
			dir := b.TempDir()
			socket := filepath.Join(dir, "s")
			start := map[string]func(*testing.B, string, string){"embedded": embeddedFlows, "stock": stockFlows}[kind]
			start(b, dir, socket)
			insertFlows(b, "unix:"+socket)
			b.ResetTimer()
			for b.Loop() {
				flowClient(b, "unix:"+socket)
			}
		})
	}
}

func embeddedFlows(b *testing.B, dir, socket string) {
	srv, err := server.Open(server.Config{Databases: []server.Database{{Path: filepath.Join(dir, "flows.db"), Schema: schema.Millrace}}, Listen: []string{"punix:" + socket}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ctx) }()
	b.Cleanup(func() { cancel(); <-ended; srv.Close() })
}

func stockFlows(b *testing.B, dir, socket string) {
	for _, tool := range []string{"ovsdb-server", "ovsdb-tool"} {
		if _, err := exec.LookPath(tool); err != nil {
			b.Skip("needs " + tool)
		}
	}
	file, text := filepath.Join(dir, "flows.db"), filepath.Join(dir, "schema")
	if err := os.WriteFile(text, []byte(schema.Millrace), 0o600); err != nil {
		b.Fatal(err)
	}
	if out, err := exec.Command("ovsdb-tool", "create", file, text).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command("ovsdb-server", "--remote=punix:"+socket, "--unixctl="+filepath.Join(dir, "c"), "--no-chdir", file)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			return
		}
		if time.Now().After(end) {
			b.Fatal("ovsdb-server does not listen")
		}
	}
}
