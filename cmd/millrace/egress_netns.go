package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"millrace/control"
	"millrace/control/bridge"
)

// ownNetns is the file that names the network namespace which an egress port's
// process has made: who ends the port removes both.
func ownNetns(runDir, name string) string {
	return filepath.Join(runDir, control.EgressDir, name+".netns")
}

// makeNetns makes the network namespace of an egress port, if it is not there: one that somebody else has made
// stays when the port goes. What a process has left half made that was killed is made anew.
func makeNetns(runDir string, e bridge.Egress) error {
	path := netnsPath(e.Netns)
	_, err := os.Stat(path)
	switch there, noted := err == nil, isNoted(runDir, e.Name); {
	case there && !noted:
		return nil
	case there && isNetns(path):
		return loopbackUp(path)
	case there:
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove what is no network namespace: %w", err)
		}
	}
	if err := os.WriteFile(ownNetns(runDir, e.Name), []byte(e.Netns), 0o600); err != nil {
		return fmt.Errorf("note the network namespace: %w", err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread is in the namespace then, and ends with us
		h, err := netns.NewNamed(e.Netns)
		if err == nil {
			err = h.Close()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("make network namespace %s: %w (it takes CAP_SYS_ADMIN)", e.Netns, err)
	}
	return loopbackUp(path)
}

// isNoted reports whether an egress port's process has made a network namespace, or begun to.
func isNoted(runDir, name string) bool {
	_, err := os.Stat(ownNetns(runDir, name))
	return err == nil
}

// isNetns reports whether a network namespace is mounted at path, which is otherwise the
// empty file that one is to be mounted at.
func isNetns(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && s.Type == unix.NSFS_MAGIC
}

func loopbackUp(path string) error {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return fmt.Errorf("reach network namespace %s: %w", path, err)
	}
	defer h.Close()
	l, err := h.LinkByName("lo")
	if err == nil {
		err = h.LinkSetUp(l)
	}
	if err != nil {
		return fmt.Errorf("take the loopback device of %s up: %w", path, err)
	}
	return nil
}

// netnsPath is where a namespace is that has a name or a path.
func netnsPath(s string) string {
	if strings.Contains(s, "/") {
		return s
	}
	return filepath.Join("/run/netns", s)
}

// sweepEgress removes what the process of an egress port leaves: its socket, and the
// network namespace that it has made.
func sweepEgress(runDir, name string) error {
	var errs []error
	if b, err := os.ReadFile(ownNetns(runDir, name)); err == nil {
		errs = append(errs, removeNetns(string(b)), os.Remove(ownNetns(runDir, name)))
	}
	if err := os.Remove(control.EgressSocket(runDir, name)); !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// removeNetns removes a network namespace that has a name, or what is there of it.
func removeNetns(name string) error {
	if isNetns(netnsPath(name)) {
		return netns.DeleteNamed(name)
	}
	if err := os.Remove(netnsPath(name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// gatewaysEvery is how often the device of a port is looked at: it goes with the
// dataplane and comes again with the next, without its routes.
const gatewaysEvery = 500 * time.Millisecond

// keepGateways gives a port's network namespace its default routes, whenever the
// device is a new one, until ctx ends.
func keepGateways(ctx context.Context, e bridge.Egress, log *zap.Logger) {
	tick := time.NewTicker(gatewaysEvery)
	defer tick.Stop()
	index, said := 0, ""
	for {
		now, err := setGateways(e, index)
		if err == nil {
			index, said = now, ""
		} else if err.Error() != said {
			said = err.Error()
			log.Warn("no way to other networks yet", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// setGateways sets the routes, unless the device is the one that has them. It
// returns the device's index.
func setGateways(e bridge.Egress, known int) (index int, err error) {
	ns, err := netns.GetFromPath(netnsPath(e.Netns))
	if err != nil {
		return 0, fmt.Errorf("open network namespace %s: %w", e.Netns, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return 0, fmt.Errorf("reach network namespace %s: %w", e.Netns, err)
	}
	defer h.Close()
	l, err := h.LinkByName(e.Name)
	if err != nil {
		return 0, fmt.Errorf("find device %s: %w", e.Name, err)
	}
	if l.Attrs().Index == known || l.Attrs().Flags&net.FlagUp == 0 {
		return known, nil
	}
	for _, g := range e.Gateways {
		if err := h.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(g)}); err != nil {
			return 0, fmt.Errorf("set the route by %s: %w", g, err)
		}
	}
	return l.Attrs().Index, nil
}
