package server_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestForeignSockets: a Manager row that names the socket of another program
// does not take it away, whether that one cannot be asked or has no time.
func TestForeignSockets(t *testing.T) {
	need(t, "ovs-vsctl")
	dir := t.TempDir()
	_, socket, _ := serve(t, dir, managers)
	vsctl := vsctlOf(t, "unix:"+socket)
	vsctl("init")

	datagrams := filepath.Join(dir, "log")
	log, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: datagrams, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	busy := filepath.Join(dir, "busy")
	crowd(t, busy)
	for _, path := range []string{datagrams, busy} {
		before, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		vsctl("set-manager", "punix:"+path)
		managerIs(t, vsctl, "punix:"+path, "it is in use", func(m manager) bool { return strings.Contains(m.status, "last_error") })
		vsctl("del-manager")
		if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s is not the socket that it was: %v", filepath.Base(path), err)
		}
	}
}

// crowd listens on path without ever accepting, and connects until the kernel
// takes no more.
func crowd(t *testing.T, path string) {
	t.Helper()
	open := func() int {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	l, at := open(), &unix.SockaddrUnix{Name: path}
	if err := unix.Bind(l, at); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(l, 0); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if unix.Connect(open(), at) == unix.EAGAIN {
			return
		}
	}
	t.Fatal("100 clients find room in a queue of none")
}

// TestReplacedSocket: a remote that ends leaves what another program has put in
// its socket's place.
func TestReplacedSocket(t *testing.T) {
	need(t, "ovs-vsctl")
	dir := t.TempDir()
	_, socket, _ := serve(t, dir, managers)
	vsctl := vsctlOf(t, "unix:"+socket)
	vsctl("init")
	path := filepath.Join(dir, "m")
	vsctl("set-manager", "punix:"+path, "ptcp:0:127.0.0.1")
	bound(t, vsctl, "ptcp:0:127.0.0.1")
	managerIs(t, vsctl, "punix:"+path, "it is open", func(manager) bool { _, err := os.Lstat(path); return err == nil })
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	vsctl("set-manager", "punix:"+filepath.Join(dir, "n"))
	managerIs(t, vsctl, "punix:"+filepath.Join(dir, "n"), "the other is open", func(manager) bool {
		_, err := os.Lstat(filepath.Join(dir, "n"))
		return err == nil
	})
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("what another program put there is gone: %v", err)
	}
}
