package server_test

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"millrace/control/ovsdb/schema"
)

// TestVsctl runs what people and plugins do with ovs-vsctl.
func TestVsctl(t *testing.T) {
	need(t, "ovs-vsctl")
	_, socket, _ := serve(t, t.TempDir(), nil)
	vsctl := func(args ...string) string {
		t.Helper()
		return strings.TrimSpace(run(t, "ovs-vsctl", append([]string{"--timeout=60", "--no-wait", "--db=unix:" + socket}, args...)...))
	}
	steps := []struct {
		args string
		want string // part of the output
	}{
		{"init", ""},
		{"add-br br0", ""},
		{"--may-exist add-br br0", ""},
		{"add-port br0 p1 -- set Interface p1 type=dpdkvhostuserclient options:vhost-server-path=/run/p1", ""},
		{"--may-exist add-port br0 p1", ""},
		{"list-ports br0", "p1"},
		{"port-to-br p1", "br0"},
		{"show", "vhost-server-path"},
		{"get Interface p1 type", "dpdkvhostuserclient"},
		{"set Port p1 tag=7 trunks=1,2", ""},
		{"get Port p1 trunks", "[1, 2]"},
		{"clear Port p1 trunks", ""},
		{"get Port p1 trunks", "[]"},
		{"list Port p1", "tag                 : 7"},
		{"--columns=name find Interface type=dpdkvhostuserclient", "p1"},
		{"-- --id=@m create Mirror name=m select-all=true -- add Bridge br0 mirrors @m", ""},
		{"list Mirror", "m"},
		{"clear Bridge br0 mirrors", ""},
		{"--id=@q create QoS type=linux-htb -- set Port p1 qos=@q", ""},
		{"clear Port p1 qos -- --all destroy QoS", ""},
		{"set-manager ptcp:6640", ""},
		{"get-manager", "ptcp:6640"},
		{"wait-until Bridge br0 name=br0", ""},
		{"emer-reset", ""},
		{"br-exists br0", ""},
		{"set Open_vSwitch . external_ids:system-id=x other_config:pmd-cpu-mask=3", ""},
		{"get Open_vSwitch . external_ids:system-id", "x"},
		{"del-port br0 p1", ""},
		{"--if-exists del-port p1", ""},
		{"del-br br0", ""},
		{"list-br", ""},
	}
	for _, s := range steps {
		if got := vsctl(strings.Fields(s.args)...); !strings.Contains(got, s.want) {
			t.Errorf("ovs-vsctl %s:\n%s\nwant %q in it", s.args, got, s.want)
		}
	}
}

// TestVsctlWaits checks that ovs-vsctl returns when somebody follows next_cfg.
func TestVsctlWaits(t *testing.T) {
	need(t, "ovs-vsctl")
	_, socket, _ := serve(t, t.TempDir(), nil)
	run(t, "ovs-vsctl", "--timeout=60", "--no-wait", "--db=unix:"+socket, "init")
	follower := dial(t, socket)
	follower.call("monitor", list{"Open_vSwitch", "m", object{"Open_vSwitch": list{object{"columns": list{"next_cfg"}}}}})
	go func() {
		if _, err := follower.message(); err == nil {
			follower.send("transact", list{"Open_vSwitch", object{"op": "update", "table": "Open_vSwitch", "where": list{}, "row": object{"cur_cfg": 1}}})
		}
	}()
	run(t, "ovs-vsctl", "--timeout=60", "--db=unix:"+socket, "add-br", "br0")
}

// TestOvsdbClient runs the commands of ovsdb-client.
func TestOvsdbClient(t *testing.T) {
	need(t, "ovsdb-client", "ovs-vsctl")
	dir := t.TempDir()
	_, socket, stop := serve(t, dir, nil)
	db := "unix:" + socket
	run(t, "ovs-vsctl", "--timeout=60", "--no-wait", "--db="+db, "init", "--", "add-br", "br0")
	steps := []struct{ args, want string }{
		{"list-dbs " + db, "Open_vSwitch"},
		{"get-schema " + db + " Open_vSwitch", `"maxRows":1`},
		{"get-schema-version " + db, "8.3.1"},
		{"list-tables " + db, "Bridge"},
		{"list-columns " + db + " Open_vSwitch Bridge", "fail_mode"},
		{"dump " + db + " Open_vSwitch Bridge name", "br0"},
		{"dump " + db + " _Server Database name model", "standalone"},
		{"wait " + db + " Open_vSwitch connected", ""},
		{"query " + db + ` ["Open_vSwitch",{"op":"select","table":"Bridge","where":[],"columns":["name"]}]`, `"name":"br0"`},
		{"transact " + db + ` ["Open_vSwitch",{"op":"comment","comment":"x"}]`, "[{}]"},
		{"backup " + db, "br0"},
		{"needs-conversion " + db + " " + schemaFile(t), "no"},
	}
	for _, s := range steps {
		if got := run(t, "ovsdb-client", append([]string{"--timeout=60"}, strings.Fields(s.args)...)...); !strings.Contains(got, s.want) {
			t.Errorf("ovsdb-client %.60s:\n%.300s\nwant %q in it", s.args, got, s.want)
		}
	}
	backup := filepath.Join(dir, "backup.db")
	if err := os.WriteFile(backup, []byte(run(t, "ovsdb-client", "backup", db)), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "ovs-vsctl", "--timeout=60", "--no-wait", "--db="+db, "del-br", "br0")
	restore(t, db, backup)
	if got := run(t, "ovs-vsctl", "--timeout=60", "--db="+db, "list-br"); strings.TrimSpace(got) != "br0" {
		t.Errorf("after restore there are bridges %q, want br0", got)
	}
	stop()
	if got := run(t, "ovsdb-tool", "db-version", filepath.Join(dir, "conf.db")); strings.TrimSpace(got) != "8.3.1" {
		t.Errorf("ovsdb-tool db-version: %q", got)
	}
	run(t, "ovsdb-tool", "show-log", filepath.Join(dir, "conf.db"))
	run(t, "ovsdb-tool", "compact", filepath.Join(dir, "conf.db"))
}

// schemaFile writes the schema to a file.
func schemaFile(t testing.TB) string {
	name := filepath.Join(t.TempDir(), "vswitch.ovsschema")
	if err := os.WriteFile(name, []byte(schema.OpenVSwitch), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// restore gives a backup to ovsdb-client restore.
func restore(t *testing.T, db, backup string) {
	t.Helper()
	f, err := os.Open(backup)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ovsdb-client", "--timeout=60", "--force", "restore", db)
	cmd.Stdin = f
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("restore: %v\n%s", err, out)
	}
}

// TestOvsdbClientFollows checks ovsdb-client's monitors and locks, which last.
func TestOvsdbClientFollows(t *testing.T) {
	need(t, "ovsdb-client", "ovs-vsctl")
	_, socket, _ := serve(t, t.TempDir(), nil)
	db := "unix:" + socket
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"monitor", []string{"monitor", db, "Open_vSwitch", "Bridge", "name"}, "br-monitor"},
		{"monitor-cond", []string{"monitor-cond", db, "Open_vSwitch", `[["name","==","br-monitor-cond"]]`, "Bridge", "name"}, "br-monitor-cond"},
		{"monitor-cond-since", []string{"monitor-cond-since", db, "Open_vSwitch", `[true]`, "Bridge", "name"}, "br-monitor-cond-since"},
		{"lock", []string{"lock", db, "a_lock"}, "locked"},
		{"steal", []string{"steal", db, "a_lock"}, "locked"},
	}
	run(t, "ovs-vsctl", "--timeout=60", "--no-wait", "--db="+db, "init")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, "ovsdb-client", append([]string{"-vconsole:off"}, tt.args...)...)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(tt.name, "monitor") {
				run(t, "ovs-vsctl", "--timeout=60", "--no-wait", "--db="+db, "add-br", "br-"+tt.name)
			}
			if !sees(out, tt.want) {
				t.Errorf("ovsdb-client %v never said %q", tt.args, tt.want)
			}
			cancel()
			_ = cmd.Wait() // killed
		})
	}
}

// sees reports whether a line with text comes.
func sees(r io.Reader, text string) bool {
	for s := bufio.NewScanner(r); s.Scan(); {
		if strings.Contains(s.Text(), text) {
			return true
		}
	}
	return false
}
