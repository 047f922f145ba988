package acceptance

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"millrace/dataplane/api"
	"millrace/dataplane/sys"
	"millrace/dataplane/tap/taptest"
	"millrace/waittest"
)

// connectionsEnv is how many connections TestSNAT and TestLoadBalancer have open at a
// time; 10,000 are what the product is accepted by.
const connectionsEnv = "MILLRACE_CONNECTIONS"

// Addresses of the two pods. The client has two; the server has one for each backend.
const (
	clientIP  = "10.8.0.%d"
	backendIP = "10.8.1.%d"
	virtualIP = "10.8.2.1"
	hiddenIP  = "10.8.3.1" // what servers see of clients behind SNAT

	virtualPort = 80
	serverPort  = 8080
	backends    = 4
)

// A tcpLab is a switch with a client's and a server's pod, whose kernels speak TCP.
type tcpLab struct {
	*switchRun
	client, server *taptest.Namespace
	n              int // connections at a time
}

// newTCPLab starts the switch and what listens for clients.
func newTCPLab(t *testing.T) *tcpLab {
	t.Helper()
	need(t)
	needRoot(t)
	l := &tcpLab{switchRun: beginIn(t, syscall.CLONE_NEWNET, "run"), client: pause(t), server: pause(t), n: 300}
	if text := os.Getenv(connectionsEnv); text != "" {
		n, err := strconv.Atoi(text)
		check(t, err)
		l.n = n
	}
	allowFiles(t, uint64(l.n+l.n/2+1000)) // clients; servers are in a process of their own
	l.cli("bridge", "add", "br0")
	for port, ns := range map[string]*taptest.Namespace{"cli": l.client, "srv": l.server} {
		l.cli("port", "add", "br0", port, "--type", "tap", "--netns", ns.Path, "--mtu", "1500", "--up", "--wait=10s")
	}
	l.cli("bridge", "set", "br0", "--pipeline", "flows")
	l.address()
	l.startServers()
	return l
}

// allowFiles lets this process open n files.
func allowFiles(t *testing.T, n uint64) {
	t.Helper()
	var old syscall.Rlimit
	check(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old))
	if old.Cur >= n {
		return
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: max(n, old.Max)}); err != nil {
		t.Skipf("needs %d open files: %v", n, err)
	}
	t.Cleanup(func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old) }) // only downwards
}

// address gives the pods their addresses. Neighbours are written down: the rules carry
// IPv4 only.
func (l *tcpLab) address() {
	l.t.Helper()
	for i := range 2 {
		l.client.Run(l.t, "ip", "addr", "add", fmt.Sprintf(clientIP+"/16", i+1), "dev", "cli")
	}
	for i := range backends {
		l.server.Run(l.t, "ip", "addr", "add", fmt.Sprintf(backendIP+"/16", i+1), "dev", "srv")
	}
	mac := func(ns *taptest.Namespace, dev string) string {
		_, rest, _ := strings.Cut(ns.Run(l.t, "ip", "-o", "link", "show", "dev", dev), "link/ether ")
		mac, _, _ := strings.Cut(rest, " ")
		return mac
	}
	cli, srv := mac(l.client, "cli"), mac(l.server, "srv")
	for i := range backends {
		l.client.Run(l.t, "ip", "neigh", "replace", fmt.Sprintf(backendIP, i+1), "lladdr", srv, "dev", "cli")
	}
	l.client.Run(l.t, "ip", "neigh", "replace", virtualIP, "lladdr", srv, "dev", "cli")
	for _, ip := range []string{fmt.Sprintf(clientIP, 1), fmt.Sprintf(clientIP, 2), hiddenIP} {
		l.server.Run(l.t, "ip", "neigh", "replace", ip, "lladdr", cli, "dev", "srv")
	}
	l.server.Run(l.t, "sysctl", "-qw", "net.core.somaxconn=16384", "net.ipv4.tcp_max_syn_backlog=16384")
}

// rules makes rules the only ones.
func (l *tcpLab) rules(lines ...string) {
	l.t.Helper()
	path := filepath.Join(l.dir, "rules")
	check(l.t, os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	l.cli("flow", "replace", "br0", "-f", path)
}

// inside calls fn on a thread in a pod's namespace. Sockets that it opens stay there.
func inside(ns *taptest.Namespace, fn func() error) error {
	f, err := os.Open(ns.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	return sys.InNetwork(f, fn)
}

// A greeting is what a server says first: which backend it is, and whom it sees.
type greeting struct {
	Backend uint16
	Port    uint16
	Addr    [4]byte
}

// serversEnv tells a process that it is the servers: see TestMain.
const serversEnv = "MILLRACE_ACCEPTANCE_SERVERS"

// startServers starts the backends, in a process of their own in the server's pod.
func (l *tcpLab) startServers() {
	l.t.Helper()
	self, err := os.Executable()
	check(l.t, err)
	cmd, out, done := l.server.Command(l.t, self), &waittest.Buffer{}, make(chan struct{})
	cmd.Env = append(os.Environ(), serversEnv+"=yes")
	cmd.Stdout, cmd.Stderr = out, out
	check(l.t, startChild(cmd, done))
	l.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		if text := strings.TrimPrefix(out.String(), "ready\n"); text != "" {
			l.t.Errorf("the servers printed: %s", text)
		}
	})
	eventually(l.t, func() bool { return out.String() == "ready\n" || ended(done) }, "servers")
}

// serversMain is all backends: each client is greeted, and has back what it sends. It
// ends by being killed.
func serversMain() error {
	failed := make(chan error)
	for i := range backends {
		listener, err := net.Listen("tcp4", fmt.Sprintf(backendIP+":%d", i+1, serverPort))
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := listener.Accept()
				if err != nil {
					failed <- err
					return
				}
				go serve(c, i)
			}
		}()
	}
	fmt.Println("ready")
	return <-failed
}

// serve has one client. Who sees an error is the client.
func serve(c net.Conn, i int) {
	defer c.Close()
	from := c.RemoteAddr().(*net.TCPAddr).AddrPort()
	if binary.Write(c, binary.BigEndian, greeting{uint16(i), from.Port(), from.Addr().As4()}) == nil {
		_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) // as they are: splice(2) would take a pipe for each
	}
}

// A tcpClient is a connection and what its server said.
type tcpClient struct {
	net.Conn
	greeting
	number int
	rounds int
}

// together is how many connections are made, and how many exchange, at a time.
const together = 32

// each calls fn for all numbers below n from some threads, which are in the client's
// pod.
func (l *tcpLab) each(n int, fn func(i int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, together)
	for w := range together {
		wg.Go(func() {
			errs[w] = inside(l.client, func() error {
				for i := w; i < n; i += together {
					if err := fn(i); err != nil {
						return fmt.Errorf("connection %d: %w", i, err)
					}
				}
				return nil
			})
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// connect opens n connections, which stay open. from says by which address and port,
// 0 for any.
func (l *tcpLab) connect(n int, to string, from func(i int) netip.AddrPort) []*tcpClient {
	l.t.Helper()
	clients := make([]*tcpClient, n)
	err := l.each(n, func(i int) error {
		d := net.Dialer{Timeout: patience, LocalAddr: net.TCPAddrFromAddrPort(from(i))}
		c, err := d.Dial("tcp4", to)
		if err != nil {
			return err
		}
		clients[i] = &tcpClient{Conn: c, number: i}
		return errors.Join(c.SetDeadline(time.Now().Add(patience)), binary.Read(c, binary.BigEndian, &clients[i].greeting))
	})
	l.t.Cleanup(func() {
		for _, c := range clients {
			if c != nil {
				_ = c.Close() // it may be closed already
			}
		}
	})
	check(l.t, err)
	return clients
}

// exchange has each client send some bytes of its own, and compares what comes back.
func (l *tcpLab) exchange(clients []*tcpClient) error {
	return l.each(len(clients), func(i int) error { return clients[i].exchange() })
}

// exchangeBytes is less than a socket takes without anybody reading.
const exchangeBytes = 5000

func (c *tcpClient) exchange() error {
	c.rounds++
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	sent, got := make([]byte, exchangeBytes), make([]byte, exchangeBytes)
	for i := range sent {
		sent[i] = byte(c.number>>(8*(i%3))) + byte(c.rounds) + byte(i)
	}
	if _, err := c.Write(sent); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(sent, got) {
		return errors.New("other bytes came back than were sent")
	}
	return nil
}

// end closes all connections from both sides: after what was asked for, nothing comes.
func (l *tcpLab) end(clients []*tcpClient) {
	l.t.Helper()
	err := l.each(len(clients), func(i int) error {
		c := clients[i].Conn.(*net.TCPConn)
		if err := errors.Join(c.SetDeadline(time.Now().Add(patience)), c.CloseWrite()); err != nil {
			return err
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			return fmt.Errorf("%d bytes at the end: %w", n, err)
		}
		return c.Close()
	})
	check(l.t, err)
}

// tracked is how many connections the switch has.
func (l *tcpLab) tracked() int {
	l.t.Helper()
	m, err := l.api.Flows.GetMemory(l.t.Context(), &api.GetMemoryRequest{})
	check(l.t, err)
	for _, u := range m.GetUses() {
		if u.GetPart() == "connections" {
			return int(u.GetUsed())
		}
	}
	l.t.Fatalf("no table of connections: %v", m)
	return 0
}

// TestSNAT has clients of two addresses, which use the same ports, behind one: many
// connections at a time, each byte of which comes through, and servers see that
// address only.
func TestSNAT(t *testing.T) {
	l := newTCPLab(t)
	l.rules(
		`table=0 priority=10 match="ip4 && inport == \"cli\"" actions="ct_snat(`+hiddenIP+`);"`,
		`table=0 priority=10 match="ip4 && inport == \"srv\" && ip4.dst == `+hiddenIP+`" actions="ct_snat;"`,
		`table=1 priority=10 match="inport == \"cli\"" actions="outport = \"srv\"; output;"`,
		`table=1 priority=10 match="inport == \"srv\" && ct.est && ip4.dst == 10.8.0.0/24" actions="outport = \"cli\"; output;"`,
	)
	const firstPort = 20_000
	clients := l.connect(l.n, fmt.Sprintf(backendIP+":%d", 1, serverPort), func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf(clientIP, i%2+1)), uint16(firstPort+i/2))
	})
	seen, kept := map[uint16]bool{}, 0
	for _, c := range clients {
		if a := netip.AddrFrom4(c.Addr); a != netip.MustParseAddr(hiddenIP) {
			t.Fatalf("a server sees %v, want %s", a, hiddenIP)
		}
		if seen[c.Port] = true; int(c.Port) == firstPort+c.number/2 {
			kept++
		}
	}
	// Of two with one port, the first keeps it, unless somebody else was given it before.
	if len(seen) != l.n || kept > (l.n+1)/2 || kept < l.n/3 {
		t.Errorf("%d ports of %d connections, of which %d kept theirs", len(seen), l.n, kept)
	}
	check(t, l.exchange(clients))
	if n := l.tracked(); n < l.n {
		t.Errorf("the switch has %d connections, want %d", n, l.n)
	}
	check(t, l.exchange(clients))
	l.end(clients)
}

// balance are the rules of a load balancer with some backends.
func (l *tcpLab) balance(which ...int) {
	l.t.Helper()
	var to []string
	for _, i := range which {
		to = append(to, fmt.Sprintf(backendIP+":%d", i+1, serverPort))
	}
	l.rules(
		`table=0 priority=10 match="ip4" actions="ct_lb_mark;"`,
		`table=1 priority=20 match="ct.new && inport == \"cli\" && ip4.dst == `+virtualIP+` && tcp.dst == `+strconv.Itoa(virtualPort)+`" actions="ct_lb_mark(backends=`+strings.Join(to, ",")+`);"`,
		`table=1 priority=10 match="ct.new && inport == \"cli\" && ip4.dst == 10.8.1.0/24" actions="outport = \"srv\"; output;"`, // a SYN again
		`table=1 priority=10 match="ct.est && inport == \"cli\"" actions="outport = \"srv\"; output;"`,
		`table=1 priority=10 match="ct.est && inport == \"srv\"" actions="outport = \"cli\"; output;"`,
		`table=2 priority=10 match="inport == \"cli\"" actions="outport = \"srv\"; output;"`,
	)
}

// shares is how many clients each backend has.
func shares(clients []*tcpClient) (n [backends]int) {
	for _, c := range clients {
		n[c.Backend]++
	}
	return n
}

// TestLoadBalancer has clients of a service with four backends. All have their part. One
// is removed under traffic: no client of the others notices, and no new one goes to it.
func TestLoadBalancer(t *testing.T) {
	l := newTCPLab(t)
	l.balance(0, 1, 2, 3)
	service := fmt.Sprintf("%s:%d", virtualIP, virtualPort)
	anywhere := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf(clientIP, i%2+1)), 0)
	}
	clients := l.connect(l.n, service, anywhere)
	const part = 1.0 / backends
	unfair := 5.2 * math.Sqrt(float64(l.n)*part*(1-part)) // standard deviations: chance has one run in some 500,000
	for i, n := range shares(clients) {
		if math.Abs(float64(n)-part*float64(l.n)) > unfair {
			t.Errorf("backend %d has %d of %d clients", i, n, l.n)
		}
	}
	for _, c := range clients {
		if a := netip.AddrFrom4(c.Addr); a != netip.MustParseAddr(fmt.Sprintf(clientIP, c.number%2+1)) {
			t.Fatalf("client %d is seen as %v", c.number, a)
		}
	}
	check(t, l.exchange(clients))

	const gone = 2
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var stay []*tcpClient
	var under error // of exchanges while the backend goes
	for _, c := range clients {
		if c.Backend != gone {
			stay = append(stay, c)
		}
	}
	wg.Go(func() {
		for under == nil && !ended(stop) {
			under = l.exchange(stay)
		}
	})
	l.balance(0, 1, 3)
	late := l.connect(l.n/2, service, anywhere)
	close(stop)
	wg.Wait()
	check(t, under)
	if n := shares(late); n[gone] != 0 || n[0] == 0 || n[1] == 0 || n[3] == 0 {
		t.Errorf("new clients went to backends as %v", n)
	}
	all := append(late, clients...) // those of the backend that left the list, too: it is there still
	check(t, l.exchange(all))
	if n := l.tracked(); n < len(all) {
		t.Errorf("the switch has %d connections, want %d", n, len(all))
	}
	l.end(all)
}
