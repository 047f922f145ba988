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

	"millrace/control"
	"millrace/control/bridge"
)

// ownNetns is the file that names the network namespace which an egress port's
// process has made: who ends the port removes both.
func ownNetns(runDir, name string) string {
	return filepath.Join(runDir, control.EgressDir, name+".netns")
}

// makeNetns makes the network namespace of an egress port, if it is not there: one that somebody else has made
// stays when the port goes.
func makeNetns(runDir string, e bridge.Egress) error {
	if _, err := os.Stat(netnsPath(e.Netns)); err == nil {
		return nil
	}
	if err := os.WriteFile(ownNetns(runDir, e.Name), []byte(e.Netns), 0o600); err != nil {
		return fmt.Errorf("note the network namespace: %w", err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread is in the namespace then, and ends with us
		h, err := netns.NewNamed(e.Netns)
		if err == nil {
			err = errors.Join(loopbackUp(), h.Close())
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("make network namespace %s: %w (it takes CAP_SYS_ADMIN)", e.Netns, err)
	}
	return nil
}

func loopbackUp() error {
	l, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
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
		if _, err := os.Stat(netnsPath(string(b))); err == nil {
			errs = append(errs, netns.DeleteNamed(string(b)))
		}
		errs = append(errs, os.Remove(ownNetns(runDir, name)))
	}
	if err := os.Remove(control.EgressSocket(runDir, name)); !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
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
	defer ns.Close() //nolint:errcheck // it was read
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
