package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/control"
)

// stockVsctl runs stock ovs-vsctl on a database.
func stockVsctl(t *testing.T, db string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("ovs-vsctl"); err != nil {
		t.Skip("needs ovs-vsctl")
	}
	out, err := exec.CommandContext(t.Context(), "ovs-vsctl", append([]string{"--db=" + db, "--timeout=10"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ovs-vsctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestDatabaseAlone: without a supervisor, ready comes on standard output,
// nothing needs `init`, a server that was killed is no obstacle, and what it
// had is there.
func TestDatabaseAlone(t *testing.T) {
	dir, state := t.TempDir(), filepath.Join(t.TempDir(), "new", "state")
	db := "unix:" + filepath.Join(dir, embeddedDB)
	args := []string{"db", "serve", "--run-dir", dir, "--state-dir", state, "--listen", "punix:" + filepath.Join(dir, "other.sock")}
	for round, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGKILL} {
		p := spawn(t, args...)
		if got := p.line(t); got != "ready\n" {
			t.Fatalf("round %d: first line is %q", round, got)
		}
		fi, err := os.Stat(filepath.Join(dir, embeddedDB))
		if err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("socket is %v, %v; want mode 0600", fi.Mode(), err)
		}
		stockVsctl(t, db, "--no-wait", "--may-exist", "add-br", "br0")
		if got := stockVsctl(t, "unix:"+filepath.Join(dir, "other.sock"), "--no-wait", "list-br"); got != "br0" {
			t.Errorf("round %d: bridges %q", round, got)
		}
		if got := stockVsctl(t, db, "--no-wait", "--columns=_uuid", "list", "open_vswitch"); strings.Count(got, "\n") != 0 {
			t.Errorf("round %d: rows of Open_vSwitch: %s", round, got)
		}
		p.end(t, sig)
		if got := sockets(t, dir); (sig == syscall.SIGTERM) != (len(got) == 0) {
			t.Errorf("sockets after %v: %v", sig, got)
		}
	}
}

// TestDatabaseInUse: a second server refuses, with the exit code for it.
func TestDatabaseInUse(t *testing.T) {
	state := t.TempDir()
	if got := spawn(t, "db", "serve", "--run-dir", t.TempDir(), "--state-dir", state).line(t); got != "ready\n" {
		t.Fatalf("first line is %q", got)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, tt := range []struct {
		name, says string
		flags      []string
	}{
		{"file", "another process uses the database; stop it first", []string{"--state-dir", state}},
		{"port", "another server listens there; stop it first", []string{"--listen", "ptcp:" + port + ":127.0.0.1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := spawn(t, append([]string{"db", "serve", "--run-dir", t.TempDir()}, tt.flags...)...)
			select {
			case <-p.ended:
			case <-time.After(testTimeout):
				t.Fatal("it goes on")
			}
			if code := p.ProcessState.ExitCode(); code != exitInUse || !strings.Contains(p.log.String(), tt.says) {
				t.Errorf("exit code %d, want %d, and %q", code, exitInUse, tt.says)
			}
		})
	}
}

// TestDatabaseTLS: who shows a certificate of the authority is served by ssl;
// control is such a client.
func TestDatabaseTLS(t *testing.T) {
	web := httptest.NewTLSServer(nil) // for its key, and its certificate that signs itself
	web.Close()
	dir := t.TempDir()
	pair := web.TLS.Certificates[0]
	key, err := pkcs8(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	for name, b := range map[string][]byte{"key.pem": key, "cert.pem": cert} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	port := freePort(t)
	secure := []string{"-p", filepath.Join(dir, "key.pem"), "-c", filepath.Join(dir, "cert.pem"), "-C", filepath.Join(dir, "cert.pem")}
	startSwitch(t, dir, append([]string{"--db-listen", "pssl:" + port + ":127.0.0.1"}, secure...)...)
	second := t.TempDir()
	startSwitch(t, second, append([]string{"--db", "ssl:127.0.0.1:" + port}, secure...)...)
	await(t, "control reads by ssl", func() bool { return connected(second) })
	if out, err := exec.CommandContext(t.Context(), "ovs-vsctl", "--no-wait", "--timeout=1", "--db=tcp:127.0.0.1:"+port, "show").CombinedOutput(); err == nil {
		t.Errorf("without TLS it says %s", out)
	}
}

// freePort is a TCP port that nobody has, and that the kernel gives nobody who has not asked for it: it is below those
// (ip_local_port_range, ip(7)).
func freePort(t *testing.T) string {
	t.Helper()
	for i := range 1000 {
		port := fmt.Sprint(20000 + (os.Getpid()+i)%10000)
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

// pkcs8 is a private key as PEM.
func pkcs8(key any) ([]byte, error) {
	b, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b}), err
}

// connected reports whether the control process of dir has a database.
func connected(dir string) bool {
	s, err := control.ReadStatus(dir)
	return err == nil && s.Database.Connected
}
