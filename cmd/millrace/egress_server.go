package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"millrace/control/egress/l3"
	"millrace/control/egress/l3/guard"
	"millrace/control/egress/l3/kernel"
	"millrace/control/egress/l3/roster"
)

// serverSocket is where an egress server is asked, in the run directory.
const serverSocket = "egress-server.sock"

// serverFlags are the flags of egress-server.
type serverFlags struct {
	config  string
	listen  string
	readyFD int
}

func (a *app) egressServerCmd() *cobra.Command {
	var f serverFlags
	cmd := &cobra.Command{
		Use:   "egress-server",
		Short: "Join operators to the subnets behind nodes, by WireGuard",
		Long: `Listens for nodes that run ` + "`millrace egress l3`" + ` and for operators, who are stock
WireGuard clients, and passes packets of operators on to nodes, and replies back.
With a device, this host is an operator, too: its kernel has routes to the nodes.

Nothing else passes: nodes reach each other only with between_nodes, operators do
not reach each other, nodes begin nothing. It takes no root without a device.

The file is YAML:

  private_key: server.key       # file
  port: 51820                   # UDP
  addresses: [10.99.0.1]        # of this end
  device: mrl3                  # for this host; leave it out if it takes no part
  mtu: 1420
  between_nodes: false
  nodes:
  - name: edge-1
    keys: [KEY]                 # two while it changes
    prefixes: [10.99.0.2/32, 10.16.0.0/16]
  operators:
  - name: alice
    keys: [KEY]
    prefixes: [10.99.0.50/32]

Keys, nodes, operators and between_nodes are taken up when the files change; for
the rest the server is restarted.

  RUN-DIR/egress-server.sock    what millrace egress-server status asks`,
		Example: `  (umask 077; millrace egress genkey > server.key)
  millrace egress-server --config server.yaml
  millrace egress-server status`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.egressServer(cmd, &f) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.config, "config", "", "file that says who may use it (required)")
	fs.StringVar(&f.listen, "listen", "127.0.0.1:8095", "where /metrics, /healthz and /readyz are served; empty: nowhere")
	fs.IntVar(&f.readyFD, "ready-fd", 0, "descriptor to write the line ready to, instead of standard output")
	cmd.AddCommand(a.tunnelStatusCmd("server", serverSocket, "millrace egress-server"))
	return cmd
}

// A rosterFile is the file, as it was read last.
type rosterFile struct {
	name   string
	text   []byte
	roster *roster.Roster
	setup  l3.Setup
	nodes  []l3.Peer
	others []l3.Peer
	guard  *guard.Server // nil while it is read for the first time
	first  *roster.Roster
	log    *zap.Logger
}

// load reads the file again if it has changed, and the private key.
func (f *rosterFile) load() (l3.Setup, error) {
	text, err := os.ReadFile(f.name)
	if err != nil {
		return l3.Setup{}, fmt.Errorf("read the roster: %w", err)
	}
	if f.roster == nil || !bytes.Equal(text, f.text) {
		if err := f.read(text); err != nil {
			return l3.Setup{}, fmt.Errorf("read the roster %s: %w", f.name, err)
		}
	}
	f.setup.PrivateKey, err = l3.ReadKey(f.roster.PrivateKey)
	return f.setup, err
}

// read takes up a text, if all of it is right.
func (f *rosterFile) read(text []byte) error {
	r, err := roster.Parse(text, f.name)
	if err != nil {
		return err
	}
	nodes, operators, err := r.Peers()
	if err != nil {
		return err
	}
	key, err := l3.ReadKey(r.PrivateKey)
	if err != nil {
		return err
	}
	setup := l3.Setup{PrivateKey: key, Peers: slices.Concat(nodes, operators)}
	if err := setup.Check(); err != nil {
		return err
	}
	f.text, f.roster, f.nodes, f.others, f.setup = text, r, nodes, operators, setup
	if f.guard == nil {
		f.first = r
		return nil
	}
	f.guard.Between(r.BetweenNodes)
	if names := r.Unlike(f.first); len(names) > 0 {
		f.log.Warn("the roster has what takes a restart of the server", zap.Strings("changed", names))
	}
	return nil
}

// egressServer serves until it is told to end.
func (a *app) egressServer(cmd *cobra.Command, f *serverFlags) error {
	log, err := a.serviceLogger(cmd, "server")
	if err != nil {
		return err
	}
	if f.config == "" {
		return usage(cmd, "--config: no file is named")
	}
	file := &rosterFile{name: f.config, log: log}
	if _, err := file.load(); err != nil {
		return usage(cmd, "--config: %w", err)
	}
	shown, err := listenLocal(filepath.Join(a.runDir, serverSocket))
	if err != nil {
		return err
	}
	defer shown.Close()
	t, err := file.open()
	if err != nil {
		return err
	}
	return a.runTunnel(cmd.Context(), t, shown, f.listen, f.readyFD, log)
}

// open opens the server's end.
func (f *rosterFile) open() (*l3.Tunnel, error) {
	r := f.roster
	f.guard = guard.NewServer(r.Addresses, r.Device != "")
	f.guard.Between(r.BetweenNodes)
	c := l3.Config{Load: f.load, Port: r.Port, Own: r.Addresses, MTU: r.MTU, Filter: f.guard, Log: f.log}
	if r.Device == "" {
		c.Use = func([]l3.Peer) error { f.guard.Set(f.nodes, f.others); return nil }
		return l3.New(c)
	}
	dev, err := kernel.Open(kernel.Options{Name: r.Device, MTU: r.MTU, Addresses: r.Addresses})
	if err != nil {
		return nil, err
	}
	c.Inner = dev
	c.Use = func([]l3.Peer) error {
		if err := dev.Route(prefixesOf(f.nodes)); err != nil {
			return err // the guard keeps its members, and their flows: it is tried twice a second
		}
		f.guard.Set(f.nodes, f.others)
		return nil
	}
	t, err := l3.New(c)
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return t, nil
}
