package service

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/dataplane/api"
	"millrace/dataplane/service/switchtest"
)

// strangerEnv makes the test binary a client without rights of the run
// directory that it holds.
const strangerEnv = "MILLRACE_TEST_STRANGER"

func TestMain(m *testing.M) {
	if path := os.Getenv(strangerEnv); path != "" {
		os.Exit(stranger(path))
	}
	os.Exit(m.Run())
}

// stranger connects, sends what a client would, and reports 0 if the server
// hung up without a word.
func stranger(path string) int {
	c, err := net.Dial("unix", path)
	if err != nil {
		return 10
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(testTimeout))
	if _, err := c.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil && !errors.Is(err, syscall.EPIPE) {
		return 11
	}
	var b [64]byte
	if n, err := c.Read(b[:]); n > 0 || err == nil {
		return 12
	}
	return 0
}

// TestStranger: a process of another user is hung up on, even where the
// socket's mode would let it in.
func TestStranger(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become another user")
	}
	dir, err := os.MkdirTemp("", "millrace")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	serve(t, dir, &switchtest.Switch{}, false)
	path := filepath.Join(dir, api.SocketName)
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	// The test binary lies where only root may look.
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "stranger")
	if err := os.WriteFile(copied, exe, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		uid  uint32
		want int
	}{{"other user", 65534, 0}, {"root", 0, 12}} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command(copied)
			cmd.Dir = "/"
			cmd.Env = append(os.Environ(), strangerEnv+"="+path)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: tt.uid, Gid: tt.uid}}
			out, err := cmd.CombinedOutput()
			if got := cmd.ProcessState.ExitCode(); got != tt.want {
				t.Errorf("exit code %d, want %d: %v\n%s", got, tt.want, err, out)
			}
		})
	}
}

// socketPair returns both ends of a connection with ourselves.
func socketPair(t *testing.T) (a, b net.Conn) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// TestSecondDataplane: a run directory has one dataplane, and who comes second
// is told who the first one is.
func TestSecondDataplane(t *testing.T) {
	_, c, dir := start(t)
	_, err := OpenDataplane(dir)
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "process "+strconv.Itoa(os.Getpid())) {
		t.Fatalf("got %v, want %v with our pid", err, ErrInUse)
	}
	if _, err := c.GetInfo(testContext(t), &api.GetInfoRequest{}); err != nil {
		t.Fatalf("the first one does not answer any more: %v", err)
	}
}

// TestStaleSocket: what a dataplane left that died is no obstacle, and the new
// socket is for us alone.
func TestStaleSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, api.SocketName)
	for _, p := range []string{path, path + newSuffix} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	if _, err := api.Dial(testContext(t), dir); !errors.Is(err, api.ErrNotRunning) {
		t.Fatalf("got %v, want %v", err, api.ErrNotRunning)
	}
	_, stop := serve(t, dir, &switchtest.Switch{}, false)
	dial(t, dir)
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket is %v, %v; want mode 0600", fi.Mode(), err)
	}
	stop()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket after the end: %v", err)
	}
}

// TestOpenDir refuses directories that cannot work, in words.
func TestOpenDir(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, path, want string }{
		{"is a file", file, "make run directory"},
		{"too long", filepath.Join(dir, strings.Repeat("x", 100)), "choose a shorter one"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := OpenDataplane(tt.path); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestSweep removes sockets that a killed dataplane left, and nothing else.
func TestSweep(t *testing.T) {
	sw, dir := &switchtest.Switch{}, t.TempDir()
	s, stop := serve(t, dir, sw, false)
	c := dial(t, dir)
	addPort(t, c, "br0", "p1")
	addPort(t, c, "br0", "p2")
	stop()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "p1"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if err := os.WriteFile(filepath.Join(dir, "p2"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Dir.Sweep(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "p1")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket p1 is still there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "p2")); err != nil {
		t.Errorf("p2, a file, is gone: %v", err)
	}
}

// TestDataplaneOf finds who holds the lock, and nobody else.
func TestDataplaneOf(t *testing.T) {
	dir := t.TempDir()
	want := func(pid int) {
		t.Helper()
		if got, err := DataplaneOf(dir); got != pid || err != nil {
			t.Errorf("got %d, %v; want %d", got, err, pid)
		}
	}
	want(0)
	for range 2 {
		d, err := OpenDataplane(dir)
		if err != nil {
			t.Fatal(err)
		}
		want(os.Getpid())
		if err := os.WriteFile(d.file(lockName), []byte("1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		want(0) // process 1 does not hold it
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		want(0) // the file is there, with a pid
	}
}
