package server_test

import (
	"context"
	"crypto/tls"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"millrace/control/ovsdb"
	"millrace/control/ovsdb/model"
	"millrace/control/ovsdb/server"
)

// connectsTLS returns nil when the client that control uses has read the
// tables by TLS.
func connectsTLS(t *testing.T, endpoint string, conf *tls.Config) error {
	t.Helper()
	c, err := ovsdb.New(ovsdb.Config{Endpoints: []string{endpoint}, TLS: conf, Schema: model.Schema(),
		Tables: []ovsdb.Table{{Name: "Open_vSwitch", Row: &model.OpenvSwitch{}, Watch: []string{"next_cfg"}}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		c.Run(ctx)
		close(ended)
	}()
	defer func() { <-ended }()
	defer cancel()
	for {
		if err := c.Err(); err == nil || ctx.Err() != nil || strings.Contains(err.Error(), "tls") || strings.Contains(err.Error(), "x509") {
			return err
		}
		select {
		case <-c.Ready():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// stockTLS runs a stock program with keys.
func stockTLS(t *testing.T, program, key, cert, ca string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	args = append([]string{"--timeout=60", "--private-key=" + key, "--certificate=" + cert, "--ca-cert=" + ca}, args...)
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	return string(out), err
}

// TestTLS serves by TLS with keys of the configuration and with those that
// ovs-vsctl set-ssl names: our client and stock ones get in, and nobody whom
// another authority has signed.
func TestTLS(t *testing.T) {
	need(t, "ovs-vsctl", "ovsdb-client")
	ours, others := newPKI(t), newPKI(t)
	serverKey, serverCert := ours.issue("server")
	clientKey, clientCert := ours.issue("client")
	strangerKey, strangerCert := others.issue("stranger")
	fixed := func(t *testing.T) string {
		srv, socket, _ := serve(t, t.TempDir(), func(c *server.Config) {
			c.Listen = append(c.Listen, "pssl:0:127.0.0.1")
			c.TLS = ours.config(serverKey, serverCert)
		})
		vsctlOf(t, "unix:"+socket)("init")
		return srv.Addrs()[1].String()
	}
	row := func(t *testing.T) string {
		_, socket, _ := serve(t, t.TempDir(), managers)
		vsctl := vsctlOf(t, "unix:"+socket)
		vsctl("init", "--", "set-manager", "pssl:0:127.0.0.1", "--", "set-ssl", serverKey, serverCert, ours.ca)
		return "127.0.0.1:" + bound(t, vsctl, "pssl:0:127.0.0.1")
	}
	for name, start := range map[string]func(*testing.T) string{"configuration": fixed, "row": row} {
		t.Run(name, func(t *testing.T) {
			db := "ssl:" + start(t)
			if err := connectsTLS(t, db, ours.config(clientKey, clientCert)); err != nil {
				t.Errorf("our client: %v", err)
			}
			if out, err := stockTLS(t, "ovs-vsctl", clientKey, clientCert, ours.ca, "--no-wait", "--db="+db, "add-br", "br0"); err != nil {
				t.Errorf("ovs-vsctl: %v\n%s", err, out)
			}
			if out, err := stockTLS(t, "ovsdb-client", clientKey, clientCert, ours.ca, "dump", db, "Open_vSwitch", "Bridge", "name"); err != nil || !strings.Contains(out, "br0") {
				t.Errorf("ovsdb-client: %v\n%s", err, out)
			}
			if out, err := stockTLS(t, "ovsdb-client", strangerKey, strangerCert, ours.ca, "list-dbs", db); err == nil {
				t.Errorf("a stranger got in: %s", out)
			}
			if conn, err := tls.Dial("tcp", strings.TrimPrefix(db, "ssl:"), &tls.Config{InsecureSkipVerify: true}); err == nil {
				gone(t, conn) // TLS 1.3 tells afterwards
				conn.Close()
			}
			if err := connectsTLS(t, db, others.config(strangerKey, strangerCert)); err == nil {
				t.Error("our client believes a server that its authority has not signed")
			}
		})
	}
}

// TestTLSReload changes the files of the SSL row, and then the row: the next
// client is shown the new certificate. It connects by TLS as well.
func TestTLSReload(t *testing.T) {
	need(t, "ovs-vsctl", "ovsdb-client")
	first, second := newPKI(t), newPKI(t)
	key, cert := first.issue("server")
	newKey, newCert := second.issue("server")
	clientKey, clientCert := second.issue("client")
	_, socket, _ := serve(t, t.TempDir(), managers)
	vsctl := vsctlOf(t, "unix:"+socket)
	vsctl("init", "--", "set-manager", "pssl:0:127.0.0.1")
	managerIs(t, vsctl, "pssl:0:127.0.0.1", "there is no key", func(m manager) bool { return strings.Contains(m.status, "set-ssl") })
	vsctl("set-ssl", key, cert, first.ca)
	db := "ssl:127.0.0.1:" + bound(t, vsctl, "pssl:0:127.0.0.1")
	if out, err := stockTLS(t, "ovsdb-client", clientKey, clientCert, second.ca, "list-dbs", db); err == nil {
		t.Errorf("a client of another authority got in: %s", out)
	}
	for from, to := range map[string]string{newKey: key, newCert: cert, second.ca: first.ca} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o600); err != nil {
			t.Fatal(err)
		}
		later := time.Now().Add(time.Minute) // whatever the clock's steps are
		if err := os.Chtimes(to, later, later); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := stockTLS(t, "ovsdb-client", clientKey, clientCert, second.ca, "list-dbs", db); err != nil {
		t.Errorf("after the files have changed: %v\n%s", err, out)
	}
	third := newPKI(t)
	key, cert = third.issue("server")
	vsctl("set-ssl", key, cert, third.ca)
	clientKey, clientCert = third.issue("client")
	if out, err := stockTLS(t, "ovsdb-client", clientKey, clientCert, third.ca, "list-dbs", db); err != nil {
		t.Errorf("after the row has changed: %v\n%s", err, out)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", third.config(clientKey, clientCert))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	vsctl("set-manager", "ssl:"+l.Addr().String())
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := &client{t: t, conn: conn}
	if m := c.call("list_dbs", list{}); m["error"] != nil {
		t.Errorf("by the connection that it made: %v", m)
	}
}
