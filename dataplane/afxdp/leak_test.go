package afxdp

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"millrace/dataplane"
	"millrace/dataplane/netnstest"
)

// holdings are what a process has of the kernel.
type holdings struct{ fds, rings, slots, programs int }

// exceeds reports whether h has more of something than o. It may have less: ports open descriptors for a
// moment when they look at their devices.
func (h holdings) exceeds(o holdings) bool {
	return h.fds > o.fds || h.rings > o.rings || h.slots > o.slots || h.programs > o.programs
}

func held(t *testing.T) (h holdings) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		target, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err != nil {
			continue
		}
		h.fds++
		if strings.Contains(target, "bpf-prog") || strings.Contains(target, "bpf_link") {
			h.programs++
		}
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	h.rings = strings.Count(string(maps), "socket:[")
	for line := range strings.Lines(string(maps)) {
		var from, to uintptr
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err == nil && strings.Contains(line, "bpf-map") && to-from >= laneSlots*slotSize {
			h.slots++ // the others are a collection's constants, and stay until they are collected
		}
	}
	return h
}

// TestLeaks has devices go and come, and links flap, many times under traffic:
// the switch forwards each time, and holds no more in the end.
func TestLeaks(t *testing.T) {
	start := held(t)
	for name, settings := range map[string]Settings{"native": {Mode: Native}, "runs": {Mode: Native, Runs: true}, "generic": {Mode: Generic}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, dataplane.PollAdaptive)
			r.o.Settings, r.o.Log = settings, nil
			a, _ := r.pods(1500)
			c := netnstest.NewPod(t, "pc", 1)
			r.add("pc")
			r.up("pc")
			f := newFlood(t, c, 200) // to an address that nobody has: it is flooded
			go f.run()
			defer func() {
				f.stop.Store(true)
				<-f.done
				_ = f.sock.close()
			}()
			a.Reach("10.9.0.2", 56)
			before := held(t)
			if settings.Runs != (before.slots > start.slots) {
				t.Errorf("holds %+v, runs %v", before, settings.Runs)
			}
			times := 12
			if testing.Short() {
				times = 6
			}
			for i := range times {
				switch i % 3 {
				case 0:
					netnstest.IP(t, "link del pa")
					a.Plug(1)
					a.Address(1)
				case 1:
					netnstest.IP(t, "link set pa down")
					netnstest.IP(t, "link set pa mtu %d", 1400+100*(i%2))
					netnstest.IP(t, "link set pa up")
				case 2:
					a.Run("ip link set eth0 down")
					a.Run("ip link set eth0 up")
				}
				r.up("pa")
				a.Reach("10.9.0.2", 56)
			}
			netnstest.Wait(t, func() string {
				if after := held(t); after.exceeds(before) {
					return fmt.Sprintf("holds %+v, held %+v before", after, before)
				}
				return ""
			})
			r.balanced()
		})
	}
	netnstest.Wait(t, func() string {
		h := held(t)
		if h.fds = 0; h.exceeds(start) { // of descriptors some are the runtime's, and stay
			return fmt.Sprintf("holds %+v after all ports are closed, held %+v before", h, start)
		}
		return ""
	})
}
