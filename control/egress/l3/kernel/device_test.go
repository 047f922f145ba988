package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"millrace/control/egress/l3/packet"
	"millrace/dataplane/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

func prefixes(words ...string) (all []netip.Prefix) {
	for _, w := range words {
		all = append(all, netip.MustParsePrefix(w))
	}
	return all
}

// TestDevice is made in another namespace, has what it was given, carries packets
// to and from the kernel there, and is gone afterwards.
func TestDevice(t *testing.T) {
	netnstest.Need(t)
	pod := netnstest.NewPod(t, "kt0", 1)
	own, far := netip.MustParseAddr("10.99.0.2"), netip.MustParseAddr("10.99.0.50")
	d, err := Open(Options{Name: "mrt0", Netns: fmt.Sprintf("/proc/%d/ns/net", pod.PID()), MTU: 1400, Addresses: []netip.Addr{own, netip.MustParseAddr("fd99::2")}, Forward: true})
	if err != nil {
		t.Fatal(err)
	}
	if out := pod.Run("ip addr show mrt0"); !strings.Contains(out, "mtu 1400") || !strings.Contains(out, "10.99.0.2/32") || !strings.Contains(out, "fd99::2/128") || strings.Contains(out, "fe80::") {
		t.Errorf("the device:\n%s", out)
	}
	if out := pod.Run("sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding"); out != "1\n1\n" {
		t.Errorf("forwarding: %q", out)
	}
	for _, step := range [][]netip.Prefix{prefixes("10.99.0.0/24", "fd99::/64"), prefixes("10.99.0.0/24", "10.98.0.0/24"), nil, prefixes("10.99.0.0/24")} {
		if err := d.Route(step); err != nil {
			t.Fatal(err)
		}
		routes := pod.Run("ip route show dev mrt0") + pod.Run("ip -6 route show dev mrt0")
		for _, p := range prefixes("10.99.0.0/24", "fd99::/64", "10.98.0.0/24") {
			want := false
			for _, q := range step {
				want = want || p == q
			}
			if strings.Contains(routes, p.String()+" ") != want {
				t.Errorf("route to %s: %v is wrong:\n%s", p, !want, routes)
			}
		}
	}
	echo(t, d, far, own)
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if out, err := pod.Try("ip link show mrt0"); err == nil {
		t.Errorf("the device is there after Close:\n%s", out)
	}
	if _, err := d.Read([][]byte{make([]byte, 2000)}, make([]int, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a closed device gives %v", err)
	}
	if _, more := <-d.Events(); more {
		t.Error("a closed device has events")
	}
}

// echo has the kernel answer an echo request.
func echo(t *testing.T, d *Device, from, to netip.Addr) {
	t.Helper()
	b := append(make([]byte, 16), packet.Echo(from, to, 7, 8)...)
	if _, err := d.Write([][]byte{b}, 16); err != nil {
		t.Fatal(err)
	}
	bufs, sizes := make([][]byte, d.BatchSize()), make([]int, d.BatchSize())
	for i := range bufs {
		bufs[i] = make([]byte, 2000)
	}
	for range 100 { // other packets of the kernel may come, too
		n, err := d.Read(bufs, sizes, 0)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if p, ok := packet.Parse(bufs[i][:sizes[i]]); ok && p.Kind == packet.EchoReply && p.Src == to && p.Echo == 7 {
				return
			}
		}
	}
	t.Error("no reply comes")
}

func TestRefused(t *testing.T) {
	netnstest.Need(t)
	d, err := Open(Options{Name: "mrt1", MTU: 1400})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for want, o := range map[string]Options{
		"mrt1":          {Name: "mrt1", MTU: 1400},
		"ip netns list": {Name: "mrt2", Netns: "mr-no-such-namespace", MTU: 1400},
		"set MTU":       {Name: "mrt3", MTU: 10},
		"mrt4-too-long": {Name: "mrt4-too-long-a-name", MTU: 1400},
	} {
		if d, err := Open(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", o, err)
			_ = d.Close()
		}
	}
	if err := d.Route(prefixes("10.0.0.0/8")); err != nil {
		t.Fatal(err)
	}
	netnstest.IP(t, "route add blackhole 10.5.0.0/16")
	defer netnstest.IP(t, "route del blackhole 10.5.0.0/16")
	if err := d.Route(prefixes("10.4.0.0/16", "10.5.0.0/16")); err == nil || !strings.Contains(err.Error(), "10.5.0.0/16") {
		t.Errorf("a route that somebody else has: %v", err)
	}
	out, err := exec.Command("ip", "route", "show", "dev", "mrt1").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "10.0.0.0/8") || strings.Contains(string(out), "10.4.0.0/16") {
		t.Errorf("routes after those that cannot be had: %v\n%s", err, out)
	}
	netnstest.IP(t, "route del 10.0.0.0/8")
	if err := d.Route(nil); err != nil {
		t.Errorf("a route that somebody else has deleted: %v", err)
	}
}
