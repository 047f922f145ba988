package main

import (
	"fmt"
	"io/fs"
	"strconv"

	"go.uber.org/zap"

	"millrace/control/bridge"
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
		peer, owner, err := socketOf(s.Options)
		if err != nil {
			return nil, err
		}
		p, err := vhost.Open(vhost.Options{
			Peer: peer, Owner: owner, Mode: socketMode(s.Options[dataplane.OptionMode]), NoFollow: s.Options[dataplane.OptionNoFollow] == "true",
			Name: s.Name, Path: s.Path, Role: role, Queues: s.Queues, MTU: s.MTU, Plain: !offload,
			Quiesce: env.Quiesce, Changed: env.Changed, Finder: finder, Log: log,
		})
		if err != nil {
			return nil, err
		}
		return vhostDevice{p}, nil
	}
}

// socketOf reads the options that say who may have a socket.
func socketOf(options map[string]string) (peer *uint32, owner *vhost.Owner, err error) {
	if v, given := options[dataplane.OptionPeerUID]; given {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %s=%q is not the number of a user", dataplane.ErrBadSpec, dataplane.OptionPeerUID, v)
		}
		peer = new(uint32)
		*peer = uint32(n)
	}
	if v, given := options[dataplane.OptionOwner]; given {
		uid, gid, err := bridge.ParseOwner(v)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", dataplane.ErrBadSpec, err)
		}
		owner = &vhost.Owner{UID: int(uid), GID: int(gid)}
	}
	return peer, owner, nil
}

// socketMode is the mode of a socket that we make; others than these are nobody's
// wish.
func socketMode(s string) fs.FileMode {
	switch s {
	case "0600":
		return 0o600
	case "0666":
		return 0o666
	}
	return vhost.DefaultMode
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

// rxQueues are a port's queues as the dataplane wants to see them.
func rxQueues[Q dataplane.RxQueue](list []Q) []dataplane.RxQueue {
	var queues []dataplane.RxQueue
	for _, q := range list {
		queues = append(queues, q)
	}
	return queues
}

// A vhostDevice is a vhost-user port as the dataplane wants to see it.
type vhostDevice struct{ *vhost.Port }

// Rx implements dataplane.Device.
func (d vhostDevice) Rx() []dataplane.RxQueue { return rxQueues(d.RxQueues()) }

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
