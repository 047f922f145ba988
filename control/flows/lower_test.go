package flows

import (
	"strings"
	"testing"

	"millrace/control/ovsdb/flowmodel"
	"millrace/flowtable"
	"millrace/flowtable/flowtext"
)

// lowered is what a flow of table 5 becomes, a rule a line: "match: actions".
func lowered(match, actions string) string {
	c := NewChecker()
	got, p := c.Check(&flowmodel.Flow{Table: 5, Match: match, Actions: actions})
	if p != nil {
		return p.Error()
	}
	names := &flowtext.Names{
		Port: c.Port, Flood: func(uint32) string { return "all" },
		Set:     func(id uint32) string { return got.Sets[flowtable.SetID(id)] },
		Meter:   func(id uint32) string { return got.Meters[flowtable.MeterID(id)] },
		Group:   func(id uint32) string { return got.Groups[flowtable.SelectID(id)] },
		Buckets: func(id uint32) []flowtable.Bucket { return got.Buckets[flowtable.SelectID(id)] },
	}
	var out []string
	for i := range got.Rules {
		r := &got.Rules[i]
		out = append(out, flowtext.Match(r.Match, r.Preds, names)+": "+flowtext.Actions(r.Actions, r.Match, names))
	}
	return strings.Join(out, "\n")
}

// lowerCase is a flow, and what it becomes.
type lowerCase struct{ match, actions, want string }

// lowerCases are flows of all kinds, and what they become in words.
func lowerCases() []lowerCase {
	return []lowerCase{
		{`1`, `drop;`, `1: drop;`},
		{`0`, `drop;`, ``},
		{`ip`, `next;`, `ip4: next(6);
ip6: next(6);`},
		{`ip4.src == 10.0.0.0/8 && tcp.dst == 80`, `next(9);`, `ip4.src == 10.0.0.0/8 && tcp.dst == 80: next(9);`},
		{`ip4.src == {10.0.0.1, 10.0.0.2}`, `drop;`, `ip4.src == 10.0.0.1: drop;
ip4.src == 10.0.0.2: drop;`},
		{`ip4.src == {10.0.0.1, 10.0.0.2, 10.1.0.0/16}`, `drop;`, `ip4.src == {10.0.0.1, 10.0.0.2, 10.1.0.0/16}: drop;`},
		{`ip4.src == {$web, 10.0.0.1}`, `drop;`, `ip4.src == 10.0.0.1: drop;
ip4.src == $web: drop;`},
		{`ip4.src == {$web, $mail} && inport == {"a", @pg}`, `drop;`, `inport == "a" && ip4.src == $web: drop;
ip4.src == $web && inport == @pg: drop;
inport == "a" && ip4.src == $mail: drop;
ip4.src == $mail && inport == @pg: drop;`},
		{`ip4.src != $web && ip4.src != {1.1.1.1, 2.2.2.2}`, `drop;`, `ip4.src != $web && ip4.src != 1.1.1.1 && ip4.src != 2.2.2.2: drop;`},
		{`ip4.src != {1.1.1.1, 2.2.2.2, 3.3.3.3, 4.4.4.4, 5.5.5.5}`, `drop;`, `ip4.src != {1.1.1.1, 2.2.2.2, 3.3.3.3, 4.4.4.4, 5.5.5.5}: drop;`},
		{`ip4.src[8..31] == $nets`, `drop;`, `ip4.src[8..31] == $nets: drop;`},
		{`1024 <= tcp.dst <= 2047`, `drop;`, `ip4 && 1024 <= tcp.dst <= 2047: drop;
ip6 && 1024 <= tcp.dst <= 2047: drop;`},
		{`ip6.src != fd00::/8`, `drop;`, `ip6.src != fd00::/8: drop;`},
		{`fd00::1 <= ip6.src <= fd00::6`, `drop;`, `ip6.src == fd00::1: drop;
ip6.src == fd00::2/127: drop;
ip6.src == fd00::4/127: drop;
ip6.src == fd00::6: drop;`},
		{`xxreg0[0..99] == $s`, `drop;`, `match: xxreg0: bits 0..99 cross from one half into the other: sets go with all 128 bits, or with bits of one half`},
		{`xxreg0[60..70] == 0x7ff`, `drop;`, `reg1[0..6] == 127 && reg2[28..31] == 15: drop;`},
		{`xxreg0[60..70] > 0x7f0`, `drop;`, `reg1[0..6] == 127 && reg2[28..31] == 1: drop;
reg1[0..6] == 127 && reg2[29..31] == 1: drop;
reg1[0..6] == 127 && reg2[30..31] == 1: drop;
reg1[0..6] == 127 && reg2[31]: drop;`},
		{`inport == "a" || outport == "none"`, `drop;`, `inport == "a": drop;
outport == 0: drop;`},
		{`inport != "a"`, `drop;`, `match: column 1: expected a test for equality: inport is nominal and can't be tested negatively`},
		{`inport != @pg`, `drop;`, `match: column 1: expected a test for equality: inport is nominal and can't be tested negatively`},
		{`is_chassis_resident("a")`, `drop;`, `1: drop;`},
		{`ip`, `reg0 = 5; reg1[4..7] = 3; xreg1 = 0x100000002; xxreg1 = 0x10000000000000002;`, `ip4: reg0 = 5; reg1[4..7] = 3; xreg1 = 0x100000002; xxreg1 = 0x10000000000000002;
ip6: reg0 = 5; reg1[4..7] = 3; xreg1 = 0x100000002; xxreg1 = 0x10000000000000002;`},
		{`1`, `reg0 = 0x50/0xf0; reg1 = 0x5/0x5; xxreg0[60..67] = 0xff;`, `1: reg0[4..7] = 5; reg1[0] = 1; reg1[2] = 1; reg1[0..3] = 15; reg2[28..31] = 15;`},
		{`1`, `xxreg0[0..95] = xxreg0[32..127]; xxreg0[32..127] = xxreg0[0..95];`, `1: reg3 = reg2; reg2 = reg1; reg1 = reg0; reg0 = reg1; reg1 = reg2; reg2 = reg3;`},
		{`1`, `reg0 <-> reg1; xxreg0 <-> xxreg1; xxreg0[32..95] <-> xxreg1[0..63];`, `1: reg0 <-> reg1; xxreg0 <-> xxreg1; reg2 <-> reg7; reg1 <-> reg6;`},
		{`1`, `xxreg0[0..63] <-> xxreg0[32..95];`, `actions: column 1: exchange of bits that overlap`},
		{`arp`, `eth.dst <-> eth.src; arp.op = 2; arp.tha = arp.sha; outport = inport; output;`, `arp: eth.dst <-> eth.src; arp.op = 2; arp.tha = arp.sha; outport = inport; output;`},
		{`1`, `outport = "_flood"; output;`, `1: outport = "_flood"; output;`},
		{`outport == "_flood"`, `output;`, `outport == "_flood": output;`},
		{`1`, `outport = "a"; output; outport = "none"; output; outport = ""; output;`, `1: outport = "a"; output; outport = 0; output; outport = 0; output;`},
		{`1`, `outport = get_fdb(eth.dst); reg0[3] = lookup_fdb(inport, eth.src); put_fdb(inport, eth.src);`, `1: outport = get_fdb(eth.dst); reg0[3] = lookup_fdb(inport, eth.src); put_fdb(inport, eth.src);`},
		{`ip4`, `ip.ttl--; clone { ip4.dst = 1.2.3.4; output; }; next;`, `ip4: ip.ttl--; clone { ip4.dst = 1.2.3.4; output; }; next(6);`},
		{`1`, `vlan.tci = 0x1064; next;`, `vlan.present: vlan.vid = 100; vlan.pcp = 0; next(6);
!vlan.present: push_vlan(0x8100); vlan.vid = 100; vlan.pcp = 0; next(6);`},
		{`vlan.present`, `vlan.tci = 0x1064; next;`, `vlan.present: vlan.vid = 100; vlan.pcp = 0; next(6);`},
		{`!vlan.present`, `vlan.tci = 0x1064; next;`, `!vlan.present: push_vlan(0x8100); vlan.vid = 100; vlan.pcp = 0; next(6);`},
		{`1`, `vlan.tci = 0; output;`, `vlan.present: pop_vlan; output;
!vlan.present: output;`},
		{`vlan.vid == 5`, `vlan.tci = 0; vlan.tci = 0x1007; output;`, `vlan.vid == 5: pop_vlan; push_vlan(0x8100); vlan.vid = 7; vlan.pcp = 0; output;`},
		{`1`, `vlan.vid = 6; vlan.pcp = reg0[0..2];`, `vlan.present: vlan.vid = 6; vlan.tci[13..15] = reg0[0..2];`},
		{`1`, `vlan.tci[0..11] = 6;`, `vlan.present: vlan.vid = 6;
!vlan.present: drop;`},
		{`1`, `vlan.tci = reg0[0..15];`, `actions: column 1: bit 12 of vlan.tci pushes and pops a tag: it can be given constants only; vlan.vid and vlan.pcp take fields`},
		{`1`, `vlan.tci = 5;`, `actions: column 1: 0x0005 is no tag: bit 12 is set where there is one`},
		{`1`, `next; vlan.tci = 0;`, `actions: column 7: whether the packet has a tag is not known behind next, group and the like: write the tag before`},
		{`1`, `clone { vlan.tci = 0; output; }; output;`, `vlan.present: clone { pop_vlan; output; }; output;
!vlan.present: clone { output; }; output;`},
		{`1`, `reg0[0] = check_pkt_larger(1514); next;`, `1: reg0[0] = check_pkt_larger(1514); next(6);`},
		{`1`, `set_meter(1000); set_meter(1000, 20); meter("m"); next;`, `1: meter("1000 kbps"); meter("1000 kbps"); meter("m"); next(6);`},
		{`1`, `reg0 = select(values=(1=10, 2=20); hash_fields="nosuch");`, `actions: column 8: hash_fields: "nosuch" is no field: they are named as in matches, such as ip4.src`},
		{`ip6`, `group("g");`, `ip6: group("g");`},
		{`1`, `fwd_group(liveness="true", childports="a");`, `actions: column 1: liveness belongs to the OVN chassis, which this release does not have: leave it out`},
		{`1`, `mirror("m"); output;`, `1: output("m"); output;`},
		{`1`, `push(eth.src); push(eth.dst); pop(eth.src); pop(eth.dst);`, `1: eth.src <-> eth.dst;`},
		{`1`, `push(reg0); reg1 = 1; pop(reg2);`, `1: reg1 = 1; reg2 = reg0;`},
		{`1`, `push(reg0); reg0 = 1; pop(reg2);`, `actions: column 23: reg0, which was pushed, has been written since: use <->, or a register`},
		{`1`, `pop(reg2);`, `actions: column 1: nothing has been pushed in this list of actions`},
		{`1`, `push(reg0); pop(xreg1);`, `actions: column 13: xreg1 has 64 bits, what was pushed has 32`},
		{`1`, `next(pipeline=egress, table=3);`, `actions: column 1: a bridge has no egress pipeline: its tables are 0 to 255`},
		{`1`, `next(pipeline=ingress, table=3);`, `1: next(3);`},
		{`ip4`, `reg0 = 1; ct_next;`, `ip4: reg0 = 1; ct(zone=5, table=6);`},
		{`1`, `reg0[0] = chk_lb_hairpin();`, `1: reg0[0] = chk_lb_hairpin();`},
		{`1`, `reg0[0] = chk_ecmp_nh();`, `actions: column 11: chk_ecmp_nh belongs to the OVN chassis, which this release does not have`},
		{`1`, `icmp4 { output; };`, `ip4: icmp4 { meter("1000 replies per second"); output; };`},
		{`1`, `reject { meter("m"); outport <-> inport; output; };`, `1: reject { meter("m"); outport <-> inport; output; };`},
		{`1`, `icmp4_error { icmp4.type = 3; icmp4.code = 4; icmp4.frag_mtu = 1400; next; };`, `ip4: icmp4_error { meter("1000 replies per second"); frag_mtu = 1400; icmp4.type = 3; icmp4.code = 4; next(6); };`},
		{`1`, `icmp4 { icmp4.inner_ip4.src = 10.0.0.1; };`, `actions: column 9: of icmp4.inner_ip4.src, which an ICMP error has besides type and code, only frag_mtu can be set, and only as a whole`},
		{`1`, `icmp6 { clone { icmp6.frag_mtu = 1280; }; };`, `actions: column 17: expected a field that can be written here, icmp6.frag_mtu can't`},
		{`1`, `nd_na { output; };`, `actions: column 1: nd_na belongs to the OVN chassis, which this release does not have`},
		{`1`, `push(ip4.src); ct_snat_to_vip; pop(reg2);`, `actions: column 32: ip4.src, which was pushed, has been written since: use <->, or a register`},
		{`1`, `push(reg0); commit_lb_aff(vip="10.0.0.1", backend="10.0.0.2", timeout=9); pop(reg2);`, `1: commit_lb_aff(vip = "10.0.0.1", backend = "10.0.0.2", timeout = 9); reg2 = reg0;`},
		{`1`, `log(verdict=drop); drop;`, `actions: column 20: expected an action after "log(verdict=drop);", found "drop"`},
		{`1`, `reg0[0] = put_dhcp_opts(offerip = 10.0.0.4);`, `actions: column 11: put_dhcp_opts belongs to the OVN chassis, which this release does not have`},
		{`1`, `get_arp(outport, reg0);`, `actions: column 1: get_arp belongs to the OVN chassis, which this release does not have`},
		{`1`, `outport = get_remote_fdb(eth.dst);`, `actions: column 11: get_remote_fdb belongs to the OVN chassis, which this release does not have`},
		{`1`, `xxreg0[60..107] = eth.src; reg0[0] = lookup_fdb(inport, xxreg0[60..107]);`, `actions: column 1: bits 60..107 of xxreg0 cross from one half into the other`},
	}
}

func TestLower(t *testing.T) {
	for _, tt := range lowerCases() {
		if got := lowered(tt.match, tt.actions); got != tt.want {
			t.Errorf("%s: %s becomes\n%s\nwant\n%s", tt.match, tt.actions, got, tt.want)
		}
	}
}

// TestHash: what groups choose by, where the rule says which IP version it is for.
func TestHash(t *testing.T) {
	for match, want := range map[string]string{
		"ip4": "ip4.src ip4.dst ip.proto tp.src tp.dst", "ip6": "ip6.src ip6.dst ip.proto tp.src tp.dst",
		"1": "ip4.src ip4.dst ip6.src ip6.dst ip.proto tp.src tp.dst",
	} {
		l := newLab(t)
		l.row(0, 1, match, "reg0 = select(1=10, 2=20);")
		l.row(0, 2, match, `reg0 = select(values=(1=10, 2=20); hash_fields="eth_src,tcp.dst");`)
		l.put()
		found := map[string]bool{}
		for _, id := range l.tables.Selects() {
			s, _ := l.tables.Select(id)
			var names []string
			for _, f := range s.Fields {
				names = append(names, f.Name)
			}
			found[strings.Join(names, " ")] = true
		}
		if len(found) != 2 || !found[want] || !found["eth.src tp.dst"] {
			t.Errorf("%s: %v, want %s", match, found, want)
		}
	}
}
