package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"millrace/control/egress/admin"
	"millrace/control/egress/agent"
	"millrace/control/egress/kernel"
	"millrace/control/egress/leases"
	"millrace/control/egress/policy"
)

// egressFlags are the flags of egress agent.
type egressFlags struct {
	cfg         agent.Config
	allow       []string
	udp         bool
	netns, dns  string
	hosts       []string
	identifiers string
	listen      string
	readyFD     int

	leases       leases.Config
	countSource  string
	requestLevel string
}

func (a *app) egressAgentCmd() *cobra.Command {
	var f egressFlags
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Dial out to proxy-servers, and serve the requests that come back",
		Long: `Connects to every address of every --server, and opens the connections that they
ask for. It takes the place of konnectivity's proxy-agent: servers and API
servers stay as they are. A request that stalls, at either end, stops no other:
each has a stream of its own, with proxy-server v0.35 or later.

What may be reached is what --allow says, and nothing else:

  --allow pods=10.16.0.0/16            any port; by the port of the switch
  --allow services=10.96.0.0/12@443    one port; by the port of the switch
  --allow node=192.0.2.10@10250        by the host's own sockets
  --allow deny=10.16.3.0/24            not
  --allow port-names=*.svc.cluster.local@443   names to look up at --dns
  --allow host-names=node-*@10250              names to look up as the host does

The longest prefix that holds an address counts. An address that a name stands
for is judged like any other. Loopback and link-local addresses need a rule of
their own, unix sockets cannot be had at all.

The port of the switch is one of type tap or internal, in a network namespace of
its own: --netns says which, and pods and services are dialled there. A port of type
egress needs no such command: it has an agent of its own (` + "`millrace port add --help`" + `).

Certificates and tokens are read anew for each connection. SIGTERM drains: servers
send new requests elsewhere, and open ones have --drain-timeout to end.

  RUN-DIR/egress.sock    what millrace egress status, requests, top and explain ask`,
		Example: `  millrace egress agent --server konnectivity.example:8132 --ca ca.crt --token /var/run/secrets/tokens/konnectivity \
      --allow node=192.0.2.10@10250
  millrace port add br0 egress0 --type tap --netns egress --ip 10.16.0.2/16
  millrace egress agent --server 192.0.2.1:8132 --ca ca.crt --cert agent.crt --key agent.key \
      --netns egress --dns 10.96.0.10:53 --allow pods=10.16.0.0/16 --allow 'port-names=*.svc.cluster.local@443' --allow services=10.96.0.0/12@443`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.egressAgent(cmd, &f) },
	}
	f.add(cmd)
	completeWith(cmd, "server-count-source", cobra.FixedCompletions([]string{"default", "max"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (f *egressFlags) add(cmd *cobra.Command) {
	host, _ := os.Hostname()
	fs := cmd.Flags()
	fs.StringArrayVar(&f.cfg.Servers, "server", nil, "HOST:PORT where a proxy-server takes agents; again for more")
	fs.StringVar(&f.cfg.Name, "node-name", host, "what agent ids begin with")
	fs.StringVar(&f.cfg.Files.CA, "ca", "", "authorities of the servers' certificates, PEM (required, but for --insecure)")
	fs.StringVar(&f.cfg.Files.Cert, "cert", "", "certificate to show, PEM")
	fs.StringVar(&f.cfg.Files.Key, "key", "", "its key, PEM")
	fs.StringVar(&f.cfg.Files.Token, "token", "", "file of a service account's token to show")
	fs.StringSliceVar(&f.cfg.Files.ALPN, "alpn", nil, "further protocols to offer in TLS, for load balancers")
	fs.Bool("insecure", false, "connect without TLS, for tests")
	fs.StringArrayVar(&f.allow, "allow", nil, "a rule of what may be reached; again for more")
	fs.BoolVar(&f.udp, "udp", false, "allow the protocol udp, too")
	fs.StringVar(&f.netns, "netns", "", "network namespace of the switch's port: a name below /run/netns, or a path")
	fs.StringVar(&f.cfg.PortName, "port-name", "port", "what metrics and logs call that port")
	fs.StringVar(&f.dns, "dns", "", "ADDRESS:PORT of the DNS server behind the port, for port-names")
	fs.StringArrayVar(&f.hosts, "host", nil, "NAME=ADDRESS[,ADDRESS...]: a name that nobody is asked for; again for more")
	fs.StringVar(&f.identifiers, "identifiers", "", "what servers are told of this agent, such as ipv4=192.0.2.10&default-route=true")
	fs.IntVar(&f.cfg.Links, "connections", 0, "connections to each address of a server (default: 2, and 8 to one that is 5 ms away or more)")
	fs.IntVar(&f.cfg.Idle, "idle-streams", 8, "streams at each address that wait for requests")
	fs.IntVar(&f.cfg.MaxStreams, "max-streams", 1024, "streams of a connection; beyond, requests share them")
	fs.IntVar(&f.cfg.MaxRequests, "max-requests", 4096, "requests that are dialled or open at once; more are refused")
	fs.BoolVar(&f.cfg.Shared, "shared", false, "have requests share streams, as stock agents do")
	fs.DurationVar(&f.cfg.DialTimeout, "dial-timeout", 5*time.Second, "how long a target may take to be looked up and to answer")
	fs.DurationVar(&f.cfg.StallTimeout, "stall-timeout", 5*time.Minute, "how long a target may take nothing of what it is sent")
	fs.DurationVar(&f.cfg.UnusedTimeout, "unused-timeout", 2*time.Minute, "how long a client may say nothing after its dial, and hear nothing")
	fs.DurationVar(&f.cfg.DrainTimeout, "drain-timeout", 30*time.Second, "how long open requests have to end after SIGTERM")
	fs.StringVar(&f.leases.Kubeconfig, "kubeconfig", "", "count servers by their Lease objects, asking the API by this kubeconfig")
	fs.StringVar(&f.leases.Namespace, "lease-namespace", "kube-system", "where the Lease objects are")
	fs.StringVar(&f.leases.Selector, "lease-label-selector", "k8s-app=konnectivity-server", "the labels that they have")
	fs.StringVar(&f.countSource, "server-count-source", "default", "with --kubeconfig: default (leases count), or max (leases or what servers say, whichever is more)")
	fs.StringVar(&f.requestLevel, "log-requests", "debug", "the level of log lines of requests that end well; those that do not are at info at least")
	fs.StringVar(&f.listen, "listen", "127.0.0.1:8093", "where /metrics, /healthz and /readyz are served; empty: nowhere")
	fs.IntVar(&f.readyFD, "ready-fd", 0, "descriptor to write the line ready to, instead of standard output")
}

// egressAgent serves until it is told to end.
func (a *app) egressAgent(cmd *cobra.Command, f *egressFlags) error {
	log, err := a.serviceLogger(cmd, "egress")
	if err != nil {
		return err
	}
	if err := f.check(cmd); err != nil {
		return err
	}
	if f.netns != "" {
		d, err := kernel.Open(f.netns, "")
		if err != nil {
			return err
		}
		defer d.Close()
		f.by(d)
	}
	return a.serveAgent(cmd.Context(), f, filepath.Join(a.runDir, admin.SocketName), log, nil)
}

// by has the agent reach what is behind the port by d.
func (f *egressFlags) by(d agent.Dialer) {
	f.cfg.Port, f.cfg.PortNames = d, f.portNames(d)
}

// serveAgent runs an agent that is asked at a socket, until ctx ends and it has
// drained. more is counted besides what an agent counts.
func (a *app) serveAgent(ctx context.Context, f *egressFlags, socket string, log *zap.Logger, more []prometheus.Collector) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registry.MustRegister(more...)
	f.cfg.Registry, f.cfg.Log = registry, log
	ag := agent.New(f.cfg)
	stop, err := a.showAgent(ctx, f, socket, ag, registry, log)
	if err != nil {
		return err
	}
	defer stop()
	if err := a.ready(f.readyFD); err != nil {
		log.Warn("nobody was told that the agent is ready", zap.Error(err))
	}
	f.runAgent(ctx, ag)
	return nil
}

// runAgent runs an agent, and counts servers for it if it is to.
func (f *egressFlags) runAgent(ctx context.Context, ag *agent.Agent) {
	if f.leases.Kubeconfig == "" {
		ag.Run(ctx)
		return
	}
	f.leases.Count, f.leases.Registry, f.leases.Log = ag.CountServers, f.cfg.Registry, f.cfg.Log
	var counting sync.WaitGroup
	counting.Go(func() { leases.Follow(ctx, f.leases) })
	ag.Run(ctx)
	counting.Wait()
}

// check makes a configuration of the flags.
func (f *egressFlags) check(cmd *cobra.Command) error {
	insecure, _ := cmd.Flags().GetBool("insecure")
	switch {
	case len(f.cfg.Servers) == 0:
		return usage(cmd, "--server: none is given")
	case f.cfg.Files.CA == "" && !insecure:
		return usage(cmd, "--ca: none is given, so any server could pass for one of yours")
	case insecure && f.cfg.Files.CA != "":
		return usage(cmd, "--ca and --insecure: give one of them")
	case (f.cfg.Files.Cert == "") != (f.cfg.Files.Key == ""):
		return usage(cmd, "--cert and --key: give both or none")
	case f.countSource != "default" && f.countSource != "max":
		return usage(cmd, "--server-count-source: %q is neither default nor max", f.countSource)
	}
	f.cfg.MostServers = f.countSource == "max"
	level, err := zapcore.ParseLevel(f.requestLevel)
	if err != nil {
		return usage(cmd, "--log-requests: %w", err)
	}
	f.cfg.LogRequests = level
	for _, s := range f.cfg.Servers {
		if _, _, err := net.SplitHostPort(s); err != nil {
			return usage(cmd, "--server: %w", err)
		}
	}
	if err := agent.CheckName(f.cfg.Name); err != nil {
		return usage(cmd, "--node-name: %w", err)
	}
	p, err := policy.Parse(strings.Join(f.allow, " "), f.udp)
	if err != nil {
		return usage(cmd, "--allow: %w", err)
	}
	f.cfg.Policy = func() *policy.Policy { return p }
	f.cfg.Host, f.cfg.HostNames = new(net.Dialer), net.DefaultResolver
	if f.identifiers != "" {
		if err := agent.CheckIdentifiers(f.identifiers); err != nil {
			return usage(cmd, "--identifiers: %w", err)
		}
		f.cfg.Identifiers = func() string { return f.identifiers }
	}
	f.cfg.Static = map[string][]netip.Addr{}
	for _, h := range f.hosts {
		if err := f.addHost(h); err != nil {
			return usage(cmd, "--host: %w", err)
		}
	}
	if _, err := netip.ParseAddrPort(f.dns); f.dns != "" && err != nil {
		return usage(cmd, "--dns: %q is not ADDRESS:PORT", f.dns)
	}
	return nil
}

func (f *egressFlags) addHost(text string) error {
	name, list, ok := strings.Cut(text, "=")
	name = strings.TrimSuffix(strings.ToLower(name), ".") // as names are looked for
	if !ok || name == "" {
		return fmt.Errorf("%q: want NAME=ADDRESS", text)
	}
	for _, word := range strings.Split(list, ",") {
		addr, err := netip.ParseAddr(word)
		if err != nil {
			return fmt.Errorf("%q: %w", text, err)
		}
		f.cfg.Static[name] = append(f.cfg.Static[name], addr)
	}
	return nil
}

// portNames asks the DNS server behind the port, if there is one.
func (f *egressFlags) portNames(d agent.Dialer) agent.Resolver {
	if f.dns == "" {
		return nil
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return d.DialContext(ctx, network, f.dns)
	}}
}

// showAgent serves an agent's socket, and metrics.
func (a *app) showAgent(ctx context.Context, f *egressFlags, path string, ag *agent.Agent, metrics prometheus.Gatherer, log *zap.Logger) (stop func(), err error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // it shows how draining goes, too
	socket, err := listenLocal(path)
	if err != nil {
		cancel()
		return nil, err
	}
	listeners := map[net.Listener]http.Handler{socket: admin.Local(ag)}
	if f.listen != "" {
		l, err := net.Listen("tcp", f.listen)
		if err != nil {
			cancel()
			_ = socket.Close()
			return nil, fmt.Errorf("serve metrics: %w (--listen says where)", err)
		}
		listeners[l] = admin.Probes(ag, metrics)
	}
	for l, h := range listeners {
		go func() {
			if err := admin.Serve(ctx, l, h); err != nil {
				log.Error("cannot be asked any more", zap.Stringer("address", l.Addr()), zap.Error(err))
			}
		}()
	}
	return cancel, nil
}

// listenLocal makes an agent's socket, for root and the owner. One that a dead
// agent has left is taken away.
func listenLocal(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the run directory: %w", err)
	}
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("listen at %s: %w", path, admin.ErrInUse)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of a dead agent: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
