package main

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.zx2c4.com/wireguard/tun"

	"millrace/control/egress/l3"
	"millrace/control/egress/l3/guard"
	"millrace/control/egress/l3/kernel"
	"millrace/control/egress/policy"
)

// l3Socket is where the node's end of a tunnel is asked, in the run directory.
const l3Socket = "egress-l3.sock"

// l3Flags are the flags of egress l3.
type l3Flags struct {
	key       string
	servers   []string
	addresses []string
	allow     []string
	outward   []string
	netns     string
	device    string
	mtu       int
	port      uint16
	listen    string
	readyFD   int

	peers  []l3.Peer
	own    []netip.Addr
	to     []netip.Prefix
	policy *policy.Policy
}

func (a *app) egressL3Cmd() *cobra.Command {
	var f l3Flags
	cmd := &cobra.Command{
		Use:   "l3",
		Short: "Let operators reach subnets behind this node, by WireGuard",
		Long: `Dials out to WireGuard servers, and has packets that come back through those
tunnels reach pods and services: whole subnets, any protocol, as far as --allow
says. Servers are ` + "`millrace egress-server`" + `, or stock WireGuard.

The way to pods is a port of the switch, of type tap or internal, in a network
namespace of its own: --netns says which. The tunnel's device is made there, and
the namespace forwards between the two. Pods need a way back: operators' prefixes
by the port's address.

A server is three words: its public key (or two with a comma, while it changes),
where it is dialled, and what is at its end: its own address with the prefix that
it is in, which is asked for signs of life each second, then further prefixes:

  --server 'KEY vpn.example:51820 10.99.0.1/24,10.98.0.0/24'

--allow takes the rules of ` + "`millrace egress agent`" + `; those for pods and services
count. A rule with ports opens these for TCP, UDP and SCTP; one without opens all,
and echoes (ping). What operators did not begin does not pass: pods cannot dial, but
to --outward prefixes, and there the server decides.

The private key is read anew when its file changes.

  RUN-DIR/egress-l3.sock    what millrace egress l3 status asks`,
		Example: `  (umask 077; millrace egress genkey > /etc/millrace/l3.key)
  millrace port add br0 egress0 --type tap --netns egress --ip 10.16.0.2/16
  millrace egress l3 --private-key /etc/millrace/l3.key --address 10.99.0.2 --netns egress \
      --server 'IGWZYSAEYmh9FBzXHDUR9nHMIFTtP9TdyQIgBBpP7hE= vpn.example:51820 10.99.0.1/24' --allow pods=10.16.0.0/16`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.egressL3(cmd, &f) },
	}
	f.add(cmd)
	cmd.AddCommand(a.tunnelStatusCmd("l3", l3Socket, "millrace egress l3"))
	return cmd
}

func (f *l3Flags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.key, "private-key", "", "file of this end's private key (required)")
	fs.StringArrayVar(&f.servers, "server", nil, "a server: KEY HOST:PORT ADDRESS/BITS[,PREFIX...]; again for more")
	fs.StringSliceVar(&f.addresses, "address", nil, "address of this end of the tunnel, as the server knows it; again for one of the other IP version")
	fs.StringArrayVar(&f.allow, "allow", nil, "a rule of what may be reached; again for more")
	fs.StringSliceVar(&f.outward, "outward", nil, "prefix at the other end that pods may begin flows to; again for more (default: none)")
	fs.StringVar(&f.netns, "netns", "", "network namespace of the switch's port: a name below /run/netns, or a path (required)")
	fs.StringVar(&f.device, "device", "mrl3", "name of the tunnel's device there")
	fs.IntVar(&f.mtu, "mtu", l3.DefaultMTU, "MTU of the tunnel: that of the way to the server less 80")
	fs.Uint16Var(&f.port, "port", 0, "UDP port to send from (default: any)")
	fs.StringVar(&f.listen, "listen", "127.0.0.1:8094", "where /metrics, /healthz and /readyz are served; empty: nowhere")
	fs.IntVar(&f.readyFD, "ready-fd", 0, "descriptor to write the line ready to, instead of standard output")
}

// check makes peers, addresses and a policy of the flags.
func (f *l3Flags) check(cmd *cobra.Command) (err error) {
	switch {
	case f.key == "":
		return usage(cmd, "--private-key: no file is named (`millrace egress genkey` makes a key)")
	case len(f.servers) == 0:
		return usage(cmd, "--server: none is given")
	case f.mtu < l3.MinMTU || f.mtu > l3.MaxMTU:
		return usage(cmd, "--mtu: %d is not in %d..%d", f.mtu, l3.MinMTU, l3.MaxMTU)
	}
	if f.own, err = parseOwn(f.addresses); err != nil {
		return usage(cmd, "--address: %w", err)
	}
	for _, text := range f.servers {
		p, err := parseServer(text)
		if err == nil && !slices.ContainsFunc(f.own, func(a netip.Addr) bool { return a.Is4() == p.Probe.Is4() }) {
			err = fmt.Errorf("%s cannot be asked for signs of life: no --address is of its IP version", p.Probe)
		}
		if err != nil {
			return usage(cmd, "--server: %w", err)
		}
		f.peers = append(f.peers, p)
	}
	for _, w := range f.outward {
		p, err := netip.ParsePrefix(w)
		if err != nil {
			return usage(cmd, "--outward: %w", err)
		}
		f.to = append(f.to, p)
	}
	if f.policy, err = policy.Parse(strings.Join(f.allow, " "), false); err != nil {
		return usage(cmd, "--allow: %w", err)
	}
	if err := (l3.Setup{PrivateKey: l3.NewKey(), Peers: f.peers}).Check(); err != nil { // any key: the file's may change
		return usage(cmd, "--server: %w", err)
	}
	return nil
}

func parseOwn(words []string) (own []netip.Addr, err error) {
	for _, w := range words {
		a, err := netip.ParseAddr(w)
		if err != nil {
			return nil, err
		}
		own = append(own, a)
	}
	if len(own) == 0 {
		return nil, errors.New("none is given: the tunnel's end needs one, of the server's choice")
	}
	return own, l3.CheckOwn(own)
}

// parseServer reads KEY[,KEY] HOST:PORT ADDRESS/BITS[,PREFIX...].
func parseServer(text string) (p l3.Peer, err error) {
	words := strings.Fields(text)
	if len(words) != 3 {
		return p, fmt.Errorf("%q: want KEY HOST:PORT ADDRESS/BITS, such as 10.99.0.1/24", text)
	}
	p = l3.Peer{Name: words[1], Endpoint: words[1], Patience: 10 * time.Second}
	for _, w := range strings.Split(words[0], ",") {
		k, err := l3.ParseKey(w)
		if err != nil {
			return p, err
		}
		p.Keys = append(p.Keys, k)
	}
	for i, w := range strings.Split(words[2], ",") {
		prefix, err := netip.ParsePrefix(w)
		if err != nil {
			return p, err
		}
		if i == 0 {
			p.Probe = prefix.Addr()
			if !prefix.IsSingleIP() && prefix.Masked() == prefix {
				return p, fmt.Errorf("%s: which of them is the server's own address? Write it, such as %s/%d", prefix, prefix.Addr().Next(), prefix.Bits())
			}
			prefix = prefix.Masked()
		}
		p.Prefixes = append(p.Prefixes, prefix)
	}
	return p, nil
}

// load reads the private key's file.
func (f *l3Flags) load() (l3.Setup, error) {
	k, err := l3.ReadKey(f.key)
	return l3.Setup{PrivateKey: k, Peers: f.peers}, err
}

// egressL3 serves until it is told to end.
func (a *app) egressL3(cmd *cobra.Command, f *l3Flags) error {
	log, err := a.serviceLogger(cmd, "l3")
	if err != nil {
		return err
	}
	if err := f.check(cmd); err != nil {
		return err
	}
	if f.netns == "" {
		return usage(cmd, "--netns: say in which network namespace the switch's port is; one of its own, for it will forward packets")
	}
	if _, err := f.load(); err != nil {
		return err
	}
	shown, err := listenLocal(filepath.Join(a.runDir, l3Socket))
	if err != nil {
		return err
	}
	defer shown.Close()
	dev, err := kernel.Open(kernel.Options{Name: f.device, Netns: f.netns, MTU: f.mtu, Addresses: f.own, Forward: true})
	if err != nil {
		return err
	}
	t, err := f.tunnel(dev, dev.Route, func() *policy.Policy { return f.policy }, log)
	if err != nil {
		return err
	}
	return a.runTunnel(cmd.Context(), t, shown, f.listen, f.readyFD, log)
}

// tunnel makes the tunnel between the servers and dev, which belongs to it, also if that
// fails. route has what is behind dev send to some prefixes through it.
func (f *l3Flags) tunnel(dev tun.Device, route func([]netip.Prefix) error, rules func() *policy.Policy, log *zap.Logger) (*l3.Tunnel, error) {
	t, err := l3.New(l3.Config{
		Load: f.load, Use: func(peers []l3.Peer) error { return route(prefixesOf(peers)) }, Port: f.port, Own: f.own, MTU: f.mtu, Inner: dev,
		Filter: guard.NewNode(f.own, f.to, rules), Log: log,
	})
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return t, nil
}

func prefixesOf(peers []l3.Peer) (all []netip.Prefix) {
	for _, p := range peers {
		all = append(all, p.Prefixes...)
	}
	return all
}
