package main

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"millrace/dataplane/netnstest"
)

// TestNetDevices has ovs-vsctl make ports of network devices, under either type,
// and finds pods behind them in touch and their rows filled in; also after the
// dataplane was killed. Nothing stays at the devices of a switch that was.
func TestNetDevices(t *testing.T) {
	if !netnstest.Alone(t) {
		return
	}
	netnstest.Need(t, "ovs-vsctl")
	dir := t.TempDir()
	startSwitch(t, dir)
	a, b := netnstest.NewPod(t, "pa", 1), netnstest.NewPod(t, "pb", 1)
	a.Address(1)
	b.Address(2)
	vsctl(t, dir, "add-br br0")
	vsctl(t, dir, "add-port br0 pa -- set Interface pa type=afxdp options:xdp-mode=native")
	vsctl(t, dir, "add-port br0 pb")
	a.Reach("10.9.0.2", 1472)
	b.Reach("fd09::1", 56)

	if types := vsctl(t, dir, "get Open_vSwitch . iface_types"); !strings.Contains(types, "afxdp") || !strings.Contains(types, "system") {
		t.Errorf("iface_types: %s", types)
	}
	for _, name := range []string{"pa", "pb"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		for column, want := range map[string]string{
			"mac_in_use": strconv.Quote(l.Attrs().HardwareAddr.String()), "mtu": "1500", "ifindex": fmt.Sprint(l.Attrs().Index),
			"link_state": "up", "admin_state": "up", "error": "[]", "status:driver_name": "veth", "status:n_rxq": `"1"`,
		} {
			netnstest.Wait(t, func() string {
				if got := strings.TrimSpace(vsctl(t, dir, "get Interface "+name+" "+column)); got != want {
					return fmt.Sprintf("%s of %s is %s, want %s", column, name, got, want)
				}
				return ""
			})
		}
	}
	out := run(t, "--run-dir", dir, "port", "show", "pa").out
	if !strings.Contains(out, "native XDP, copy") {
		t.Errorf("port show does not say what was chosen:\n%s", out)
	}
	netnstest.IP(t, "link set pa mtu 1400")
	netnstest.IP(t, "link set pb down")
	for column, want := range map[string]string{"pa mtu": "1400", "pb link_state": "down", "pb admin_state": "down"} {
		netnstest.Wait(t, func() string {
			if got := strings.TrimSpace(vsctl(t, dir, "get Interface "+column)); got != want {
				return fmt.Sprintf("%s is %s, want %s", column, got, want)
			}
			return ""
		})
	}
	netnstest.IP(t, "link set pb up")
	netnstest.IP(t, "link set pa mtu 1500")
	a.Reach("10.9.0.2", 1472)

	pid := pidOf(t, dir)
	if pid == 0 {
		t.Fatal("the dataplane does not answer")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	a.Reach("10.9.0.2", 1000)

	vsctl(t, dir, "del-port pa")
	netnstest.Wait(t, func() string {
		if l, err := netlink.LinkByName("pa"); err != nil || l.Attrs().Xdp.Attached {
			return fmt.Sprintf("pa has a program although its port is deleted (%v)", err)
		}
		return ""
	})

	// The command line has the same.
	must(t, dir, "port", "add", "br0", "pa", "--type", "afxdp", "--option", "xdp-vlans=0,10-20", "--option", "xdp-mode=generic", "--wait=20s")
	if out := must(t, dir, "port", "show", "pa"); !strings.Contains(out, "generic XDP") || !strings.Contains(out, "frames of 12 VLANs") {
		t.Errorf("port show:\n%s", out)
	}
	a.Reach("10.9.0.2", 1000)
	if r := run(t, "--run-dir", dir, "port", "add", "br0", "x", "--type", "afxdp", "--option", "xdp-mode=fast"); r.code != 2 || !strings.Contains(r.err, "--option") {
		t.Errorf("a mode that there is not: exit code %d\n%s", r.code, r.err)
	}
	must(t, dir, "port", "del", "pa")

	// Errors are told where the port was asked for.
	vsctl(t, dir, "--no-wait add-port br0 pa -- set Interface pa type=afxdp options:n_rxq=9")
	netnstest.Wait(t, func() string {
		if got := vsctl(t, dir, "get Interface pa error"); !strings.Contains(got, "fewer receive queues than n_rxq") {
			return "error of pa: " + got
		}
		return ""
	})
}
