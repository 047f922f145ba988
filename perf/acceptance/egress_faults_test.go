package acceptance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	"millrace/control/egress/kernel"
	"millrace/control/egress/konntest"
	"millrace/dataplane/tap/taptest"
	"millrace/supervise"
	"millrace/waittest"
)

// What the environment says of TestEgressFaults: how long it shall be, and a
// real proxy-server (see TestStockServer of the agent).
const (
	egressFaultsEnv = "MILLRACE_EGRESS_FAULTS"
	proxyServerEnv  = "KONN_PROXY_SERVER"
)

// egressServerEnv tells a process that it is a proxy-server: see TestMain.
const egressServerEnv = "MILLRACE_ACCEPTANCE_EGRESS_SERVER"

// An egressServer is what such a process is told.
type egressServer struct {
	ID, Listen, Front string
	Files             konntest.Files
}

// egressServerMain is the process. It ends by being killed.
func egressServerMain(config string) error {
	var e egressServer
	if err := json.Unmarshal([]byte(config), &e); err != nil {
		return err
	}
	creds, err := e.Files.Server()
	if err != nil {
		return err
	}
	agents, err := net.Listen("tcp", e.Listen)
	if err != nil {
		return err
	}
	_ = os.Remove(e.Front)
	front, err := net.Listen("unix", e.Front)
	if err != nil {
		return err
	}
	s := &konntest.Server{ID: e.ID, Count: 2, ByHost: true, Options: []grpc.ServerOption{creds}}
	s.Serve(agents)
	return s.ServeHTTP(front)
}

// A site is a control plane with two proxy-servers, and a node behind a router
// that translates addresses and lets nothing in:
//
//	plane 203.0.113.1 ── 203.0.113.254 router 192.0.2.1 ── 192.0.2.2 node: kubelet, the agent, a switch
//	                                                                 egress: the agent's port, a pod 10.7.0.1
//	                                                                 vm: a pod 10.8.0.1 behind the switch
//
// The agent reaches the node and the pod. The egress port of the switch reaches the
// vm, and nobody else does: servers choose agents by the host that is asked for.
type site struct {
	t                               *testing.T
	plane, router, node, egress, vm *taptest.Namespace
	files                           konntest.Files
	dir                             string
	servers                         [2]*child
	agent                           *child
	node0                           *switchRun
	paused                          atomic.Bool
	pairs                           []*egressPair
	held                            [2]holder // the agent, the egress port
	long                            bool      // there is time to look at each agent
}

// A holder is a process whose use of memory is looked at.
type holder struct {
	name    string
	metrics string // HOST:PORT, in the node
	base    usage
}

// A child is a process that is killed and started again.
type child struct {
	t     *testing.T
	begin func() *exec.Cmd
	cmd   *exec.Cmd
	done  chan struct{}
	out   waittest.Buffer
}

func (c *child) start() {
	c.t.Helper()
	c.cmd, c.done = c.begin(), make(chan struct{})
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.out
	check(c.t, startChild(c.cmd, c.done))
}

func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	<-c.done
}

const (
	planeIP = "203.0.113.1"
	nodeIP  = "192.0.2.2"
	podIP   = "10.7.0.1"
	vmIP    = "10.8.0.1"
)

// newSite makes the network, and starts all processes.
func newSite(t *testing.T) *site {
	s := &site{t: t, plane: pause(t), router: pause(t), node: pause(t), egress: pause(t), vm: pause(t), dir: t.TempDir()}
	s.connect(s.plane, "up0", planeIP, s.router, "wan0", "203.0.113.254")
	s.connect(s.node, "eth0", nodeIP, s.router, "lan0", "192.0.2.1")
	s.node.Run(t, "ip", "route", "add", "default", "via", "192.0.2.1")
	s.egress.Run(t, "ip", "addr", "add", podIP+"/32", "dev", "lo")
	s.router.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	s.router.Run(t, "nft", `table ip nat { chain out { type nat hook postrouting priority 100; oifname "wan0" masquerade; }; }
table ip filter { chain through { type filter hook forward priority 0; policy drop; ct state established,related accept; iifname "lan0" accept; }; }`)
	authority, err := konntest.NewAuthority()
	check(t, err)
	s.files, err = authority.Issue(s.dir, planeIP, time.Now().Add(time.Hour))
	check(t, err)
	for i := range s.servers {
		s.servers[i] = s.server(i)
		s.servers[i].start()
	}
	s.agent = &child{t: t, begin: func() *exec.Cmd {
		return s.node.Command(t, program, "egress", "agent", "--run-dir", s.dir, "--node-name", "node", "--log-level", "warn", "--unused-timeout", "4s",
			"--server", s.address(0), "--server", s.address(1), "--ca", s.files.CA, "--cert", s.files.Cert, "--key", s.files.Key,
			"--netns", s.egress.Path, "--allow", "node="+nodeIP+"@7", "--allow", "pods=10.7.0.0/16@7", "--identifiers", "ipv4="+nodeIP+"&ipv4="+podIP)
	}}
	s.agent.start()
	t.Cleanup(func() { s.agent.kill(); s.servers[0].kill(); s.servers[1].kill() })
	s.addSwitch()
	s.held = [...]holder{{name: "agent", metrics: "127.0.0.1:8093"}, {name: "egress port", metrics: portMetrics}}
	return s
}

// portMetrics is where the egress port's process is asked for its metrics.
const portMetrics = "127.0.0.1:8193"

// addSwitch starts a switch in the node, with the vm and an egress port.
func (s *site) addSwitch() {
	s.node0 = beginAs(s.t, &syscall.SysProcAttr{}, []string{"nsenter", "--net=" + s.node.Path, "--"}, "run")
	s.node0.cli("port", "add", "br0", "vm", "--type", "tap", "--netns", s.vm.Path, "--ip", vmIP+"/24", "--wait=10s")
	args := []string{"port", "add", "br0", "eg0", "--type", "egress", "--ip", "10.8.0.2/24", "--wait=30s"}
	for _, option := range []string{
		"server=" + s.address(0) + "," + s.address(1), "ca=" + s.files.CA, "cert=" + s.files.Cert, "key=" + s.files.Key,
		"allow=pods=10.8.0.0/24@7", "identifiers=ipv4=" + vmIP, "unused-timeout=4s", "listen=" + portMetrics, "log-level=warn",
	} {
		args = append(args, "--option", option)
	}
	s.node0.cli(args...)
}

// port is the process of the egress port, or 0.
func (s *site) port() int {
	st, err := supervise.ReadStatus(s.node0.dir)
	check(s.t, err)
	for _, c := range st.Children {
		if c.Name == "egress eg0" && c.State == supervise.Running {
			return c.PID
		}
	}
	return 0
}

// connect joins two namespaces by a veth pair.
func (s *site) connect(a *taptest.Namespace, aDev, aIP string, b *taptest.Namespace, bDev, bIP string) {
	b.Run(s.t, "ip", "link", "add", bDev, "type", "veth", "peer", "name", aDev, "netns", a.Path)
	a.Run(s.t, "ip", "addr", "add", aIP+"/24", "dev", aDev)
	a.Run(s.t, "ip", "link", "set", aDev, "up")
	b.Run(s.t, "ip", "addr", "add", bIP+"/24", "dev", bDev)
	b.Run(s.t, "ip", "link", "set", bDev, "up")
}

// address is where server i takes agents, and front where it takes clients.
func (s *site) address(i int) string { return fmt.Sprintf("%s:%d", planeIP, 8091+10*i) }
func (s *site) front(i int) string   { return filepath.Join(s.dir, fmt.Sprint("front", i)) }

// server is proxy-server i: a real one, if there is one.
func (s *site) server(i int) *child {
	return &child{t: s.t, begin: func() *exec.Cmd {
		id := string(rune('a' + i))
		if real := os.Getenv(proxyServerEnv); real != "" {
			port := func(n int) string { return fmt.Sprint(8091 + 10*i + n) }
			return s.plane.Command(s.t, real, "--mode=http-connect", "--uds-name="+s.front(i), "--server-port=0", "--server-id="+id, "--server-count=2", "--proxy-strategies=destHost", "--v=0",
				"--agent-port="+port(0), "--health-port="+port(1), "--admin-port="+port(2),
				"--cluster-ca-cert="+s.files.CA, "--cluster-cert="+s.files.Cert, "--cluster-key="+s.files.Key)
		}
		self, err := os.Executable()
		check(s.t, err)
		config, err := json.Marshal(egressServer{ID: id, Listen: s.address(i), Front: s.front(i), Files: s.files})
		check(s.t, err)
		cmd := s.plane.Command(s.t, self)
		cmd.Env = append(os.Environ(), egressServerEnv+"="+string(config))
		return cmd
	}}
}

// serveEcho has a target in a namespace greet with its name, and send back what it gets.
func (s *site) serveEcho(ns *taptest.Namespace, addr, name string) {
	var l net.Listener
	ns.Do(s.t, func() (err error) { l, err = net.Listen("tcp", addr); return err })
	s.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close() //nolint:errcheck // the client sees it
				_, _ = io.WriteString(c, name)
				_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
			}()
		}
	}()
}

// An egressPair is a server and a target: requests are made there again and again.
type egressPair struct {
	server       int
	front        string
	target, name string
	paused       *atomic.Bool

	ok, failed atomic.Int64
	wrong      atomic.Pointer[string]

	mu      sync.Mutex
	excused bool
	last    time.Time // the last success
	since   time.Time // the same, or the end of an excuse: after that there must be another
	worst   time.Duration
}

// requestTime is how long a request waits for its answer, and how long there may be none.
const requestTime = 3 * time.Second

// run makes requests until ctx ends.
func (p *egressPair) run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		<-tick.C
		if !p.paused.Load() {
			all.Go(p.request)
		}
	}
}

// request makes one, and takes the account of it.
func (p *egressPair) request() {
	switch err := p.try(); {
	case errors.Is(err, errWrong):
		text := err.Error()
		p.wrong.CompareAndSwap(nil, &text)
	case err != nil:
		p.failed.Add(1)
	default:
		p.ok.Add(1)
		p.succeeded(time.Now())
	}
}

var errWrong = errors.New("a wrong answer")

func (p *egressPair) try() error {
	c, err := net.Dial("unix", p.front)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // nothing is lost
	_ = c.SetDeadline(time.Now().Add(requestTime))
	c, err = konntest.Connect(c, p.target)
	if err != nil {
		return err
	}
	sent := fmt.Sprintf("%016x%s", rand.Uint64(), strings.Repeat("x", rand.IntN(4000)))
	if _, err := io.WriteString(c, sent); err != nil {
		return err
	}
	got := make([]byte, len(p.name)+len(sent))
	n, err := io.ReadFull(c, got)
	if want := p.name + sent; string(got[:n]) != want[:n] {
		return fmt.Errorf("%w: %.40q for %.40q", errWrong, got[:n], want)
	}
	return err
}

func (p *egressPair) succeeded(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.excused {
		p.worst = max(p.worst, at.Sub(p.since))
	}
	p.since, p.last = at, at
}

// excuse has failures not count, until now on.
func (p *egressPair) excuse(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.excused, p.since = yes, time.Now()
}

// works reports whether a request has succeeded since a time.
func (p *egressPair) works(after time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last.After(after)
}

// A fault breaks something of a site, and repairs it. Pairs that it does not hit work
// all the time.
type fault struct {
	name string
	hits func(p *egressPair) bool
	do   func()
	held int // whose process ends, of site.held; -1: nobody's
}

// faults are all that can befall a site; the last two end a process that is looked
// at. longest is of what stays broken.
func (s *site) faults(random *rand.Rand, longest time.Duration) []fault {
	a := func(most time.Duration) { time.Sleep(time.Duration(random.Int64N(int64(most)))) }
	list := []fault{{name: "link", held: -1, hits: func(*egressPair) bool { return true }, do: func() {
		s.plane.Run(s.t, "ip", "link", "set", "up0", "down")
		a(longest)
		s.plane.Run(s.t, "ip", "link", "set", "up0", "up")
	}}}
	for i, c := range s.servers {
		list = append(list, fault{name: fmt.Sprint("server ", i), held: -1, hits: func(p *egressPair) bool { return p.server == i },
			do: func() { c.kill(); a(longest / 4); c.start() }})
	}
	byPort := func(p *egressPair) bool { return p.name == "vm" }
	return append(list,
		fault{name: "agent", held: 0, hits: func(p *egressPair) bool { return !byPort(p) }, do: func() { s.agent.kill(); s.agent.start() }},
		fault{name: "egress port", held: 1, hits: byPort, do: func() { check(s.t, syscall.Kill(s.port(), syscall.SIGKILL)) }},
	)
}

// settle waits until each pair has had an answer to a request since a time.
func (s *site) settle(since time.Time, most time.Duration) {
	s.t.Helper()
	for _, p := range s.pairs {
		for !p.works(since) {
			if time.Since(since) > most {
				s.t.Fatalf("no request from server %d to %s succeeds for %v\nagent: %s\nserver: %s\nswitch: %s", p.server, p.name, most,
					tail(s.agent.out.String()), tail(s.servers[p.server].out.String()), tail(s.node0.log.String()))
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// usage is what a process holds. next is where its collector runs again: twice what
// was in use when it did last.
type usage struct{ goroutines, files, resident, next float64 }

// within reports whether a process holds no more than at its start.
func (u usage) within(base usage) bool {
	return base.goroutines == 0 || u.goroutines <= base.goroutines+slackGoroutines && u.files <= base.files+slackFiles && u.resident <= base.resident+slackResident
}

// settles is how long one may take to end what it was doing.
const settles = 20 * time.Second

// collected is how long an idle process may take to give back what it does not use:
// its collector runs every two minutes then.
const collected = 3 * time.Minute

// quiet has nobody make requests while f runs.
func (s *site) quiet(f func()) {
	s.paused.Store(true)
	defer func() {
		s.paused.Store(false)
		for _, p := range s.pairs {
			p.excuse(false)
		}
	}()
	f()
}

// usage reads a process's metrics when it has nothing to do, and holds no more than at
// its start; or after a time.
func (s *site) usage(h *holder, most time.Duration) (u usage) {
	s.t.Helper()
	by, err := kernel.Open(s.node.Path, "")
	check(s.t, err)
	defer by.Close()
	want := map[string]*float64{"go_goroutines": &u.goroutines, "process_open_fds": &u.files, "process_resident_memory_bytes": &u.resident, "go_memstats_next_gc_bytes": &u.next}
	for end := time.Now().Add(most); ; time.Sleep(100 * time.Millisecond) {
		idle := false
		scrape(s.t, by, h.metrics, func(name string, v float64) {
			if p := want[name]; p != nil {
				*p = v
			}
			idle = idle || name == "konnectivity_network_proxy_agent_open_endpoint_connections" && v == 0
		})
		if idle && u.within(h.base) || time.Now().After(end) {
			return u
		}
	}
}

// What a process may hold more of than when it began: for connections that come
// and go just then, and what the collector has not yet given back.
const (
	slackGoroutines = 24
	slackFiles      = 6
	slackResident   = 32 << 20
)

// flat checks that a process holds no more than when it began.
func (s *site) flat(h *holder, when string, most time.Duration) {
	s.t.Helper()
	start := time.Now()
	u := s.usage(h, most)
	s.t.Logf("%s %s: %.0f goroutines (%.0f at its start), %.0f descriptors (%.0f), %.1f MiB (%.1f), %.1f MiB in use (%.1f), after %v", h.name, when,
		u.goroutines, h.base.goroutines, u.files, h.base.files, u.resident/(1<<20), h.base.resident/(1<<20), u.next/(2<<20), h.base.next/(2<<20), time.Since(start).Round(time.Second))
	if !u.within(h.base) {
		s.t.Errorf("%s %s: it holds more than at its start", h.name, when)
	}
}

// TestEgressFaults kills a server, the agent, the egress port's process, the link in
// random order while requests go by both servers to the node, to a pod and to one
// behind the switch. No request fails for longer than 3 s once what it needs is
// there, none is answered wrongly, and agent and port hold no more at the end. MILLRACE_EGRESS_FAULTS=10m is the full run;
// MILLRACE_SEED has the same order again, and KONN_PROXY_SERVER real servers.
func TestEgressFaults(t *testing.T) {
	need(t, "nft")
	needRoot(t)
	length, longest := 25*time.Second, 3*time.Second
	if text := os.Getenv(egressFaultsEnv); text != "" {
		var err error
		length, err = time.ParseDuration(text)
		check(t, err)
		longest = 20 * time.Second
	}
	seed := uint64(number(t, seedEnv, time.Now().UnixNano()))
	t.Logf("%v; to have the same again: %s=%d", length, seedEnv, seed)
	s := newSite(t)
	s.long = length > time.Minute
	s.requests(t)
	s.quiet(func() {
		for i := range s.held {
			s.held[i].base = s.usage(&s.held[i], settles)
		}
	})
	s.breakDown(rand.New(rand.NewPCG(seed, 0)), length, longest)
	s.quiet(func() {
		for i := range s.held {
			s.flat(&s.held[i], "at the end", collected)
		}
	})
	var ok, failed int64
	for _, p := range s.pairs {
		ok, failed = ok+p.ok.Load(), failed+p.failed.Load()
		t.Logf("server %d to %s: %d requests answered, %d failed, no answer for %v at most", p.server, p.name, p.ok.Load(), p.failed.Load(), p.worst.Round(time.Millisecond))
		if wrong := p.wrong.Load(); wrong != nil {
			t.Errorf("server %d to %s: %s", p.server, p.name, *wrong)
		}
		if p.worst > requestTime {
			t.Errorf("server %d to %s: no request succeeded for %v", p.server, p.name, p.worst)
		}
	}
	if ok == 0 || failed == 0 {
		t.Errorf("%d requests answered and %d failed: the faults broke nothing, or all", ok, failed)
	}
}

// requests begins them.
func (s *site) requests(t *testing.T) {
	s.serveEcho(s.node, nodeIP+":7", "node")
	s.serveEcho(s.egress, podIP+":7", "pod")
	s.serveEcho(s.vm, vmIP+":7", "vm")
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	t.Cleanup(func() { stop(); all.Wait() })
	for i := range s.servers {
		for name, ip := range map[string]string{"node": nodeIP, "pod": podIP, "vm": vmIP} {
			p := &egressPair{server: i, front: s.front(i), target: ip + ":7", name: name, paused: &s.paused, excused: true}
			s.pairs = append(s.pairs, p)
			all.Go(func() { p.run(ctx) })
		}
	}
	s.settle(time.Now(), patience)
	for _, p := range s.pairs {
		p.excuse(false)
	}
}

// breakDown has faults befall the site for a time. In the last third processes that
// are looked at are spared: one lives through many faults.
func (s *site) breakDown(random *rand.Rand, length, longest time.Duration) {
	list := s.faults(random, longest)
	counts := map[string]int{}
	for start := time.Now(); time.Since(start) < length && !s.t.Failed(); {
		n := len(list)
		if time.Since(start) > length*2/3 {
			n -= len(s.held)
		}
		f := list[random.IntN(n)]
		counts[f.name]++
		if f.held >= 0 && s.long {
			s.quiet(func() { s.flat(&s.held[f.held], "before it is killed", settles) })
		}
		began := time.Now()
		s.excuse(f, true)
		f.do()
		repaired := time.Now()
		s.excuse(f, false)
		s.settle(repaired, patience)
		s.t.Logf("%6.1f s: %s, for %v; all is well %v later", time.Since(start).Seconds(), f.name, repaired.Sub(began).Round(time.Millisecond), time.Since(repaired).Round(time.Millisecond))
		if f.held >= 0 {
			s.quiet(func() { s.held[f.held].base = usage{}; s.held[f.held].base = s.usage(&s.held[f.held], settles) })
		}
		time.Sleep(time.Duration(random.IntN(700)) * time.Millisecond)
	}
	s.t.Log(counts)
}

// excuse has failures of pairs that a fault hits not count, until it is called with no.
func (s *site) excuse(f fault, yes bool) {
	for _, p := range s.pairs {
		if f.hits(p) {
			p.excuse(yes)
		}
	}
}

// scrape reads the metrics of the process that serves them at an address behind a dialer.
func scrape(t *testing.T, by *kernel.Dialer, at string, each func(name string, v float64)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := by.DialContext(ctx, "tcp", at)
	check(t, err)
	defer c.Close() //nolint:errcheck // it was read
	_ = c.SetDeadline(time.Now().Add(patience))
	_, err = io.WriteString(c, "GET /metrics HTTP/1.0\r\n\r\n")
	check(t, err)
	text, err := io.ReadAll(c)
	check(t, err)
	for line := range strings.Lines(string(text)) {
		var name string
		var v float64
		if n, _ := fmt.Sscan(line, &name, &v); n == 2 {
			each(name, v)
		}
	}
}
