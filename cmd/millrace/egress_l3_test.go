package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/control/egress/l3"
	"millrace/dataplane/netnstest"
)

// A tunnelLab is operators, a server, NAT, and two nodes with a pod each, of one
// switch. Operators are stock WireGuard.
//
//	op ──── wan ═══════ nat ─────── test's namespace
//	      (server)   (masquerade,   br0: p1 pod, p9 not allowed, p14 with the tunnel's device
//	                  nothing in)   br1: p17 pod, p29 with the other node's
type tunnelLab struct {
	t             *testing.T
	dir           string // of the switch and the first node
	dir2          string // of the second node
	state         string // keys and the server's file
	roster        string // further lines of that
	op, wan, nat  *netnstest.Pod
	pod, shy, two *labPod
	doors         [2]*labPod // where tunnels end
	server        *inside
	nodes         [2]*process
	keys          map[string]l3.Key // private
	opDevice      string            // the operator's
}

// newTunnelLab makes it all, and waits until both nodes are ready. roster are
// further lines of the server's file.
func newTunnelLab(t *testing.T, roster string) *tunnelLab {
	netnstest.Need(t, "nft", "wg", "iperf3", "go")
	b := &tunnelLab{t: t, dir: t.TempDir(), dir2: t.TempDir(), state: t.TempDir(), roster: roster, keys: map[string]l3.Key{}}
	b.network()
	startSwitch(t, b.dir)
	for i, pods := range [][]**labPod{{&b.pod, &b.shy, &b.doors[0]}, {&b.two, &b.doors[1]}} {
		br := fmt.Sprintf("br%d", i)
		must(t, b.dir, "bridge", "add", br)
		for j, n := range [][]int{{1, 9, 14}, {17, 29}}[i] {
			*pods[j] = newLabPod(t, b.dir, nil, br, byTAP, n, 1500)
		}
	}
	for i, pods := range [][]*labPod{{b.pod, b.shy}, {b.two}} {
		for _, p := range pods {
			p.Run("ip route add 10.99.0.0/24 via %s", b.doors[i].v4)
			p.Run("ip route add %s via %s", []string{"10.9.0.16/28", "10.9.0.0/28"}[i], b.doors[i].v4)
			p.Run("ip route add fd99::/64 via %s", b.doors[i].v6)
		}
	}
	for _, name := range []string{"server", "node1", "node2", "op"} {
		b.newKey(name)
	}
	b.writeRoster()
	b.startServer()
	b.startNode(0)
	b.startNode(1)
	b.operator()
	b.await("both nodes are ready", testTimeout, func() string {
		for _, dir := range []string{b.dir, b.dir2} {
			if r := run(t, "--run-dir", dir, "egress", "l3", "status"); r.code != 0 {
				return r.out + r.err
			}
		}
		return ""
	})
	return b
}

// network makes pods and NAT.
func (b *tunnelLab) network() {
	b.nat, b.wan, b.op = netnstest.NewPod(b.t, "nat", 1), netnstest.NewPod(b.t, "wan", 1), netnstest.NewPod(b.t, "op", 1)
	netnstest.IP(b.t, "link set wan netns %d", b.nat.PID())
	netnstest.IP(b.t, "link set op netns %d", b.wan.PID())
	netnstest.IP(b.t, "link set lo up")
	netnstest.IP(b.t, "addr add 192.168.7.2/24 dev nat")
	netnstest.IP(b.t, "route add default via 192.168.7.1")
	b.nat.Run("ip addr add 192.168.7.1/24 dev eth0")
	b.nat.Run("ip addr add 198.51.100.1/24 dev wan")
	b.nat.Run("ip link set wan up")
	b.nat.Run("sysctl -qw net.ipv4.ip_forward=1")
	rules := filepath.Join(b.state, "nft")
	b.write(rules, `table ip nat {
		chain out { type nat hook postrouting priority 100; oifname "wan" masquerade; }
		chain in { type filter hook forward priority 0; policy drop; iifname "eth0" accept; ct state established,related accept; }
	}`)
	b.nat.Run("nft -f %s", rules)
	b.wan.Run("ip addr add 198.51.100.2/24 dev eth0")
	b.wan.Run("ip addr add 203.0.113.1/24 dev op")
	b.wan.Run("ip link set op up")
	b.op.Run("ip addr add 203.0.113.2/24 dev eth0")
}

func (b *tunnelLab) write(file, text string) {
	b.t.Helper()
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		b.t.Fatal(err)
	}
}

// newKey makes a private key and its file.
func (b *tunnelLab) newKey(name string) {
	b.t.Helper()
	r := run(b.t, "egress", "genkey")
	k, err := l3.ParseKey(strings.TrimSpace(r.out))
	if err != nil {
		b.t.Fatal(err)
	}
	b.keys[name] = k
	b.write(b.keyFile(name), r.out)
}

func (b *tunnelLab) keyFile(name string) string { return filepath.Join(b.state, name+".key") }

// writeRoster writes the server's file. Both are keys of node1: its own and node1b's,
// if there is one.
func (b *tunnelLab) writeRoster() {
	b.t.Helper()
	keys := b.keys["node1"].Public().String()
	if k, ok := b.keys["node1b"]; ok {
		keys += ", " + k.Public().String()
	}
	b.write(filepath.Join(b.state, "server.yaml"), fmt.Sprintf(`
private_key: server.key
port: 51820
addresses: [10.99.0.1, 'fd99::1']
nodes:
- {name: node1, keys: [%s], prefixes: [10.99.0.2/32, 10.9.0.0/28, 'fd99::2/128', 'fd09::1/128']}
- {name: node2, keys: [%s], prefixes: [10.99.0.3/32, 10.9.0.16/28]}
operators:
- {name: op, keys: [%s], prefixes: [10.99.0.50/32, 'fd99::50/128']}
%s`, keys, b.keys["node2"].Public(), b.keys["op"].Public(), b.roster))
}

// An inside is our program in a pod.
type inside struct {
	*exec.Cmd
	log bytes.Buffer
}

func (b *tunnelLab) startServer() {
	b.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	p := &inside{Cmd: b.wan.Command("env %s=1 GORACE=atexit_sleep_ms=0 %s egress-server --config %s --run-dir %s", mainEnv, exe, filepath.Join(b.state, "server.yaml"), b.state)}
	out, err := p.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	p.Stderr = &p.log
	if err := p.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		p.end()
		if b.t.Failed() {
			b.t.Logf("log of the server:\n%s", p.log.Bytes())
		}
	})
	if line := make([]byte, 6); true {
		if _, err := io.ReadFull(out, line); err != nil || string(line) != "ready\n" {
			p.end()
			b.t.Fatalf("the server says %q: %v", line, err)
		}
	}
	b.server = p
}

// end kills the program.
func (p *inside) end() {
	if p.ProcessState == nil {
		_ = p.Process.Kill()
		_ = p.Wait()
	}
}

// startNode starts the end of the i-th node.
func (b *tunnelLab) startNode(i int) {
	b.t.Helper()
	prefixes, others := []string{"10.9.0.0/29", "10.9.0.16/29"}, []string{"10.9.0.16/28", "10.9.0.0/28"}
	b.nodes[i] = spawn(b.t, "egress", "l3", "--run-dir", []string{b.dir, b.dir2}[i], "--private-key", b.keyFile(fmt.Sprintf("node%d", i+1)),
		"--server", b.keys["server"].Public().String()+" 198.51.100.2:51820 10.99.0.1/24,fd99::/64,"+others[i], "--outward", others[i], "--address", fmt.Sprintf("10.99.0.%d,fd99::%d", i+2, i+2),
		"--netns", fmt.Sprintf("/proc/%d/ns/net", b.doors[i].PID()), "--listen", fmt.Sprintf("127.0.0.1:%d", 8094+i), "--allow", "pods="+prefixes[i], "--allow", "pods=fd09::/64")
	if got := b.nodes[i].line(b.t); got != "ready\n" {
		b.t.Fatalf("the node's first line is %q", got)
	}
}

// operator makes op a peer of the server: by the kernel's WireGuard, or where it has
// none by that of WireGuard's authors in a process.
func (b *tunnelLab) operator() {
	b.t.Helper()
	dev := fmt.Sprintf("op%d", os.Getpid()%100000)
	if _, err := b.op.Try("ip link add %s type wireguard", dev); err != nil {
		exe := filepath.Join(b.state, "wireguard-go")
		if out, err := exec.Command("go", "build", "-o", exe, "golang.zx2c4.com/wireguard").CombinedOutput(); err != nil {
			b.t.Fatalf("build wireguard-go: %v\n%s", err, out)
		}
		b.t.Cleanup(func() { _ = os.Remove("/var/run/wireguard/" + dev + ".sock") }) // it is killed, and leaves it
		b.op.Start("%s -f %s", exe, dev)
	}
	b.opDevice = dev
	netnstest.Wait(b.t, func() string {
		if out, err := b.op.Try("wg show %s", dev); err != nil {
			return out
		}
		return ""
	})
	b.operatorAnew()
	b.op.Run("ip addr add 10.99.0.50/32 dev %s", dev)
	b.op.Run("ip addr add fd99::50/128 dev %s nodad", dev)
	b.op.Run("ip link set %s mtu 1420 up", dev)
	for _, prefix := range []string{"10.99.0.0/24", "10.9.0.0/24", "fd99::/64", "fd09::/64"} {
		b.op.Run("ip route add %s dev %s", prefix, dev)
	}
}

// operatorAnew has the operator's WireGuard forget its session with the server:
// by itself it finds out after 15 s that a server has been restarted.
func (b *tunnelLab) operatorAnew() {
	b.t.Helper()
	server := b.keys["server"].Public()
	b.op.Run("wg set %s peer %s remove", b.opDevice, server)
	b.op.Run("wg set %s private-key %s peer %s endpoint 203.0.113.1:51820 allowed-ips 10.99.0.0/24,10.9.0.0/24,fd99::/64,fd09::/64", b.opDevice, b.keyFile("op"), server)
}

// await waits until ok says nothing, and returns how long that took.
func (b *tunnelLab) await(what string, within time.Duration, ok func() string) time.Duration {
	b.t.Helper()
	start := time.Now()
	for {
		missing := ok()
		if missing == "" {
			return time.Since(start)
		}
		if time.Since(start) > within {
			b.t.Fatalf("not after %v: %s: %s", within, what, missing)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// answers waits until an address answers the operator's echoes.
func (b *tunnelLab) answers(address string, within time.Duration) time.Duration {
	b.t.Helper()
	return b.await(address+" answers", within, func() string {
		if err := b.op.Ping(address, 56, 100*time.Millisecond); err != nil {
			return err.Error()
		}
		return ""
	})
}

// silent fails the test if an address answers.
func (b *tunnelLab) silent(from *netnstest.Pod, address string) {
	b.t.Helper()
	if err := from.Ping(address, 56, 300*time.Millisecond); err == nil {
		b.t.Errorf("%s answers %s", address, from.Host)
	}
}

// refused fails the test if an address answers, and waits until what was sent there is counted.
func (b *tunnelLab) refused(from *netnstest.Pod, address string, count func() uint64) {
	b.t.Helper()
	before := count()
	b.await("an echo of "+from.Host+" to "+address+" is counted", testTimeout, func() string {
		b.silent(from, address)
		if count() == before {
			return fmt.Sprint("there are as many as before: ", before)
		}
		return ""
	})
}

// status is that of the node or server of a run directory.
func (b *tunnelLab) status(dir string, args ...string) (s l3.Status) {
	b.t.Helper()
	r := run(b.t, append(append([]string{"--json", "--run-dir", dir}, args...), "status")...)
	if err := json.Unmarshal([]byte(r.out), &s); err != nil {
		b.t.Fatalf("%v: %s%s", err, r.out, r.err)
	}
	return s
}

// serveHTTP serves a page in a pod.
func (b *tunnelLab) serveHTTP(p *labPod, port int) {
	b.t.Helper()
	var l net.Listener
	err := p.Do(func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf("%s:%d", p.v4, port))
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	page := bytes.Repeat([]byte("page"), 1<<18)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(page) })}
	go s.Serve(l)
	b.t.Cleanup(func() { _ = s.Close() })
}

// dialTime is how long a connection through a tunnel may take. It is for those that there must be: a SYN that is lost is sent again after a second.
const dialTime = 20 * time.Second

// get fetches the page from a pod, with so much time for the connection.
func (b *tunnelLab) get(from *netnstest.Pod, address string, within time.Duration) error {
	var c net.Conn
	err := from.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", address, within)
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	all, err := io.ReadAll(c)
	if n := bytes.Count(all, []byte("page")); err != nil || n != 1<<18 {
		return fmt.Errorf("%d of %d words: %w", n, 1<<18, err)
	}
	return nil
}

// TestTunnel has an operator reach pods behind two nodes behind NAT, and nothing else.
func TestTunnel(t *testing.T) {
	t.Parallel() // it waits, for the most part
	if !netnstest.Alone(t) {
		return
	}
	b := newTunnelLab(t, "")
	b.answers("10.99.0.1", testTimeout) // the server itself
	b.answers("10.99.0.2", testTimeout) // the node's end
	b.answers(b.pod.v4, testTimeout)
	b.answers(b.two.v4, testTimeout)
	b.answers(b.pod.v6, testTimeout)
	b.serveHTTP(b.pod, 80)
	if err := b.get(b.op, b.pod.v4+":80", dialTime); err != nil {
		t.Errorf("a page of the pod: %v", err)
	}
	b.throughput()
	b.denied()
	b.shown()
	b.masqueraded()
}

// masqueraded has a pod without a way back answer the port's address instead.
func (b *tunnelLab) masqueraded() {
	b.t.Helper()
	b.pod.Run("ip route del 10.99.0.0/24")
	b.silent(b.op, b.pod.v4)
	rules := filepath.Join(b.state, "nft-port")
	b.write(rules, fmt.Sprintf(`table ip operators { chain out { type nat hook postrouting priority 100; oifname %q masquerade; }; }`, b.doors[0].dev))
	b.doors[0].Run("nft -f %s", rules)
	b.answers(b.pod.v4, testTimeout)
	if err := b.get(b.op, b.pod.v4+":80", dialTime); err != nil {
		b.t.Errorf("a page of a pod by the port's address: %v", err)
	}
}

// throughput runs iperf3 both ways, TCP and UDP.
func (b *tunnelLab) throughput() {
	b.t.Helper()
	for i, args := range []string{"-t 1", "-t 1 -R", "-t 1 -u -b 20M -l 1200", "-t 1 -u -b 5M -l 4000 -R"} {
		b.pod.Start("iperf3 -s -p %d", 5300+i)
		netnstest.Wait(b.t, func() string {
			out, err := b.op.Try("iperf3 -f m -c %s -p %d %s", b.pod.v4, 5300+i, args)
			if err != nil {
				return args + ": " + out
			}
			b.t.Logf("iperf3 %s: %s", args, strings.Join(strings.Split(out, "\n")[max(0, strings.Count(out, "\n")-5):], "\n"))
			return ""
		})
	}
}

// denied is all that must not pass.
func (b *tunnelLab) denied() {
	t := b.t
	t.Helper()
	dropped := func(reason string) func() uint64 {
		return func() uint64 { return b.status(b.dir, "egress", "l3").Dropped[reason] }
	}
	b.refused(b.op, b.shy.v4, dropped("denied")) // the server knows the way, the node's policy forbids it
	b.serveHTTP(b.shy, 80)
	if err := b.get(b.op, b.shy.v4+":80", 500*time.Millisecond); err == nil {
		t.Errorf("the policy lets %s through", b.shy.v4)
	}
	b.refused(b.pod.Pod, "10.99.0.50", dropped("unsolicited")) // pods begin nothing
}

// TestTunnelNodes: pods of nodes reach each other if the server is told so, while it
// runs.
func TestTunnelNodes(t *testing.T) {
	t.Parallel() // it waits, for the most part
	if !netnstest.Alone(t) {
		return
	}
	b := newTunnelLab(t, "between_nodes: false")
	b.refused(b.pod.Pod, b.two.v4, func() uint64 { return b.status(b.state, "egress-server").Dropped["unsolicited"] })
	b.roster = "between_nodes: true"
	b.writeRoster()
	b.serveHTTP(b.two, 80)
	b.await("nodes reach each other", healTime, func() string {
		if err := b.get(b.pod.Pod, b.two.v4+":80", 500*time.Millisecond); err != nil {
			return err.Error()
		}
		return ""
	})
	b.silent(b.pod.Pod, "10.99.0.50") // and nobody else
	b.roster = ""
	b.writeRoster()
	b.await("nodes do not reach each other any more", healTime, func() string {
		if err := b.pod.Ping(b.two.v4, 56, 300*time.Millisecond); err == nil {
			return "they do"
		}
		return ""
	})
}

// shown is what people and monitoring see.
func (b *tunnelLab) shown() {
	t := b.t
	t.Helper()
	s := b.status(b.state, "egress-server")
	if len(s.Peers) != 3 || !s.Peers[0].Up || !s.Peers[1].Up || !s.Peers[2].Up || !s.Ready || s.Packets.In == 0 {
		t.Errorf("status of the server: %+v", s)
	}
	if out := run(t, "--run-dir", b.state, "egress-server", "status").out; !strings.Contains(out, "ready, 3 of 3 peers up, UDP port 51820") {
		t.Errorf("status of the server:\n%s", out)
	}
	out := run(t, "--run-dir", b.dir, "egress", "l3", "status").out
	if !strings.Contains(out, "ready, 1 of 1 peers up") || !strings.Contains(out, "198.51.100.2:51820") || !strings.Contains(out, "denied") {
		t.Errorf("status of the node:\n%s", out)
	}
	resp, err := http.Get("http://127.0.0.1:8094/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	for _, want := range []string{"egress_l3_ready 1", `egress_l3_dropped_total{reason="denied"}`, `egress_l3_peer_up{peer="198.51.100.2:51820"} 1`, `egress_l3_peer_rtt_seconds{`} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

// healTime is within how long a tunnel is used again: 3 s, and what a busy machine adds.
const healTime = 6 * time.Second

// TestTunnelOutage: the link is cut for longer than NAT and the node's patience, the
// server is restarted, and killed while the link is cut: each time the pod answers
// soon after.
func TestTunnelOutage(t *testing.T) {
	t.Parallel() // it waits, for the most part
	if !netnstest.Alone(t) {
		return
	}
	b := newTunnelLab(t, "")
	b.answers(b.pod.v4, testTimeout)
	b.nat.Run("ip link set wan down")
	b.await("the node notices", 15*time.Second, func() string {
		if b.status(b.dir, "egress", "l3").Ready {
			return "it is ready"
		}
		return ""
	})
	b.nat.Run("ip link set wan up")
	t.Logf("link back: pod answers after %v", b.answers(b.pod.v4, healTime))

	b.server.end()
	b.startServer()
	b.operatorAnew()
	t.Logf("server restarted: pod answers after %v", b.answers(b.pod.v4, healTime+3*time.Second)) // silence is noticed first
	b.nat.Run("ip link set wan down")
	b.server.end()
	b.startServer()
	time.Sleep(5 * time.Second)
	b.operatorAnew()
	b.nat.Run("ip link set wan up")
	t.Logf("both: pod answers after %v", b.answers(b.pod.v4, healTime))
	b.nat.Run("nft flush ruleset") // NAT forgets, and has another address
	b.nat.Run("ip addr add 198.51.100.7/24 dev wan")
	b.write(filepath.Join(b.state, "nft2"), `table ip nat { chain out { type nat hook postrouting priority 100; oifname "wan" snat to 198.51.100.7; }; }`)
	b.nat.Run("nft -f %s", filepath.Join(b.state, "nft2"))
	t.Logf("another address of NAT: pod answers after %v", b.answers(b.pod.v4, healTime))
}

// TestTunnelKeys: keys of a node change while the tunnel is used; the server's host
// takes part.
func TestTunnelKeys(t *testing.T) {
	t.Parallel() // it waits, for the most part
	if !netnstest.Alone(t) {
		return
	}
	b := newTunnelLab(t, "device: mrs0")
	b.answers(b.pod.v4, testTimeout)
	b.serveHTTP(b.pod, 80)
	if err := b.get(b.wan, b.pod.v4+":80", dialTime); err != nil {
		t.Errorf("the server's host has no page of the pod: %v", err)
	}
	b.silent(b.pod.Pod, "10.99.0.1") // the node's guard lets pods begin nothing
	b.newKey("node1b")
	b.writeRoster() // the server takes both
	time.Sleep(time.Second)
	b.answers(b.pod.v4, healTime)
	b.write(b.keyFile("node1"), b.keys["node1b"].String()) // the node changes over
	b.await("the server knows the node by its new key", healTime, func() string {
		for _, p := range b.status(b.state, "egress-server").Peers {
			if p.Name == "node1" && p.Key != b.keys["node1b"].Public().String() {
				return "it knows " + p.Key
			}
		}
		return ""
	})
	t.Logf("key of a node: pod answers after %v", b.answers(b.pod.v4, healTime))
	b.keys["node1"] = b.keys["node1b"]
	delete(b.keys, "node1b")
	b.writeRoster() // the old one is refused
	time.Sleep(time.Second)
	b.answers(b.pod.v4, healTime)

	b.write(b.keyFile("node1"), "nonsense")
	b.await("a bad key is told of", healTime, func() string {
		if s := b.status(b.dir, "egress", "l3"); !strings.Contains(s.Trouble, "is no key") {
			return fmt.Sprintf("trouble %q", s.Trouble)
		}
		return ""
	})
	b.answers(b.pod.v4, healTime) // by the key of before
	refused := b.status(b.state, "egress-server").Dropped["handshake"]
	b.write(b.keyFile("node1"), l3.NewKey().String()) // a stranger
	b.await("a stranger is refused", testTimeout, func() string {
		if s := b.status(b.state, "egress-server"); s.Dropped["handshake"] == refused {
			return "no handshake was"
		}
		return ""
	})
	b.silent(b.op, b.pod.v4)
}
