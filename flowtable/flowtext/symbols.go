package flowtext

import (
	"fmt"
	"math/bits"
)

// symbols writes bits of a field by the symbols that the language has for them.
// It returns nil if it has none.
func (w *writer) symbols(p place, v, m uint64) []term {
	one := func(name string) []term { return []term{{name, name}} }
	switch p.name {
	case "eth.type":
		if name := map[uint64]string{typeIP4: "ip4", typeIP6: "ip6", typeARP: "arp", typeRARP: "rarp"}[v]; name != "" && m == 0xffff {
			return one(name)
		}
	case "ip.proto":
		if name := w.protocol(v); name != "" && m == 0xff {
			return one(name)
		}
	case "eth.dst":
		switch {
		case v == 1<<48-1 && m == 1<<48-1:
			return one("eth.bcast")
		case m == 1<<40:
			return flag("eth.mcast", v != 0)
		}
	case "vlan.tci":
		return vlan(v, m)
	case "ip.frag":
		return named(v, m, []string{"ip.is_frag", "ip.later_frag"})
	case "ct_state":
		return named(v, m, []string{"ct.new", "ct.est", "ct.rel", "ct.rpl", "ct.inv", "ct.trk", "ct.snat", "ct.dnat"})
	case "flags":
		return named(v, m, flagNames())
	}
	return nil
}

// protocol returns the predicate for an IP protocol in packets of the kind.
func (w *writer) protocol(v uint64) string {
	switch {
	case !w.kind.is(typeIP4, typeIP6):
		return ""
	case v == protoTCP, v == protoUDP, v == protoSCTP:
		return w.kind.l4()
	}
	return w.kind.icmp()
}

func flag(name string, set bool) []term {
	if set {
		return []term{{name, name}}
	}
	return []term{{name, "!" + name}}
}

// named writes bits that all have names, or nil if one has none.
func named(v, m uint64, names []string) (out []term) {
	for rest := m; rest != 0; rest &= rest - 1 {
		bit := bits.TrailingZeros64(rest)
		if bit >= len(names) || names[bit] == "" {
			return nil
		}
		out = append(out, flag(names[bit], v>>bit&1 != 0)...)
	}
	return out
}

// vlan writes bits of a TCI, whose bit 12 says that there is a tag.
func vlan(v, m uint64) (out []term) {
	const present, vid, pcp = 1 << 12, 0xfff, 7 << 13
	if m&present == 0 || v&present == 0 && m != present || m&vid != vid && m&vid != 0 || m&pcp != pcp && m&pcp != 0 {
		return nil
	}
	out = flag("vlan.present", v&present != 0)
	if m&vid != 0 {
		out = append(out, term{"vlan.vid", fmt.Sprintf("vlan.vid == %d", v&vid)})
	}
	if m&pcp != 0 {
		out = append(out, term{"vlan.pcp", fmt.Sprintf("vlan.pcp == %d", v>>13)})
	}
	if len(out) > 1 {
		return out[1:]
	}
	return out
}

// flagNames are the names of the bits of flags.
func flagNames() []string {
	return []string{
		0: "flags.loopback", 2: "flags.force_snat_for_dnat", 3: "flags.force_snat_for_lb", 9: "flags.skip_snat_for_lb", 11: "flags.use_snat_zone",
		15: "flags.localnet", 16: "flags.tunnel_rx", 17: "flags.icmp_snat", 19: "flags.from_ctrl", 20: "flags.unsnat_new",
		21: "flags.unsnat_not_tracked", 22: "flags.igmp_loopback", 23: "flags.pkt_sampled",
	}
}
