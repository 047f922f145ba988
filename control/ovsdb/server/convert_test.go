package server_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"millrace/control/ovsdb/schema"
	"millrace/control/ovsdb/server"
)

// newerSchema is the stock schema with a table and a column more, as text.
func newerSchema(t testing.TB) string {
	t.Helper()
	text := strings.Replace(schema.OpenVSwitch, `"version": "8.3.1"`, `"version": "8.99.0"`, 1)
	text = strings.Replace(text, `"Bridge": {
     "columns": {`, `"Extra": {"columns": {"n": {"type": "integer"}}, "isRoot": true}, "Bridge": {"columns": {"extra": {"type": {"key": "string", "min": 0, "max": 1}},`, 1)
	if !strings.Contains(text, "8.99.0") || !strings.Contains(text, "Extra") {
		t.Fatal("the schema's text is not as expected")
	}
	return text
}

// rest returns what a client gets until the server hangs up, decoded and
// without echo requests.
func (c *client) rest() []string {
	var out []string
	for {
		m, err := c.message()
		if err != nil {
			if !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
				out = append(out, err.Error())
			}
			return out
		}
		if m["method"] != "echo" {
			out = append(out, fmt.Sprint(normal(m)))
		}
	}
}

// converse converts the database at socket, and returns what everybody is told.
// Database _Server tells of it so many times; ovsdb-server 3.1 does not do it.
func converse(t *testing.T, socket, text string, tells int) map[string]any {
	t.Helper()
	out := map[string]any{}
	var to any
	if err := json.Unmarshal([]byte(text), &to); err != nil {
		t.Fatal(err)
	}
	aware, plain, idle, asks := dial(t, socket), dial(t, socket), dial(t, socket), dial(t, socket)
	out["aware"] = aware.call("set_db_change_aware", list{true})["error"]
	for _, c := range []*client{aware, plain} {
		c.call("monitor", list{"Open_vSwitch", "one", object{"Bridge": object{}}})
		c.call("monitor_cond_since", list{"Open_vSwitch", list{"since"}, object{"Bridge": object{}}, "00000000-0000-0000-0000-000000000000"})
	}
	aware.call("monitor", list{"_Server", "server", object{"Database": object{"columns": list{"name", "schema"}}}})
	aware.call("lock", list{"a"})
	waits := aware.send("transact", list{"Open_vSwitch", object{"op": "wait", "table": "Bridge", "where": list{}, "columns": list{"name"}, "until": "==", "rows": list{}}})
	aware.call("get_server_id", list{}) // the transaction waits now
	answer := asks.call("convert", list{"Open_vSwitch", to})
	out["answer"] = fmt.Sprint(answer["result"], answer["error"])
	out["asks"], out["plain"], out["idle"] = asks.rest(), plain.rest(), idle.rest()
	m := aware.answer(waits)
	out["waiting"] = fmt.Sprint(m["error"])
	canceled := map[string]bool{}
	told := 0
	note := func(m map[string]any) {
		switch m["method"] {
		case "monitor_canceled":
			canceled[fmt.Sprint(m["params"])] = true
		case "update":
			told++
		}
	}
	for _, n := range aware.notes {
		note(n)
	}
	aware.call("get_server_id", list{})
	for _, n := range aware.notes {
		note(n)
	}
	out["canceled"] = canceled
	if told != tells {
		t.Errorf("database _Server told of a new schema %d times, want %d", told, tells)
	}
	out["again"] = aware.call("monitor", list{"Open_vSwitch", "one", object{"Bridge": object{"columns": list{"name"}}}})["error"]
	version := aware.call("get_schema", list{"Open_vSwitch"})["result"].(object)["version"]
	out["version"] = version
	out["contents"] = contents(parsed(t, text), aware)
	return out
}

func parsed(t testing.TB, text string) *schema.Database {
	t.Helper()
	db, err := schema.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// TestConvert converts a database to its own schema, to one with a table and a
// column more, and back, here and in ovsdb-server: all clients are told the
// same, rows stay, and either server opens the other's file.
func TestConvert(t *testing.T) {
	need(t, "ovsdb-server", "ovsdb-tool", "ovsdb-client", "ovs-vsctl")
	dir := t.TempDir()
	stockFile := filepath.Join(dir, "stock.db")
	run(t, "ovsdb-tool", "create", stockFile, schemaFile(t))
	stockSocket, stopStock := serveStock(t, dir, stockFile)
	_, socket, stop := serve(t, dir, nil)
	const id = "11111111-2222-4333-8444-555555555555"
	for _, s := range []string{socket, stockSocket} {
		res := dial(t, s).transact(object{"op": "insert", "table": "Bridge", "uuid": "22222222-2222-4333-8444-555555555555", "uuid-name": "b", "row": object{"name": "br0"}},
			object{"op": "insert", "table": "Open_vSwitch", "uuid": id, "row": object{"next_cfg": 3, "bridges": list{"named-uuid", "b"}, "statistics": list{"map", list{list{"a", "b"}}}}})
		if strings.Contains(fmt.Sprint(res), "error") {
			t.Fatal(res)
		}
	}
	for _, tt := range []struct {
		name, text string
		tells      int
	}{{"same", schema.OpenVSwitch, 0}, {"newer", newerSchema(t), 1}, {"back", schema.OpenVSwitch, 1}} {
		got, want := converse(t, socket, tt.text, tt.tells), converse(t, stockSocket, tt.text, 0)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%s:\n ours %v\nstock %v", tt.name, got, want)
		}
	}
	newer := filepath.Join(dir, "newer")
	if err := os.WriteFile(newer, []byte(newerSchema(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	db := "unix:" + socket
	if got := run(t, "ovsdb-client", "needs-conversion", db, newer); strings.TrimSpace(got) != "yes" {
		t.Errorf("needs-conversion: %q", got)
	}
	run(t, "ovsdb-client", "--timeout=60", "convert", db, newer)
	run(t, "ovsdb-client", "--timeout=60", "convert", "unix:"+stockSocket, newer)
	if got := run(t, "ovsdb-client", "needs-conversion", db, newer); strings.TrimSpace(got) != "no" {
		t.Errorf("needs-conversion after convert: %q", got)
	}
	c := dial(t, socket)
	for _, c := range []*client{c, dial(t, stockSocket)} {
		c.transact(object{"op": "insert", "table": "Extra", "uuid": id, "row": object{"n": 7}})
	}
	want := contents(parsed(t, newerSchema(t)), c)
	stop()
	stopStock()
	swapped(t, parsed(t, newerSchema(t)), filepath.Join(dir, "conf.db"), stockFile, want)
}

// TestConvertUnderLoad converts to and fro while clients write and the file is
// compacted: nothing that was acknowledged is lost.
func TestConvertUnderLoad(t *testing.T) {
	dir := t.TempDir()
	srv, socket, stop := serve(t, dir, func(c *server.Config) { c.Probe = patience })
	c := dial(t, socket)
	c.call("set_db_change_aware", list{true})
	c.transact(object{"op": "insert", "table": "Open_vSwitch", "row": object{}})
	var schemas [2]any
	for i, text := range []string{newerSchema(t), schema.OpenVSwitch} {
		if err := json.Unmarshal([]byte(text), &schemas[i]); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error, 2)
	converter, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer converter.Close()
	cv := &client{t: t, conn: converter}
	cv.call("set_db_change_aware", list{true})
	go func() {
		for i := range 20 {
			if m := cv.call("convert", list{"Open_vSwitch", schemas[i%2]}); m["error"] != nil {
				done <- fmt.Errorf("convert: %v", m)
				return
			}
		}
		done <- nil
	}()
	go func() { done <- compactOften(srv) }()
	n := c.countWhile(2, done)
	stop()
	counted(t, dir, n)
}
