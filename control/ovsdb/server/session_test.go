package server_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"millrace/control/ovsdb/server"
)

// TestLocks takes a lock through all its states.
func TestLocks(t *testing.T) {
	_, socket, _ := serve(t, t.TempDir(), nil)
	a, b, c := dial(t, socket), dial(t, socket), dial(t, socket)
	locked := func(cl *client, method string) any {
		t.Helper()
		return cl.call(method, list{"l"})["result"].(object)["locked"]
	}
	next := func(cl *client) any {
		t.Helper()
		m, err := cl.message()
		if err != nil {
			t.Fatal(err)
		}
		return m["method"]
	}
	assert := func(cl *client, want string) {
		t.Helper()
		got := cl.transact(object{"op": "assert", "lock": "l"})[0].(object)["error"]
		if fmt.Sprint(got) != want {
			t.Errorf("assert: %v, want %s", got, want)
		}
	}
	if locked(a, "lock") != true || locked(b, "lock") != false {
		t.Fatal("the first of two does not hold the lock")
	}
	assert(a, "<nil>")
	assert(b, "not owner")
	if a.call("lock", list{"l"})["error"] == nil {
		t.Error("locking twice is no error")
	}
	if locked(c, "steal") != true || next(a) != "stolen" {
		t.Error("steal does not steal")
	}
	c.call("unlock", list{"l"})
	if next(b) != "locked" {
		t.Error("the next in the queue does not learn that it holds the lock")
	}
	a.call("unlock", list{"l"})
	if locked(a, "lock") != false {
		t.Error("lock is held twice")
	}
	b.conn.Close()
	if next(a) != "locked" {
		t.Error("a closed connection keeps its lock")
	}
}

// TestWaits checks transactions that wait: fulfilled by another, out of time,
// and canceled.
func TestWaits(t *testing.T) {
	_, socket, _ := serve(t, t.TempDir(), nil)
	a, b := dial(t, socket), dial(t, socket)
	b.transact(object{"op": "insert", "table": "Open_vSwitch", "row": object{}})
	wait := object{"op": "wait", "table": "Open_vSwitch", "where": list{}, "columns": list{"next_cfg"}, "until": "==", "rows": list{object{"next_cfg": 5}}}
	id := a.send("transact", list{"Open_vSwitch", wait, object{"op": "mutate", "table": "Open_vSwitch", "where": list{}, "mutations": list{list{"cur_cfg", "+=", 1}}}})
	b.transact(object{"op": "update", "table": "Open_vSwitch", "where": list{}, "row": object{"next_cfg": 4}})
	b.transact(object{"op": "update", "table": "Open_vSwitch", "where": list{}, "row": object{"next_cfg": 5}})
	if m := a.answer(id); fmt.Sprint(m["result"]) != "[map[] map[count:1]]" {
		t.Errorf("wait that was fulfilled: %v", m)
	}
	b.transact(object{"op": "update", "table": "Open_vSwitch", "where": list{}, "row": object{"next_cfg": 6}})
	wait["timeout"] = 30
	start := time.Now()
	if got := a.transact(wait)[0].(object)["error"]; got != "timed out" || time.Since(start) < 30*time.Millisecond {
		t.Errorf("wait of 30 ms: %v after %v", got, time.Since(start))
	}
	delete(wait, "timeout")
	id = a.send("transact", list{"Open_vSwitch", wait})
	a.call("list_dbs", list{}) // the transaction waits by now
	if _, err := fmt.Fprintf(a.conn, `{"method":"cancel","params":[%d],"id":null}`, id); err != nil {
		t.Fatal(err)
	}
	if m := a.answer(id); m["error"] != "canceled" {
		t.Errorf("canceled transaction: %v", m)
	}
}

// TestMethods checks small requests, right and wrong ones.
func TestMethods(t *testing.T) {
	_, socket, _ := serve(t, t.TempDir(), nil)
	c := dial(t, socket)
	tests := []struct {
		method string
		params any
		want   string // part of the answer
	}{
		{"echo", list{"a", 1}, "result:[a 1]"},
		{"list_dbs", list{}, "[Open_vSwitch _Server]"},
		{"get_server_id", nil, "-"},
		{"set_db_change_aware", list{true}, "result:map[]"},
		{"get_schema", list{"No"}, "unknown database"},
		{"transact", list{"No"}, "unknown database"},
		{"transact", list{}, "syntax error"},
		{"transact", list{"_Server", object{"op": "delete", "table": "Database", "where": list{}}}, "not allowed"},
		{"monitor", list{"Open_vSwitch", 1, object{"No": object{}}}, "syntax error"},
		{"monitor", list{"Open_vSwitch", 1, object{"Bridge": object{"columns": list{"no"}}}}, "syntax error"},
		{"monitor", list{"Open_vSwitch", 1, object{"Bridge": object{}}}, "result:map[]"},
		{"monitor", list{"Open_vSwitch", 1, object{"Bridge": object{}}}, "duplicate monitor ID"},
		{"monitor_cancel", list{1}, "result:map[]"},
		{"monitor_cancel", list{1}, "unknown monitor"},
		{"monitor_cond_change", list{1, 1, object{}}, "unknown monitor"},
		{"unlock", list{"l"}, "syntax error"},
		{"lock", list{"0"}, "syntax error"},
		{"convert", list{"Open_vSwitch", object{}}, "syntax error"},
		{"convert", list{"No", object{}}, "unknown database"},
		{"convert", list{"_Server", object{"name": "_Server", "version": "1.0.0", "tables": object{}}}, "invalid parameters"},
		{"nonsense", list{}, "unknown method"},
	}
	for _, tt := range tests {
		if got := fmt.Sprint(c.call(tt.method, tt.params)); !strings.Contains(got, tt.want) {
			t.Errorf("%s %v: %s, want %q in it", tt.method, tt.params, got, tt.want)
		}
	}
}

// TestSlowClient has a client that never reads: it is cut off, and others are
// not held up by it.
func TestSlowClient(t *testing.T) {
	srv, socket, _ := serve(t, t.TempDir(), func(c *server.Config) { c.MaxQueue = 1 << 20 })
	slow, good := dial(t, socket), dial(t, socket)
	slow.call("monitor", list{"Open_vSwitch", 1, object{"Open_vSwitch": object{}}})
	good.transact(object{"op": "insert", "table": "Open_vSwitch", "row": object{}})
	long := strings.Repeat("x", 100_000)
	for i := range 100 {
		res := good.transact(object{"op": "update", "table": "Open_vSwitch", "where": list{}, "row": object{"ovs_version": long[i:]}})
		if fmt.Sprint(res) != "[map[count:1]]" {
			t.Fatal(res)
		}
	}
	st, err := srv.Stats(t.Context())
	if err != nil || st.Cut != 1 {
		t.Errorf("%d clients were cut off (%v), want 1", st.Cut, err)
	}
}

// TestHalfOpen has a client that says nothing: it is probed, then dropped.
func TestHalfOpen(t *testing.T) {
	_, socket, _ := serve(t, t.TempDir(), func(c *server.Config) { c.Probe = 50 * time.Millisecond })
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil || !strings.Contains(string(got), `"echo"`) {
		t.Errorf("silent client was told %q, %v; want an echo request, then the end", got, err)
	}
}

// TestTooLarge sends more than the server takes.
func TestTooLarge(t *testing.T) {
	_, socket, _ := serve(t, t.TempDir(), func(c *server.Config) { c.MaxMessage = 1000 })
	c := dial(t, socket)
	c.send("echo", list{strings.Repeat("x", 2000)})
	if m, err := c.message(); err == nil {
		t.Errorf("message of 2000 bytes was answered: %v", m)
	}
}

// TestWaitingLimit has a client with too many transactions that wait.
func TestWaitingLimit(t *testing.T) {
	_, socket, _ := serve(t, t.TempDir(), func(c *server.Config) { c.MaxMessage = 1000 })
	c := dial(t, socket)
	wait := object{"op": "wait", "table": "Bridge", "where": list{}, "columns": list{"name"}, "until": "!=", "rows": list{}}
	id := 0
	for range 20 {
		id = c.send("transact", list{"Open_vSwitch", wait})
	}
	m := c.answer(id)
	if !strings.Contains(fmt.Sprint(m), "resources exhausted") {
		t.Errorf("20th waiting transaction: %v", m)
	}
}

// TestDuplicateID: a request with the id of one that waits is refused, as by the
// stock server. All that a client has waiting is known by its id, and goes with
// the client.
func TestDuplicateID(t *testing.T) {
	srv, socket, _ := serve(t, t.TempDir(), nil)
	c := dial(t, socket)
	for range 3 {
		c.next = 6 // all of them are request 7
		c.send("transact", list{"Open_vSwitch", object{"op": "wait", "table": "Bridge", "where": list{}, "columns": list{"name"}, "until": "!=", "rows": list{}}})
	}
	for range 2 {
		if m := c.answer(7); !strings.Contains(fmt.Sprint(m["error"]), "duplicate request ID") {
			t.Errorf("answer %v", m)
		}
	}
	waiting := func() int {
		st, err := srv.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return st.Databases[0].Waiting
	}
	if n := waiting(); n != 1 {
		t.Errorf("%d transactions wait, want 1", n)
	}
	c.conn.Close()
	eventually(t, "nothing waits for a client that has gone", func() bool { return waiting() == 0 })
}
