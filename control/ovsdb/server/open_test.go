package server_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"millrace/control/ovsdb/schema"
	"millrace/control/ovsdb/server"
)

// TestSchemaVersions opens a file with an older schema, which is converted,
// and with a newer one, which it keeps.
func TestSchemaVersions(t *testing.T) {
	dir := t.TempDir()
	version := func(v string) func(*server.Config) {
		return func(c *server.Config) {
			c.Databases[0].Schema = strings.Replace(schema.OpenVSwitch, `"version": "8.3.1"`, `"version": "`+v+`"`, 1)
		}
	}
	for i, tt := range []struct{ ours, want string }{{"8.2.9", "8.2.9"}, {"8.10.0", "8.10.0"}, {"8.3.1", "8.10.0"}} {
		_, socket, stop := serve(t, dir, version(tt.ours))
		c := dial(t, socket)
		if i == 0 {
			c.transact(object{"op": "insert", "table": "Open_vSwitch", "row": object{"next_cfg": 7}})
		}
		got := c.call("get_schema", list{"Open_vSwitch"})["result"].(object)["version"]
		rows := c.transact(object{"op": "select", "table": "Open_vSwitch", "where": list{}, "columns": list{"next_cfg"}})
		if got != tt.want || fmt.Sprint(rows) != "[map[rows:[map[next_cfg:7]]]]" {
			t.Errorf("step %d: version %v and rows %v, want %s and the row", i, got, rows, tt.want)
		}
		stop()
	}
}

// TestFileIsLocked has ovsdb-tool refuse to write a file that is being served.
func TestFileIsLocked(t *testing.T) {
	need(t, "ovsdb-tool")
	dir := t.TempDir()
	serve(t, dir, nil)
	if out, err := exec.CommandContext(t.Context(), "ovsdb-tool", "transact", filepath.Join(dir, "conf.db"), `["Open_vSwitch",{"op":"comment","comment":"x"}]`).CombinedOutput(); err == nil {
		t.Errorf("ovsdb-tool wrote to the file: %s", out)
	}
}

// TestSocketInUse has a second server refuse the first one's socket, and take
// over that of a dead one.
func TestSocketInUse(t *testing.T) {
	dir := t.TempDir()
	_, socket, _ := serve(t, dir, nil)
	other := server.Config{Databases: []server.Database{{Path: filepath.Join(t.TempDir(), "db"), Schema: schema.OpenVSwitch}}, Listen: []string{"punix:" + socket}}
	if _, err := server.Open(other); !errors.Is(err, server.ErrInUse) {
		t.Errorf("Open: %v, want ErrInUse", err)
	}
	other.Listen = []string{"pssl:0"}
	if _, err := server.Open(other); err == nil {
		t.Error("pssl without a certificate is no error")
	}
}

// TestTCP talks to the server by TCP and TLS.
func TestTCP(t *testing.T) {
	web := httptest.NewTLSServer(nil) // for its certificate
	conf := web.TLS
	web.Close()
	srv, _, _ := serve(t, t.TempDir(), func(c *server.Config) {
		c.Listen = append(c.Listen, "ptcp:0:127.0.0.1", "pssl:0:127.0.0.1")
		c.TLS = conf
	})
	plain, err := tls.Dial("tcp", srv.Addrs()[2].String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	c := &client{t: t, conn: plain}
	if got := c.call("list_dbs", list{})["error"]; got != nil {
		t.Errorf("by TLS: %v", got)
	}
	if _, err := exec.LookPath("ovsdb-client"); err == nil {
		if got := run(t, "ovsdb-client", "list-dbs", "tcp:"+srv.Addrs()[1].String()); !strings.Contains(got, "Open_vSwitch") {
			t.Errorf("by TCP: %s", got)
		}
	}
}

// TestCompactUnderLoad compacts while transactions run, and reads the file.
func TestCompactUnderLoad(t *testing.T) {
	dir := t.TempDir()
	srv, socket, stop := serve(t, dir, nil)
	c := dial(t, socket)
	c.transact(object{"op": "insert", "table": "Open_vSwitch", "row": object{}})
	done := make(chan error, 1)
	go func() { done <- compactOften(srv) }()
	n := c.countWhile(1, done)
	stop()
	counted(t, dir, n)
	if err := srv.Compact(t.Context(), "Open_vSwitch"); !errors.Is(err, server.ErrClosed) {
		t.Errorf("Compact of a server that has ended: %v", err)
	}
}
