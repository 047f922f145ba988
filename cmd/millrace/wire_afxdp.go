package main

import (
	"fmt"

	"go.uber.org/zap"

	"millrace/dataplane"
	"millrace/dataplane/afxdp"
)

// afxdpOpener opens AF_XDP ports.
func afxdpOpener(watcher *afxdp.Watcher, log *zap.Logger) dataplane.Opener {
	return func(s dataplane.PortSpec, env dataplane.Env) (dataplane.Device, error) {
		settings, err := afxdp.Parse(s.Options)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", dataplane.ErrBadSpec, err)
		}
		p, err := afxdp.Open(afxdp.Options{
			Settings: settings, Name: s.Name, Queues: s.Queues, MTU: s.MTU,
			Quiesce: env.Quiesce, Changed: env.Changed, Watcher: watcher, Log: log,
		})
		if err != nil {
			return nil, err
		}
		return afxdpDevice{p}, nil
	}
}

// An afxdpDevice is an AF_XDP port as the dataplane wants to see it.
type afxdpDevice struct{ *afxdp.Port }

// Rx implements dataplane.Device.
func (d afxdpDevice) Rx() []dataplane.RxQueue { return rxQueues(d.RxQueues()) }

// Tx implements dataplane.Device.
func (d afxdpDevice) Tx() dataplane.TxQueue { return d.TxQueue() }

// State implements dataplane.Device.
func (d afxdpDevice) State() dataplane.DeviceState {
	s := d.Port.State()
	state := dataplane.DeviceState{
		Link: dataplane.Link(s.Link), Reason: s.Reason, Since: s.Since,
		Queues: s.Queues, Features: s.Features, How: s.How, Connects: s.Opens, Breaks: s.Breaks,
	}
	if n := s.Device; n.Index != 0 {
		state.Device = &dataplane.NetDevice{Index: n.Index, MAC: n.MAC, MTU: n.MTU, Up: n.Up, Carrier: n.Carrier, Driver: n.Driver}
	}
	return state
}
