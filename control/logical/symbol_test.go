package logical

import "testing"

// TestSymbolBits holds the table to the bits that OVN's headers give
// (include/ovn/logical-fields.h, 25.03 and main): a wrong one would parse and
// mean something else.
func TestSymbolBits(t *testing.T) {
	tests := []struct {
		name      string
		field     Field
		low, high int
	}{
		{"flags.loopback", FieldFlags, 0, 0},
		{"flags.force_snat_for_dnat", FieldFlags, 2, 2},
		{"flags.force_snat_for_lb", FieldFlags, 3, 3},
		{"flags.skip_snat_for_lb", FieldFlags, 9, 9},
		{"flags.use_snat_zone", FieldFlags, 11, 11},
		{"flags.localnet", FieldFlags, 15, 15},
		{"flags.tunnel_rx", FieldFlags, 16, 16},
		{"flags.icmp_snat", FieldFlags, 17, 17},
		{"flags.from_ctrl", FieldFlags, 19, 19},
		{"flags.unsnat_new", FieldFlags, 20, 20},
		{"flags.unsnat_not_tracked", FieldFlags, 21, 21},
		{"flags.igmp_loopback", FieldFlags, 22, 22},
		{"flags.pkt_sampled", FieldFlags, 23, 23},
		{"flags.network_id", FieldFlags, 28, 31},
		{"ct.new", FieldCTState, 0, 0},
		{"ct.est", FieldCTState, 1, 1},
		{"ct.rel", FieldCTState, 2, 2},
		{"ct.rpl", FieldCTState, 3, 3},
		{"ct.inv", FieldCTState, 4, 4},
		{"ct.trk", FieldCTState, 5, 5},
		{"ct.snat", FieldCTState, 6, 6},
		{"ct.dnat", FieldCTState, 7, 7},
		{"ct_mark.blocked", FieldCTMark, 0, 0},
		{"ct_mark.natted", FieldCTMark, 1, 1},
		{"ct_mark.skip_snat", FieldCTMark, 2, 2},
		{"ct_mark.force_snat", FieldCTMark, 3, 3},
		{"ct_mark.obs_stage", FieldCTMark, 4, 5},
		{"ct_mark.allow_established", FieldCTMark, 6, 6},
		{"ct_mark.obs_collector_id", FieldCTMark, 16, 23},
		{"ct_mark.ecmp_reply_port", FieldCTMark, 16, 31},
		{"ct_label.blocked", FieldCTLabel, 0, 0},
		{"ct_label.natted", FieldCTLabel, 1, 1},
		{"ct_label.skip_snat", FieldCTLabel, 2, 2},
		{"ct_label.force_snat", FieldCTLabel, 3, 3},
		{"ct_label.nf", FieldCTLabel, 7, 7},
		{"ct_label.tun_if", FieldCTLabel, 8, 8},
		{"ct_label.nf_id", FieldCTLabel, 17, 24},
		{"ct_label.ecmp_reply_eth", FieldCTLabel, 32, 79},
		{"ct_label.ecmp_reply_port", FieldCTLabel, 80, 95},
		{"ct_label.acl_id", FieldCTLabel, 80, 95},
		{"ct_label.tun_if_id", FieldCTLabel, 80, 95},
		{"ct_label.label", FieldCTLabel, 96, 127},
		{"ct_label.obs_point_id", FieldCTLabel, 96, 127},
		{"ct_label.obs_unused", FieldCTLabel, 0, 95},
		{"eth.mcast", FieldEthDst, 40, 40},
		{"vlan.vid", FieldVLANTCI, 0, 11},
		{"vlan.pcp", FieldVLANTCI, 13, 15},
	}
	s := NewSymbols()
	for _, tt := range tests {
		sym := s.Lookup(tt.name)
		if sym == nil || sym.Field != tt.field || sym.Low != tt.low || sym.Width != tt.high-tt.low+1 {
			t.Errorf("%s is %+v, want bits %d to %d of %v", tt.name, sym, tt.low, tt.high, tt.field)
		}
	}
}

// TestFieldNames holds each field to the symbol that its name promises.
func TestFieldNames(t *testing.T) {
	s := NewSymbols()
	for f := range NumFields {
		switch f {
		case FieldCTProto, FieldCTTPSrc, FieldCTTPDst:
			continue // these have no symbol of their own
		}
		sym := s.Lookup(f.String())
		if sym == nil || sym.Field != f || sym.Low != 0 || sym.Width != f.Width() && !sym.isString() {
			t.Errorf("field %d: the symbol %s is %+v", f, f, sym)
		}
	}
}

// TestOptionCodes holds the options to their numbers (RFC 2132, 3397, 3442,
// 3925, 5071, 5859; RFC 8415, 5970, 4704; RFC 4861, 4191, 8106).
func TestOptionCodes(t *testing.T) {
	tests := []struct {
		verb  Verb
		codes map[string]int
	}{
		{"put_dhcp_opts", map[string]int{"netmask": 1, "router": 3, "dns_server": 6, "log_server": 7, "lpr_server": 9, "hostname": 12,
			"domain_name": 15, "swap_server": 16, "ip_forward_enable": 19, "policy_filter": 21, "default_ttl": 23, "mtu": 26,
			"broadcast_address": 28, "router_discovery": 31, "router_solicitation": 32, "arp_cache_timeout": 35,
			"ethernet_encap": 36, "tcp_ttl": 37, "tcp_keepalive_interval": 38, "nis_server": 41, "ntp_server": 42,
			"netbios_name_server": 44, "netbios_node_type": 46, "lease_time": 51, "server_id": 54, "T1": 58, "T2": 59,
			"tftp_server": 66, "bootfile_name": 67, "domain_search_list": 119, "classless_static_route": 121,
			"tftp_server_address": 150, "path_prefix": 210, "ms_classless_static_route": 249, "wpad": 252,
			"offerip": 0, "next_server": 253, "bootfile_name_alt": 254}},
		{"put_dhcpv6_opts", map[string]int{"server_id": 2, "ia_addr": 5, "dns_server": 23, "domain_search": 24, "fqdn": 39,
			"bootfile_name": 59, "bootfile_name_alt": 254}},
		{"put_nd_ra_opts", map[string]int{"slla": 1, "prefix": 3, "mtu": 5, "route_info": 24, "rdnss": 25, "dnssl": 31,
			"addr_mode": 0, "router_preference": 255}},
	}
	for _, tt := range tests {
		table := optionTable(tt.verb)
		if len(table) != len(tt.codes) {
			t.Errorf("%s has %d options, want %d", tt.verb, len(table), len(tt.codes))
		}
		for _, def := range table {
			if code, ok := tt.codes[def.name]; !ok || code != def.code {
				t.Errorf("%s: %s has code %d, want %d", tt.verb, def.name, def.code, code)
			}
		}
	}
}

// TestNames: what IsName takes is what the lexer takes behind $ and @, and nothing
// else is. The names are those that OVN's lexer was asked about.
func TestNames(t *testing.T) {
	s := NewSymbols()
	for name, want := range map[string]bool{
		"a": true, "_": true, ".": true, ".5": true, "a5": true, "A.b_9": true, "_5$": false,
		"": false, "5": false, "5a": false, "a-b": false, "a b": false, "é": false, "$a": false,
	} {
		if IsName(name) != want {
			t.Errorf("IsName(%q) is %v", name, !want)
		}
		for _, text := range []string{"ip4.src == $" + name, "inport == @" + name} {
			e, err := s.ParseMatch(text)
			r := References{}
			if err == nil {
				r = Refer(e)
			}
			if got := err == nil && append(r.AddressSets, r.PortGroups...)[0] == name; got != want {
				t.Errorf("%s is taken: %v (%v), want %v", text, got, err, want)
			}
		}
	}
}
