package ovsdb_test

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/control/ovsdb"
	"millrace/control/ovsdb/model"
	"millrace/control/ovsdb/schema"
	"millrace/control/ovsdb/server"
)

// limit is how long a test waits for what must come.
const limit = time.Minute

// embedded serves a database until the test ends and returns its endpoint.
func embedded(t *testing.T) string {
	t.Helper()
	unix, _ := embeddedBoth(t)
	return unix
}

// embeddedBoth is embedded with the endpoint for TCP, too.
func embeddedBoth(t *testing.T) (unix, tcp string) {
	t.Helper()
	dir := t.TempDir()
	srv, err := server.Open(server.Config{
		Databases: []server.Database{{Path: filepath.Join(dir, "conf.db"), Schema: schema.OpenVSwitch}},
		Listen:    []string{"punix:" + filepath.Join(dir, "db.sock"), "ptcp:0:127.0.0.1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, srv.Close()); err != nil {
			t.Error(err)
		}
	})
	return "unix:" + filepath.Join(dir, "db.sock"), "tcp:" + srv.Addrs()[1].String()
}

// stock is embedded with ovsdb-server.
func stock(t *testing.T) string {
	t.Helper()
	const schemaFile = "/usr/share/openvswitch/vswitch.ovsschema"
	for _, tool := range []string{"ovsdb-server", "ovsdb-tool"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs " + tool)
		}
	}
	dir := t.TempDir()
	file, socket := filepath.Join(dir, "conf.db"), filepath.Join(dir, "db.sock")
	if out, err := exec.Command("ovsdb-tool", "create", file, schemaFile).CombinedOutput(); err != nil {
		t.Skipf("needs %s: %s", schemaFile, out)
	}
	cmd := exec.Command("ovsdb-server", "--remote=punix:"+socket, "--unixctl="+filepath.Join(dir, "ctl"), "--no-chdir", "-vconsole:off", "-vsyslog:off", file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return "unix:" + socket
		}
		if time.Now().After(end) {
			t.Fatal("ovsdb-server does not listen")
		}
	}
}

func dial(t *testing.T, endpoints ...string) *ovsdb.Caller {
	t.Helper()
	c, err := ovsdb.Dial(t.Context(), ovsdb.Config{Endpoints: endpoints, Schema: model.Schema(), Tables: []ovsdb.Table{
		{Name: model.OpenvSwitchTable, Row: &model.OpenvSwitch{}, Watch: []string{"bridges", "next_cfg"}},
		{Name: model.BridgeTable, Row: &model.Bridge{}, Watch: []string{"name", "flood_vlans"}, Once: []string{"other_config"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestCaller makes transactions, reads rows and is refused, by our server and
// by the stock one.
func TestCaller(t *testing.T) {
	for name, serve := range map[string]func(*testing.T) string{"embedded": embedded, "stock": stock} {
		t.Run(name, func(t *testing.T) {
			at := serve(t)
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			c := dial(t, "unix:"+t.TempDir()+"/none", at)
			if c.Endpoint() != at {
				t.Errorf("connected to %s", c.Endpoint())
			}
			add := []ovsdb.Op{
				{"op": "insert", "table": "Bridge", "uuid-name": "b", "row": map[string]any{
					"name": "br0", "flood_vlans": []any{"set", []any{3, 4}}, "other_config": []any{"map", []any{[]any{"k", "v"}}}}},
				{"op": "insert", "table": "Open_vSwitch", "row": map[string]any{"bridges": []any{"named-uuid", "b"}}},
				{"op": "mutate", "table": "Open_vSwitch", "where": []any{}, "mutations": []any{[]any{"next_cfg", "+=", 1}}},
				{"op": "select", "table": "Open_vSwitch", "where": []any{}, "columns": []any{"next_cfg"}},
			}
			r, err := c.Transact(ctx, add...)
			if err != nil || string(r[3].Rows) != `[{"next_cfg":1}]` || r[2].Count != 1 {
				t.Fatalf("%+v, %v", r, err)
			}
			rows, err := c.Rows(ctx)
			if err != nil || len(rows) != 2 {
				t.Fatalf("%v, %v", rows, err)
			}
			root, b := rows[0].Row.(*model.OpenvSwitch), rows[1].Row.(*model.Bridge)
			if root.NextCfg != 1 || len(root.Bridges) != 1 || root.Bridges[0] != rows[1].UUID || b.UUID != rows[1].UUID || b.Name != "br0" || len(b.FloodVLANs) != 2 || b.OtherConfig["k"] != "v" {
				t.Errorf("%+v, %+v", root, b)
			}
			var refused *ovsdb.TransactError
			if _, err := c.Transact(ctx, add[0], ovsdb.Op{"op": "mutate", "table": "Open_vSwitch", "where": []any{}, "mutations": []any{[]any{"bridges", "insert", []any{"named-uuid", "b"}}}}); !errors.As(err, &refused) || refused.Name != "constraint violation" || refused.Op != 2 {
				t.Errorf("a second br0: %v", err)
			}
			if _, err := c.Transact(ctx, ovsdb.Op{"op": "wait", "table": "Bridge", "where": []any{}, "columns": []any{"name"}, "until": "==", "rows": []any{}, "timeout": 0}, add[0]); !errors.As(err, &refused) || refused.Name != ovsdb.TimedOut || refused.Op != 0 {
				t.Errorf("what is not so: %v", err)
			}
			var call *ovsdb.CallError
			if err := c.Call(ctx, "nonsense", nil, nil); !errors.As(err, &call) || !strings.Contains(call.Text, "unknown method") {
				t.Errorf("nonsense: %v", err)
			}
		})
	}
}

// TestDialErrors: every endpoint is told of.
func TestDialErrors(t *testing.T) {
	_, err := ovsdb.Dial(t.Context(), ovsdb.Config{Endpoints: []string{"unix:/nowhere/a", "unix:/nowhere/b"}, Schema: model.Schema()})
	if err == nil || !strings.Contains(err.Error(), "/nowhere/a") || !strings.Contains(err.Error(), "/nowhere/b") {
		t.Errorf("%v", err)
	}
	if _, err := ovsdb.Dial(t.Context(), ovsdb.Config{Endpoints: []string{"x"}, Schema: model.Schema()}); !errors.Is(err, ovsdb.ErrEndpoint) {
		t.Errorf("%v", err)
	}
}

// TestPrivateMethods: our server tells of itself and compacts on request, to
// clients of its Unix socket only.
func TestPrivateMethods(t *testing.T) {
	at, tcp := embeddedBoth(t)
	c := dial(t, at)
	if _, err := c.Transact(t.Context(), ovsdb.Op{"op": "insert", "table": "Open_vSwitch", "row": map[string]any{}}); err != nil {
		t.Fatal(err)
	}
	var st server.DatabaseStats
	if err := c.Call(t.Context(), server.MethodStats, []any{"Open_vSwitch"}, &st); err != nil || st.Tables["Open_vSwitch"] != 1 || st.Rows != 1 || st.Sessions != 1 || st.Transactions != 1 || !strings.HasSuffix(st.Path, "conf.db") || !st.Compacted.IsZero() {
		t.Errorf("%+v, %v", st, err)
	}
	before := st.FileSize
	if err := c.Call(t.Context(), server.MethodCompact, []any{"Open_vSwitch"}, &st); err != nil || st.Compactions != 1 || time.Since(st.Compacted) > limit || st.FileSize == 0 || before == 0 {
		t.Errorf("%+v, %v", st, err)
	}
	var call *ovsdb.CallError
	if err := c.Call(t.Context(), server.MethodCompact, []any{"_Server"}, &st); !errors.As(err, &call) {
		t.Errorf("compact what is in memory: %v", err)
	}
	if err := c.Call(t.Context(), server.MethodStats, []any{"nope"}, &st); !errors.As(err, &call) {
		t.Errorf("what there is not: %v", err)
	}
	if err := dial(t, tcp).Call(t.Context(), server.MethodStats, []any{"Open_vSwitch"}, &st); !errors.As(err, &call) || !strings.Contains(call.Text, "unknown method") {
		t.Errorf("by TCP: %v", err)
	}
}
