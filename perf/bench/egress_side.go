package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"millrace/control/egress/kernel"
	"millrace/control/egress/konntest"
)

// A tunnel is a side of the cases with tunnels: a control plane and a node in
// network namespaces of their own, with a link between them, and the programs of
// the tunnel.
//
//	plane 10.89.N.1 ── 10.89.N.2 node
type tunnel struct {
	none
	dir    string
	letter string // a: ours, b: the rival's
	far    *farLink
	nodeIP string // where targets are, as clients name them
	files  konntest.Files
	node   *kernel.Dialer // sockets of the node
	plane  *kernel.Dialer

	name     string
	programs []*program // the last one is the node's
	begin    func() error
	dialer   func(ctx context.Context, target string) (net.Conn, error)
	options  []string // of OpenVPN
}

// A program is one that runs for a side.
type program struct {
	cmd *exec.Cmd
	log *os.File
}

func (t *tunnel) number() int { return int(t.letter[0]-'a') + 1 }

// planeNS and nodeNS are the names of the namespaces, planeIP is where servers listen.
func (t *tunnel) planeNS() string { return "mreg" + t.letter + "cp" }
func (t *tunnel) nodeNS() string  { return "mreg" + t.letter + "nd" }
func (t *tunnel) planeIP() string { return fmt.Sprintf("10.89.%d.1", t.number()) }

// newTunnel makes the network of a side.
func newTunnel(c scenario, dir, letter string) (*tunnel, error) {
	t := &tunnel{letter: letter, dir: filepath.Join(dir, letter)}
	t.nodeIP = fmt.Sprintf("10.89.%d.2", t.number())
	if err := t.connect(c); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *tunnel) connect(c scenario) (err error) {
	t.removeNetwork()
	if err := os.MkdirAll(t.dir, 0o755); err != nil {
		return err
	}
	if err := ip("netns add "+t.planeNS(), "netns add "+t.nodeNS()); err != nil {
		return err
	}
	if c.far {
		t.far, err = newFarLink(t.planeNS(), t.nodeNS())
	} else {
		err = ip(fmt.Sprintf("-n %s link add dev link0 type veth peer name link0 netns %s", t.planeNS(), t.nodeNS()))
	}
	if err != nil {
		return err
	}
	for ns, addr := range map[string]string{t.planeNS(): t.planeIP(), t.nodeNS(): t.nodeIP} {
		if err := ip("-n "+ns+" addr add "+addr+"/24 dev link0", "-n "+ns+" link set lo up", "-n "+ns+" link set link0 up"); err != nil {
			return err
		}
	}
	if t.node, err = kernel.Open(t.nodeNS(), ""); err != nil {
		return err
	}
	if t.plane, err = kernel.Open(t.planeNS(), ""); err != nil {
		return err
	}
	authority, err := konntest.NewAuthority()
	if err != nil {
		return err
	}
	t.files, err = authority.Issue(t.dir, t.planeIP(), time.Now().Add(24*time.Hour))
	return err
}

func (t *tunnel) removeNetwork() {
	for _, ns := range []string{t.planeNS(), t.nodeNS()} {
		_ = ip("netns del " + ns) // it may not be there
	}
}

// setLink cuts the link, or joins it: up or down.
func (t *tunnel) setLink(state string) error {
	return ip("-n " + t.planeNS() + " link set link0 " + state)
}

// run runs a program of a side in a namespace.
func (t *tunnel) run(ns string, command ...string) error {
	log, err := os.Create(filepath.Join(t.dir, fmt.Sprintf("log%d", len(t.programs))))
	if err != nil {
		return err
	}
	p := &program{exec.Command("ip", append([]string{"netns", "exec", ns}, command...)...), log} // which becomes the program
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	t.programs = append(t.programs, p)
	return nil
}

// ready waits until a request comes through.
func (t *tunnel) ready(ctx context.Context, most time.Duration) error {
	var err error
	for end := time.Now().Add(most); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		if err = t.probe(ctx, time.Second); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s: no request comes through: %w\n%s", t.name, err, t.explain(ctx))
}

// reset starts the programs anew if no request comes through.
func (t *tunnel) reset(ctx context.Context) error {
	if len(t.programs) > 0 && t.ready(ctx, 5*time.Second) == nil {
		return nil
	}
	t.endPrograms()
	if err := t.begin(); err != nil {
		return err
	}
	if err := t.ready(ctx, 30*time.Second); err != nil {
		return err
	}
	time.Sleep(2 * time.Second) // until a program has all connections that it wants
	return nil
}

func (t *tunnel) endPrograms() {
	for _, p := range t.programs {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		_ = p.log.Close()
	}
	t.programs = nil
}

func (t *tunnel) signal(s syscall.Signal) error {
	var errs []error
	for _, p := range t.programs {
		errs = append(errs, p.cmd.Process.Signal(s))
	}
	return errors.Join(errs...)
}

func (t *tunnel) pause() error  { return t.signal(syscall.SIGSTOP) }
func (t *tunnel) resume() error { return t.signal(syscall.SIGCONT) }
func (t *tunnel) about() string { return strings.Join(append([]string{t.name}, t.options...), " ") }

// pid is the node's program.
func (t *tunnel) pid() int { return t.programs[len(t.programs)-1].cmd.Process.Pid }

// otherPID is the control plane's program.
func (t *tunnel) otherPID() int { return t.programs[0].cmd.Process.Pid }

// explain is the end of what the programs have said.
func (t *tunnel) explain(context.Context) string {
	var b strings.Builder
	for i, p := range t.programs {
		text, _ := os.ReadFile(p.log.Name())
		fmt.Fprintf(&b, "program %d: %s\n", i, text[max(0, len(text)-1500):])
	}
	return b.String()
}

func (t *tunnel) close() {
	t.endPrograms()
	for _, d := range []*kernel.Dialer{t.node, t.plane} {
		if d != nil {
			d.Close()
		}
	}
	if t.far != nil {
		t.far.close()
	}
	t.removeNetwork()
}

// startOurAgent is millrace's agent behind a real proxy-server.
func startOurAgent(ctx context.Context, s settings, c scenario, dir string) (side, error) {
	return startKonnectivity(ctx, c, dir, "a", "millrace egress agent", func(t *tunnel) []string {
		return []string{s.Binary, "egress", "agent", "--run-dir", t.dir, "--node-name", "node", "--server", t.planeIP() + ":8091", "--ca", t.files.CA, "--cert", t.files.Cert,
			"--key", t.files.Key, "--allow", "node=" + t.nodeIP, "--listen", "127.0.0.1:8093", "--log-level", "warn"}
	})
}

// startStockAgent is the same with the stock agent.
func startStockAgent(ctx context.Context, _ settings, c scenario, dir string) (side, error) {
	return startKonnectivity(ctx, c, dir, "b", "proxy-agent", func(t *tunnel) []string {
		return []string{os.Getenv(stockAgentEnv), "--proxy-server-host=" + t.planeIP(), "--proxy-server-port=8091", "--ca-cert=" + t.files.CA,
			"--agent-cert=" + t.files.Cert, "--agent-key=" + t.files.Key, "--health-server-port=8093", "--admin-server-port=8094", "--v=0"}
	})
}

func startKonnectivity(ctx context.Context, c scenario, dir, letter, name string, agent func(*tunnel) []string) (side, error) {
	server := os.Getenv(stockServerEnv)
	if server == "" || os.Getenv(stockAgentEnv) == "" {
		return nil, errNoStock
	}
	t, err := newTunnel(c, dir, letter)
	if err != nil {
		return nil, err
	}
	t.name = name
	front := filepath.Join(t.dir, "front")
	t.begin = func() error {
		err := t.run(t.planeNS(), server, "--mode=http-connect", "--uds-name="+front, "--server-port=0", "--agent-port=8091", "--health-port=8092", "--admin-port=8095",
			"--server-id=server", "--v=0", "--cluster-ca-cert="+t.files.CA, "--cluster-cert="+t.files.Cert, "--cluster-key="+t.files.Key)
		return errors.Join(err, t.run(t.nodeNS(), agent(t)...))
	}
	t.dialer = func(ctx context.Context, target string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", front)
		if err != nil {
			return nil, err
		}
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		defer stop()
		return konntest.Connect(conn, target)
	}
	if err := t.reset(ctx); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// openVPNTunings are the ways to carry packets that OpenVPN offers.
func openVPNTunings() []tuning {
	return []tuning{{Name: "TCP"}, {Name: "TCP, no delay"}, {Name: "UDP"}}
}

// openVPNIP is the node's address in the tunnel.
const openVPNIP = "10.98.0.2"

// startOpenVPN is OpenVPN from the node to the control plane, one peer each.
func startOpenVPN(ctx context.Context, _ settings, c scenario, dir string) (side, error) {
	openvpn, err := exec.LookPath("openvpn")
	if err != nil {
		return nil, fmt.Errorf("%w OpenVPN (apt-get install openvpn): %w", errAbsent, err)
	}
	t, err := newTunnel(c, dir, "b")
	if err != nil {
		return nil, err
	}
	t.name, t.options, t.nodeIP = "OpenVPN", []string{"TCP"}, openVPNIP
	t.begin = func() error {
		proto := map[string][2]string{"TCP": {"tcp-server", "tcp-client"}, "UDP": {"udp", "udp"}}[strings.Fields(strings.Trim(t.options[0], ","))[0][:3]]
		common := []string{openvpn, "--dev", "tun", "--ca", t.files.CA, "--cert", t.files.Cert, "--key", t.files.Key, "--verb", "1", "--disable-dco"}
		if strings.Contains(t.options[0], "no delay") {
			common = append(common, "--socket-flags", "TCP_NODELAY")
		}
		err := t.run(t.planeNS(), append(common, "--tls-server", "--dh", "none", "--proto", proto[0], "--port", "1194", "--ifconfig", "10.98.0.1", openVPNIP)...)
		return errors.Join(err, t.run(t.nodeNS(), append(common, "--tls-client", "--proto", proto[1], "--remote", t.planeIP(), "--port", "1194", "--ifconfig", openVPNIP, "10.98.0.1")...))
	}
	t.dialer = func(ctx context.Context, target string) (net.Conn, error) {
		return t.plane.DialContext(ctx, "tcp", target)
	}
	if err := t.reset(ctx); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// tune starts OpenVPN in another way.
func (t *tunnel) tune(ctx context.Context, to tuning) error {
	t.endPrograms()
	t.options = []string{to.Name}
	return t.reset(ctx)
}

func (t *tunnel) settle(context.Context, tuning) error { return nil }
