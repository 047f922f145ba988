package flows

import (
	"strings"
	"testing"

	"millrace/flowtable"
	"millrace/flowtable/flowtext"
)

// TestConnections lowers the verbs of connection tracking. Zones of the lab's bridge are 29
// to 31.
func TestConnections(t *testing.T) {
	lb := "ct_lb_mark(backends=10.0.0.1:80,10.0.0.2:81; hash_fields=\"ip_src\"; skip_snat);"
	for actions, want := range map[string]string{
		"ct_next;":             "ct(zone=29, table=4);",
		"ct_next(dnat);":       "ct(zone=30, table=4);",
		"ct_next(snat);":       "ct(zone=31, table=4);",
		"ct_clear; next;":      "ct_clear; next(4);",
		"ct_commit;":           "ct(zone=29, commit, nat, src);",
		"ct_commit { }; next;": "ct(zone=29, commit, nat, src); next(4);",
		"ct_commit { ct_mark = 5; ct_label.ecmp_reply_eth = eth.src; };": "ct(zone=29, commit, nat, ct_mark = 5, ct_label[32..63] = eth.src[0..31], ct_label[64..79] = eth.src[32..47], src);",
		"ct_commit { ct_mark.blocked = 1; ct_label = 7; };":              "ct(zone=29, commit, nat, ct_mark[0] = 1, ct_label = 7, src);",
		"ct_commit_to_zone(snat);":                                       "ct(zone=31, commit, table=4);",
		"ct_commit_nat;":                                                 "ct(zone=29, commit, nat, table=4);",
		"ct_commit_nat(dnat);":                                           "ct(zone=30, commit, nat, table=4);",
		"ct_dnat;":                                                       "ct(zone=30, nat, table=4);",
		"ct_snat;":                                                       "ct(zone=31, nat, table=4);",
		"ct_snat_in_czone;":                                              "ct(zone=30, nat, table=4);",
		"ct_dnat_in_czone(10.1.2.3,80);":                                 "ct(zone=30, commit, nat, table=4, dst=10.1.2.3 ports=80-80);",
		"ct_dnat(fd00::1);":                                              "ct(zone=30, commit, nat, table=4, dst=fd00::1);",
		"ct_snat(192.0.2.1,1024-2047);":                                  "ct(zone=31, commit, nat, table=4, src=192.0.2.1 ports=1024-2047);",
		"ct_lb_mark;":                                                    "ct(zone=29, nat, table=4);",
		"ct_lb;":                                                         "ct(zone=29, nat, table=4);",
		"reg1 = ct_nw_dst(); next;":                                      "reg1 = ct_nw_dst(); next(4);",
		"xxreg1 = ct_ip6_dst();":                                         "xxreg1 = ct_ip6_dst();",
		"reg2[0..15] = ct_tp_dst();":                                     "reg2[0..15] = ct_tp_dst();",
		"reg4[0..7] = ct_state_save();":                                  "reg4[0..7] = ct_state[0..7];",
		"reg0[0] = chk_lb_aff(); next;":                                  "reg0[0] = chk_lb_aff(); next(4);",
		"reg0[0] = chk_lb_hairpin();":                                    "reg0[0] = chk_lb_hairpin();",
		"reg0[1] = chk_lb_hairpin_reply();":                              "reg0[1] = chk_lb_hairpin_reply();",
		"ct_snat_to_vip; next;":                                          "ct(zone=31, commit, nat, src=original destination); next(4);",
		`commit_lb_aff(vip="10.96.0.1:80", backend="10.0.0.9:8080", proto=tcp, timeout=60);`:              `commit_lb_aff(vip = "10.96.0.1:80", backend = "10.0.0.9:8080", proto = tcp, timeout = 60);`,
		`commit_lb_aff(vip="[fd00::1]:53", backend="[fd00::9]:53", proto=udp, timeout=1);`:                `commit_lb_aff(vip = "[fd00::1]:53", backend = "[fd00::9]:53", proto = udp, timeout = 1);`,
		`ct_lb_mark_local(backends="p1":10.0.0.1:80,"p9":10.0.0.2:80; hash_fields="ip_src"; force_snat);`: "select(ct(zone=29, commit, nat, table=4, ct_mark[1] = 1, ct_mark[3] = 1, dst=10.0.0.1 ports=80-80););",
		`ct_lb(backends=10.0.0.1; hash_fields="nw_src"; skip_snat);`:                                      "select(ct(zone=29, commit, nat, table=4, ct_label[1..2] = 3, dst=10.0.0.1););",
		lb: "select(ct(zone=29, commit, nat, table=4, ct_mark[1..2] = 3, dst=10.0.0.1 ports=80-80); ct(zone=29, commit, nat, table=4, ct_mark[1..2] = 3, dst=10.0.0.2 ports=81-81););",
	} {
		l := newLab(t)
		l.row(3, 10, "ip", actions)
		l.put()
		got := ""
		var rules []flowtable.Listed
		l.tables.EachRule(func(r flowtable.Listed) bool { rules = append(rules, r); return true })
		for _, r := range rules {
			if r.Match[0].Value == 0x86dd {
				continue // the same, but for hashes over its addresses
			}
			got = flowtext.Actions(r.Actions, nil, nil)
			if a := &r.Actions[0]; a.Code == flowtable.ActSelect {
				s, _ := l.tables.Select(flowtable.SelectID(a.Arg))
				if len(s.Fields) != 1 {
					t.Errorf("hash over %v", s.Fields)
				}
				got = "select("
				for i := range s.Buckets {
					got += strings.Trim(flowtext.Actions(s.Buckets[i].Actions, nil, nil), " ") + " "
				}
				got = strings.TrimSpace(got) + ");"
			}
		}
		if got != want {
			t.Errorf("%s\ngot  %s\nwant %s (row: %s)", actions, got, want, l.status("flow1"))
		}
	}
}

// TestHashFields: fields to hash have the names that OVN and Open vSwitch give them.
func TestHashFields(t *testing.T) {
	b := NewBook()
	l := lowering{at: &b.at, family: family4}
	for names, want := range map[string]string{
		"ip_src,ip_dst,tcp_src,tcp_dst":    "ip4.src ip4.dst tp.src tp.dst",
		"nw_src nw_dst udp_src sctp_dst":   "ip4.src ip4.dst tp.src tp.dst",
		"eth_src,dl_dst,ipv6_src,nw_proto": "eth.src eth.dst ip.proto",
		"":                                 "ip4.src ip4.dst ip.proto tp.src tp.dst",
	} {
		fields, err := l.hashFields(strings.FieldsFunc(names, func(c rune) bool { return c == ',' || c == ' ' }))
		var got []string
		for _, f := range fields {
			got = append(got, f.Name)
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %v, %v, want %s", names, got, err, want)
		}
	}
}

// TestLocalBackends: a backend counts while its port is there.
func TestLocalBackends(t *testing.T) {
	l := newLab(t)
	uuid := l.row(0, 10, "ip4", `ct_lb_mark_local(backends="p8":10.0.0.1:80, "p9":10.0.0.2:80);`)
	count := func() int {
		t.Helper()
		l.put()
		if got := l.status(uuid); got != "active" {
			t.Fatal(got)
		}
		n := 0
		for _, id := range l.tables.Selects() {
			s, _ := l.tables.Select(id)
			n += len(s.Buckets)
		}
		return n
	}
	if n := count(); n != 0 {
		t.Errorf("%d backends without their ports", n)
	}
	with := labBridges()
	with["br0"].Ports["p9"] = 9
	l.book.SetBridges(with)
	if n := count(); n != 1 {
		t.Errorf("%d backends of one port", n)
	}
	l.book.SetBridges(labBridges())
	if n := count(); n != 0 {
		t.Errorf("%d backends after the port has gone", n)
	}
}
