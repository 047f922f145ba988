package logical

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// actionCase is a list of actions, the text it is printed as, and the
// prerequisites.
type actionCase struct{ in, want, prereq string }

// validActions has every verb.
func validActions() []actionCase {
	const ip = "ip"
	return []actionCase{
		{"", "drop;", ""},
		{"drop;", "drop;", ""},
		{" /* nothing */ // at all", "drop;", ""},
		{"output ;", "output;", ""},
		{"next;", "next;", ""},
		{"next(5);", "next(5);", ""},
		{"next(pipeline=egress,table=3);", "next(pipeline=egress, table=3);", ""},
		{"next(table=3);", "next(3);", ""},
		{"next(pipeline=ingress);", "next(pipeline=ingress);", ""},
		{"reg0=0x10;", "reg0 = 0x10;", ""},
		{"reg0[0..7] = 5/7; outport = \"\";", "reg0[0..7] = 5/7; outport = \"\";", ""},
		{"ip4.src = 10.0.0.1; tcp.dst = 80;", "ip4.src = 10.0.0.1; tcp.dst = 80;", "ip4 && tcp"},
		{"reg0 = ip4.dst; outport = inport;", "reg0 = ip4.dst; outport = inport;", "ip4"},
		{"xreg0[0..47] = eth.src;", "xreg0[0..47] = eth.src;", ""},
		{"eth.dst <-> eth.src; ip4.src<->ip4.dst;", "eth.dst <-> eth.src; ip4.src <-> ip4.dst;", "ip4"},
		{"vlan.vid = 5;", "vlan.vid = 5;", "vlan.present"},
		{"push(xxreg1); pop(xxreg1);", "push(xxreg1); pop(xxreg1);", ""},
		{"push(ct_label); push(inport);", "push(ct_label); push(inport);", ""},
		{"ip.ttl--;", "ip.ttl--;", ip},
		{"ip.ttl = 4;", "ip.ttl = 4;", ip},
		{"ct_next; ct_next(dnat); ct_next(snat);", "ct_next; ct_next(dnat); ct_next(snat);", ip},
		{"ct_commit;", "ct_commit;", ip},
		{"ct_commit { };", "ct_commit;", ip},
		{"ct_commit { ct_mark.blocked=1; ct_label[0..47] = eth.src; ct_mark.obs_stage = reg8[19..20];};",
			"ct_commit { ct_mark.blocked = 1; ct_label[0..47] = eth.src; ct_mark.obs_stage = reg8[19..20]; };", ip},
		{"ct_commit_nat; ct_commit_nat(snat); ct_commit_to_zone(dnat);", "ct_commit_nat; ct_commit_nat(snat); ct_commit_to_zone(dnat);", ip},
		{"ct_dnat; ct_snat; ct_dnat_in_czone; ct_snat_in_czone(fd00::1);", "ct_dnat; ct_snat; ct_dnat_in_czone; ct_snat_in_czone(fd00::1);", ip},
		{"ct_dnat(10.0.0.1, 1-3000); ct_snat(10.0.0.1,7);", "ct_dnat(10.0.0.1, 1-3000); ct_snat(10.0.0.1, 7);", ip},
		{"ct_lb; ct_lb(); ct_lb_mark;", "ct_lb; ct_lb; ct_lb_mark;", ip},
		{"ct_lb_mark(backends=10.0.0.1:80,10.0.0.2:8080);", "ct_lb_mark(backends=10.0.0.1:80,10.0.0.2:8080);", ip},
		{"ct_lb_mark(backends=[fd00::1]:80 [fd00::2],fd00::3; skip_snat);", "ct_lb_mark(backends=[fd00::1]:80,fd00::2,fd00::3; skip_snat);", ip},
		{`ct_lb(backends=10.0.0.1; hash_fields="ip_src,ip_dst"; force_snat);`, `ct_lb(backends=10.0.0.1; hash_fields="ip_src,ip_dst"; force_snat);`, ip},
		{`ct_lb(backends=10.0.0.1; hash_fields="ip_src");`, `ct_lb(backends=10.0.0.1; hash_fields="ip_src");`, ip},
		{`ct_lb_mark_local(backends="p1":10.0.0.1:80,"p2":[fd00::1]:80);`, `ct_lb_mark_local(backends="p1":10.0.0.1:80,"p2":[fd00::1]:80);`, ip},
		{`ct_lb_mark_local(backends="p1": ::1);`, `ct_lb_mark_local(backends="p1":[::1]);`, ip},
		{"ct_clear; ct_snat_to_vip; mac_cache_use; igmp; handle_dhcpv6_reply; flood_remote; handle_bfd_msg();",
			"ct_clear; ct_snat_to_vip; mac_cache_use; igmp; handle_dhcpv6_reply; flood_remote; handle_bfd_msg();", ""},
		{"reg8[16..31] = select(1, 2=7,3);", "reg8[16..31] = select(1=100, 2=7, 3=100);", ""},
		{`reg8[16..31] = select(values=(1,2); hash_fields="ip_src");`, `reg8[16..31] = select(values=(1=100, 2=100); hash_fields="ip_src");`, ""},
		{"clone { outport = \"p\"; ip.ttl--; };", "clone { outport = \"p\"; ip.ttl--; };", ip},
		{"clone {};", "clone { drop; };", ""},
		{"clone { clone { drop; }; output; };", "clone { clone { drop; }; output; };", ""},
		{"reject { /* x */ eth.dst <-> eth.src; ip4.dst <-> ip4.src; };", "reject { eth.dst <-> eth.src; ip4.dst <-> ip4.src; };", "ip4"},
		{"arp { eth.dst = ff:ff:ff:ff:ff:ff; arp.op = 1; arp.tpa = reg0; output; }; output;",
			"arp { eth.dst = ff:ff:ff:ff:ff:ff; arp.op = 1; arp.tpa = reg0; output; }; output;", ip},
		{"icmp4 { icmp4.type = 3; icmp4.code = 1; };", "icmp4 { icmp4.type = 3; icmp4.code = 1; };", "ip4"},
		{"icmp4_error { icmp4.frag_mtu = 1400; icmp4.inner_ip4.src = 10.0.0.1; };", "icmp4_error { icmp4.frag_mtu = 1400; icmp4.inner_ip4.src = 10.0.0.1; };", "ip4"},
		{"icmp6 { output; }; icmp6_error { icmp6.frag_mtu = 1400; };", "icmp6 { output; }; icmp6_error { icmp6.frag_mtu = 1400; };", "ip6"},
		{"tcp_reset { output; };", "tcp_reset { output; };", "tcp"},
		{"sctp_abort { output; };", "sctp_abort { output; };", "sctp"},
		{"nd_na { nd.tll = eth.src; }; nd_na_router { drop; };", "nd_na { nd.tll = eth.src; }; nd_na_router { drop; };", "nd_ns"},
		{"nd_ns { nd.target = xxreg0; output; };", "nd_ns { nd.target = xxreg0; output; };", ip},
		{"get_arp(outport, reg0); get_nd(outport, ip6.dst);", "get_arp(outport, reg0); get_nd(outport, ip6.dst);", "ip6"},
		{"put_arp(inport, arp.spa, arp.sha); put_nd(inport, nd.target, nd.tll);", "put_arp(inport, arp.spa, arp.sha); put_nd(inport, nd.target, nd.tll);", "arp && nd && nd_na"},
		{"reg9[2] = lookup_arp(inport, arp.spa, arp.sha);", "reg9[2] = lookup_arp(inport, arp.spa, arp.sha);", "arp"},
		{"reg9[2] = lookup_nd(inport, ip6.src, nd.sll);", "reg9[2] = lookup_nd(inport, ip6.src, nd.sll);", "ip6 && nd_ns"},
		{"reg9[3] = lookup_arp_ip(inport, arp.spa); reg9[3] = lookup_nd_ip(inport, nd.target);",
			"reg9[3] = lookup_arp_ip(inport, arp.spa); reg9[3] = lookup_nd_ip(inport, nd.target);", "arp && nd"},
		{"outport = get_fdb(eth.dst); reg1 = get_fdb(eth.dst); outport = get_remote_fdb(eth.dst);",
			"outport = get_fdb(eth.dst); reg1 = get_fdb(eth.dst); outport = get_remote_fdb(eth.dst);", ""},
		{"put_fdb(inport, eth.src); reg0[11] = lookup_fdb(inport, eth.src);", "put_fdb(inport, eth.src); reg0[11] = lookup_fdb(inport, eth.src);", ""},
		{"reg0[15] = check_in_port_sec(); reg0[15] = check_out_port_sec();", "reg0[15] = check_in_port_sec(); reg0[15] = check_out_port_sec();", ""},
		{"reg0[6] = chk_lb_hairpin(); reg0[12] = chk_lb_hairpin_reply(); reg9[6] = chk_lb_aff();",
			"reg0[6] = chk_lb_hairpin(); reg0[12] = chk_lb_hairpin_reply(); reg9[6] = chk_lb_aff();", ""},
		{"reg0[1] = chk_ecmp_nh(); reg0[1] = chk_ecmp_nh_mac(); reg0[1] = chk_evpn_arp(reg1);",
			"reg0[1] = chk_ecmp_nh(); reg0[1] = chk_ecmp_nh_mac(); reg0[1] = chk_evpn_arp(reg1);", ""},
		{"reg0[4] = dns_lookup();", "reg0[4] = dns_lookup();", "udp"},
		{"reg4 = ct_nw_dst(); xxreg1 = ct_ip6_dst(); reg2[0..15] = ct_tp_dst(); reg1[0..7] = ct_proto(); reg8[8..15] = ct_state_save();",
			"reg4 = ct_nw_dst(); xxreg1 = ct_ip6_dst(); reg2[0..15] = ct_tp_dst(); reg1[0..7] = ct_proto(); reg8[8..15] = ct_state_save();", ""},
		{`reg0[3] = put_dhcp_opts(offerip = 10.0.0.4, router = 10.0.0.1, domain_name = "x.org", dns_server={8.8.8.8,7.7.7.7}, classless_static_route={10.0.0.0/8, 10.0.0.1}, tftp_server="t", tftp_server=10.0.0.9);`,
			`reg0[3] = put_dhcp_opts(offerip = 10.0.0.4, router = 10.0.0.1, domain_name = "x.org", dns_server = {8.8.8.8, 7.7.7.7}, classless_static_route = {10.0.0.0/8, 10.0.0.1}, tftp_server = "t", tftp_server = 10.0.0.9);`, ""},
		{`reg0[3] = put_dhcpv6_opts(ia_addr = fd00::4, server_id = 0a:00:00:00:09:01, domain_search="x");`,
			`reg0[3] = put_dhcpv6_opts(ia_addr = fd00::4, server_id = 0a:00:00:00:09:01, domain_search = "x");`, ""},
		{`reg0[5] = put_nd_ra_opts(addr_mode = "slaac", slla = 0a:00:00:00:09:01, mtu = 1400, prefix = fd50::/64);`,
			`reg0[5] = put_nd_ra_opts(addr_mode = "slaac", slla = 0a:00:00:00:09:01, mtu = 1400, prefix = fd50::/64);`, "ip6"},
		{"reg9[7] = dhcp_relay_req_chk(10.50.0.1, 192.0.2.200);reg9[8] = dhcp_relay_resp_chk(10.50.0.1,192.0.2.200);",
			"reg9[7] = dhcp_relay_req_chk(10.50.0.1, 192.0.2.200); reg9[8] = dhcp_relay_resp_chk(10.50.0.1, 192.0.2.200);", ""},
		{"reg9[1] = check_pkt_larger(1514);", "reg9[1] = check_pkt_larger(1514);", ""},
		{"set_queue(61440); set_meter(1000); set_meter(100, 20);", "set_queue(61440); set_meter(1000); set_meter(100, 20);", ""},
		{`log(name="r1", severity=warning, verdict=reject, meter="m"); log(verdict=allow);`,
			`log(name="r1", verdict=reject, severity=warning, meter="m"); log(verdict=allow, severity=info);`, ""},
		{"sample(probability=65535,collector_set=100,obs_domain=7,obs_point=$cookie);", "sample(probability=65535, collector_set=100, obs_domain=7, obs_point=$cookie);", ""},
		{"sample(probability=1,obs_point=77); sample(probability=1,obs_point=ct_label.obs_point_id);",
			"sample(probability=1, collector_set=0, obs_domain=0, obs_point=77); sample(probability=1, collector_set=0, obs_domain=0, obs_point=ct_label.obs_point_id);", ""},
		{`trigger_event(event = "empty_lb_backends", vip = "10.96.9.3:80", protocol = "tcp", load_balancer = "05fab6cf-2d8b-444a-bbca-266dca872b2a");`,
			`trigger_event(event = "empty_lb_backends", vip = "10.96.9.3:80", protocol = "tcp", load_balancer = "05fab6cf-2d8b-444a-bbca-266dca872b2a");`, ""},
		{`bind_vport("v", inport); handle_svc_check(inport); mirror("m");`, `bind_vport("v", inport); handle_svc_check(inport); mirror("m");`, ""},
		{`fwd_group(liveness="true",childports="a","b"); fwd_group(childports="a");`, `fwd_group(liveness="true", childports="a", "b"); fwd_group(childports="a");`, ""},
		{`meter("m 1");group ( "g" );`, `meter("m 1"); group("g");`, ""},
		{"commit_ecmp_nh(ipv6 = false, proto = udp);", "commit_ecmp_nh(ipv6 = false, proto = udp);", ""},
		{`commit_lb_aff(vip = "10.96.0.57:80", backend = "10.19.0.57:8080", proto = tcp, timeout = 10800);`,
			`commit_lb_aff(vip = "10.96.0.57:80", backend = "10.19.0.57:8080", proto = tcp, timeout = 10800);`, ""},
		{`commit_lb_aff(vip = "[fd00::1]", backend = "fd00::2", timeout = 1);`, `commit_lb_aff(vip = "[fd00::1]", backend = "[fd00::2]", timeout = 1);`, ""},
	}
}

func TestActionsPrint(t *testing.T) {
	s := NewSymbols()
	for _, tt := range validActions() {
		a, err := s.ParseActions(tt.in)
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		prereq := ""
		if a.Prereq != nil {
			prereq = Print(a.Prereq)
		}
		if got := PrintActions(a.List); got != tt.want || prereq != tt.prereq {
			t.Errorf("%s:\nprinted as %s\n     want %s\nprerequisites %q, want %q", tt.in, got, tt.want, prereq, tt.prereq)
		}
		checkActionsPrint(t, s, a)
	}
}

// invalidActions are texts that are no actions, and the errors.
func invalidActions() []matchCase {
	return []matchCase{
		{"output", `column 7: expected ';' after "output", found the end`},
		{"drop; output;", `column 7: expected the end (drop goes with no other action) after "drop;", found "output"`},
		{"output; drop;", `column 9: expected an action after "output;", found "drop"`},
		{"nosuch;", `column 1: expected an action, found "nosuch"`},
		{`meter("");`, `column 7: expected a name that is not empty`},
		{`group(g);`, `column 7: expected a string after "group(", found "g"`},
		{"reg0 = nosuch(1);", `column 8: expected a function, found "nosuch"`},
		{"^a;", "column 1: expected no template variable, ^a has not been expanded"},
		{"5;", `column 1: expected an action, found "5"`},
		{"reg0;", `column 1: expected an action, found "reg0"`},
		{"reg0[0];", `column 8: expected '=' or '<->' after "reg0[0]", found ";"`},
		{"next(256);", `column 6: expected a table number of at most 255 after "next(", found "256"`},
		{"next(pipeline=x);", `column 15: expected ingress or egress after "next(pipeline=", found "x"`},
		{"eth.type = 5;", "column 1: expected a field that can be written here, eth.type can't"},
		{"ip.proto = 6;", "column 1: expected a field that can be written here, ip.proto can't"},
		{"ip4 = 1;", "column 1: expected a field that can be written here, ip4 can't"},
		{"ct_mark = 1;", "column 1: expected a field that can be written here, ct_mark can't"},
		{"ct_commit { reg0 = 1; };", "column 13: expected a field that can be written here, reg0 can't"},
		{"icmp4.frag_mtu = 5;", "column 1: expected a field that can be written here, icmp4.frag_mtu can't"},
		{"reg0 = 4294967296;", "column 8: expected at most 32 bits for reg0, found 33"},
		{"reg0 = \"a\";", "column 8: expected a number for reg0"},
		{"outport = 1;", "column 11: expected a string for outport"},
		{"reg0 = $s;", "column 8: expected one constant, not a set"},
		{"ip4.src = ::1;", "column 11: expected at most 32 bits for ip4.src, found an address of 128"},
		{"reg0 = {1};", `column 8: expected a constant after "=", found "{"`},
		{"reg0 = reg1[0..3];", "column 8: expected a 32-bit field, reg1[0..3] has 4 bits"},
		{"reg0 = inport;", "column 8: expected a numeric field, inport is a string"},
		{"inport = reg0;", "column 10: expected a string field, reg0 is numeric"},
		{"eth.src <-> ct_label[0..47];", "column 13: expected a field that can be written here, ct_label can't"},
		{"pop(ct_state);", "column 5: expected a field that can be written here, ct_state can't"},
		{"ct_next(x);", `column 9: expected dnat or snat after "ct_next(", found "x"`},
		{"ct_commit_to_zone;", `column 18: expected '(' after "ct_commit_to_zone", found ";"`},
		{"ct_dnat(10.0.0.0/8);", `column 9: expected an IP address after "ct_dnat(", found "10.0.0.0/8"`},
		{"ct_dnat(10.0.0.1, 5-4);", "column 19: expected the lower port first"},
		{"ct_dnat(10.0.0.1, 0);", "column 19: expected a port above 0"},
		{"ct_lb(backends=);", `column 16: expected an IP address after "ct_lb(backends=", found ")"`},
		{"ct_lb(backends=fd00::1, [10.0.0.1]:80);", "column 26: expected an IPv6 address in brackets"},
		{"ct_lb(backends=10.0.0.1; x);", `column 26: expected hash_fields, skip_snat or force_snat after "ct_lb(backends=10.0.0.1;", found "x"`},
		{"reg0[0] = select(1, 2);", "column 1: expected a field of at least 16 bits, reg0[0] has 1"},
		{"reg0 = select(1);", "column 16: expected at least two members"},
		{"reg0 = select(1=0, 2);", "column 17: expected a weight above 0"},
		{"clone { output; ", `column 17: expected an action after "output;", found the end`},
		{"clone output;", `column 7: expected '{' after "clone", found "output"`},
		{strings.Repeat("clone { ", 32) + strings.Repeat("}; ", 32), "column 255: expected blocks nested less than 32 deep"},
		{"get_arp(outport, ip6.dst);", "column 18: expected a 32-bit field, ip6.dst has 128 bits"},
		{"get_arp(reg0, reg1);", "column 9: expected a string field, reg0 is numeric"},
		{"reg0 = lookup_arp(inport, arp.spa, arp.sha);", "column 1: expected a 1-bit field, reg0 has 32 bits"},
		{"reg0 = dns_lookup();", "column 1: expected a 1-bit field, reg0 has 32 bits"},
		{"reg0[0] = dns_lookup(1);", `column 22: expected ')' after "dns_lookup(", found "1"`},
		{"reg0[0] = put_dhcp_opts(router = 10.0.0.1);", "column 25: expected offerip among the options"},
		{"reg0[0] = put_dhcp_opts(offerip = \"a\");", "column 35: expected a number for offerip"},
		{"reg0[0] = put_dhcp_opts(nosuch = 1);", `column 25: expected the name of an option after "put_dhcp_opts(", found "nosuch"`},
		{"reg0[0] = put_nd_ra_opts(mtu = 1400);", "column 26: expected slla among the options"},
		{"reg0[0] = put_nd_ra_opts(slla = 0a:00:00:00:09:01);", "column 26: expected prefix among the options unless addr_mode is dhcpv6_stateful"},
		{"reg0[0] = put_nd_ra_opts(slla = 1);", "column 26: expected a valid value for option slla"},
		{"reg0[0] = check_pkt_larger(70000);", `column 28: expected a length in bytes of at most 65535 after "check_pkt_larger(", found "70000"`},
		{"set_queue(61441);", `column 11: expected a queue number of at most 61440 after "set_queue(", found "61441"`},
		{"set_meter(0);", "column 11: expected a rate above 0"},
		{"log(name=\"x\");", "column 13: expected verdict among the arguments"},
		{"log(verdict=x);", `column 13: expected allow or drop or reject or pass after "log(verdict=", found "x"`},
		{"sample(obs_domain=1);", "column 20: expected a probability above 0 among the arguments"},
		{"trigger_event(event=\"x\");", `column 21: expected "empty_lb_backends", the only event`},
		{`trigger_event(event="empty_lb_backends", load_balancer="x");`, "column 42: expected a valid value for load_balancer"},
		{`commit_lb_aff(vip = "x", backend = "y", timeout = 1);`, "column 21: expected an IP address, or one with a port, in the string"},
		{`commit_lb_aff(vip = "10.0.0.1", backend = "fd00::1", timeout = 1);`, "column 43: expected a backend of the VIP's IP version"},
	}
}

func TestActionErrors(t *testing.T) {
	s := NewSymbols()
	for _, tt := range invalidActions() {
		_, err := s.ParseActions(tt.in)
		if fmt.Sprint(err) != tt.want {
			t.Errorf("%s:\n got %v\nwant %s", tt.in, err, tt.want)
		}
		var e *Error
		if err != nil && !errors.As(err, &e) {
			t.Errorf("%s: error is a %T, want *Error", tt.in, err)
		}
	}
}

func TestColumn(t *testing.T) {
	for _, tt := range []struct {
		text, word string
		want       int
	}{
		{`reg0 = 1; /* ct_next */ ct_next;`, "ct_next", 25},
		{`inport == {"a", "bb"}`, "bb", 17},
		{`ip4.src == $as && inport == @pg`, "as", 12},
		{`ip4.src == $as && inport == @pg`, "pg", 29},
		{`ip4.src == $as`, "nosuch", 1},
		{`"x`, "x", 1},
	} {
		if got := Column(tt.text, tt.word); got != tt.want {
			t.Errorf("Column(%s, %s) = %d, want %d", tt.text, tt.word, got, tt.want)
		}
	}
}
