package sys

import (
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestInNetwork calls functions in a new namespace, many at a time: each finds
// itself there, and the process stays where it is, its first thread, too.
func TestInNetwork(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var ns *os.File
	if err := OnThread(func() error {
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns, err = os.Open("/proc/thread-self/ns/net")
		}
		return err
	}); err != nil {
		t.Skipf("needs network namespaces: %v", err)
	}
	defer ns.Close()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := InNetwork(ns, func() error {
				if at, err := os.Readlink("/proc/thread-self/ns/net"); err != nil || at == home {
					t.Errorf("in namespace %s (%v), which is home", at, err)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if at, _ := os.Readlink("/proc/self/ns/net"); at != home {
		t.Errorf("the process is in %s now, was in %s", at, home)
	}
}
