package main

import (
	"go.uber.org/zap"

	"millrace/dataplane"
	"millrace/dataplane/tap"
)

// tapOpener opens ports whose peer is the kernel.
func tapOpener(kernel *tap.Kernel, log *zap.Logger) dataplane.Opener {
	return func(s dataplane.PortSpec, env dataplane.Env) (dataplane.Device, error) {
		offload, err := offloads(s)
		if err != nil {
			return nil, err
		}
		p, err := tap.Open(tap.Options{
			Name: s.Name, Device: s.Options[dataplane.OptionDevice], Netns: s.Host.Netns, Persist: s.Host.Persist, Queues: s.Queues, Plain: !offload, Settings: tapSettings(s.MTU, s.Host),
			Quiesce: env.Quiesce, Changed: env.Changed, Kernel: kernel, Log: log,
		})
		if err != nil {
			return nil, err
		}
		return tapDevice{p}, nil
	}
}

// tapSettings are what can be changed of a port while it works.
func tapSettings(mtu int, h dataplane.HostSpec) tap.Settings {
	s := tap.Settings{MTU: mtu, Addresses: h.Addresses, Up: h.Up}
	if h.MAC != [6]byte{} {
		s.MAC = h.MAC[:]
	}
	return s
}

// A tapDevice is a TAP port as the dataplane wants to see it.
type tapDevice struct{ *tap.Port }

// Rx implements dataplane.Device.
func (d tapDevice) Rx() []dataplane.RxQueue { return rxQueues(d.RxQueues()) }

// Tx implements dataplane.Device.
func (d tapDevice) Tx() dataplane.TxQueue { return d.TxQueue() }

// SetMTU implements dataplane.MTUSetter.
func (d tapDevice) SetMTU(mtu int) {
	s := d.Settings()
	s.MTU = mtu
	d.Set(s)
}

// SetHost implements dataplane.HostSetter.
func (d tapDevice) SetHost(h dataplane.HostSpec) { d.Set(tapSettings(d.Settings().MTU, h)) }

// State implements dataplane.Device.
func (d tapDevice) State() dataplane.DeviceState {
	s := d.Port.State()
	v := s.Device
	return dataplane.DeviceState{
		Link: dataplane.Link(s.Link), Reason: s.Reason, Since: s.Since, Queues: s.Queues, Connects: s.Connects, Breaks: s.Breaks,
		Host: dataplane.HostState{Name: v.Name, Index: v.Index, MAC: v.MAC, MTU: v.MTU, Up: v.Up, Netns: v.Netns},
	}
}
