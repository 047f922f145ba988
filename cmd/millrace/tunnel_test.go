package main

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"millrace/dataplane/netnstest"
)

// TestKernelTunnel has Linux's own VXLAN devices as the other end, over IPv4 and
// IPv6: pods behind both reach each other, TCP goes through with right checksums,
// and the rows say how things are.
func TestKernelTunnel(t *testing.T) {
	if !netnstest.Alone(t) {
		return
	}
	netnstest.Need(t, "ovs-vsctl", "iperf3")
	if out, err := exec.Command("ip", "link", "add", "vxprobe", "type", "vxlan", "id", "1", "dstport", "4789").CombinedOutput(); err != nil {
		t.Skipf("needs the kernel's vxlan: %s", out)
	}
	netnstest.IP(t, "link del vxprobe")
	dir := t.TempDir()
	startSwitch(t, dir)
	far := farHost(t, dir)
	far.Run("ip link add vx4 type vxlan id 42 remote 172.16.0.1 local 172.16.0.2 dstport 4789")
	far.Run("ip link add vx6 type vxlan id 43 remote fd16::1 local fd16::2 dstport 4789 udp6zerocsumrx")
	vsctl(t, dir, "add-port br0 tun4 -- set Interface tun4 type=vxlan options:remote_ip=172.16.0.2 options:key=42 options:csum=true")
	vsctl(t, dir, "add-port br1 tun6 -- set Interface tun6 type=vxlan options:remote_ip=fd16::2 options:local_ip=fd16::1 options:key=43")
	for i, name := range []string{"vx4", "vx6"} {
		far.Run("ip addr add 10.9.%d.2/24 dev %s", i, name)
		far.Run("ip link set %s up", name)
		pod := netnstest.NewPod(t, "pod"+name, 1)
		pod.Run("ip addr add 10.9.%d.1/24 dev eth0", i)
		vsctl(t, dir, fmt.Sprintf("add-port br%d pod%s", i, name))
		mtu := 1450
		if name == "vx6" {
			mtu = 1430
		}
		for _, size := range []int{56, 1000, mtu - 28} {
			pod.Reach(fmt.Sprintf("10.9.%d.2", i), size)
		}
		far.Start("iperf3 -s -1 -p %d", 5201+i)
		netnstest.Wait(t, func() string {
			out, err := pod.Try("iperf3 -c 10.9.%d.2 -p %d -n 20M", i, 5201+i)
			if err != nil {
				return out
			}
			return ""
		})
		if n := pod.Counter("Tcp", "InCsumErrors"); n != 0 {
			t.Errorf("%d wrong checksums in the pod", n)
		}
	}
	if n := far.Counter("Tcp", "InCsumErrors") + far.Counter("Udp", "InCsumErrors"); n != 0 {
		t.Errorf("%d wrong checksums at the far end", n)
	}
	if out := vsctl(t, dir, "get Interface tun4 status"); !strings.Contains(out, "tunnel_egress_iface=host") || !strings.Contains(out, "from 172.16.0.1 to 172.16.0.2") {
		t.Errorf("status: %s", out)
	}
	if out := vsctl(t, dir, "get Interface tun4 link_state statistics:rx_dropped statistics:tx_dropped"); out != "up\n0\n0" {
		t.Errorf("link state and drops: %s", out)
	}
	far.Run("ip addr del 172.16.0.2/24 dev eth0")
	netnstest.IP(t, "neigh flush dev host")
	netnstest.Wait(t, func() string {
		if out := vsctl(t, dir, "get Interface tun4 status:reason"); !strings.Contains(out, "172.16.0.2 does not answer on host") {
			return out
		}
		return ""
	})
}

// farHost makes a bridge phy with an internal port, host, which has 172.16.0.1 and
// fd16::1, and a port to a pod, which has 172.16.0.2 and fd16::2.
func farHost(t *testing.T, dir string) *netnstest.Pod {
	t.Helper()
	far := netnstest.NewPod(t, "far", 1)
	far.Run("ip addr add 172.16.0.2/24 dev eth0")
	far.Run("ip addr add fd16::2/64 dev eth0 nodad")
	must(t, dir, "port", "add", "phy", "host", "--type", "internal", "--ip", "172.16.0.1/24", "--ip", "fd16::1/64")
	vsctl(t, dir, "add-port phy far -- set Interface far type=afxdp")
	vsctl(t, dir, "add-br br0")
	vsctl(t, dir, "add-br br1")
	return far
}
