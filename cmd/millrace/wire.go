package main

import (
	"fmt"

	"go.uber.org/zap"

	"millrace/dataplane"
	"millrace/dataplane/afxdp"
	"millrace/dataplane/tap"
	"millrace/dataplane/underlay"
	"millrace/vhost"
)

// newSwitch makes the switch of this program, with all port types.
func newSwitch(o switchOptions) (closingSwitch, error) {
	finder, kernel := &vhost.Finder{}, &tap.Kernel{}
	o.Openers = map[string]dataplane.Opener{
		dataplane.TypeVhostServer: vhostOpener(vhost.Listen, nil, o.Log),
		dataplane.TypeVhostClient: vhostOpener(vhost.Connect, finder, o.Log),
		dataplane.TypeAFXDP:       afxdpOpener(&afxdp.Watcher{}, o.Log),
		dataplane.TypeTAP:         tapOpener(kernel, o.Log),
		dataplane.TypeInternal:    tapOpener(kernel, o.Log),
	}
	o.Underlay = &underlay.Kernel{}
	return dataplane.New(o)
}

// portTypes are the types of port that newSwitch's switch can open.
func portTypes() []string {
	return []string{
		dataplane.TypeVhostServer, dataplane.TypeVhostClient, dataplane.TypeAFXDP, dataplane.TypeTAP, dataplane.TypeInternal, dataplane.TypePatch,
		dataplane.TypeGeneve, dataplane.TypeVXLAN,
	}
}

// vhostOpener opens vhost-user ports of one role.
func vhostOpener(role vhost.Role, finder *vhost.Finder, log *zap.Logger) dataplane.Opener {
	return func(s dataplane.PortSpec, env dataplane.Env) (dataplane.Device, error) {
		offload, err := offloads(s)
		if err != nil {
			return nil, err
		}
		p, err := vhost.Open(vhost.Options{
			Name: s.Name, Path: s.Path, Role: role, Queues: s.Queues, MTU: s.MTU, Plain: !offload,
			Quiesce: env.Quiesce, Changed: env.Changed, Finder: finder, Log: log,
		})
		if err != nil {
			return nil, err
		}
		return vhostDevice{p}, nil
	}
}

// offloads reads the option of that name.
func offloads(s dataplane.PortSpec) (bool, error) {
	switch v := s.Options[dataplane.OptionOffload]; v {
	case "", "true":
		return true, nil
	case "false":
		return false, nil
	default:
		return false, fmt.Errorf("%w: %s=%q is neither true nor false", dataplane.ErrBadSpec, dataplane.OptionOffload, v)
	}
}

// A vhostDevice is a vhost-user port as the dataplane wants to see it.
type vhostDevice struct{ *vhost.Port }

// Rx implements dataplane.Device.
func (d vhostDevice) Rx() []dataplane.RxQueue {
	var queues []dataplane.RxQueue
	for _, q := range d.RxQueues() {
		queues = append(queues, q)
	}
	return queues
}

// Tx implements dataplane.Device.
func (d vhostDevice) Tx() dataplane.TxQueue { return d.TxQueue() }

// State implements dataplane.Device.
func (d vhostDevice) State() dataplane.DeviceState {
	s := d.Port.State()
	return dataplane.DeviceState{
		Link: dataplane.Link(s.Link), Reason: s.Reason, Since: s.Since,
		Queues: s.Queues, Features: s.Features, Regions: s.Regions,
		Connects: s.Connects, Breaks: s.Breaks, Peer: s.Peer,
	}
}
