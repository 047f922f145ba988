package server_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"millrace/control/ovsdb/schema"
)

// TestDiskFull has a server under write load come to the end of its disk: a
// write is cut short. It ends and says why; every transaction that was
// acknowledged is in the file, and none by half.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	size := len(schema.OpenVSwitch)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), crashEnv+"="+dir, limitEnv+"="+strconv.Itoa(size+100_001))
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	socket := filepath.Join(dir, "db.sock")
	eventually(t, "the server listens", func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	var ledgers [writers]ledger
	var wg sync.WaitGroup
	var answered atomic.Bool
	for w := range writers {
		wg.Go(func() { // compactions make room, but there is no end of transactions
			writeUntilKilled(socket, 0, w, &ledgers[w], &answered)
		})
	}
	wg.Wait()
	if err := <-ended; err == nil || ctx.Err() != nil {
		t.Fatalf("the server did not end by itself: %v", err)
	}
	if !strings.Contains(said.String(), "write database") || !strings.Contains(said.String(), "file too large") {
		t.Errorf("the server says %q, want that it cannot write its file, and why", said.String())
	}
	if !answered.Load() {
		t.Error("nothing was acknowledged")
	}
	kill := startCrashServer(t, dir)
	checkLedgers(t, 1, dir, ledgers)
	kill()
}

// TestToolsTakeOurFile runs ovsdb-tool on a file that we have written,
// converted and compacted. What it refuses of ours, it refuses of its own.
func TestToolsTakeOurFile(t *testing.T) {
	need(t, "ovsdb-tool", "ovsdb-server")
	dir := t.TempDir()
	srv, socket, stop := serve(t, dir, nil)
	c := dial(t, socket)
	c.transact(object{"op": "insert", "table": "Open_vSwitch", "row": object{"next_cfg": 1}}, object{"op": "comment", "comment": "first"})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := srv.Compact(ctx, "Open_vSwitch"); err != nil {
		t.Fatal(err)
	}
	c.transact(object{"op": "update", "table": "Open_vSwitch", "where": list{}, "row": object{"next_cfg": 2}}, object{"op": "comment", "comment": "second"})
	stop()
	ours, stock := filepath.Join(dir, "conf.db"), filepath.Join(dir, "stock.db")
	run(t, "ovsdb-tool", "create", stock, schemaFile(t))
	for _, tt := range []struct{ args, want string }{
		{"db-name", "Open_vSwitch"}, {"db-version", "8.3.1"}, {"db-cksum", " "}, {"db-is-standalone", ""},
		{"show-log", "second"}, {"needs-conversion", "no"}, {"compact", ""}, {"show-log", "compact"}, {"db-version", "8.3.1"},
	} {
		args := []string{tt.args, ours}
		if tt.args == "needs-conversion" {
			args = append(args, schemaFile(t))
		}
		if got := run(t, "ovsdb-tool", args...); !strings.Contains(got, tt.want) {
			t.Errorf("ovsdb-tool %s: %.300s, want %q in it", tt.args, got, tt.want)
		}
	}
	var said [2]string
	for i, file := range []string{ours, stock} {
		out, err := exec.CommandContext(ctx, "ovsdb-tool", "check-cluster", file).CombinedOutput()
		if err == nil {
			t.Errorf("ovsdb-tool check-cluster takes the stand-alone %s", file)
		}
		said[i] = strings.ReplaceAll(string(out), file, "FILE")
	}
	if said[0] != said[1] || said[0] == "" {
		t.Errorf("ovsdb-tool check-cluster says\n%s\nof our file, and of its own\n%s", said[0], said[1])
	}
	stockSocket, _ := serveStock(t, dir, ours)
	rows := dial(t, stockSocket).transact(object{"op": "select", "table": "Open_vSwitch", "where": list{}, "columns": list{"next_cfg"}})
	if got := fmt.Sprint(rows); got != "[map[rows:[map[next_cfg:2]]]]" {
		t.Errorf("ovsdb-server reads %s, want next_cfg 2", got)
	}
}
