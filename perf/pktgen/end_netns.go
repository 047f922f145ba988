package pktgen

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"millrace/dataplane/sys"
)

// inNetns runs fn in a network namespace: one that ip netns knows, or a path.
// Sockets that fn makes stay there. Without a name it runs fn here.
func inNetns(name string, fn func() error) error {
	if name == "" {
		return fn()
	}
	path := name
	if !filepath.IsAbs(name) {
		path = filepath.Join("/run/netns", name)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("network namespace %s: %w (`ip netns` lists them)", path, err)
	}
	defer unix.Close(fd)
	return sys.OnThread(func() error {
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", path, err)
		}
		return fn()
	})
}
