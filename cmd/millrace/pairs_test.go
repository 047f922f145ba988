package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"millrace/dataplane/netnstest"
)

// allPairsEnv has TestAllPairs take all pairs of pods instead of one of each kind.
const allPairsEnv = "MILLRACE_ALL_PAIRS"

// TestAllPairs has two switches, in two network namespaces, as two hosts, each with a pod on a TAP
// port, one on a veth and one behind vhost-user, all in one VLAN: they reach each other within
// a host and through Geneve over IPv6 and VXLAN over IPv4, by packets of 60 to 9,000 bytes, and
// run TCP and UDP with checksums that tshark finds right where frames are received. A
// pod of another VLAN is not reached.
//
//	 test's namespace                     far's namespace
//	┌─────────────────────────┐          ┌──────────────────────────┐
//	│ p1 tap                  │          │        tap, without p4   │
//	│ p2 veth    br0 ── tunnel│          │tunnel ── br0    veth  p5 │
//	│ p3 vhost        │       │          │     │          vhost  p6 │
//	│ p7 tap, VLAN 20 ·       │   veth   │     ·                    │
//	│   phy (host, far) ──────┼──────────┼─ eth0, and its address   │
//	└─────────────────────────┘          └──────────────────────────┘
func TestAllPairs(t *testing.T) {
	if !netnstest.Alone(t) {
		return
	}
	netnstest.Need(t, "ovs-vsctl", "iperf3", "tshark")
	dirs := [2]string{t.TempDir(), t.TempDir()}
	startSwitch(t, dirs[0])
	far := farHost(t, dirs[0])
	must(t, dirs[0], "port", "set", "host", "--mtu", "9100")
	netnstest.IP(t, "link set far mtu 9100")
	far.Run("ip link set eth0 mtu 9100")
	startIn(t, far, dirs[1])
	must(t, dirs[1], "port", "add", "phy", "eth0", "--type", "afxdp", "--option", "xdp-udp-ports=6081,4789", "--wait=20s")
	must(t, dirs[1], "bridge", "add", "br0")
	var pods [2][]*labPod
	for i, kind := range []string{byTAP, byVeth, byVhost, byTAP, byVeth, byVhost} {
		args := []string{"--tag", "10"}
		if kind == byTAP && i > 2 {
			args = append(args, "--option", "offload=false") // so that tshark sees checksums
		}
		pods[i/3] = append(pods[i/3], newLabPod(t, dirs[i/3], []*netnstest.Pod{nil, far}[i/3], "br0", kind, i+1, 9000, args...))
	}
	apart := newLabPod(t, dirs[0], nil, "br0", byTAP, 7, 9000, "--tag", "20")

	local := [][2]*labPod{{pods[0][0], pods[0][1]}, {pods[0][1], pods[0][2]}, {pods[0][2], pods[0][0]}}
	between := [][2]*labPod{{pods[0][0], pods[1][1]}, {pods[0][1], pods[1][2]}, {pods[0][2], pods[1][0]}}
	if os.Getenv(allPairsEnv) != "" {
		between = nil
		for _, a := range pods[0] {
			for _, b := range pods[1] {
				between = append(between, [2]*labPod{a, b}, [2]*labPod{b, a})
			}
		}
	}
	for _, by := range []string{"bridge", "geneve", "vxlan"} {
		pairs := between
		if by == "bridge" {
			pairs = local
		} else {
			for i, remote := range map[string][]string{"geneve": {"fd16::2", "fd16::1"}, "vxlan": {"172.16.0.2", "172.16.0.1"}}[by] {
				must(t, dirs[i], "port", "add", "br0", by, "--type", by, "--option", "remote_ip="+remote, "--option", "key=9", "--wait=20s")
			}
		}
		t.Run(by, func(t *testing.T) {
			checkPairs(t, pairs)
			for _, to := range []string{pairs[0][1].v4, pairs[0][1].v6} {
				if err := apart.Ping(to, 56, 300*time.Millisecond); err == nil {
					t.Errorf("%s answers to a pod of another VLAN", to)
				}
			}
		})
		if by == "bridge" {
			some := regexp.MustCompile("tx_finished_udp=[1-9]")
			netnstest.Wait(t, func() string {
				if out := vsctl(t, dirs[0], "get Interface p2 statistics"); !some.MatchString(out) {
					return "no super-frame of datagrams was cut for the veth: " + out
				}
				return ""
			})
		} else {
			for _, dir := range dirs {
				must(t, dir, "port", "del", by)
			}
		}
	}
	for _, dir := range dirs {
		if out := must(t, dir, "drops"); strings.Contains(out, "bad_header") || strings.Contains(out, "bad_checksum") || strings.Contains(out, "does not balance") {
			t.Errorf("drops:\n%s", out)
		}
	}
}

// checkPairs checks that pods reach each other, and what they receive.
func checkPairs(t *testing.T, pairs [][2]*labPod) {
	var ends []func()
	captured, all := map[*labPod]bool{}, map[*labPod]bool{}
	for _, p := range pairs {
		for _, to := range []string{p[1].v4, p[1].v6} {
			for _, size := range []int{18, 1472, 8952} { // less than 9,000 in all, by IPv6 too
				p[0].Reach(to, size)
			}
		}
		if err := p[0].Ping(p[1].v4, 9000-28, 5*time.Second); err != nil {
			t.Errorf("%s to %s: %v", p[0].Host, p[1].Host, err)
		}
		all[p[0]], all[p[1]] = true, true
		if to := p[1]; !captured[to] && (to.kind != byTAP || to.Host != "p1") {
			captured[to] = true
			ends = append(ends, capture(to.Pod, to.dev, " && eth.dst == "+to.mac))
		}
	}
	for _, p := range pairs {
		if p[0].kind == byTAP {
			sendSegments(p[0], p[1])
		}
	}
	for i, p := range pairs {
		port := 5201 + 2*i
		to := [2]string{p[1].v4, p[1].v6}
		p[0].iperf(p[1], port, to[i%2], "-n 1M")
		p[0].iperf(p[1], port+1, to[1-i%2], "-u -b 50M -n 300K -l 1400")
	}
	for _, end := range ends {
		end()
	}
	for p := range all {
		checkCounters(p.Pod)
	}
}

// TestUserspaceUplink has the underlay as Open vSwitch's users of DPDK have it: a bridge br-phy
// whose own port has the address, and whose uplink is a port that the kernel knows nothing of;
// tunnels are in another bridge. ARP and neighbour discovery are the kernel's, by way of br-phy.
// Two switches have vhost-user uplinks with a wire between them.
func TestUserspaceUplink(t *testing.T) {
	if !netnstest.Alone(t) {
		return
	}
	netnstest.Need(t, "ovs-vsctl")
	dirs := [2]string{t.TempDir(), t.TempDir()}
	far := netnstest.NewPod(t, "far", 1)
	startSwitch(t, dirs[0])
	startIn(t, far, dirs[1])
	host := [2]func(format string, args ...any){
		func(format string, args ...any) { netnstest.IP(t, format, args...) },
		func(format string, args ...any) { far.Run("ip "+format, args...) },
	}
	var pods []*labPod
	for i, dir := range dirs {
		vsctl(t, dir, "add-br br-phy -- set Bridge br-phy other_config:millrace-local=true")
		vsctl(t, dir, "add-port br-phy uplink -- set Interface uplink type=dpdkvhostuser")
		vsctl(t, dir, "add-br br-int")
		netnstest.Wait(t, func() string {
			if out := vsctl(t, dir, "get Interface br-phy ifindex"); strings.TrimSpace(out) == "[]" {
				return "br-phy is no device of the host's yet"
			}
			return ""
		})
		host[i]("addr add 172.16.0.%d/24 dev br-phy", i+1)
		host[i]("addr add fd16::%d/64 dev br-phy nodad", i+1)
		host[i]("link set br-phy up")
		vsctl(t, dir, fmt.Sprintf("add-port br-int gnv -- set Interface gnv type=geneve options:remote_ip=172.16.0.%d options:key=1", 2-i))
		vsctl(t, dir, fmt.Sprintf("add-port br-int vx -- set Interface vx type=vxlan options:remote_ip=fd16::%d options:local_ip=fd16::%d options:key=1", 2-i, i+1))
		pods = append(pods, newLabPod(t, dir, []*netnstest.Pod{nil, far}[i], "br-int", byTAP, i+1, 1400, "--tag", "1"))
	}
	wire(t, dirs[0]+"/uplink", dirs[1]+"/uplink")
	for _, dir := range dirs {
		vsctl(t, dir, "set Port vx tag=2") // the tunnels are of different VLANs, so that there is no loop
		vsctl(t, dir, "set Port gnv tag=1")
	}
	pods[0].Reach(pods[1].v4, 56)
	pods[1].Reach(pods[0].v6, 1300)
	for _, dir := range dirs {
		vsctl(t, dir, "set Port vx tag=1 -- set Port gnv tag=2")
	}
	pods[0].Reach(pods[1].v6, 56)
	pods[1].Reach(pods[0].v4, 1300)
	for i, dir := range dirs {
		if out := vsctl(t, dir, "get Interface gnv status"); !strings.Contains(out, "tunnel_egress_iface=br-phy") {
			t.Errorf("status: %s", out)
		}
		host[i]("neigh show dev br-phy")
	}
	// The other host has another Ethernet address from now on.
	vsctl(t, dirs[1], `set Bridge br-phy other_config:hwaddr="02:11:22:33:44:55"`)
	pods[0].Reach(pods[1].v6, 56)
	pods[0].Reach(pods[1].v4, 56)
}
