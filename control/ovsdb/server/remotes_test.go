package server_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"millrace/control/ovsdb/server"
)

// managers has our server follow the Manager rows.
func managers(c *server.Config) { c.Remotes = []string{server.ManagerOptions} }

// A manager is a row of table Manager, as ovs-vsctl shows it.
type manager struct{ connected, status string }

// vsctlOf returns ovs-vsctl for a database, without waiting for a switch.
func vsctlOf(t testing.TB, db string) func(args ...string) string {
	return func(args ...string) string {
		t.Helper()
		return strings.TrimSpace(run(t, "ovs-vsctl", append([]string{"--timeout=60", "--no-wait", "--db=" + db}, args...)...))
	}
}

// managerIs waits until a Manager row is as wanted.
func managerIs(t *testing.T, vsctl func(...string) string, target, what string, ok func(manager) bool) manager {
	t.Helper()
	var m manager
	eventually(t, what, func() bool {
		id := vsctl("--bare", "--columns=_uuid", "find", "Manager", fmt.Sprintf("target=%q", target))
		m.connected, m.status, _ = strings.Cut(vsctl("get", "Manager", id, "is_connected", "status"), "\n")
		return ok(m)
	})
	return m
}

// bound returns the port of a Manager row for ptcp:0 or pssl:0.
func bound(t *testing.T, vsctl func(...string) string, target string) string {
	t.Helper()
	m := managerIs(t, vsctl, target, "it is listened on "+target, func(m manager) bool { return strings.Contains(m.status, "bound_port") })
	_, port, _ := strings.Cut(m.status, `bound_port="`)
	port, _, _ = strings.Cut(port, `"`)
	return port
}

// alive answers the server's echo requests until the connection ends.
func alive(c *client) {
	for {
		m, err := c.message()
		if err != nil {
			return
		}
		if m["method"] != "echo" {
			continue
		}
		answer, err := json.Marshal(object{"id": m["id"], "result": m["params"], "error": nil})
		if err != nil {
			return
		}
		if _, err := c.conn.Write(answer); err != nil {
			return
		}
	}
}

// gone waits until the server has closed a connection.
func gone(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for buf := make([]byte, 1<<16); ; {
		if _, err := c.Read(buf); err != nil {
			if os.IsTimeout(err) {
				t.Fatal("connection of a remote that is gone stays open")
			}
			return
		}
	}
}

// TestRemotes sets managers with ovs-vsctl, here and in ovsdb-server: both
// listen, connect, tell of it in the same columns, and close what is removed.
func TestRemotes(t *testing.T) {
	need(t, "ovs-vsctl", "ovsdb-server", "ovsdb-tool", "ovsdb-client")
	ours := func(t *testing.T, dir string) string {
		_, socket, _ := serve(t, dir, managers)
		return socket
	}
	stock := func(t *testing.T, dir string) string {
		run(t, "ovsdb-tool", "create", filepath.Join(dir, "conf.db"), schemaFile(t))
		socket, _ := serveStock(t, dir, filepath.Join(dir, "conf.db"), "--remote="+server.ManagerOptions)
		return socket
	}
	for name, start := range map[string]func(*testing.T, string) string{"ours": ours, "stock": stock} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			db := "unix:" + start(t, dir)
			vsctl := vsctlOf(t, db)
			vsctl("init")
			path := filepath.Join(dir, "manager.sock")
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			listening, active := "ptcp:0:127.0.0.1", "tcp:"+l.Addr().String()
			vsctl("set-manager", listening, "punix:"+path, active)

			// It connects, and again when the connection is lost. This comes first: who is not
			// answered for 10 s hangs up.
			for range 2 {
				conn, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				c := &client{t: t, conn: conn}
				if got := fmt.Sprint(c.call("list_dbs", list{})["result"]); !strings.Contains(got, "Open_vSwitch") {
					t.Errorf("by the connection that it made: %s", got)
				}
				go alive(c)
				managerIs(t, vsctl, active, "it is connected", func(m manager) bool {
					return m.connected == "true" && strings.Contains(m.status, "state=ACTIVE")
				})
				conn.Close()
			}
			l.Close()
			managerIs(t, vsctl, active, "it is not connected", func(m manager) bool {
				return m.connected == "false" && strings.Contains(m.status, "state=BACKOFF")
			})

			// It listens, and counts.
			port := bound(t, vsctl, listening)
			managerIs(t, vsctl, listening, "a listener without clients", func(m manager) bool {
				return m.connected == "false" && !strings.Contains(m.status, "state")
			})
			run(t, "ovsdb-client", "list-dbs", "tcp:127.0.0.1:"+port)
			run(t, "ovsdb-client", "list-dbs", "unix:"+path)
			var two [2]*client
			for i := range two {
				conn, err := net.Dial("tcp", "127.0.0.1:"+port)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				two[i] = &client{t: t, conn: conn}
				if i == 0 {
					two[0].call("lock", list{"mine"})
				}
				two[i].call("list_dbs", list{})
				go alive(two[i])
			}
			want := []string{"bound_port", `n_connections="2"`, "sec_since_connect"}
			if name == "ours" { // ovsdb-server 3.1 leaves it out
				want = append(want, "locks_held", "state=ACTIVE")
			}
			managerIs(t, vsctl, listening, fmt.Sprint("two connections, with ", want), func(m manager) bool {
				return m.connected == "true" && !slices.ContainsFunc(want, func(key string) bool { return !strings.Contains(m.status, key) })
			})

			vsctl("del-manager")
			gone(t, two[0].conn)
			gone(t, two[1].conn)
			for network, address := range map[string]string{"unix": path, "tcp": "127.0.0.1:" + port} {
				eventually(t, "nobody listens on "+address, func() bool {
					c, err := net.Dial(network, address)
					if err == nil {
						c.Close()
					}
					return err != nil
				})
			}
			if got := vsctl("get-manager"); got != "" {
				t.Errorf("get-manager: %q", got)
			}
		})
	}
}

// TestRemoteTrouble asks for remotes that cannot be: each says so in its row
// and once in the log, is tried again, and harms nobody.
func TestRemoteTrouble(t *testing.T) {
	need(t, "ovs-vsctl", "ovsdb-client")
	core, logs := observer.New(zap.WarnLevel)
	dir := t.TempDir()
	_, socket, _ := serve(t, dir, func(c *server.Config) {
		managers(c)
		c.Log = zap.New(core)
	})
	vsctl := vsctlOf(t, "unix:"+socket)
	vsctl("init")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	file := filepath.Join(dir, "precious")
	if err := os.WriteFile(file, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	busy := "ptcp:" + port + ":127.0.0.1"
	wrong := []string{busy, "punix:" + file, "punix:relative", "punix:" + socket, "pssl:0:127.0.0.1", "unix:/nonexistent/x", "ssl:127.0.0.1:1", "ptcp:99999", "nonsense", "ptcp:0:256.1.1.1"}
	good := "ptcp:0:127.0.0.1"
	vsctl(append([]string{"set-manager", good}, wrong...)...)
	run(t, "ovsdb-client", "list-dbs", "tcp:127.0.0.1:"+bound(t, vsctl, good))
	for _, target := range wrong {
		managerIs(t, vsctl, target, target+" has an error", func(m manager) bool { return m.connected == "false" && strings.Contains(m.status, "last_error") })
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "data" {
		t.Errorf("a file in the way holds %q, %v", b, err)
	}
	taken.Close()
	managerIs(t, vsctl, busy, "the port is listened on once it is free", func(m manager) bool {
		return strings.Contains(m.status, "bound_port") && !strings.Contains(m.status, "last_error")
	})
	times := map[string]int{}
	for _, e := range logs.FilterMessageSnippet("cannot be opened").All() {
		times[fmt.Sprint(e.ContextMap()["remote"])]++
	}
	for _, target := range wrong {
		if times[target] != 1 {
			t.Errorf("the log names %s %d times, want once", target, times[target])
		}
	}
	vsctl("list-br")
}

// TestRemoteProbe has the row say how long a client may be silent. That it is silent is
// in the row until it is dropped, which is soon: a monitor sees it.
func TestRemoteProbe(t *testing.T) {
	need(t, "ovs-vsctl")
	_, socket, _ := serve(t, t.TempDir(), managers)
	vsctl := vsctlOf(t, "unix:"+socket)
	vsctl("init")
	target := "ptcp:0:127.0.0.1"
	vsctl("set-manager", target)
	conn, err := net.Dial("tcp", "127.0.0.1:"+bound(t, vsctl, target))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	watch := dial(t, socket)
	watch.call("monitor", list{"Open_vSwitch", "m", object{"Manager": object{"columns": list{"status"}}}})
	vsctl("set", "Manager", vsctl("--bare", "--columns=_uuid", "list", "Manager"), "inactivity_probe=1000")
	c := &client{t: t, conn: conn}
	c.call("list_dbs", list{}) // from now on
	m, err := c.message()
	if err != nil || m["method"] != "echo" {
		t.Errorf("a silent client of a remote gets %v, %v, want an echo request", m, err)
	}
	for told := ""; !strings.Contains(told, "state IDLE"); {
		update, err := watch.message()
		if err != nil {
			t.Fatalf("the row never says that the client is idle; last %s: %v", told, err)
		}
		told = fmt.Sprint(update)
	}
	gone(t, conn)
}

// TestNoRemotes checks that Manager rows mean nothing to a server that was not
// told to follow them, and that nonsense is refused.
func TestNoRemotes(t *testing.T) {
	need(t, "ovs-vsctl")
	dir := t.TempDir()
	_, socket, _ := serve(t, dir, nil)
	vsctl := vsctlOf(t, "unix:"+socket)
	vsctl("init", "--", "set-manager", "ptcp:0:127.0.0.1")
	if got := vsctl("--bare", "--columns=status", "list", "Manager"); got != "" {
		t.Errorf("status %q", got)
	}
	for _, s := range []string{"x", "db:a,b", "db:Open_vSwitch,Open_vSwitch,bridges", "db:Open_vSwitch,No,x", "db:No,Open_vSwitch,manager_options", "db:Open_vSwitch,Open_vSwitch,next_cfg"} {
		cfg := server.Config{Remotes: []string{s}}
		if _, err := server.Open(cfg); err == nil {
			t.Errorf("remotes %q are no error", s)
		}
	}
}
