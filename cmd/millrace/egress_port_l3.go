package main

import (
	"context"
	"errors"
	"net/netip"

	"golang.zx2c4.com/wireguard/tun"

	"millrace/control"
	"millrace/control/bridge"
	"millrace/control/egress/l3/kernel"
	"millrace/control/egress/l3/nic"
	"millrace/control/egress/netstack"
	"millrace/control/egress/policy"
)

// tunnelNIC is the stack's device that is the tunnel.
const tunnelNIC = netstack.PortNIC + 1

// readL3 is read for a port that carries packets.
func (p *egressPort) readL3(e bridge.Egress) error {
	f, level, problems := l3Options(e.Options)
	if len(problems) > 0 {
		return errors.Join(problems...)
	}
	p.level.SetLevel(level)
	p.policy.Store(f.policy)
	if p.l3 == nil {
		p.want, p.l3 = e, f
	}
	return nil
}

// tunnelByNetstack has the stack forward between the port and the tunnel.
func (p *egressPort) tunnelByNetstack(ctx context.Context, s *netstack.Stack) error {
	n, err := nic.Add(s.Inner(), nic.Options{ID: tunnelNIC, MTU: p.l3.mtu, Addresses: p.l3.own})
	if err != nil {
		return err
	}
	return p.tunnel(ctx, n, func(prefixes []netip.Prefix) error { n.Route(prefixes); return nil })
}

// tunnelByKernel has the namespace of the port forward between it and the tunnel.
func (p *egressPort) tunnelByKernel(ctx context.Context) error {
	dev, err := kernel.Open(kernel.Options{Name: p.l3.device, Netns: p.want.Netns, MTU: p.l3.mtu, Addresses: p.l3.own, Forward: true})
	if err != nil {
		return err
	}
	return p.tunnel(ctx, dev, dev.Route)
}

// tunnel runs the tunnel whose inner end is dev until ctx ends.
func (p *egressPort) tunnel(ctx context.Context, dev tun.Device, route func([]netip.Prefix) error) error {
	shown, err := listenLocal(control.EgressSocket(p.app.runDir, p.want.Name))
	if err != nil {
		return errors.Join(err, dev.Close())
	}
	defer shown.Close()
	t, err := p.l3.tunnel(dev, route, func() *policy.Policy { return p.policy.Load() }, p.log)
	if err != nil {
		return err
	}
	return p.app.runTunnel(ctx, t, shown, p.l3.listen, p.l3.readyFD, p.log)
}
