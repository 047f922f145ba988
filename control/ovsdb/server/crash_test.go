package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millrace/control/ovsdb/schema"
	"millrace/control/ovsdb/server"
)

// crashEnv, when it names a directory, makes the test binary a server there.
const crashEnv = "MILLRACE_CRASH_DIR"

// limitEnv is the size over which that server can write no file: its disk is
// full then.
const limitEnv = "MILLRACE_CRASH_LIMIT"

// TestMain runs the tests, or the server that TestCrash kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashEnv); dir != "" {
		fmt.Fprintln(os.Stderr, crashServer(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// crashServer serves in dir and compacts all the time, until it is killed.
func crashServer(dir string) error {
	if s := os.Getenv(limitEnv); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return err
		}
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: n, Max: n}); err != nil {
			return err
		}
	}
	srv, err := server.Open(server.Config{
		Databases: []server.Database{{Path: filepath.Join(dir, "conf.db"), Schema: schema.OpenVSwitch}},
		Listen:    []string{"punix:" + filepath.Join(dir, "db.sock")},
	})
	if err != nil {
		return err
	}
	go func() {
		for {
			_ = srv.Compact(context.Background(), "Open_vSwitch") // killed at some time
		}
	}()
	return srv.Serve(context.Background())
}

// writers is how many clients write while the server is killed.
const writers = 4

// A ledger is what one writer knows: how many of its transactions were
// acknowledged, and how many were sent.
type ledger struct{ acked, sent int }

// TestCrash kills a server under write load, again and again. Every transaction
// that was acknowledged must be there after it, and none by half.
func TestCrash(t *testing.T) {
	rounds := 5
	if s := os.Getenv("MILLRACE_CRASHES"); s != "" {
		rounds, _ = strconv.Atoi(s)
	}
	dir := t.TempDir()
	var ledgers [writers]ledger
	acked := 0
	for round := range rounds {
		kill := startCrashServer(t, dir)
		ledgers = checkLedgers(t, round, dir, ledgers)
		var wg sync.WaitGroup
		var answered atomic.Bool
		for w := range writers {
			wg.Go(func() { writeUntilKilled(filepath.Join(dir, "db.sock"), round, w, &ledgers[w], &answered) })
		}
		eventually(t, "something is acknowledged", answered.Load)
		time.Sleep(time.Duration(20+rand.IntN(80)) * time.Millisecond) // the load that is cut short
		kill()
		wg.Wait()
		for _, l := range ledgers {
			acked += l.acked
		}
	}
	kill := startCrashServer(t, dir)
	checkLedgers(t, rounds, dir, ledgers)
	kill()
	t.Logf("%d kills, %d transactions acknowledged", rounds, acked)
	if _, err := exec.LookPath("ovsdb-tool"); err == nil {
		run(t, "ovsdb-tool", "db-version", filepath.Join(dir, "conf.db"))
	}
}

// startCrashServer starts a server in a process of its own, and returns the
// function that kills it.
func startCrashServer(t *testing.T, dir string) (kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashEnv+"="+dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(kill)
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if c, err := net.Dial("unix", filepath.Join(dir, "db.sock")); err == nil {
			c.Close()
			return kill
		}
		if time.Now().After(deadline) {
			t.Fatal("server does not come up")
		}
	}
}

// writeUntilKilled runs transactions of two rows each and counts those that
// were acknowledged. It sets answered when there is one.
func writeUntilKilled(socket string, round, writer int, l *ledger, answered *atomic.Bool) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	answers := json.NewDecoder(conn)
	for *l = (ledger{}); ; l.acked++ {
		l.sent++
		row := object{"external_ids": list{"map", list{list{"round", strconv.Itoa(round)}, list{"writer", strconv.Itoa(writer)}, list{"n", strconv.Itoa(l.acked)}}}}
		b, _ := json.Marshal(object{"id": l.sent, "method": "transact", "params": list{"Open_vSwitch",
			object{"op": "insert", "table": "QoS", "row": row}, object{"op": "insert", "table": "Queue", "row": row}}})
		if _, err := conn.Write(b); err != nil {
			return
		}
		var answer object
		if answers.Decode(&answer) != nil {
			return
		}
		answered.Store(true)
	}
}

// checkLedgers compares the rows with what the writers of the round before
// know, removes them, and returns empty ledgers.
func checkLedgers(t *testing.T, round int, dir string, ledgers [writers]ledger) [writers]ledger {
	t.Helper()
	c := dial(t, filepath.Join(dir, "db.sock"))
	defer c.conn.Close()
	halves := map[string]int{}
	for _, table := range []string{"QoS", "Queue"} {
		res := c.transact(object{"op": "select", "table": table, "where": list{}, "columns": list{"_uuid", "external_ids"}})
		for _, row := range res[0].(object)["rows"].(list) {
			halves[fmt.Sprint(row.(object)["external_ids"])]++
		}
	}
	for key, n := range halves {
		if n != 2 {
			t.Fatalf("round %d: half a transaction: %s", round, key)
		}
	}
	total := 0
	for w, l := range ledgers {
		for n := range l.acked {
			key := fmt.Sprintf("[map [[n %d] [round %d] [writer %d]]]", n, round-1, w)
			if halves[key] == 0 {
				t.Fatalf("round %d: acknowledged transaction %s is lost", round, key)
			}
		}
		total += l.sent
	}
	if len(halves) > total {
		t.Fatalf("round %d: %d transactions are there, %d were sent", round, len(halves), total)
	}
	c.transact(object{"op": "delete", "table": "QoS", "where": list{}}, object{"op": "delete", "table": "Queue", "where": list{}})
	return [writers]ledger{}
}
