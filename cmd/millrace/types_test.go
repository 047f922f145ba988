package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"millrace/dataplane/netnstest"
)

// typeCase is a port of one type: how ovs-vsctl makes it, what its row says then, and
// whose counters its statistics are.
type typeCase struct {
	name, bridge, set string
	columns           map[string]string // that the row must have
	status            []string          // words in the column status
	counts            func(read reading) (rx, tx traffic)
}

// traffic is frames and their bytes.
type traffic struct{ frames, bytes int }

func (t traffic) since(before traffic) traffic {
	return traffic{t.frames - before.frames, t.bytes - before.bytes}
}

// headed is t of a device that counts bytes without Ethernet headers.
func (t traffic) headed() traffic { return traffic{t.frames, t.bytes + 14*t.frames} }

// A reading is where a port's counters are read: rows, which are written now and then, or the dataplane.
type reading func(name string) (rx, tx traffic)

// TestEveryType has ovs-vsctl make a port of each type that there is, with traffic
// through each. Rows have the status of what stands behind them, and statistics are what
// `ip -s link` says of the device: of the port's own, or of the one at its other end.
//
//	br0  afxdp pa, system pb, tap tp, internal ip0, patch x ┐
//	br1  patch y, afxdp pc, geneve gn, vxlan vx             ┘   phy  internal host, afxdp far
//	br2  dpdkvhostuser v1 and w1, dpdkvhostuserclient v2 and w2
func TestEveryType(t *testing.T) {
	if !netnstest.Alone(t) {
		return
	}
	netnstest.Need(t, "ovs-vsctl")
	dir := t.TempDir()
	startSwitch(t, dir)
	far := farHost(t, dir)
	pods := map[string]*netnstest.Pod{}
	for i, name := range []string{"pa", "pb", "pc", "spare"} {
		pods[name] = netnstest.NewPod(t, name, 1)
		if name == "spare" { // which has the tap port's address
			continue
		}
		pods[name].Address(i + 1)
		// The host's end of the pair would send by itself, past the port.
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
	pods["pa"].Run("ip addr add 10.10.0.1/24 dev eth0")
	tunnels := makeTunnelEnds(t, far)
	vsctl(t, dir, "add-br br2")
	up := map[string]string{"link_state": "up", "admin_state": "up", "error": "[]"}
	down := map[string]string{"link_state": "down", "error": "[]"}                  // guests have gone
	podsEnd := func(p *netnstest.Pod, name string) func(reading) (rx, tx traffic) { // it sends what the port receives
		return func(reading) (traffic, traffic) { rx, tx := linkCounts(t, p, name); return tx, rx }
	}
	vethsEnd := func(p *netnstest.Pod) func(reading) (rx, tx traffic) { // it counts as sent what XDP has taken at our end, without the header
		return func(reading) (traffic, traffic) { rx, tx := linkCounts(t, p, "eth0"); return tx.headed(), rx }
	}
	otherEnd := func(name string) func(reading) (rx, tx traffic) {
		return func(read reading) (traffic, traffic) { rx, tx := read(name); return tx, rx }
	}
	cases := []typeCase{
		{"pa", "br0", "type=afxdp", up, []string{"driver_name=veth", "n_rxq"}, vethsEnd(pods["pa"])},
		{"pb", "br0", "type=system", up, []string{"driver_name=veth", "n_rxq"}, vethsEnd(pods["pb"])},
		{"tp", "br0", fmt.Sprintf("type=tap options:netns=/proc/%d/ns/net options:ip=10.9.0.11/24", pods["spare"].PID()), up, nil, podsEnd(pods["spare"], "tp")},
		{"ip0", "br0", "type=internal options:ip=10.9.0.12/24", up, nil, podsEnd(nil, "ip0")},
		{"x", "br0", "type=patch options:peer=y", up, nil, otherEnd("y")},
		{"y", "br1", "type=patch options:peer=x", up, nil, otherEnd("x")},
		{"pc", "br1", "type=afxdp", up, []string{"driver_name=veth"}, vethsEnd(pods["pc"])},
	}
	for _, v := range []string{"v", "w"} {
		server := filepath.Join(dir, v+"2.peer")
		cases = append(cases, typeCase{v + "1", "br2", "type=dpdkvhostuser", down, nil, nil},
			typeCase{v + "2", "br2", "type=dpdkvhostuserclient options:vhost-server-path=" + server, down, nil, nil})
	}
	for kind, name := range map[string]string{"vxlan": "vx", "geneve": "gn"} {
		counts := func(reading) (traffic, traffic) { rx, tx := linkCounts(t, far, name); return tx.headed(), rx.headed() }
		if tunnels[kind] == "" { // the kernel has none, so only floods leave
			counts = func(read reading) (rx, tx traffic) {
				_, tx = read(name)
				tx.frames = max(tx.frames, 1)
				return rx, tx
			}
		}
		set := fmt.Sprintf("type=%s options:remote_ip=172.16.0.2 options:key=77", kind)
		cases = append(cases, typeCase{name, "br1", set, up, []string{"tunnel_egress_iface=host"}, counts})
	}
	for _, c := range cases {
		vsctl(t, dir, fmt.Sprintf("add-port %s %s -- set Interface %s %s", c.bridge, c.name, c.name, c.set))
	}

	// From a pod of br0 to all others: pods of br0, and through the patch ports those
	// of br1 and of the far ends of tunnels.
	to := []string{"10.9.0.2", "10.9.0.11", "10.9.0.12", "10.9.0.3"}
	for kind := range tunnels {
		to = append(to, farAddress[kind])
	}
	for _, a := range to {
		pods["pa"].Reach(a, 1000)
	}
	before := settled(t, dir, cases) // devices have sent something before they had a port
	for _, a := range to {
		pods["pa"].Reach(a, 1000)
	}
	guestsTalk(t, dir)

	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for column, want := range c.columns {
				netnstest.Wait(t, func() string {
					if got := vsctl(t, dir, "get Interface "+c.name+" "+column); got != want {
						return fmt.Sprintf("%s of %s is %s, want %s", column, c.name, got, want)
					}
					return ""
				})
			}
			status := vsctl(t, dir, "get Interface "+c.name+" status")
			for _, word := range c.status {
				if !strings.Contains(status, word) {
					t.Errorf("status of %s is %s, want %s", c.name, status, word)
				}
			}
			if n, err := strconv.Atoi(vsctl(t, dir, "get Interface "+c.name+" ofport")); err != nil || n <= 0 {
				t.Errorf("ofport of %s: %d, %v", c.name, n, err)
			}
			checkCounts(t, dir, c, before[c.name])
		})
	}
}

// counted is what a row's statistics say, and what somebody else has counted.
type counted struct{ rx, tx, theirRx, theirTx traffic }

func countBoth(c typeCase, read reading) (n counted) {
	n.rx, n.tx = read(c.name)
	n.theirRx, n.theirTx = c.counts(read)
	return n
}

// settled waits until no count of the dataplane's, or of others, moves any more, and returns them.
func settled(t *testing.T, dir string, cases []typeCase) (all map[string]counted) {
	t.Helper()
	look := func() map[string]counted {
		read, now := liveCounts(t, dir), map[string]counted{}
		for _, c := range cases {
			if c.counts != nil {
				now[c.name] = countBoth(c, read)
			}
		}
		return now
	}
	netnstest.Wait(t, func() string {
		all = look()
		time.Sleep(quiet)
		if again := look(); !maps.Equal(all, again) {
			return fmt.Sprintf("counts still move: %+v, then %+v", all, again)
		}
		return ""
	})
	return all
}

// quiet is how long nothing must move.
const quiet = time.Second

// liveCounts are what the dataplane has counted just now.
func liveCounts(t *testing.T, dir string) reading {
	t.Helper()
	var stats struct {
		Ports []struct {
			Name     string
			RxFrames int `json:"rx_frames"`
			TxFrames int `json:"tx_frames"`
			RxBytes  int `json:"rx_bytes"`
			TxBytes  int `json:"tx_bytes"`
		}
	}
	if out := must(t, dir, "stats", "--json"); json.Unmarshal([]byte(out), &stats) != nil || len(stats.Ports) == 0 {
		t.Fatalf("stats: %s", out)
	}
	return func(name string) (rx, tx traffic) {
		for _, p := range stats.Ports {
			if p.Name == name {
				return traffic{p.RxFrames, p.RxBytes}, traffic{p.TxFrames, p.TxBytes}
			}
		}
		t.Fatalf("no port %s in %+v", name, stats)
		return rx, tx
	}
}

// checkCounts waits until the statistics of a row have grown by what somebody else has
// counted since before.
func checkCounts(t *testing.T, dir string, c typeCase, before counted) {
	t.Helper()
	netnstest.Wait(t, func() string {
		if c.counts == nil { // its guest has sent and received so many at least
			s := statisticsOf(t, dir, c.name)
			if s["rx_packets"] < guestFrames || s["tx_packets"] < guestFrames || s["rx_bytes"] < 60*guestFrames || s["tx_bytes"] < 60*guestFrames {
				return fmt.Sprintf("statistics of %s: %v", c.name, s)
			}
			return ""
		}
		n := countBoth(c, func(name string) (rx, tx traffic) {
			s := statisticsOf(t, dir, name)
			return traffic{s["rx_packets"], s["rx_bytes"]}, traffic{s["tx_packets"], s["tx_bytes"]}
		})
		if n.rx.since(before.rx) != n.theirRx.since(before.theirRx) || n.tx.since(before.tx) != n.theirTx.since(before.theirTx) || n.tx.frames == 0 {
			return fmt.Sprintf("statistics of %s have grown from %+v to %+v", c.name, before, n)
		}
		return ""
	})
}

// statisticsOf reads the statistics of a row.
func statisticsOf(t *testing.T, dir, name string) map[string]int {
	t.Helper()
	m := map[string]int{}
	text := strings.Trim(vsctl(t, dir, "get Interface "+name+" statistics"), "{}")
	for part := range strings.SplitSeq(text, ", ") {
		if k, v, ok := strings.Cut(part, "="); ok {
			n, err := strconv.Atoi(v)
			if err != nil {
				t.Fatalf("statistics of %s: %s", name, text)
			}
			m[k] = n
		}
	}
	return m
}

// linkCounts are the frames that `ip -s link` says a device has received and sent, in a
// pod or here.
func linkCounts(t *testing.T, p *netnstest.Pod, name string) (rx, tx traffic) {
	t.Helper()
	var out []byte
	if p != nil {
		out = []byte(p.Run("ip -s -j link show %s", name))
	} else {
		var err error
		if out, err = exec.Command("ip", "-s", "-j", "link", "show", name).Output(); err != nil {
			t.Fatalf("ip -s -j link show %s: %v", name, err)
		}
	}
	var list []struct {
		Stats64 struct {
			RX, TX struct{ Packets, Bytes int }
		}
	}
	if err := json.Unmarshal(out, &list); err != nil || len(list) != 1 {
		t.Fatalf("ip -s -j link show %s: %v: %s", name, err, out)
	}
	s := list[0].Stats64
	return traffic{s.RX.Packets, s.RX.Bytes}, traffic{s.TX.Packets, s.TX.Bytes}
}

// farAddress is what the far end of a tunnel has, by the tunnel's type.
var farAddress = map[string]string{"vxlan": "10.9.0.21", "geneve": "10.10.0.22"}

// makeTunnelEnds makes the kernel's devices at the far end, as far as the kernel has
// them, and returns their names by type. The ports have the same names.
func makeTunnelEnds(t *testing.T, far *netnstest.Pod) map[string]string {
	t.Helper()
	made := map[string]string{}
	for kind, add := range map[string]string{
		"vxlan":  "ip link add vx type vxlan id 77 remote 172.16.0.1 local 172.16.0.2 dstport 4789",
		"geneve": "ip link add gn type geneve id 77 remote 172.16.0.1",
	} {
		name := map[string]string{"vxlan": "vx", "geneve": "gn"}[kind]
		if out, err := far.Try("%s", add); err != nil {
			t.Logf("needs the kernel's %s: %s", kind, out)
			continue
		}
		far.Run("ip addr add %s/24 dev %s", farAddress[kind], name)
		far.Run("ip link set %s up", name)
		made[kind] = name
	}
	return made
}

// guestFrames is how many frames each guest of guestsTalk sends.
const guestFrames = 1000

// guestsTalk has guests on two ports of each kind of vhost-user send to each other.
func guestsTalk(t *testing.T, dir string) {
	t.Helper()
	for _, args := range []string{"v1 w1", "v2.peer w2.peer --listen"} {
		words := strings.Fields(args)
		words[0], words[1] = filepath.Join(dir, words[0]), filepath.Join(dir, words[1])
		all := append([]string{"--run-dir", dir, "pktgen"}, words...)
		if r := run(t, append(all, "--bidi", "--count", strconv.Itoa(guestFrames), "--rate", "20000", "--no-ceiling", "--connect", "30s")...); r.code != 0 {
			t.Errorf("pktgen %s: %s%s", args, r.out, r.err)
		}
	}
}
