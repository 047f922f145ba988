package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// namespace makes one with a device at 192.0.2.1, whose net is a black
// hole but for itself, and removes it after the test.
func namespace(t *testing.T) string {
	if os.Getuid() != 0 {
		t.Skip("a network namespace takes root")
	}
	name := fmt.Sprintf("mr-egress-%d", os.Getpid())
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	run("netns", "add", name)
	t.Cleanup(func() { run("netns", "del", name) })
	run("-n", name, "link", "set", "lo", "up")
	run("-n", name, "link", "add", "hole", "type", "veth", "peer", "name", "end")
	run("-n", name, "link", "set", "end", "up")
	run("-n", name, "addr", "add", "192.0.2.1/24", "dev", "hole")
	run("-n", name, "link", "set", "hole", "up")
	run("-n", name, "neigh", "add", "192.0.2.9", "lladdr", "02:00:00:00:00:09", "dev", "hole")
	return name
}

// listenIn starts an echo in the namespace, by a Dialer's own thread.
func listenIn(t *testing.T, d *Dialer, port int) {
	t.Helper()
	fd, err := d.socket(t.Context(), syscall.AF_INET, syscall.SOCK_STREAM)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close() //nolint:errcheck // FileListener has its own
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Port: port, Addr: [4]byte{192, 0, 2, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 16); err != nil {
		t.Fatal(err)
	}
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
}

func TestDial(t *testing.T) {
	d, err := Open(namespace(t), "")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	listenIn(t, d, 7)
	c, err := d.DialContext(t.Context(), "tcp", "192.0.2.1:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // nothing is lost
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Errorf("%q came back: %v", b, err)
	}
	if _, ok := c.(*net.TCPConn); !ok {
		t.Errorf("the connection is a %T", c)
	}
	if _, err := net.DialTimeout("tcp", "192.0.2.1:7", 50*time.Millisecond); err == nil {
		t.Error("the namespace is ours: the test shows nothing")
	}
	u, err := d.DialContext(t.Context(), "udp", "192.0.2.1:53")
	if err != nil {
		t.Fatal(err)
	}
	_ = u.Close()
}

func TestDialFails(t *testing.T) {
	d, err := Open(namespace(t), "")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.DialContext(t.Context(), "tcp", "192.0.2.1:8"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens: %v", err)
	}
	if _, err := d.DialContext(t.Context(), "tcp", "198.51.100.1:8"); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("no route: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := d.DialContext(ctx, "tcp", "192.0.2.9:8"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody answers: %v after %v", err, time.Since(start))
	}
	if _, err := Open("mr-no-such-namespace", ""); err == nil || !strings.Contains(err.Error(), "ip netns list") {
		t.Errorf("a namespace that is not there: %v", err)
	}
}
