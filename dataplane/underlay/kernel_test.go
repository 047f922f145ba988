package underlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"millrace/dataplane"
	"millrace/dataplane/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// TestKernel has ways follow what becomes of routes, neighbours and devices, without
// anybody else who asks for the neighbours.
func TestKernel(t *testing.T) {
	netnstest.Need(t)
	pod := netnstest.NewPod(t, "eth1", 1)
	pod.Address(1)
	netnstest.IP(t, "addr add 10.9.0.9/24 dev eth1")
	netnstest.IP(t, "addr add fd09::9/64 dev eth1 nodad")
	host := func(remote, local string) dataplane.Host {
		h := dataplane.Host{Remote: netip.MustParseAddr(remote)}
		if local != "" {
			h.Local = netip.MustParseAddr(local)
		}
		return h
	}
	near, six, behind := host("10.9.0.1", ""), host("fd09::1", "fd09::9"), host("10.77.0.5", "")
	mine, wrong, silent := host("10.9.0.9", ""), host("10.9.0.1", "10.1.1.1"), host("10.9.0.77", "")
	var k Kernel
	var changes atomic.Int32
	if w := k.Way(near); w.Device != 0 || w.Reason == "" {
		t.Errorf("before anything is known: %+v", w)
	}
	k.Follow([]dataplane.Host{near, six, behind, mine, wrong, silent}, func() { changes.Add(1) })
	t.Cleanup(func() { k.Follow(nil, func() {}) })
	link, err := netlink.LinkByName("eth1")
	if err != nil {
		t.Fatal(err)
	}
	peer := mac(t, pod)
	want := func(h dataplane.Host, mtu int) {
		t.Helper()
		netnstest.Wait(t, func() string {
			w := k.Way(h)
			src := "10.9.0.9"
			if h.Remote.Is6() {
				src = "fd09::9"
			}
			p := w.Path
			if w.Reason != "" || w.Name != "eth1" || w.Device != link.Attrs().Index || p.MTU != mtu || p.Local.String() != src ||
				net.HardwareAddr(p.Next[:]).String() != peer.String() || net.HardwareAddr(p.Source[:]).String() != link.Attrs().HardwareAddr.String() {
				return fmt.Sprintf("way to %s: %+v", h.Remote, w)
			}
			return ""
		})
	}
	reason := func(h dataplane.Host, text string) {
		t.Helper()
		netnstest.Wait(t, func() string {
			if w := k.Way(h); !strings.Contains(w.Reason, text) {
				return fmt.Sprintf("way to %s: %+v, want %q", h.Remote, w, text)
			}
			return ""
		})
	}
	want(near, 1500)
	want(six, 1500)
	reason(behind, "no route to 10.77.0.5")
	reason(mine, "is an address of this host")
	reason(wrong, "local_ip 10.1.1.1 is no address of this host")
	reason(silent, "10.9.0.77 does not answer on eth1")
	if a := k.Addresses(link.Attrs().Index); len(a) < 2 || a[0].String() != "10.9.0.9" {
		t.Errorf("addresses: %v", a)
	}
	netnstest.IP(t, "route add 10.77.0.0/16 via 10.9.0.1 mtu 1300")
	want(behind, 1300)
	netnstest.IP(t, "link set eth1 mtu 1400")
	want(near, 1400)
	pod.Run("ip link set eth0 address 02:00:00:00:00:77")
	peer = net.HardwareAddr{2, 0, 0, 0, 0, 0x77}
	netnstest.IP(t, "neigh flush dev eth1")
	want(near, 1400)
	want(six, 1400)
	netnstest.IP(t, "addr del 10.9.0.9/24 dev eth1")
	reason(near, "no route to 10.9.0.1")
	if changes.Load() == 0 {
		t.Error("nobody was told")
	}
	k.Follow([]dataplane.Host{}, func() {}) // addresses only
	netnstest.IP(t, "addr add 10.9.0.10/24 dev eth1")
	netnstest.Wait(t, func() string {
		if a := k.Addresses(link.Attrs().Index); len(a) == 0 || a[0].String() != "10.9.0.10" {
			return fmt.Sprintf("addresses: %v", a)
		}
		return ""
	})
}

// TestNotAsked: what is known stays while the kernel cannot be asked, for want of descriptors.
func TestNotAsked(t *testing.T) {
	netnstest.Need(t)
	pod := netnstest.NewPod(t, "eth2", 1)
	pod.Address(1)
	netnstest.IP(t, "addr add 10.9.0.9/24 dev eth2")
	var k Kernel
	host := dataplane.Host{Remote: netip.MustParseAddr("10.9.0.1"), Local: netip.MustParseAddr("10.9.0.9")}
	var known, lost atomic.Bool
	k.Follow([]dataplane.Host{host}, func() {
		if known.Load() && k.Way(host).Reason != "" {
			lost.Store(true)
		}
	})
	t.Cleanup(func() { k.Follow(nil, func() {}) })
	netnstest.Wait(t, func() string { return k.Way(host).Reason })
	known.Store(true)

	var most unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &most); err != nil {
		t.Fatal(err)
	}
	none := most
	none.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	a := asker{asked: map[neighbour]time.Time{}}
	k.look(k.stop, &a, false)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &most); err != nil {
		t.Fatal(err)
	}
	if w := k.Way(host); w.Reason != "" {
		t.Errorf("way to %s: %+v", host.Remote, w)
	}
	if !a.waiting() {
		t.Error("nobody looks again soon")
	}
	// They may run out in the middle of a look.
	looking := make(chan struct{})
	go func() {
		defer close(looking)
		for range 100 {
			k.look(k.stop, &a, false)
		}
	}()
	for done := false; !done; {
		if err := errors.Join(unix.Setrlimit(unix.RLIMIT_NOFILE, &none), unix.Setrlimit(unix.RLIMIT_NOFILE, &most)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-looking:
			done = true
		default:
		}
	}
	if w := k.Way(host); w.Reason != "" || lost.Load() {
		t.Errorf("way to %s: %+v, lost for a while: %t", host.Remote, w, lost.Load())
	}
}

// mac is the address of a pod's device.
func mac(t *testing.T, pod *netnstest.Pod) net.HardwareAddr {
	t.Helper()
	f := strings.Fields(pod.Run("ip -o link show eth0"))
	for i := range f {
		if f[i] == "link/ether" {
			a, err := net.ParseMAC(f[i+1])
			if err != nil {
				t.Fatal(err)
			}
			return a
		}
	}
	t.Fatalf("eth0 has no address: %v", f)
	return nil
}
