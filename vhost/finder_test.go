package vhost

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFinder: a port that waits is connected when there is a socket, however it
// came to its path, and by nothing but the Finder: the port itself would look
// again after an hour.
func TestFinder(t *testing.T) {
	tests := []struct {
		name string
		come func(t *testing.T, dir string) net.Listener // makes dir/s
	}{
		{"made", func(t *testing.T, dir string) net.Listener {
			return socketAt(t, filepath.Join(dir, "s"))
		}},
		{"renamed into place", func(t *testing.T, dir string) net.Listener {
			l := socketAt(t, filepath.Join(dir, "other"))
			if err := os.Rename(filepath.Join(dir, "other"), filepath.Join(dir, "s")); err != nil {
				t.Fatal(err)
			}
			return l
		}},
		{"in a new directory", func(t *testing.T, dir string) net.Listener {
			if err := os.Remove(dir); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			time.Sleep(300 * time.Millisecond) // the port has noticed
			return socketAt(t, filepath.Join(dir, "s"))
		}},
		{"where another directory was", func(t *testing.T, dir string) net.Listener {
			if err := os.Rename(dir, dir+"-old"); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			time.Sleep(300 * time.Millisecond) // the port has noticed
			return socketAt(t, filepath.Join(dir, "s"))
		}},
	}
	finder := &Finder{}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			p, err := Open(Options{Name: "p", Path: filepath.Join(dir, "s"), Role: Connect, Finder: finder, told: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			eventually(t, "the port has looked in vain", func() bool { return strings.Contains(p.State().Reason, "no such socket") })
			l := tt.come(t, dir)
			defer l.Close()
			if err := l.(*net.UnixListener).SetDeadline(time.Now().Add(deadline)); err != nil {
				t.Fatal(err)
			}
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		})
	}
	finder.mu.Lock()
	defer finder.mu.Unlock()
	if finder.events != nil || len(finder.byDir)+len(finder.byWatch) != 0 {
		t.Errorf("%d directories are watched after the last port", len(finder.byWatch))
	}
}

// socketAt makes a socket.
func socketAt(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
