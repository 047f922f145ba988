package main

import (
	"os/exec"
	"testing"
	"time"

	"millrace/dataplane/netnstest"
)

// TestVLANUplink has provider networks as OVN's users know them: a bridge with the NIC as trunk, and
// for each network a bridge that a patch port joins to it, which is the access port of the
// network's VLAN. Tags are put on and taken off at the patch port; what the NIC sends and receives has them.
//
//	pods p1   br-a ── a-ex ═ ex-a, VLAN 10 ┐
//	pods p2   br-b ── b-ex ═ ex-b, VLAN 20 ┴ br-ex ── far, trunk ─── eth0.10, eth0.20
func TestVLANUplink(t *testing.T) {
	if !netnstest.Alone(t) {
		return
	}
	netnstest.Need(t, "ovs-vsctl", "iperf3")
	if out, err := exec.Command("ip", "link", "add", "link", "lo", "name", "probe.10", "type", "vlan", "id", "10").CombinedOutput(); err != nil {
		t.Skipf("needs the kernel's VLAN devices: %s", out)
	}
	netnstest.IP(t, "link del probe.10")
	dir := t.TempDir()
	startSwitch(t, dir)
	far := netnstest.NewPod(t, "far", 1)
	for _, line := range []string{
		"add-br br-ex", "add-br br-a", "add-br br-b",
		"add-port br-ex far -- set Interface far type=afxdp -- set Port far trunks=10,20",
		"add-port br-ex ex-a -- set Interface ex-a type=patch options:peer=a-ex -- set Port ex-a tag=10",
		"add-port br-a a-ex -- set Interface a-ex type=patch options:peer=ex-a",
		"add-port br-ex ex-b -- set Interface ex-b type=patch options:peer=b-ex -- set Port ex-b tag=20",
		"add-port br-b b-ex -- set Interface b-ex type=patch options:peer=ex-b",
	} {
		vsctl(t, dir, line)
	}
	pods := []*labPod{newLabPod(t, dir, nil, "br-a", byTAP, 1, 1500), newLabPod(t, dir, nil, "br-b", byVeth, 2, 1500)}
	gateways := []string{"10.9.0.101", "10.9.0.102"}
	for i, p := range pods {
		vlan := 10 * (i + 1)
		far.Run("ip link add link eth0 name eth0.%d type vlan id %d", vlan, vlan)
		far.Run("ip link set eth0.%d up", vlan)
		far.Run("ip addr add %s/32 dev eth0.%d", gateways[i], vlan)
		far.Run("ip route add %s/32 dev eth0.%d src %s", p.v4, vlan, gateways[i])
	}
	for i, p := range pods {
		for _, size := range []int{18, 1472} {
			p.Reach(gateways[i], size)
		}
		if err := p.Ping(gateways[1-i], 56, 300*time.Millisecond); err == nil {
			t.Errorf("%s of another network answers", gateways[1-i])
		}
		far.Start("iperf3 -s -p %d", 5201+i)
		netnstest.Wait(t, func() string {
			if out, err := p.Try("iperf3 -c %s -p %d -n 2M", gateways[i], 5201+i); err != nil {
				return out
			}
			return ""
		})
		checkCounters(p.Pod, far)
	}
}
