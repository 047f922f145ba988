package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/dataplane/netnstest"
)

// longEnv has TestAllPairs take the full product.
const longEnv = "MILLRACE_TEST_LONG"

// A way is how frames go between the pods of a test.
type way struct {
	name, kind string    // kind of the tunnel; empty: within a host
	ends       [2]string // addresses of the far ends, as each host sees them
	options    []string  // more of the tunnel
}

// TestAllPairs has two switches, in two network namespaces, as two hosts, each with pods on TAP
// ports, on veths and behind vhost-user, in two VLANs: those of a VLAN reach each other within
// a host and through Geneve and VXLAN, by packets of 60 to 9,000 bytes, and run TCP and UDP with
// checksums that tshark finds right at both ends. Pods of different VLANs do not reach each other.
//
//	 test's namespace                     far's namespace
//	┌─────────────────────────┐          ┌──────────────────────────┐
//	│ p1 tap                  │          │          plain tap  p4   │
//	│ p2 veth    br0 ── tunnel│          │tunnel ── br0    veth  p5 │
//	│ p3 vhost        │       │          │     │          vhost  p6 │
//	│ p7 tap, VLAN 20 ·       │   veth   │     ·                    │
//	│   phy (host, far) ──────┼──────────┼─ eth0, and its address   │
//	└─────────────────────────┘          └──────────────────────────┘
//
// MILLRACE_TEST_LONG=1 is the full product: both kinds of TAP ports on both hosts, two pods of each kind on one of
// them, all kinds in the second VLAN, all ordered pairs, both tunnels over IPv4 and IPv6, with and without UDP
// checksums, TCP and UDP over both. Otherwise each ordered pair of kinds has TCP over one version of IP and
// UDP over the other one, by each of three ways.
func TestAllPairs(t *testing.T) {
	long := os.Getenv(longEnv) != ""
	most := 5 * time.Minute
	if long {
		most = time.Hour
	}
	if !netnstest.AloneFor(t, most) {
		return
	}
	netnstest.Need(t, "ovs-vsctl", "iperf3", "tshark")
	l := newPairsLab(t, long)
	ways := []way{
		{name: "bridge"},
		{"geneve", "geneve", [2]string{"fd16::2", "fd16::1"}, nil},
		{"vxlan", "vxlan", [2]string{"172.16.0.2", "172.16.0.1"}, nil},
	}
	if long {
		ways = append(ways, way{"geneve, IPv4, UDP checksums", "geneve", [2]string{"172.16.0.2", "172.16.0.1"}, []string{"--option", "csum=true"}},
			way{"vxlan, IPv6, UDP checksums", "vxlan", [2]string{"fd16::2", "fd16::1"}, []string{"--option", "csum=true"}})
	}
	for n, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			defer l.tunnel(t, w)()
			l.checkWay(t, n, w)
		})
	}
	some := regexp.MustCompile("tx_finished_udp=[1-9]")
	netnstest.Wait(t, func() string {
		if out := vsctl(t, l.dirs[0], "get Interface p2 statistics"); !some.MatchString(out) {
			return "no super-frame of datagrams was cut for the veth: " + out
		}
		return ""
	})
	for _, dir := range l.dirs {
		if out := must(t, dir, "drops"); strings.Contains(out, "bad_header") || strings.Contains(out, "bad_checksum") || strings.Contains(out, "does not balance") {
			t.Errorf("drops:\n%s", out)
		}
	}
}

// A pairsLab is two hosts with pods.
type pairsLab struct {
	dirs [2]string
	pods []*pairsPod
	long bool
}

// A pairsPod is a pod of a pairsLab.
type pairsPod struct {
	*labPod
	host, vlan int
	second     bool // there is one of its kind in its VLAN and host already: it is for that one
}

func newPairsLab(t *testing.T, long bool) *pairsLab {
	t.Helper()
	l := &pairsLab{dirs: [2]string{t.TempDir(), t.TempDir()}, long: long}
	startSwitch(t, l.dirs[0])
	far := farHost(t, l.dirs[0])
	must(t, l.dirs[0], "port", "set", "host", "--mtu", "9100")
	netnstest.IP(t, "link set far mtu 9100")
	far.Run("ip link set eth0 mtu 9100")
	startIn(t, far, l.dirs[1])
	must(t, l.dirs[1], "port", "add", "phy", "eth0", "--type", "afxdp", "--option", "xdp-udp-ports=6081,4789", "--wait=20s")
	must(t, l.dirs[1], "bridge", "add", "br0")
	pods := []pairsPod{
		{&labPod{kind: byTAP}, 0, 10, false}, {&labPod{kind: byVeth}, 0, 10, false}, {&labPod{kind: byVhost}, 0, 10, false},
		{&labPod{kind: byPlain}, 1, 10, false}, {&labPod{kind: byVeth}, 1, 10, false}, {&labPod{kind: byVhost}, 1, 10, false},
		{&labPod{kind: byTAP}, 0, 20, false},
	}
	if long {
		pods = append(pods, pairsPod{&labPod{kind: byPlain}, 0, 10, false}, pairsPod{&labPod{kind: byTAP}, 1, 10, false},
			pairsPod{&labPod{kind: byVeth}, 0, 20, false}, pairsPod{&labPod{kind: byVhost}, 0, 20, false})
		for _, kind := range []string{byTAP, byPlain, byVeth, byVhost} {
			pods = append(pods, pairsPod{&labPod{kind: kind}, 0, 10, true}, pairsPod{&labPod{kind: kind}, 1, 20, false})
		}
	}
	for i, p := range pods {
		p.labPod = newLabPod(t, l.dirs[p.host], []*netnstest.Pod{nil, far}[p.host], "br0", p.kind, i+1, 9000, "--tag", strconv.Itoa(p.vlan))
		l.pods = append(l.pods, &p)
	}
	return l
}

// tunnel makes a way's tunnel between the hosts, and returns what deletes it.
func (l *pairsLab) tunnel(t *testing.T, w way) (remove func()) {
	t.Helper()
	if w.kind == "" {
		return func() {}
	}
	for i, dir := range l.dirs {
		must(t, dir, append([]string{"port", "add", "br0", w.kind, "--type", w.kind, "--option", "remote_ip=" + w.ends[i], "--option", "key=9", "--wait=20s"}, w.options...)...)
	}
	return func() {
		for _, dir := range l.dirs {
			must(t, dir, "port", "del", w.kind)
		}
	}
}

// pairs are the ordered pairs of pods that reach each other by a way, and by no shorter one.
func (l *pairsLab) pairs(w way) (list [][2]*pairsPod) {
	for _, a := range l.pods {
		for _, b := range l.pods {
			inHost := a.host == b.host
			switch {
			case a == b || a.vlan != b.vlan || inHost != (w.kind == ""):
			case (a.second || b.second) && (a.second == b.second || a.kind != b.kind || !inHost):
			default:
				list = append(list, [2]*pairsPod{a, b})
			}
		}
	}
	return list
}

// checkWay checks that pods reach each other, what they send and receive, and that others are not reached. Way number n
// has other combinations than the one before.
func (l *pairsLab) checkWay(t *testing.T, n int, w way) {
	pairs := l.pairs(w)
	captures := map[*pairsPod]*capture{}
	from, to := map[*pairsPod]bool{}, map[*pairsPod]bool{}
	for _, p := range pairs {
		l.checkPings(t, p)
	}
	l.checkApart(t)
	run := pairs
	if !l.long && w.kind != "" { // one way by one tunnel, the other way by the other one
		run = slices.DeleteFunc(slices.Clone(pairs), func(p [2]*pairsPod) bool { return p[0].host != n%2 })
	}
	for _, p := range run {
		from[p[0]], to[p[1]] = true, true
		for _, end := range p {
			if end.kind != byTAP && captures[end] == nil { // whose checksums may be unfinished
				captures[end] = startCapture(end.labPod)
			}
		}
	}
	for i, p := range run {
		l.checkStreams(p, i+n, 5201+4*i)
	}
	finished := map[string]bool{}
	for _, p := range l.pods {
		finished[p.mac] = p.finishes()
	}
	for p, c := range captures {
		sent, received := c.check(finished)
		if to[p] && (received.tcp == 0 || received.udp == 0) {
			t.Errorf("%s by %s has received %+v", p.Host, p.kind, received)
		}
		if from[p] && p.kind != byVeth && (sent.tcp == 0 || sent.udp == 0) {
			t.Errorf("%s by %s has sent %+v", p.Host, p.kind, sent)
		}
	}
	for _, p := range l.pods {
		checkCounters(p.Pod)
	}
}

// checkPings sends echo requests of all sizes from one pod to another.
func (l *pairsLab) checkPings(t *testing.T, p [2]*pairsPod) {
	t.Helper()
	sizes := []int{18, 1472, 8952} // less than 9,000 in all, by IPv6 too
	if l.long {
		sizes = []int{18, 19, 64, 65, 128, 512, 1000, 1400, 1452, 1472, 1473, 2000, 3000, 4096, 8000, 8951, 8952}
	}
	for _, to := range []string{p[1].v4, p[1].v6} {
		for _, size := range sizes {
			p[0].Reach(to, size)
		}
	}
	p[0].Reach(p[1].v4, 9000-28)
}

// checkApart checks that no pod of another VLAN answers, all at once.
func (l *pairsLab) checkApart(t *testing.T) {
	t.Helper()
	var all sync.WaitGroup
	for _, a := range l.pods {
		for _, b := range l.pods {
			if a.vlan == b.vlan || a.second || b.second {
				continue
			}
			all.Go(func() {
				for _, to := range []string{b.v4, b.v6} {
					if err := a.Ping(to, 56, 300*time.Millisecond); err == nil {
						t.Errorf("%s of VLAN %d answers to %s of VLAN %d", b.Host, b.vlan, a.Host, a.vlan)
					}
				}
			})
		}
	}
	all.Wait()
}

// checkStreams runs TCP and UDP from one pod to another, from a port on: each over both versions of IP in the full
// product, else TCP over one and UDP over the other, by what number n says.
func (l *pairsLab) checkStreams(p [2]*pairsPod, n, port int) {
	const tcp, udp = "-n 1M", "-u -b 50M -n 300K -l 1400"
	to := [2]string{p[1].v4, p[1].v6}
	if p[0].kind == byTAP {
		sendSegments(p[0].labPod, p[1].labPod)
	}
	p[0].iperf(p[1].labPod, port, to[n%2], tcp)
	p[0].iperf(p[1].labPod, port+1, to[1-n%2], udp)
	if l.long {
		p[0].iperf(p[1].labPod, port+2, to[1-n%2], tcp)
		p[0].iperf(p[1].labPod, port+3, to[n%2], udp)
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
