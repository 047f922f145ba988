package flows

import (
	"net/netip"

	"millrace/control/logical"
	"millrace/flowtable"
)

// commitAffinity lowers commit_lb_aff.
func (l *lowering) commitAffinity(a *logical.CommitAffinity) {
	proto := map[string]uint32{"tcp": 6, "udp": 17, "sctp": 132}[a.Proto]
	l.add(flowtable.Action{Code: flowtable.ActStick, Arg: l.fdb, Value: uint64(max(a.Timeout, 1)), Nested: []flowtable.Action{
		endpoint(a.VIP, a.VIPPort, proto), endpoint(a.Backend, a.BackendPort, 0),
	}})
}

// endpoint is an ActEndpoint.
func endpoint(at netip.Addr, port uint16, proto uint32) flowtable.Action {
	v := logical.AddrValue(at)
	e := flowtable.Action{Code: flowtable.ActEndpoint, Arg: proto<<16 | uint32(port), Value: v.Hi, ValueLow: v.Lo}
	if at.Is6() {
		e.Table = flowtable.NATSix
	}
	return e
}

// snatToVIP lowers ct_snat_to_vip: the source becomes the address that the connection had as
// its first destination.
func (l *lowering) snatToVIP() error {
	return l.connect("ct_snat_to_vip", logical.ZoneSNAT, flowtable.CTCommit|flowtable.CTTranslate,
		flowtable.Action{Code: flowtable.ActNAT, Table: flowtable.NATSource | flowtable.NATOriginal})
}

// balanced lowers the verbs that ask what load balancers have done.
func (l *lowering) balanced(a *logical.Result) (flowtable.Action, bool) {
	switch a.Verb {
	case "chk_lb_aff":
		return flowtable.Action{Code: flowtable.ActAffinity, Arg: l.fdb}, true
	case "chk_lb_hairpin":
		return flowtable.Action{Code: flowtable.ActHairpin}, true
	case "chk_lb_hairpin_reply":
		return flowtable.Action{Code: flowtable.ActHairpinReply, Arg: l.zones.number(logical.ZoneSNAT) << 16}, true
	}
	return flowtable.Action{}, false
}

// local returns the backends that are behind ports of the bridge, or, of verbs that do not say where
// they are, all.
func (l *lowering) local(a *logical.LoadBalance) []logical.Backend {
	if a.Verb != "ct_lb_mark_local" {
		return a.Backends
	}
	var out []logical.Backend
	for _, b := range a.Backends {
		if l.objects.port(b.LogicalPort) != 0 {
			out = append(out, b)
		}
	}
	return out
}
