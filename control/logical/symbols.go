package logical

import "strconv"

// symbolRows returns the rows of the symbol table (OVN lib/logical-fields.c,
// 25.03). A predicate gets its width and level from its expansion.
func symbolRows() []Symbol {
	var rows []Symbol
	for _, part := range [][]Symbol{registerRows(), flagRows(), ctRows(), linkRows(), ipRows(), ip6Rows(), arpRows(), ndRows(), transportRows()} {
		rows = append(rows, part...)
	}
	return rows
}

// ordinal, nominal and part make rows; ro makes one read-only.
func ordinal(name string, f Field, prereq string) Symbol {
	return Symbol{Name: name, Width: f.Width(), Level: Ordinal, Field: f, Prereq: prereq, write: writeDefault}
}

func nominal(name string, f Field, prereq string) Symbol {
	s := ordinal(name, f, prereq)
	s.Level = Nominal
	return s
}

func part(name string, f Field, low, high int, prereq string) Symbol {
	s := ordinal(name, f, prereq)
	s.Low, s.Width = low, high-low+1
	return s
}

func ro(s Symbol) Symbol {
	s.write = 0
	return s
}

func predicate(name, text string) Symbol { return Symbol{Name: name, Predicate: text} }

// only makes a row writable in scope w, and in matches unusable if it is
// writeICMP's.
func only(w scope, s Symbol) Symbol {
	s.write, s.noMatch = w, w == writeICMP
	return s
}

// registerRows lays the registers over the fields that keep them: the lower
// the number, the higher the bits.
func registerRows() []Symbol {
	rows := []Symbol{
		{Name: "inport", Level: Nominal, Field: FieldInport, write: writeDefault},
		{Name: "outport", Level: Nominal, Field: FieldOutport, write: writeDefault},
		ordinal("xxreg0", FieldXXReg0, ""),
		ordinal("xxreg1", FieldXXReg1, ""),
		{Name: "remote_outport", Level: Nominal, Field: FieldXXReg0, Low: 64, write: writeDefault}, // after 25.03; reg1
	}
	home := [...]Field{FieldXXReg0, FieldXXReg1, FieldXReg4}
	for i := range 5 {
		f := home[i/2]
		low := f.Width() - 64*(i%2+1)
		rows = append(rows, part("xreg"+strconv.Itoa(i), f, low, low+63, ""))
	}
	for i := range 10 {
		f := home[i/4]
		low := f.Width() - 32*(i%4+1)
		rows = append(rows, part("reg"+strconv.Itoa(i), f, low, low+31, ""))
	}
	return rows
}

func flagRows() []Symbol {
	flag := func(name string, bit int) Symbol { return part("flags."+name, FieldFlags, bit, bit, "") }
	return []Symbol{
		ordinal("flags", FieldFlags, ""),
		flag("loopback", 0),
		flag("force_snat_for_dnat", 2),
		flag("force_snat_for_lb", 3),
		flag("skip_snat_for_lb", 9),
		flag("use_snat_zone", 11),
		flag("localnet", 15),
		flag("tunnel_rx", 16),
		flag("icmp_snat", 17),
		flag("from_ctrl", 19),
		flag("unsnat_new", 20),
		flag("unsnat_not_tracked", 21),
		flag("igmp_loopback", 22),
		flag("pkt_sampled", 23),
		part("flags.network_id", FieldFlags, 28, 31, ""),
	}
}

func ctRows() []Symbol {
	mark := func(name string, low, high int) Symbol {
		return only(writeCTCommit, part("ct_mark."+name, FieldCTMark, low, high, ""))
	}
	label := func(name string, low, high int) Symbol {
		return only(writeCTCommit, part("ct_label."+name, FieldCTLabel, low, high, ""))
	}
	rows := []Symbol{
		only(writeCTCommit, ordinal("ct_mark", FieldCTMark, "")),
		mark("blocked", 0, 0), mark("natted", 1, 1), mark("skip_snat", 2, 2), mark("force_snat", 3, 3),
		mark("obs_stage", 4, 5), mark("allow_established", 6, 6), mark("obs_collector_id", 16, 23),
		mark("ecmp_reply_port", 16, 31),
		only(writeCTCommit, ordinal("ct_label", FieldCTLabel, "")),
		label("ecmp_reply_eth", 32, 79), label("acl_id", 80, 95), label("label", 96, 127),
		label("obs_point_id", 96, 127), label("obs_unused", 0, 95),
		// Until 23.03.
		label("blocked", 0, 0), label("natted", 1, 1), label("skip_snat", 2, 2), label("force_snat", 3, 3),
		label("ecmp_reply_port", 80, 95),
		// After 25.03.
		label("nf", 7, 7), label("tun_if", 8, 8), label("nf_id", 17, 24), label("tun_if_id", 80, 95),
		ro(ordinal("ct_state", FieldCTState, "")),
	}
	for bit, name := range [...]string{"new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat"} {
		prereq := "ct.trk"
		if name == "trk" {
			prereq = ""
		}
		rows = append(rows, ro(part("ct."+name, FieldCTState, bit, bit, prereq)))
	}
	return rows
}

func linkRows() []Symbol {
	return []Symbol{
		ordinal("pkt.mark", FieldPktMark, ""),
		ordinal("tun.id", FieldTunID, ""),
		ordinal("tun.flags", FieldTunFlags, ""),
		ordinal("tun.data", FieldTunData, ""),
		ordinal("tun.src", FieldTunSrc, ""),
		ordinal("tun.dst", FieldTunDst, ""),
		ordinal("eth.src", FieldEthSrc, ""),
		ordinal("eth.dst", FieldEthDst, ""),
		ro(nominal("eth.type", FieldEthType, "")),
		predicate("eth.bcast", "eth.dst == ff:ff:ff:ff:ff:ff"),
		part("eth.mcast", FieldEthDst, 40, 40, ""),
		predicate("eth.mcastv6", "eth.dst[32..47] == 0x3333"),
		ordinal("vlan.tci", FieldVLANTCI, ""),
		predicate("vlan.present", "vlan.tci[12]"),
		part("vlan.pcp", FieldVLANTCI, 13, 15, "vlan.present"),
		part("vlan.vid", FieldVLANTCI, 0, 11, "vlan.present"),
	}
}

func ipRows() []Symbol {
	return []Symbol{
		predicate("ip4", "eth.type == 0x800"),
		predicate("ip6", "eth.type == 0x86dd"),
		predicate("ip", "ip4 || ip6"),
		ro(nominal("ip.proto", FieldIPProto, "ip")),
		nominal("ip.dscp", FieldIPDSCP, "ip"),
		nominal("ip.ecn", FieldIPECN, "ip"),
		nominal("ip.ttl", FieldIPTTL, "ip"),
		ro(ordinal("ip.frag", FieldIPFrag, "ip")),
		predicate("ip.is_frag", "ip.frag[0]"),
		predicate("ip.later_frag", "ip.frag[1]"),
		predicate("ip.first_frag", "ip.is_frag && !ip.later_frag"),
		ordinal("ip4.src", FieldIP4Src, "ip4"),
		ordinal("ip4.dst", FieldIP4Dst, "ip4"),
		predicate("ip4.src_mcast", "ip4.src[28..31] == 0xe"),
		predicate("ip4.mcast", "eth.mcast && ip4.dst[28..31] == 0xe"),
		predicate("icmp4", "ip4 && ip.proto == 1"),
		nominal("icmp4.type", FieldICMP4Type, "icmp4"),
		nominal("icmp4.code", FieldICMP4Code, "icmp4"),
		predicate("igmp", "ip4.mcast && ip.proto == 2"),
		only(writeICMP, ordinal("icmp4.frag_mtu", FieldICMP4FragMTU, "")),
		only(writeICMP, ordinal("icmp6.frag_mtu", FieldICMP6FragMTU, "")),
		only(writeICMP, ordinal("icmp4.inner_ip4.src", FieldICMP4InnerSrc, "")),
	}
}

func ip6Rows() []Symbol {
	return []Symbol{
		ordinal("ip6.src", FieldIP6Src, "ip6"),
		ordinal("ip6.dst", FieldIP6Dst, "ip6"),
		ordinal("ip6.label", FieldIP6Label, "ip6"),
		// Groups of RFC 4291 2.7.1.
		predicate("ip6.mcast_rsvd", "ip6.dst == {ff00::, ff01::, ff02::, ff03::, ff04::, ff05::, ff06::, ff07::, "+
			"ff08::, ff09::, ff0a::, ff0b::, ff0c::, ff0d::, ff0e::, ff0f::}"),
		predicate("ip6.mcast_all_nodes", "ip6.dst == {ff01::1, ff02::1}"),
		predicate("ip6.mcast_all_rtrs", "ip6.dst == {ff01::2, ff02::2, ff05::2}"),
		predicate("ip6.mcast_sol_node", "ip6.dst == ff02::1:ff00:0/104"),
		predicate("ip6.mcast_flood",
			"eth.mcastv6 && (ip6.mcast_rsvd || ip6.mcast_all_nodes || ip6.mcast_all_rtrs || ip6.mcast_sol_node)"),
		predicate("ip6.mcast", "eth.mcastv6 && ip6.dst[120..127] == 0xff"),
		predicate("icmp6", "ip6 && ip.proto == 58"),
		nominal("icmp6.type", FieldICMP6Type, "icmp6"),
		nominal("icmp6.code", FieldICMP6Code, "icmp6"),
		predicate("icmp", "icmp4 || icmp6"),
	}
}

func arpRows() []Symbol {
	rows := []Symbol{predicate("arp", "eth.type == 0x806"), predicate("rarp", "eth.type == 0x8035")}
	for _, proto := range [...]string{"arp", "rarp"} {
		rows = append(rows,
			nominal(proto+".op", FieldARPOp, proto),
			ordinal(proto+".spa", FieldARPSPA, proto),
			ordinal(proto+".sha", FieldARPSHA, proto),
			ordinal(proto+".tpa", FieldARPTPA, proto),
			ordinal(proto+".tha", FieldARPTHA, proto))
	}
	return rows
}

func ndRows() []Symbol {
	message := func(name, first, types string) Symbol {
		return predicate(name, first+"icmp6.type == "+types+" && icmp6.code == 0 && ip.ttl == 255")
	}
	return []Symbol{
		message("nd", "", "{135, 136}"),
		message("nd_ns", "", "135"),
		message("nd_ns_mcast", "ip6.mcast && ", "135"),
		message("nd_na", "", "136"),
		message("nd_rs", "", "133"),
		message("nd_ra", "", "134"),
		ordinal("nd.target", FieldNDTarget, "nd"),
		ordinal("nd.sll", FieldNDSLL, "nd_ns"),
		ordinal("nd.tll", FieldNDTLL, "nd_na"),
		// RFC 2710 and RFC 3810 5.2.14.
		predicate("mldv1", "eth.mcastv6 && ip6.src == fe80::/10 && icmp6.type == {130, 131, 132}"),
		predicate("mldv2", "eth.mcastv6 && ip6.dst == ff02::16 && icmp6.type == 143"),
	}
}

func transportRows() []Symbol {
	return []Symbol{
		predicate("tcp", "ip.proto == 6"),
		ordinal("tcp.src", FieldTCPSrc, "tcp"),
		ordinal("tcp.dst", FieldTCPDst, "tcp"),
		ro(ordinal("tcp.flags", FieldTCPFlags, "tcp")),
		predicate("udp", "ip.proto == 17"),
		ordinal("udp.src", FieldUDPSrc, "udp"),
		ordinal("udp.dst", FieldUDPDst, "udp"),
		predicate("sctp", "ip.proto == 132"),
		ordinal("sctp.src", FieldSCTPSrc, "sctp"),
		ordinal("sctp.dst", FieldSCTPDst, "sctp"),
	}
}

// aclRows returns the rows that NewACLSymbols puts in the place of others.
func aclRows() []Symbol {
	var rows []Symbol
	for _, p := range [...]struct{ name, number string }{{"tcp", "6"}, {"udp", "17"}, {"sctp", "132"}} {
		rows = append(rows,
			predicate(p.name, "ct.trk && !ct.inv && ct_proto == "+p.number),
			ro(ordinal(p.name+".src", FieldCTTPSrc, p.name)),
			ro(ordinal(p.name+".dst", FieldCTTPDst, p.name)))
	}
	return rows
}
