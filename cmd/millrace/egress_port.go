package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"millrace/control"
	"millrace/control/bridge"
	"millrace/control/egress/agent"
	"millrace/control/egress/kernel"
	"millrace/control/egress/netstack"
	"millrace/control/egress/policy"
	"millrace/dataplane/service"
	"millrace/dataplane/sys"
)

// An egressPort is the process of one egress port.
type egressPort struct {
	app  *app
	log  *zap.Logger
	want bridge.Egress // what it is

	flags       *egressFlags // none if it has l3
	l3          *l3Flags
	level       zap.AtomicLevel
	policy      atomic.Pointer[policy.Policy]
	identifiers atomic.Pointer[string]
}

func (a *app) egressPortCmd() *cobra.Command {
	var readyFD int
	cmd := &cobra.Command{
		Use:   "port NAME",
		Short: "Be the other end of an egress port",
		Long: `Runs the agent of the port NAME, of type egress, and the TCP/IP stack that is the
port's other end. ` + "`millrace run`" + ` starts one for each such port and restarts it
when it dies; start it yourself where another supervisor does that.

What it is to be control says in RUN-DIR/egress/NAME.json, and this command
follows: the policy while it runs; for other settings it drains, and ends with
exit code 0 to be started anew. It ends in the same way when there is no such
port any more. It needs neither control nor the dataplane to go on.

  RUN-DIR/egress/NAME.sock   what millrace egress status --port NAME asks`,
		Example: `  millrace egress port egress0`,
		Args:    exactly("NAME"),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.egressPortRun(cmd, args[0], readyFD) },
	}
	cmd.ValidArgsFunction = byPosition(a.egressPortNames)
	cmd.Flags().IntVar(&readyFD, "ready-fd", 0, "descriptor to write the line ready to, instead of standard output")
	return cmd
}

// egressPortRun is the process of port name until it is to end.
func (a *app) egressPortRun(cmd *cobra.Command, name string, readyFD int) error {
	if _, err := a.serviceLogger(cmd, "egress"); err != nil {
		return err
	}
	p := &egressPort{app: a, level: zap.NewAtomicLevel()}
	p.log = a.loggerAt(p.level, "egress "+name)
	e, err := control.ReadEgress(a.runDir, name)
	if err != nil {
		return fmt.Errorf("port %s: %w (control writes it for a port of type egress)", name, err)
	}
	dir, err := service.OpenDir(filepath.Join(a.runDir, control.EgressDir), name+".lock")
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := p.read(e); err != nil {
		return err
	}
	defer p.sweep()
	if p.l3 != nil {
		p.l3.readyFD = readyFD
	} else {
		p.flags.readyFD = readyFD
	}
	ctx, stop := context.WithCancel(cmd.Context())
	defer stop()
	changed, err := sys.Watch(ctx, dir.Path())
	if err != nil {
		return err
	}
	go p.follow(e, changed, stop)
	p.log.Info("egress port starts", zap.String("version", a.version), zap.String("stack", e.Stack), zap.String("servers", e.Options["server"]))
	defer p.log.Info("egress port ends")
	if e.Stack == bridge.StackKernel {
		return p.byKernel(ctx)
	}
	return p.byNetstack(ctx)
}

// sweep removes what the process leaves, if the port is no more: who started it need not
// know of that.
func (p *egressPort) sweep() {
	if _, err := control.ReadEgress(p.app.runDir, p.want.Name); !errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err := sweepEgress(p.app.runDir, p.want.Name); err != nil {
		p.log.Warn("something is left of the port", zap.Error(err))
	}
}

// read takes over what the port shall be: all of it at first, and later what a
// running agent follows.
func (p *egressPort) read(e bridge.Egress) error {
	if !e.Agent() {
		p.want, p.flags = e, &egressFlags{}
		return nil
	}
	if e.Options[optionMode] == modeL3 {
		return p.readL3(e)
	}
	f, level, problems := agentOptions(e.Options)
	if len(problems) > 0 {
		return fmt.Errorf("port %s: %w", e.Name, errors.Join(problems...))
	}
	p.level.SetLevel(level)
	p.policy.Store(f.cfg.Policy())
	p.identifiers.Store(&f.identifiers)
	if p.flags == nil {
		p.want, p.flags = e, f
		f.cfg.PortName = cmp.Or(e.Options["port-name"], e.Name)
		f.cfg.Policy = p.policy.Load
		f.cfg.Identifiers = func() string { return *p.identifiers.Load() }
	}
	return nil
}

// follow takes over changes to what the port is, and stops the process for those
// that take another.
func (p *egressPort) follow(have bridge.Egress, changed <-chan struct{}, stop func()) {
	for open := true; open; _, open = <-changed {
		e, err := control.ReadEgress(p.app.runDir, p.want.Name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			p.log.Info("the port is no more")
			stop()
			return
		case err != nil:
			p.log.Error("the port stays as it is", zap.Error(err))
		case e.Equal(have):
		case !have.Same(e) || !sameBut(have.Options, e.Options, live):
			p.log.Info("the port has other settings: draining, to start anew")
			stop()
			return
		default:
			if err := p.read(e); err != nil {
				p.log.Error("the port stays as it is", zap.Error(err))
				continue
			}
			have = e
			p.log.Info("the port's policy is another")
		}
	}
}

// sameBut reports whether two maps are equal but for some keys.
func sameBut(a, b map[string]string, but func(string) bool) bool {
	for _, m := range []map[string]string{a, b} {
		for key := range m {
			va, inA := a[key]
			vb, inB := b[key]
			if (va != vb || inA != inB) && !but(key) {
				return false
			}
		}
	}
	return true
}

// serve runs the agent by d, or nothing if there is none.
func (p *egressPort) serve(ctx context.Context, d agent.Dialer, more ...prometheus.Collector) error {
	if !p.want.Agent() {
		if err := p.app.ready(p.flags.readyFD); err != nil {
			p.log.Warn("nobody was told that the port is ready", zap.Error(err))
		}
		<-ctx.Done()
		return nil
	}
	p.flags.by(d)
	return p.app.serveAgent(ctx, p.flags, control.EgressSocket(p.app.runDir, p.want.Name), p.log, more)
}

// byKernel has the kernel's TCP/IP in a network namespace reach what is behind the
// port.
func (p *egressPort) byKernel(ctx context.Context) error {
	e := p.want
	if e.Own {
		if err := makeNetns(p.app.runDir, e); err != nil {
			return err
		}
	}
	if len(e.Gateways) > 0 {
		go keepGateways(ctx, e, p.log)
	}
	if p.l3 != nil {
		return p.tunnelByKernel(ctx)
	}
	d, err := kernel.Open(e.Netns, e.Name)
	if err != nil {
		return err
	}
	defer d.Close()
	return p.serve(ctx, d)
}

// byNetstack has a stack of this process reach it. If the port breaks, there is no
// use in draining.
func (p *egressPort) byNetstack(ctx context.Context) error {
	cfg, err := stackConfig(p.want)
	if err != nil {
		return err
	}
	cfg.Forwards = p.l3 != nil
	cfg.Changed = func(err error) {
		if err != nil {
			p.log.Warn("the switch is lost: connections go on when it is back", zap.Error(err))
			return
		}
		p.log.Info("the switch has the port")
	}
	s, err := netstack.New(cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	done := make(chan error, 1)
	go func() {
		if p.l3 != nil {
			done <- p.tunnelByNetstack(ctx, s)
			return
		}
		done <- p.serve(ctx, s, stackMetrics(s)...)
	}()
	select {
	case err := <-done:
		return err
	case err := <-s.Broken():
		return fmt.Errorf("port %s: %w", p.want.Name, err)
	}
}

// stackConfig makes a stack's configuration of what control has checked.
func stackConfig(e bridge.Egress) (netstack.Config, error) {
	c := netstack.Config{Socket: e.Socket, MTU: e.MTU}
	mac, err := net.ParseMAC(e.MAC)
	if err != nil || len(mac) != len(c.MAC) {
		return c, fmt.Errorf("address %q of port %s: %w", e.MAC, e.Name, err)
	}
	c.MAC = [6]byte(mac)
	for _, s := range e.Addresses {
		a, err := netip.ParsePrefix(s)
		if err != nil {
			return c, fmt.Errorf("port %s: %w", e.Name, err)
		}
		c.Addresses = append(c.Addresses, a)
	}
	for _, s := range e.Gateways {
		g, err := netip.ParseAddr(s)
		if err != nil {
			return c, fmt.Errorf("port %s: %w", e.Name, err)
		}
		c.Gateways = append(c.Gateways, g)
	}
	return c, nil
}

// stackMetrics are what a stack counts.
func stackMetrics(s *netstack.Stack) []prometheus.Collector {
	dropped := func(reason string, f func() uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "egress_frames_dropped_total", Help: "Frames that the port's stack did not take or could not send.",
			ConstLabels: prometheus.Labels{"reason": reason},
		}, func() float64 { return float64(f()) })
	}
	c := s.Counters()
	return []prometheus.Collector{
		dropped("rx_checksum", c.BadSum.Load), dropped("rx_short", c.Short.Load), dropped("tx_full", c.Full.Load), dropped("tx_down", c.Down.Load),
	}
}
