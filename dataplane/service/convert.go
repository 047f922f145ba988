package service

import (
	"net"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/dataplane/packet"
)

// modes are the VLAN modes by their name in the API.
func modes() map[api.VlanMode]dataplane.VLANMode {
	return map[api.VlanMode]dataplane.VLANMode{
		api.VlanMode_VLAN_MODE_UNSPECIFIED:     "",
		api.VlanMode_VLAN_MODE_ACCESS:          dataplane.VLANAccess,
		api.VlanMode_VLAN_MODE_TRUNK:           dataplane.VLANTrunk,
		api.VlanMode_VLAN_MODE_NATIVE_TAGGED:   dataplane.VLANNativeTagged,
		api.VlanMode_VLAN_MODE_NATIVE_UNTAGGED: dataplane.VLANNativeUntagged,
	}
}

func toMode(mode dataplane.VLANMode) api.VlanMode {
	for theirs, ours := range modes() {
		if ours == mode {
			return theirs
		}
	}
	return api.VlanMode_VLAN_MODE_UNSPECIFIED
}

func toLink(l dataplane.Link) api.Link {
	switch l {
	case dataplane.LinkWaiting:
		return api.Link_LINK_WAITING
	case dataplane.LinkSetup:
		return api.Link_LINK_SETUP
	case dataplane.LinkUp:
		return api.Link_LINK_UP
	case dataplane.LinkBroken:
		return api.Link_LINK_BROKEN
	}
	return api.Link_LINK_UNSPECIFIED
}

func toKind(k dataplane.EventKind) api.EventKind {
	switch k {
	case dataplane.EventAdded:
		return api.EventKind_EVENT_KIND_ADDED
	case dataplane.EventRemoved:
		return api.EventKind_EVENT_KIND_REMOVED
	case dataplane.EventChanged:
		return api.EventKind_EVENT_KIND_CHANGED
	}
	return api.EventKind_EVENT_KIND_UNSPECIFIED
}

func toPoll(m dataplane.PollMode) api.PollMode {
	switch m {
	case dataplane.PollBusy:
		return api.PollMode_POLL_MODE_BUSY
	case dataplane.PollAdaptive:
		return api.PollMode_POLL_MODE_ADAPTIVE
	}
	return api.PollMode_POLL_MODE_UNSPECIFIED
}

func toUint32[T ~int | ~uint16](list []T) []uint32 {
	var out []uint32
	for _, n := range list {
		out = append(out, uint32(n))
	}
	return out
}

// toTime leaves out a time that there is not.
func toTime(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func toSpec(p dataplane.PortSpec) *api.PortSpec {
	return &api.PortSpec{
		Bridge: p.Bridge, Name: p.Name, Type: p.Type, Path: p.Path, Peer: p.Peer,
		Tag: uint32(p.Tag), Trunks: toUint32(p.Trunks), VlanMode: toMode(p.Mode),
		Mtu: uint32(p.MTU), Queues: uint32(p.Queues), MacLimit: uint32(p.MACLimit), Options: p.Options, Host: toHost(p),
		Ingress: toLimit(p.Ingress), Egress: toLimit(p.Egress), Sources: toSources(p.Sources),
	}
}

// toLimit leaves out a limit that there is not.
func toLimit(l dataplane.Limit) *api.Limit {
	if l == (dataplane.Limit{}) {
		return nil
	}
	return &api.Limit{Bytes: l.Bytes, Burst: l.Burst, Frames: l.Frames, FrameBurst: l.FrameBurst}
}

func toSources(list []dataplane.Source) (out []*api.Source) {
	for _, s := range list {
		o := &api.Source{Mac: net.HardwareAddr(s.MAC[:]).String()}
		for _, a := range s.Addresses {
			o.Addresses = append(o.Addresses, a.String())
		}
		out = append(out, o)
	}
	return out
}

// toHost leaves out a device that the port is not.
func toHost(p dataplane.PortSpec) *api.HostSpec {
	if !dataplane.IsHost(p.Type) {
		return nil
	}
	h := &api.HostSpec{Netns: p.Host.Netns, Up: p.Host.Up, Persist: p.Host.Persist}
	if p.Host.MAC != [6]byte{} {
		h.Mac = net.HardwareAddr(p.Host.MAC[:]).String()
	}
	for _, a := range p.Host.Addresses {
		h.Addresses = append(h.Addresses, a.String())
	}
	return h
}

// toHostState leaves out a device that there never was.
func toHostState(h dataplane.HostState) *api.HostState {
	if h.Name == "" {
		return nil
	}
	return &api.HostState{Name: h.Name, Ifindex: uint32(h.Index), Mac: h.MAC, Mtu: uint32(h.MTU), Up: h.Up, Netns: h.Netns}
}

func toPort(p dataplane.PortInfo) *api.Port {
	return &api.Port{
		Spec: toSpec(p.PortSpec), Number: p.Number, Created: toTime(p.Created), Workers: toUint32(p.Workers), Wire: p.Wire,
		State: &api.PortState{
			Link: toLink(p.State.Link), Reason: p.State.Reason, Since: toTime(p.State.Since),
			Queues: uint32(p.State.Queues), Features: p.State.Features, Regions: uint32(p.State.Regions),
			Connects: p.State.Connects, Breaks: p.State.Breaks, Peer: p.State.Peer,
			How: p.State.How, Device: toDevice(p.State.Device), Host: toHostState(p.State.Host),
		},
	}
}

// toDevice leaves out a device that there is not.
func toDevice(d *dataplane.NetDevice) *api.NetDevice {
	if d == nil {
		return nil
	}
	return &api.NetDevice{
		Index: uint32(d.Index), Mac: net.HardwareAddr(d.MAC[:]).String(), Mtu: uint32(d.MTU),
		Up: d.Up, Carrier: d.Carrier, Driver: d.Driver,
	}
}

func toBridge(b dataplane.BridgeInfo) *api.Bridge {
	return &api.Bridge{
		Name: b.Name, Ports: b.Ports, Macs: uint32(b.MACs), MacsMax: uint32(b.MACsMax), MacAgeSeconds: b.MACAge.Seconds(),
		Learned: b.Learned, Moved: b.Moved, Refused: b.Refused, Evicted: b.Evicted, Forgotten: b.Forgotten,
		FloodVlans: toUint32(b.Flood), Pipeline: toPipeline(b.Pipeline),
	}
}

func toEntry(e dataplane.MACEntry) *api.Entry {
	return &api.Entry{
		Bridge: e.Bridge, Vlan: uint32(e.VLAN), Mac: net.HardwareAddr(e.MAC[:]).String(), Port: e.Port,
		Static: e.Static, AgeSeconds: e.Age.Seconds(), Hits: e.Hits,
	}
}

func toPortStats(p *dataplane.PortStats) *api.PortStats {
	return &api.PortStats{
		Name: p.Name, Number: p.Number,
		RxFrames: p.RxFrames, RxBytes: p.RxBytes, TxFrames: p.TxFrames, TxBytes: p.TxBytes,
		Copies: p.Copies, Outputs: p.Outputs, Offered: p.Offered,
		RxDrops: toDrops(&p.RxDrops), TxDrops: toDrops(&p.TxDrops),
		Finished: &api.Finished{Checksums: p.Finished.Sums, Tcp: p.Finished.TCP, Udp: p.Finished.UDP, Segments: p.Finished.Segments,
			Merged: p.Finished.Merged, Joined: p.Finished.Joined},
	}
}

func toDrops(d *dataplane.Drops) []*api.Drop {
	var out []*api.Drop
	for r, n := range d {
		if n > 0 {
			out = append(out, &api.Drop{Reason: packet.Reason(r).String(), Frames: n})
		}
	}
	return out
}

func toWorkerStats(w *dataplane.WorkerStats) *api.WorkerStats {
	out := &api.WorkerStats{
		Cpu: uint32(w.CPU), Turns: w.Turns, BusyTicks: w.Busy, IdleTicks: w.Idle, AsleepTicks: w.Asleep, Sleeps: w.Sleeps,
		Frames: w.Frames, Batches: w.Batches, Queues: uint32(w.Queues), GapMaxTicks: w.GapMax, GapMinuteTicks: w.GapMinute,
		Faults: w.Faults, Walks: w.Walks,
	}
	for i, n := range w.Gaps {
		out.Gaps = append(out.Gaps, &api.Gap{UpToTicks: dataplane.GapBase << i, Count: n})
	}
	return out
}
