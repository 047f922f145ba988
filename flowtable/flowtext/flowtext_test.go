package flowtext

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"millrace/control/logical"
	"millrace/flowtable"
)

// byName are the fields of the flow table, and what the language has other names
// for.
var byName = func() map[string]flowtable.Field {
	m := map[string]flowtable.Field{}
	for _, f := range flowtable.Fields() {
		m[f.Name] = f
	}
	for _, p := range []string{"tcp", "udp", "sctp"} {
		m[p+".src"], m[p+".dst"] = m["tp.src"], m["tp.dst"]
	}
	for _, p := range []string{"icmp4", "icmp6"} {
		m[p+".type"], m[p+".code"] = m["icmp.type"], m["icmp.code"]
	}
	return m
}()

func names() *Names {
	return &Names{
		Port: func(n uint32) string {
			if n > 3 {
				return ""
			}
			return fmt.Sprintf("vm%d", n)
		},
		Datapath: func(id uint64) string { return map[uint64]string{77: "br0"}[id] },
		Drop:     func(code uint32) string { return map[uint32]string{9: "it rains"}[code] },
		Flood:    func(id uint32) string { return map[uint32]string{1: "br0"}[id] },
	}
}

// words makes masked words of fields: name, value and mask by turns; a mask of 0
// is all of the field.
func words(args ...any) []flowtable.Masked {
	var values, masks flowtable.Context
	for i := 0; i < len(args); i += 3 {
		f := byName[args[i].(string)]
		if f.Width == 0 {
			panic(args[i])
		}
		v, m := uint64(args[i+1].(int)), uint64(args[i+2].(int))
		high, low := f.Bits()
		if f.Width == 128 {
			values[f.Word+1], masks[f.Word+1] = v, m
			if m == 0 {
				masks[f.Word], masks[f.Word+1] = high, low
			}
			continue
		}
		if m == 0 {
			m = high >> f.Shift
		}
		values[f.Word] |= v << f.Shift
		masks[f.Word] |= m << f.Shift
	}
	return masked(&values, &masks)
}

func masked(values, masks *flowtable.Context) []flowtable.Masked {
	var out []flowtable.Masked
	for w, m := range masks {
		if m != 0 {
			out = append(out, flowtable.Masked{Word: uint8(w), Value: values[w] & m, Mask: m})
		}
	}
	return out
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		match []flowtable.Masked
		preds []flowtable.Pred
		want  string
	}{
		{nil, nil, "1"},
		{words("eth.type", 0x800, 0), nil, "ip4"},
		{words("eth.type", 0x800, 0, "ip4.dst", 10<<24, 0xffffff00), nil, "ip4.dst == 10.0.0.0/24"},
		{words("eth.type", 0x800, 0, "ip.proto", 6, 0), nil, "ip4 && tcp"},
		{words("eth.type", 0x800, 0, "ip.proto", 6, 0, "tp.dst", 80, 0), nil, "ip4 && tcp.dst == 80"},
		{words("eth.type", 0x86dd, 0, "ip.proto", 17, 0, "tp.src", 0x1000, 0xf000), nil, "ip6 && udp.src[12..15] == 1"},
		{words("ip.proto", 6, 0, "tp.dst", 80, 0), nil, "ip.proto == 6 && tp.dst == 80"},
		{words("eth.type", 0x800, 0, "ip.proto", 1, 0, "icmp.type", 8, 0), nil, "icmp4.type == 8"},
		{words("eth.type", 0x86dd, 0, "ip.proto", 58, 0), nil, "icmp6"},
		{words("eth.type", 0x86dd, 0, "ip.proto", 58, 0, "icmp.type", 135, 0, "nd.target", 1, 0), nil, "icmp6.type == 135 && nd.target == ::1"},
		{words("eth.type", 0x806, 0, "arp.op", 1, 0, "arp.tpa", 0x0a000001, 0), nil, "arp.op == 1 && arp.tpa == 10.0.0.1"},
		{words("eth.type", 0x8035, 0), nil, "rarp"},
		{words("eth.type", 0x88cc, 0), nil, "eth.type == 0x88cc"},
		{words("eth.dst", 1<<48-1, 0), nil, "eth.bcast"},
		{words("eth.dst", 1<<40, 1<<40), nil, "eth.mcast"},
		{words("eth.dst", 0, 1<<40), nil, "!eth.mcast"},
		{words("eth.src", 0x02000000000a, 0), nil, "eth.src == 02:00:00:00:00:0a"},
		{words("eth.dst", 0x3333<<32, 0xffff<<32), nil, "eth.dst == 33:33:00:00:00:00/ff:ff:00:00:00:00"},
		{words("vlan.tci", 0x1000|10, 0x1fff), nil, "vlan.vid == 10"},
		{words("vlan.tci", 0x7000|10, 0), nil, "vlan.vid == 10 && vlan.pcp == 3"},
		{words("vlan.tci", 0x1000, 0x1000), nil, "vlan.present"},
		{words("vlan.tci", 0, 0x1000), nil, "!vlan.present"},
		{words("vlan.tci", 10, 0xfff), nil, "vlan.tci[0..11] == 0xa"},
		{words("vlan.tci", 0, 0), nil, "vlan.tci == 0"},
		{words("eth.type", 0x800, 0, "ip.frag", 1, 0), nil, "ip4 && ip.is_frag && !ip.later_frag"},
		{words("in_port", 2, 0), nil, `in_port == "vm2"`},
		{words("inport", 2, 0, "outport", 9, 0), nil, `inport == "vm2" && outport == 9`},
		{words("inport", 2, 3), nil, `inport[0..1] == 2`},
		{words("reg0", 5, 0, "reg3", 0x10000, 0), nil, "reg0 == 5 && reg3 == 0x10000"},
		{words("reg5", 5, 5), nil, "reg5 == 5/5"},
		{words("reg5", 2, 2), nil, "reg5[1]"},
		{words("reg5", 0, 2), nil, "!reg5[1]"},
		{words("flags", 1, 1), nil, "flags.loopback"},
		{words("flags", 1, 3), nil, "flags[0..1] == 1"},
		{words("ct_state", 0x21, 0x23), nil, "ct.new && !ct.est && ct.trk"},
		{words("ct_label", 7, 0xff), nil, "ct_label[0..7] == 7"},
		{words("ip4.src", 1, 0xff0000ff), nil, "ip4.src == 0.0.0.1/255.0.0.255"},
		{words("eth.type", 0x86dd, 0, "ip6.dst", 1, 0), nil, "ip6.dst == ::1"},
		{words("eth.type", 0x86dd, 0, "ip6.dst", 1, 0xffff), nil, "ip6.dst == ::1/::ffff"},
		{words("datapath", 77, 0), nil, `datapath == "br0"`},
		{words("datapath", 78, 0), nil, "datapath == 0x4e"},
		{words("tun.id", 5, 0), nil, "tun.id == 5"},
		{[]flowtable.Masked{{Word: flowtable.WordL4, Value: 3, Mask: 0xff}}, nil, "word4[0..7] == 3"},
		{words("eth.type", 0x800, 0), []flowtable.Pred{{Kind: flowtable.InSet, Field: byName["ip4.src"], Set: 5}}, "ip4.src == $5"},
		{nil, []flowtable.Pred{{Kind: flowtable.NotInSet, Field: byName["inport"], Set: 5}}, "inport != @5"},
		{words("eth.type", 0x800, 0, "ip.proto", 6, 0), []flowtable.Pred{{Kind: flowtable.InRange, Field: byName["tp.dst"], Low: 1000, High: 2000}}, "ip4 && 1000 <= tcp.dst <= 2000"},
		{nil, []flowtable.Pred{{Kind: flowtable.InRange, Field: byName["reg0"], High: 7}}, "reg0 <= 7"},
		{nil, []flowtable.Pred{{Kind: flowtable.InRange, Field: byName["reg0"], Low: 7, High: 1<<32 - 1}}, "reg0 >= 7"},
		{nil, []flowtable.Pred{{Kind: flowtable.InRange, Field: byName["reg0"], Low: 7, High: 7}}, "reg0 == 7"},
		{words("eth.type", 0x800, 0), []flowtable.Pred{{Kind: flowtable.NotEqual, Field: byName["ip4.dst"], Low: 0x0a000000, Mask: 0xffffff00}}, "ip4.dst != 10.0.0.0/24"},
		{nil, []flowtable.Pred{{Kind: flowtable.NotEqual, Field: byName["ip6.dst"], Low: 0xfe80 << 48, Mask: 0xffc0 << 48}}, "ip6.dst != fe80::/10"},
		{nil, []flowtable.Pred{{Kind: flowtable.NotEqual, Field: flowtable.Field{Word: flowtable.WordReg0, Shift: 36, Width: 4}, Low: 3, Mask: 15}}, "reg0[4..7] != 3"},
		{nil, []flowtable.Pred{{Kind: flowtable.InRange, Field: flowtable.Field{Word: flowtable.WordIP6DstLow, Shift: 8, Width: 8}, Low: 3, High: 15}}, "3 <= ip6.dst[8..15] <= 0xf"},
	} {
		if got := Match(tt.match, tt.preds, names()); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

func TestActions(t *testing.T) {
	f := func(name string) flowtable.Field { return byName[name] }
	bit := flowtable.Field{Word: flowtable.WordFlags, Shift: 32, Width: 1}
	for _, tt := range []struct {
		acts []flowtable.Action
		want string
	}{
		{nil, "drop;"},
		{[]flowtable.Action{{Code: flowtable.ActSet, Dst: f("reg0"), Value: 5}, {Code: flowtable.ActNext, Table: 4}}, "reg0 = 5; next(4);"},
		{[]flowtable.Action{{Code: flowtable.ActSet, Dst: f("outport"), Value: 2}, {Code: flowtable.ActOutput, Dst: f("outport")}}, `outport = "vm2"; output;`},
		{[]flowtable.Action{{Code: flowtable.ActOutput, Arg: 1}, {Code: flowtable.ActOutput, Dst: f("reg1")}, {Code: flowtable.ActOutput, Arg: 4}}, `output("vm1"); output(reg1); output(4);`},
		{[]flowtable.Action{{Code: flowtable.ActSet, Dst: f("xxreg0"), Value: 1, ValueLow: 2}, {Code: flowtable.ActSet, Dst: f("xreg1"), Value: 2}}, "xxreg0 = 0x10000000000000002; xreg1 = 2;"},
		{[]flowtable.Action{{Code: flowtable.ActSet, Dst: f("tp.dst"), Value: 80}, {Code: flowtable.ActSet, Dst: f("eth.src"), Value: 10}}, "tcp.dst = 80; eth.src = 00:00:00:00:00:0a;"},
		{[]flowtable.Action{{Code: flowtable.ActSet, Dst: bit, Value: 1}, {Code: flowtable.ActSet, Dst: flowtable.Field{Word: flowtable.WordIn, Shift: 16, Width: 12}, Value: 7}}, "flags.loopback = 1; vlan.vid = 7;"},
		{[]flowtable.Action{{Code: flowtable.ActSet, Dst: flowtable.Field{Word: flowtable.WordReg0, Shift: 4, Width: 4}, Value: 7}}, "reg1[4..7] = 7;"},
		{[]flowtable.Action{{Code: flowtable.ActMove, Dst: f("reg0"), Src: f("ip4.src")}, {Code: flowtable.ActExchange, Dst: f("eth.src"), Src: f("eth.dst")}}, "reg0 = ip4.src; eth.src <-> eth.dst;"},
		{[]flowtable.Action{{Code: flowtable.ActFlood, Arg: 1}, {Code: flowtable.ActFlood, Arg: 2, Dst: f("reg0")}}, `flood("br0"); flood(2, reg0);`},
		{[]flowtable.Action{{Code: flowtable.ActClone, Nested: []flowtable.Action{{Code: flowtable.ActPushVLAN, Arg: 0x8100}, {Code: flowtable.ActPopVLAN}}}}, "clone { push_vlan(0x8100); pop_vlan; };"},
		{[]flowtable.Action{{Code: flowtable.ActDecTTL}, {Code: flowtable.ActDrop}, {Code: flowtable.ActDrop, Arg: 3}, {Code: flowtable.ActDrop, Arg: 9}}, `ip.ttl--; drop; drop(3); drop("it rains");`},
		{[]flowtable.Action{{Code: flowtable.ActSelect, Arg: 6}, {Code: flowtable.ActSelect, Arg: 6, Dst: f("reg0"), Table: 3}, {Code: flowtable.ActMeter, Arg: 5}}, "select(6); reg0 = select(6); next(3); meter(5);"},
		{[]flowtable.Action{{Code: flowtable.ActGetFDB, Dst: f("outport"), Src: f("eth.dst")}, {Code: flowtable.ActPutFDB, Src: f("eth.src"), Src2: f("inport")}}, "outport = get_fdb(eth.dst); put_fdb(inport, eth.src);"},
		{[]flowtable.Action{{Code: flowtable.ActLookupFDB, Dst: bit, Src: f("eth.src"), Src2: f("inport")}}, "flags[0] = lookup_fdb(inport, eth.src);"},
		{[]flowtable.Action{{Code: flowtable.ActLarger, Dst: bit, Arg: 1500}, {Code: flowtable.ActDatapath, Value: 77, Table: 2, Arg: 1}}, `flags[0] = check_pkt_larger(1500); datapath("br0", table=2, inport="vm1");`},
		{[]flowtable.Action{{Code: flowtable.ActHairpinReply + 1}}, "action(29);"},
		{[]flowtable.Action{{Code: flowtable.ActSet, Dst: f("outport"), Value: 1<<31 | 2}}, `outport = "_flood";`},
	} {
		if got := Actions(tt.acts, words("eth.type", 0x800, 0, "ip.proto", 6, 0), names()); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
	clone := flowtable.Action{Code: flowtable.ActClone, Nested: []flowtable.Action{{Code: flowtable.ActDecTTL}}}
	if got := Action(&clone, nil, nil) + " " + Action(&clone.Nested[0], nil, nil); got != "clone ip.ttl--" {
		t.Errorf("got %q", got)
	}
}

func TestProgram(t *testing.T) {
	ops := []flowtable.Op{
		{Code: flowtable.OpSave}, {Code: flowtable.OpMeter, Arg: 5}, {Code: flowtable.OpOutput, Arg: 1}, {Code: flowtable.OpRestore},
		{Code: flowtable.OpPushVLAN, Arg: 0x8100}, {Code: flowtable.OpSet, Word: flowtable.WordIn, Value: 7 << 16, Mask: 0xfff << 16}, {Code: flowtable.OpPopVLAN}, {Code: flowtable.OpDecTTL},
		{Code: flowtable.OpSet, Word: flowtable.WordL4, Value: 80<<48 | 443<<32, Mask: 0xffffffff << 32}, {Code: flowtable.OpSet, Word: flowtable.WordIP4, Value: 5, Mask: 0x0f0f},
		{Code: flowtable.OpFlood, Arg: 1}, {Code: flowtable.OpLearn, Value: 1, Mask: 0x02000000000a}, {Code: 77},
	}
	want := `clone { meter(5); output("vm1"); }; push_vlan(0x8100); vlan.vid = 7; pop_vlan; ip.ttl--; tcp.src = 80; tcp.dst = 443; ip4.dst = 5/0xf0f; flood("br0"); learn("vm1", 02:00:00:00:00:0a); op(77);`
	if got := Program(ops, words("eth.type", 0x800, 0, "ip.proto", 6, 0), names()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := Program(nil, nil, nil); got != "drop;" {
		t.Errorf("got %q", got)
	}
	changed := words("reg0", 5, 0, "ct_label", 7, 0, "flags", 1, 0, "ip4.dst", 0x0a000001, 0, "vlan.tci", 0x1007, 0)
	for i, mask := range map[uint8]uint64{flowtable.WordFlags: 1 << 32, flowtable.WordIP4: 3, flowtable.WordIn: 1 << 16, flowtable.WordReg0: 1 << 32, flowtable.WordLabel: 0} {
		changed[slices.IndexFunc(changed, func(m flowtable.Masked) bool { return m.Word == i })].Mask = mask
	}
	if got := strings.Join(Changes(changed, nil, names()), ", "); got != "flags.loopback = 1, vlan.vid = 7, ip4.dst = 10.0.0.1, ct_label = 7, reg0 = 5" {
		t.Errorf("got %q", got)
	}
}

func TestConsulted(t *testing.T) {
	match := words("in_port", 1, 0, "eth.type", 0x800, 0, "ip.proto", 6, 0, "ip4.src", 0, 0xffffff00, "ip4.dst", 0, 0xff0000ff, "eth.dst", 0, 1<<40, "eth.src", 0, 0xff00ff, "tp.dst", 0, 0, "reg0", 0, 5)
	match = append(match, flowtable.Masked{Word: flowtable.WordCTIP6Dst, Mask: 0xff})
	want := "in_port eth.type eth.src/00:00:00:ff:00:ff eth.dst[40] ip4.src/24 ip4.dst/255.0.0.255 ip.proto tcp.dst ct_ip6_dst[64..71] reg0/5"
	if got := strings.Join(Consulted(match, names()), " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestParsesBack: a match is written in words that the language reads back as
// the same match.
func TestParsesBack(t *testing.T) {
	syms, comp := logical.NewSymbols(), logical.NewCompiler(logical.Options{})
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		match := randomMatch(r)
		text := Match(match, nil, names())
		e, err := syms.ParseMatch(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		clauses, err := comp.Compile(e)
		if err != nil || len(clauses) != 1 || len(clauses[0].Preds) != 0 {
			t.Fatalf("%s: %d clauses, %v", text, len(clauses), err)
		}
		var values, masks flowtable.Context
		for _, m := range clauses[0].Matches {
			put(t, &values, m.Field, m.Value)
			put(t, &masks, m.Field, m.Mask)
		}
		if got := masked(&values, &masks); !slices.Equal(got, match) {
			t.Fatalf("%s:\n got %x\nwant %x", text, got, match)
		}
	}
}

// put writes a field of the language to where the flow table has it.
func put(t *testing.T, c *flowtable.Context, field logical.Field, v logical.Value) {
	t.Helper()
	f, ok := byName[field.String()]
	if !ok {
		t.Fatalf("the flow table has no field %s", field)
	}
	if f.Width == 128 {
		c[f.Word] |= v.Hi
		c[f.Word+1] |= v.Lo
		return
	}
	c[f.Word] |= v.Lo << f.Shift
}

// randomMatch returns what a rule of the language can match: fields with their
// prerequisites.
func randomMatch(r *rand.Rand) []flowtable.Masked {
	var args []any
	maybe := func(name string, bits int) {
		if r.IntN(3) > 0 {
			return
		}
		full := 1<<bits - 1
		mask := []int{full, full &^ 0xf, 0xf & full, 1 << r.IntN(bits), 0x5 & full}[r.IntN(5)]
		args = append(args, name, r.Int()&mask, mask)
	}
	for _, reg := range []string{"reg0", "reg1", "reg5", "reg9", "pkt.mark", "flags", "ct_mark"} {
		maybe(reg, 32)
	}
	maybe("eth.src", 48)
	maybe("eth.dst", 48)
	switch r.IntN(5) {
	case 0:
		args = append(args, "eth.type", 0x806, 0)
		maybe("arp.spa", 32)
		maybe("arp.tpa", 32)
		maybe("arp.sha", 48)
	case 1, 2:
		args = append(args, "eth.type", 0x800, 0)
		maybe("ip4.src", 32)
		maybe("ip4.dst", 32)
		if r.IntN(2) == 0 {
			args = append(args, "ip.proto", []int{6, 17, 132, 1, 47}[r.IntN(5)], 0)
		}
	case 3:
		args = append(args, "eth.type", 0x86dd, 0)
		maybe("ip6.src", 60)
		maybe("ip6.dst", 60)
		maybe("ip6.label", 20)
		args = append(args, "ip.proto", []int{6, 17, 132, 58, 47}[r.IntN(5)], 0)
		if r.IntN(2) == 0 {
			args = append(args, "ip.ttl", r.IntN(256), 0, "ip.dscp", r.IntN(64), 0)
		}
	}
	if n := len(args); n >= 3 && args[n-3] == "ip.proto" && slices.Contains([]int{6, 17, 132}, args[n-2].(int)) {
		maybe("tp.src", 16)
		maybe("tp.dst", 16)
	}
	return words(args...)
}

// TestObjects: sets, meters and groups are written by their names, or as what is in
// them; a group within a group is a number.
func TestObjects(t *testing.T) {
	many := make([]flowtable.Bucket, bucketsMax+2)
	inner := []flowtable.Action{{Code: flowtable.ActSelect, Arg: 3}, {Code: flowtable.ActOutput, Arg: 1}}
	n := names()
	n.Set = func(id uint32) string { return map[uint32]string{1: "$web"}[id] }
	n.Meter = func(id uint32) string { return map[uint32]string{1: "slow"}[id] }
	n.Group = func(id uint32) string { return map[uint32]string{1: "up"}[id] }
	n.Buckets = func(id uint32) []flowtable.Bucket {
		return map[uint32][]flowtable.Bucket{2: {{ID: 7, Weight: 1}, {ID: 8, Weight: 50}}, 3: {{Weight: 4, Actions: inner}}, 4: many}[id]
	}
	for _, tt := range []struct {
		action flowtable.Action
		want   string
	}{
		{flowtable.Action{Code: flowtable.ActMeter, Arg: 1}, `meter("slow");`},
		{flowtable.Action{Code: flowtable.ActMeter, Arg: 2}, `meter(2);`},
		{flowtable.Action{Code: flowtable.ActSelect, Arg: 1}, `group("up");`},
		{flowtable.Action{Code: flowtable.ActSelect, Arg: 2, Dst: byName["reg0"], Table: 5}, `reg0 = select(7=1, 8=50); next(5);`},
		{flowtable.Action{Code: flowtable.ActSelect, Arg: 3}, `select(4 { select(3); output("vm1"); });`},
		{flowtable.Action{Code: flowtable.ActSelect, Arg: 4}, `select(` + strings.Repeat("0=0, ", bucketsMax) + `and 2 more);`},
		{flowtable.Action{Code: flowtable.ActSelect, Arg: 5}, `select(5);`},
		{flowtable.Action{Code: flowtable.ActReply, Table: flowtable.ReplyTCP, Arg: 1}, `tcp_reset { meter("slow"); drop; };`},
	} {
		if got := Actions([]flowtable.Action{tt.action}, nil, n); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
	in := func(set flowtable.SetID) []flowtable.Pred {
		return []flowtable.Pred{{Kind: flowtable.InSet, Field: byName["ip4.src"], Set: set}}
	}
	if got, other := Match(nil, in(1), n), Match(nil, in(2), n); got != "ip4.src == $web" || other != "ip4.src == $2" {
		t.Errorf("sets are written as %s and %s", got, other)
	}
	if got := Program([]flowtable.Op{{Code: flowtable.OpMeter, Arg: 1}}, nil, n); got != `meter("slow");` {
		t.Errorf("a program has %s", got)
	}
}
