package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/dataplane/netnstest"
	"millrace/dataplane/service"
)

// TestKernelTunnel has Linux's own VXLAN devices as the other end, over IPv4 and
// IPv6: pods behind both reach each other, TCP goes through with right checksums,
// and the rows say how things are.
func TestKernelTunnel(t *testing.T) {
	t.Parallel() // it waits, for the most part
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
		far.Start("iperf3 -s -p %d", 5201+i)
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
	checkSuperFrames(t, dir, far)
	if n := far.Counter("Tcp", "InCsumErrors") + far.Counter("Udp", "InCsumErrors"); n != 0 {
		t.Errorf("%d wrong checksums at the far end", n)
	}
	if out := vsctl(t, dir, "get Interface tun4 status"); !strings.Contains(out, "tunnel_egress_iface=host") || !strings.Contains(out, "from 172.16.0.1 to 172.16.0.2") {
		t.Errorf("status: %s", out)
	}
	if out := vsctl(t, dir, "get Interface tun4 link_state"); out != "up" {
		t.Errorf("link state: %s", out)
	}
	if out := must(t, dir, "drops"); strings.Contains(out, "tunnel_bad") || strings.Contains(out, "tunnel_unknown") || strings.Contains(out, "tunnel_fragment") {
		t.Errorf("drops:\n%s", out)
	}
	far.Run("ip addr del 172.16.0.2/24 dev eth0")
	netnstest.IP(t, "neigh flush dev host")
	netnstest.Wait(t, func() string {
		if out := vsctl(t, dir, "get Interface tun4 status"); !strings.Contains(out, "172.16.0.2 does not answer on host") {
			return out
		}
		return ""
	})
}

// checkSuperFrames has a pod on a TAP port send super-frames of TCP into the tunnel, where they go in segments, and
// receive what comes out of it merged, both by IPv4 and IPv6 outside.
func checkSuperFrames(t *testing.T, dir string, far *netnstest.Pod) {
	t.Helper()
	pod := netnstest.NewPod(t, "super", 1)
	for i, tunnel := range []string{"tun4", "tun6"} {
		name := "tap" + tunnel
		vsctl(t, dir, fmt.Sprintf("add-port br%d %s -- set Interface %s type=tap mtu_request=1430 options:netns=/proc/%d/ns/net options:ip=10.9.%d.3/24 options:gro=true", i, name, name, pod.PID(), i))
		pod.Reach(fmt.Sprintf("10.9.%d.2", i), 1000)
		for k, way := range []string{"", "-R"} {
			port := 5210 + 2*i + k
			far.Start("iperf3 -s -p %d", port)
			netnstest.Wait(t, func() string {
				if out, err := pod.Try("iperf3 -c 10.9.%d.2 -p %d -n 10M %s", i, port, way); err != nil {
					return out
				}
				return ""
			})
		}
		for name, counter := range map[string]string{tunnel: "tx_finished_tcp", "tap" + tunnel: "tx_merged_tcp"} {
			netnstest.Wait(t, func() string {
				if s := statisticsOf(t, dir, name); s[counter] == 0 || s["tx_dropped"] > s["tx_packets"]/100 {
					return fmt.Sprintf("statistics of %s: %v", name, s)
				}
				return ""
			})
		}
	}
	if n := pod.Counter("Tcp", "InCsumErrors"); n != 0 {
		t.Errorf("%d wrong checksums in the pod on TAP ports", n)
	}
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

// TestOVSTunnel has Open vSwitch's userspace datapath as the other end of a Geneve
// tunnel, with UDP checksums, and keys that flows set here.
func TestOVSTunnel(t *testing.T) {
	t.Parallel() // it waits, for the most part
	if !netnstest.Alone(t) {
		return
	}
	netnstest.Need(t, "ovs-vsctl", "ovs-vswitchd", "ovsdb-server", "ovsdb-tool")
	dir := t.TempDir()
	startSwitch(t, dir)
	far := farHost(t, dir)
	ovs := startOVS(t, far)
	far.Run("ip addr flush dev eth0")
	ovs("add-br", "phy", "--", "set", "Bridge", "phy", "datapath_type=netdev", "--", "add-port", "phy", "eth0")
	ovs("add-br", "int", "--", "set", "Bridge", "int", "datapath_type=netdev",
		"--", "add-port", "int", "gnv", "--", "set", "Interface", "gnv", "type=geneve", "options:remote_ip=172.16.0.1", "options:key=7", "options:csum=true")
	far.Run("ip addr add 172.16.0.2/24 dev phy")
	far.Run("ip link set phy up")
	far.Run("ip addr add 10.9.0.2/24 dev int")
	far.Run("ip addr add fd09::2/64 dev int nodad")
	far.Run("ip link set int mtu 1400 up")

	pod := netnstest.NewPod(t, "pod", 1)
	pod.Address(1)
	pod.Run("ip link set eth0 mtu 1400")
	vsctl(t, dir, "add-port br0 pod")
	vsctl(t, dir, "add-port br0 gnv -- set Interface gnv type=geneve options:remote_ip=172.16.0.2 options:key=7 options:csum=true")
	for _, size := range []int{56, 1000, 1372} {
		pod.Reach("10.9.0.2", size)
	}
	pod.Reach("fd09::2", 56)

	vsctl(t, dir, "set Interface gnv options:key=flow")
	vsctl(t, dir, "set Bridge br0 other_config:millrace-pipeline=flows")
	must(t, dir, "flow", "add", "br0", `inport == "pod"`, `tun.id = 7; outport = "gnv"; output;`)
	must(t, dir, "flow", "add", "br0", `inport == "gnv" && tun.id == 7`, `outport = "pod"; output;`)
	pod.Reach("10.9.0.2", 1000)
	must(t, dir, "flow", "del", "br0", "--all")
	vsctl(t, dir, "set Interface gnv options:remote_ip=flow")
	must(t, dir, "flow", "add", "br0", `inport == "pod"`, `tun.id = 7; tun.dst = 172.16.0.2; outport = "gnv"; output;`)
	must(t, dir, "flow", "add", "br0", `inport == "gnv" && tun.src == 172.16.0.2 && tun.id == 7`, `outport = "pod"; output;`)
	pod.Reach("10.9.0.2", 1000)
	vsctl(t, dir, "set Interface gnv options:remote_ip=172.16.0.2")
	must(t, dir, "flow", "del", "br0", "--all")
	must(t, dir, "flow", "add", "br0", `inport == "pod"`, `tun.id = 7; outport = "gnv"; output;`)
	must(t, dir, "flow", "add", "br0", `inport == "gnv" && tun.id == 8`, `outport = "pod"; output;`)
	if err := pod.Ping("10.9.0.2", 56, time.Second); err == nil {
		t.Error("frames of another key come through")
	}
}

// startOVS starts Open vSwitch in a pod, and returns ovs-vsctl for it.
func startOVS(t *testing.T, pod *netnstest.Pod) (vsctl func(args ...string)) {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("ovsdb-tool", "create", dir+"/conf.db", "/usr/share/openvswitch/vswitch.ovsschema").CombinedOutput(); err != nil {
		t.Skipf("needs the schema of Open vSwitch: %s", out)
	}
	pod.Start("ovsdb-server %s/conf.db --remote=punix:%s/db.sock --unixctl=%s/db.ctl", dir, dir, dir)
	run := func(args ...string) error {
		out, err := exec.Command("ovs-vsctl", append([]string{"--db=unix:" + dir + "/db.sock", "--timeout=20"}, args...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ovs-vsctl %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	netnstest.Wait(t, func() string {
		if err := run("--no-wait", "init"); err != nil {
			return err.Error()
		}
		return ""
	})
	log := pod.Start("ovs-vswitchd unix:%s/db.sock --unixctl=%s/vswitchd.ctl", dir, dir)
	return func(args ...string) {
		t.Helper()
		if err := run(args...); err != nil {
			t.Fatalf("%v\n%s", err, log)
		}
	}
}

// TestTwoSwitches has two switches, in two network namespaces, as two hosts: pods of one
// reach those of the other by Geneve over IPv6. The second one's underlay is a device
// whose address the host keeps: the host is reached, too.
func TestTwoSwitches(t *testing.T) {
	t.Parallel() // it waits, for the most part
	if !netnstest.Alone(t) {
		return
	}
	netnstest.Need(t, "ovs-vsctl", "iperf3")
	dir, other := t.TempDir(), t.TempDir()
	startSwitch(t, dir)
	far := farHost(t, dir)
	startIn(t, far, other)
	pods := []*netnstest.Pod{netnstest.NewPod(t, "pa", 1), netnstest.NewPod(t, "pb", 1)}
	for i, p := range pods {
		p.Address(i + 1)
		p.Run("ip link set eth0 mtu 1422")
	}
	netnstest.IP(t, "link set pb netns %d", far.PID())
	far.Run("ip link set pb up")
	must(t, other, "port", "add", "phy", "eth0", "--type", "afxdp", "--option", "xdp-udp-ports=6081", "--wait=20s")
	must(t, other, "port", "add", "br0", "pb", "--type", "afxdp", "--wait=20s")
	must(t, other, "port", "add", "br0", "tun", "--type", "geneve", "--option", "remote_ip=fd16::1", "--option", "key=9", "--wait=20s")
	must(t, dir, "port", "add", "br0", "pa", "--type", "afxdp", "--wait=20s")
	must(t, dir, "port", "add", "br0", "tun", "--type", "geneve", "--option", "remote_ip=fd16::2", "--option", "key=9", "--wait=20s")
	for _, size := range []int{56, 1000, 1394} {
		pods[0].Reach("10.9.0.2", size)
	}
	pods[1].Reach("fd09::1", 1000)
	far.Reach("172.16.0.1", 1000)
	for i, args := range []string{"-n 20M", "-n 5M -R", "-u -b 20M -n 2M -l 1300"} {
		pods[1].Start("iperf3 -s -p %d", 5201+i)
		netnstest.Wait(t, func() string {
			if out, err := pods[0].Try("iperf3 -c 10.9.0.2 -p %d %s", 5201+i, args); err != nil {
				return out
			}
			return ""
		})
	}
	checkTooBig(t, pods)
	for _, p := range pods {
		if n := p.Counter("Tcp", "InCsumErrors") + p.Counter("Udp", "InCsumErrors"); n != 0 {
			t.Errorf("pod %s: %d wrong checksums", p.Host, n)
		}
	}
	for _, d := range []string{dir, other} {
		if out := must(t, d, "drops"); strings.Contains(out, "tunnel_bad") || strings.Contains(out, "tunnel_unknown") {
			t.Errorf("drops:\n%s", out)
		}
	}
}

// checkTooBig has pods whose MTU is larger than the tunnel's send what does not fit: their kernels
// are told by ICMP, of IPv4 and IPv6, believe it, and TCP goes through.
func checkTooBig(t *testing.T, pods []*netnstest.Pod) {
	for _, p := range pods {
		p.Run("ip link set eth0 mtu 1500")
	}
	for _, c := range [][2]string{{"10.9.0.2", ""}, {"fd09::2", "-6 "}} {
		netnstest.Wait(t, func() string {
			_ = pods[0].Ping(c[0], 1450, 100*time.Millisecond)
			if out := pods[0].Run("ip %sroute get %s", c[1], c[0]); !strings.Contains(out, "mtu 1430") {
				return "the pod's kernel has not taken note: " + out
			}
			return ""
		})
	}
	pods[1].Start("iperf3 -s -p 5300")
	netnstest.Wait(t, func() string {
		if out, err := pods[0].Try("iperf3 -c 10.9.0.2 -p 5300 -n 2M"); err != nil {
			return out
		}
		return ""
	})
}

// startIn starts a switch in a pod.
func startIn(t *testing.T, pod *netnstest.Pod, dir string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log := pod.Start("env %s=1 GORACE=atexit_sleep_ms=0 %s run --run-dir %s", mainEnv, exe, dir)
	netnstest.Wait(t, func() string {
		if r := run(t, "--run-dir", dir, "status"); r.code != 0 {
			return "the switch in the pod: " + r.out + r.err
		}
		return ""
	})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the switch in the pod:\n%s", log)
		}
		// In good order: Start waits for all that have its pipe, the dataplane among them.
		var pid int
		lock, err := os.ReadFile(filepath.Join(dir, service.RunLock))
		if _, scan := fmt.Sscan(string(lock), &pid); err != nil || scan != nil || pid <= 1 {
			t.Errorf("supervisor in the pod: %v, %v", err, scan)
			return
		}
		_ = syscall.Kill(pid, syscall.SIGTERM)
		netnstest.Wait(t, func() string {
			if pid, err := service.DataplaneOf(dir); err != nil || pid > 0 {
				return fmt.Sprintf("dataplane %d of the pod has not ended (%v)", pid, err)
			}
			return ""
		})
	})
}
