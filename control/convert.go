package control

import (
	"slices"
	"time"

	"millrace/control/bridge"
	"millrace/dataplane/api"
)

// modes are the VLAN modes by their names in the API.
func modes() map[bridge.Mode]api.VlanMode {
	return map[bridge.Mode]api.VlanMode{
		bridge.Access:         api.VlanMode_VLAN_MODE_ACCESS,
		bridge.Trunk:          api.VlanMode_VLAN_MODE_TRUNK,
		bridge.NativeTagged:   api.VlanMode_VLAN_MODE_NATIVE_TAGGED,
		bridge.NativeUntagged: api.VlanMode_VLAN_MODE_NATIVE_UNTAGGED,
	}
}

// toSpec is a wanted port as the dataplane is asked for it. Wires are no part of
// it.
func toSpec(p bridge.Port) *api.PortSpec {
	return &api.PortSpec{
		Bridge: p.Bridge, Name: p.Name, Type: p.Type, Path: p.Path, Peer: p.Peer,
		Tag: uint32(p.Tag), Trunks: widen(p.Trunks), VlanMode: modes()[p.Mode],
		Mtu: uint32(p.MTU), Queues: uint32(p.Queues), MacLimit: uint32(p.MACLimit), Options: p.Options, Host: toHost(p),
		Ingress: toLimit(p.Ingress), Egress: toLimit(p.Egress), Sources: toSources(p.Sources),
	}
}

// toLimit is nothing where there is no limit.
func toLimit(l bridge.Limit) *api.Limit {
	if l == (bridge.Limit{}) {
		return nil
	}
	return &api.Limit{Bytes: l.Bytes, Burst: l.Burst, Frames: l.Frames, FrameBurst: l.FrameBurst}
}

func fromLimit(l *api.Limit) bridge.Limit {
	return bridge.Limit{Bytes: l.GetBytes(), Burst: l.GetBurst(), Frames: l.GetFrames(), FrameBurst: l.GetFrameBurst()}
}

func toSources(list []bridge.Source) (out []*api.Source) {
	for _, s := range list {
		out = append(out, &api.Source{Mac: s.MAC, Addresses: s.Addresses})
	}
	return out
}

func fromSources(list []*api.Source) (out []bridge.Source) {
	for _, s := range list {
		out = append(out, bridge.Source{MAC: s.GetMac(), Addresses: s.GetAddresses()})
	}
	return out
}

// toHost is nothing for ports that are no devices.
func toHost(p bridge.Port) *api.HostSpec {
	if p.Type != bridge.TypeTAP && p.Type != bridge.TypeInternal {
		return nil
	}
	h := p.Host
	return &api.HostSpec{Netns: h.Netns, Mac: h.MAC, Addresses: h.Addresses, Up: h.Up, Persist: h.Persist}
}

func fromHost(h *api.HostSpec) bridge.Host {
	return bridge.Host{Netns: h.GetNetns(), MAC: h.GetMac(), Addresses: slices.Sorted(slices.Values(h.GetAddresses())), Up: h.GetUp(), Persist: h.GetPersist()}
}

// fromSpec is a port of the dataplane as it would be wanted. A port that was
// made in ways that rows do not know becomes one that is never wanted, so that
// it is made anew.
func fromSpec(s *api.PortSpec) bridge.Port {
	p := bridge.Port{
		Bridge: s.GetBridge(), Name: s.GetName(), Type: s.GetType(), Path: s.GetPath(), Peer: s.GetPeer(),
		Tag: uint16(s.GetTag()), Trunks: narrow[uint16](s.GetTrunks()), MTU: int(s.GetMtu()), Queues: int(s.GetQueues()), MACLimit: int(s.GetMacLimit()),
		Options: s.GetOptions(), Host: fromHost(s.GetHost()),
		Ingress: fromLimit(s.GetIngress()), Egress: fromLimit(s.GetEgress()), Sources: fromSources(s.GetSources()),
	}
	for ours, theirs := range modes() {
		if theirs == s.GetVlanMode() {
			p.Mode = ours
		}
	}
	return p
}

func toBridge(b bridge.Bridge) *api.SetBridgeRequest {
	r := &api.SetBridgeRequest{
		Name: b.Name, MacAgeSeconds: b.MACAge.Seconds(), MacsMax: uint32(b.MACMax), FloodVlans: widen(b.Flood),
		Pipeline: api.Pipeline_PIPELINE_LEARNING,
	}
	if b.RunsFlows() {
		r.Pipeline = api.Pipeline_PIPELINE_FLOWS
	}
	return r
}

func fromBridge(b *api.Bridge) bridge.Bridge {
	out := bridge.Bridge{
		Name: b.GetName(), MACAge: time.Duration(b.GetMacAgeSeconds() * float64(time.Second)),
		MACMax: int(b.GetMacsMax()), Flood: narrow[uint16](b.GetFloodVlans()),
	}
	if b.GetPipeline() == api.Pipeline_PIPELINE_FLOWS {
		out.Pipeline = bridge.Flows
	}
	return out
}

func widen[T ~int | ~uint16](list []T) []uint32 {
	var out []uint32
	for _, n := range list {
		out = append(out, uint32(n))
	}
	return out
}

// narrow returns numbers as they are here, sorted.
func narrow[T int | uint16](list []uint32) []T {
	var out []T
	for _, n := range list {
		out = append(out, T(n))
	}
	slices.Sort(out)
	return out
}
