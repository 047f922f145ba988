package dataplane

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"millrace/dataplane/conntrack"
	"millrace/flowtable"
)

// The switches of the comparison: ours, and Open vSwitch, with the same pipeline.
//
//	0  by class and side: through the zone                                  -> 1
//	1  note ct_state                                                        -> 2
//	2  new: commit, with translation and a mark; or drop; remark: change it -> 3 or 4
//	   invalid: send as it is
//	5  classes with two zones, from the client: through the second one      -> 3
//	6  and from the server, through the first one: note its ct_state, then the second -> 1
//	3  note ct_state after the commit                                       -> 4
//	4  note the mark, send
//
// Notes go into the destination's Ethernet address: the mark, ct_state after the commit,
// and before.

// Zones: that of a class, and the one behind it.
const secondZone = 10

// Marks.
const (
	markClass  = 0x100 // and the class: a connection's mark
	markAgain  = 0x10000
	labelClass = 0x5000000000 // and the class: its label
)

// macOf is the source address of frames of a side.
func macOf(side int) uint64 { return 0x020000000001 + uint64(side) }

// ovsPipeline is the pipeline in the language of ovs-ofctl(8).
func ovsPipeline() (text string) {
	add := func(format string, args ...any) { text += fmt.Sprintf(format, args...) + "\n" }
	add("table=0,priority=9,dl_type=0x88b5,actions=output:2")
	add("table=1,actions=move:NXM_NX_CT_STATE[0..7]->NXM_OF_ETH_DST[0..7],resubmit(,2)")
	add("table=3,actions=move:NXM_NX_CT_STATE[0..7]->NXM_OF_ETH_DST[8..15],resubmit(,4)")
	add("table=4,actions=move:NXM_NX_CT_MARK[]->NXM_OF_ETH_DST[16..47],output:2")
	client, server := "dl_src=02:00:00:00:00:01", "dl_src=02:00:00:00:00:02"
	for c := 1; c < classes; c++ {
		first := fmt.Sprintf("table=0,ip,%s,nw_src=10.%d.0.0/16,actions=load:%d->NXM_NX_REG0[],", client, c, 2*c)
		firstBack := fmt.Sprintf("table=0,ip,%s,nw_src=198.51.%d.0/24,actions=load:%d->NXM_NX_REG0[],", server, c, 2*c+1)
		from, back := fmt.Sprintf("ip,reg0=%d", 2*c), fmt.Sprintf("ip,reg0=%d", 2*c+1)
		add(first+"ct(zone=%d,nat,table=1)", c)
		nat, after := "", "3"
		switch c {
		case classSource:
			nat = "nat(src=203.0.113.3),"
		case classRange:
			nat = "nat(src=203.0.114.1-203.0.114.3:20000-20499),"
		case classServer:
			nat = "nat(dst=198.51.5.1:8080),"
		case classBoth:
			nat, after = "nat(dst=198.51.6.1:8080),", "5"
		case classTwo:
			after = "5"
		}
		exec := fmt.Sprintf("exec(set_field:%#x->ct_mark,set_field:%#x->ct_label)", markClass+c, labelClass+c)
		again := fmt.Sprintf("ct(commit,zone=%d,exec(set_field:%#x/%#x->ct_mark),table=%%s)", c, markAgain, markAgain)
		add("table=2,priority=5,%s,ct_state=+new-rel-inv+trk,actions=ct(commit,zone=%d,%s%s,table=%s)", from, c, nat, exec, after)
		add("table=2,priority=4,%s,ct_state=-new-rel-inv+trk,ip_dscp=%d,actions="+again, from, remark, after)
		add("table=2,priority=4,%s,ct_state=-new-rel-inv+trk,ip_dscp=%d,actions="+again, back, remark, "3")
		if after == "5" {
			add("table=2,priority=1,%s,actions=resubmit(,5)", from)
			add("table=5,%s,actions=ct(commit,zone=%d,nat(src=203.0.113.%d),table=3)", from, c+secondZone, c)
			add(firstBack+"ct(zone=%d,nat,table=6)", c+secondZone)
			add("table=6,priority=1,%s,actions=move:NXM_NX_CT_STATE[0..7]->NXM_OF_ETH_DST[8..15],ct(zone=%d,nat,table=1)", back, c)
		} else {
			add(firstBack+"ct(zone=%d,nat,table=1)", c)
		}
		if c == classOpen {
			add("table=2,priority=5,%s,ct_state=+new-rel-inv+trk,actions=ct(commit,zone=%d,%s,table=3)", back, c, exec)
		} else {
			add("table=2,priority=5,%s,ct_state=+new-rel-inv+trk,actions=drop", back)
		}
	}
	add("table=2,priority=9,ct_state=+inv+trk,actions=resubmit(,4)")
	add("table=6,priority=9,ct_state=+inv+trk,actions=move:NXM_NX_CT_STATE[0..7]->NXM_OF_ETH_DST[0..7],resubmit(,4)")
	add("table=2,priority=0,actions=resubmit(,4)")
	return text
}

// Fields of the pipeline.
var (
	stateBits   = flowtable.Field{Name: "ct_state", Word: flowtable.WordCT, Shift: 32, Width: 8}
	beforeBits  = flowtable.Field{Name: "before", Word: flowtable.WordDst, Shift: 16, Width: 8}
	thenBits    = flowtable.Field{Name: "then", Word: flowtable.WordDst, Shift: 24, Width: 8}
	marksBits   = flowtable.Field{Name: "mark", Word: flowtable.WordDst, Shift: 32, Width: 32}
	againBit    = flowtable.Field{Name: "ct_mark", Word: flowtable.WordCT, Shift: 16, Width: 1}
	labelOfConn = flowtable.Field{Name: "ct_label", Word: flowtable.WordLabel, Width: 128}
)

func moveTo(to, from flowtable.Field) flowtable.Action {
	return flowtable.Action{Code: flowtable.ActMove, Dst: to, Src: from}
}

// within matches a prefix of IPv4 sources.
func within(prefix string) flowtable.Masked {
	p := netip.MustParsePrefix(prefix)
	a := p.Addr().As4()
	mask := ^uint32(0) << (32 - p.Bits())
	return flowtable.Masked{Word: flowtable.WordIP4, Value: uint64(binary.BigEndian.Uint32(a[:])) << 32, Mask: uint64(mask) << 32}
}

// ours is our switch.
type ours struct {
	r  *rig
	id flowtable.RuleID
}

// newOurs makes our switch with the pipeline. With windows, sequence numbers are checked.
func newOurs(t testing.TB, windows bool) *ours {
	o := &ours{r: flowRig(t, "in", "out")}
	x := &o.r.s.engine.crossing
	if windows {
		if err := x.table.Close(); err != nil {
			t.Fatal(err)
		}
		options := connectionOptions(0)
		options.Windows = true
		if err := x.open(options, o.r.s.engine.cells); err != nil {
			t.Fatal(err)
		}
		c := o.r.s.workers[0].flow.ct
		c.worker = x.table.Worker(c.number)
		c.worker.Quiet()
	}
	o.r.stayLong()
	o.pipeline()
	return o
}

// stayLong lets connections stay for a day.
func (r *rig) stayLong() {
	var long conntrack.Policy
	for i := range long {
		long[i] = 24 * 3600
	}
	if err := r.s.engine.crossing.table.SetPolicy(0, long); err != nil {
		r.t.Fatal(err)
	}
}

// add adds a rule.
func (o *ours) add(table uint8, priority uint16, match []flowtable.Masked, actions ...flowtable.Action) {
	o.id++
	match = merged(match)
	o.r.commit(func(x *flowtable.Txn) error {
		return x.Add(&flowtable.Rule{ID: o.id, Table: table, Priority: priority, Datapath: flowtable.DatapathOf("br0"), Match: match, Actions: actions})
	})
}

// merged is a match with each word once, in order.
func merged(match []flowtable.Masked) (all []flowtable.Masked) {
	for _, m := range match {
		i := slices.IndexFunc(all, func(o flowtable.Masked) bool { return o.Word == m.Word })
		if i < 0 {
			all = append(all, m)
			continue
		}
		all[i].Value |= m.Value
		all[i].Mask |= m.Mask
	}
	slices.SortFunc(all, func(a, b flowtable.Masked) int { return int(a.Word) - int(b.Word) })
	return all
}

// pipeline is ovsPipeline for us.
func (o *ours) pipeline() {
	etherType := flowtable.Field{Name: "eth.type", Word: flowtable.WordIn, Width: 16}
	o.add(1, 0, nil, moveTo(beforeBits, stateBits), next(2))
	o.add(3, 0, nil, moveTo(thenBits, stateBits), next(4))
	o.add(4, 0, nil, moveTo(marksBits, fieldCTMark), out(2))
	o.add(2, 0, nil, next(4))
	invalid := []flowtable.Masked{hasState(conntrack.StateInvalid|conntrack.StateTracked, 0)}
	o.add(2, 9, invalid, next(4))
	o.add(6, 9, invalid, moveTo(beforeBits, stateBits), next(4))
	const isNew, trk = conntrack.StateNew, conntrack.StateTracked
	fresh := hasState(isNew|trk, conntrack.StateRelated|conntrack.StateInvalid)
	old := hasState(trk, isNew|conntrack.StateRelated|conntrack.StateInvalid)
	dscp, reg0 := is(named["ip.dscp"], remark), named["reg0"]
	for c := uint16(1); c < classes; c++ {
		ip := is(etherType, 0x800)
		first := []flowtable.Masked{ip, is(fieldSrc, macOf(clientSide)), within(fmt.Sprintf("10.%d.0.0/16", c))}
		firstBack := []flowtable.Masked{ip, is(fieldSrc, macOf(serverSide)), within(fmt.Sprintf("198.51.%d.0/24", c))}
		setFrom, setBack := setTo(reg0, 2*uint64(c)), setTo(reg0, 2*uint64(c)+1)
		from, back := []flowtable.Masked{ip, is(reg0, 2*uint64(c))}, []flowtable.Masked{ip, is(reg0, 2*uint64(c)+1)}
		also := func(m []flowtable.Masked, more ...flowtable.Masked) []flowtable.Masked {
			return append(slices.Clone(m), more...)
		}
		nat, after := oursNAT(int(c))
		terms := append(nat, setTo(fieldCTMark, markClass+uint64(c)), flowtable.Action{Code: flowtable.ActSet, Dst: labelOfConn, ValueLow: labelClass + uint64(c)})
		o.add(0, 5, first, setFrom, connect(c, resume|flowtable.CTTranslate, 1))
		o.add(2, 5, also(from, fresh), connect(c, committed|flowtable.CTTranslate, after, terms...))
		o.add(2, 4, also(from, old, dscp), connect(c, committed, after, setTo(againBit, 1)))
		o.add(2, 4, also(back, old, dscp), connect(c, committed, 3, setTo(againBit, 1)))
		if after == 5 {
			o.add(2, 1, from, next(5))
			o.add(5, 0, from, connect(c+secondZone, committed|flowtable.CTTranslate, 3, natTo(flowtable.NATSource, fmt.Sprintf("203.0.113.%d", c), 0)))
			o.add(0, 5, firstBack, setBack, connect(c+secondZone, resume|flowtable.CTTranslate, 6))
			o.add(6, 0, back, moveTo(thenBits, stateBits), connect(c, resume|flowtable.CTTranslate, 1))
		} else {
			o.add(0, 5, firstBack, setBack, connect(c, resume|flowtable.CTTranslate, 1))
		}
		if c == classOpen {
			o.add(2, 5, also(back, fresh), connect(c, committed, 3, terms...))
		} else {
			o.add(2, 5, also(back, fresh), flowtable.Action{Code: flowtable.ActDrop})
		}
	}
}

// oursNAT is the translation of a class, and the table behind its commit.
func oursNAT(class int) (nat []flowtable.Action, after uint8) {
	switch class {
	case classSource:
		return []flowtable.Action{natTo(flowtable.NATSource, "203.0.113.3", 0)}, 3
	case classRange:
		first, last := natTo(flowtable.NATSource, "203.0.114.1", 0), natTo(flowtable.NATSource|flowtable.NATLast, "203.0.114.3", 0)
		first.Arg = 20000 | 20499<<16
		last.Arg = first.Arg
		return []flowtable.Action{first, last}, 3
	case classServer:
		return []flowtable.Action{natTo(flowtable.NATDestination, "198.51.5.1", 8080)}, 3
	case classBoth:
		return []flowtable.Action{natTo(flowtable.NATDestination, "198.51.6.1", 8080)}, 5
	case classTwo:
		return nil, 5
	}
	return nil, 3
}

// restTurns are more turns for what waits for another packet of the same batch.
const restTurns = 4

// exchange sends packets in by port "in", and returns what leaves by "out".
func (o *ours) exchange(list []framed) [][]byte {
	in, out := o.r.devs["in"], o.r.devs["out"]
	in.in, out.out = inFrames(list), nil
	for rest := restTurns; rest > 0; {
		o.r.turn()
		if len(in.in) == 0 {
			rest--
		}
	}
	return out.out
}

func (o *ours) read(f []byte) (ip []byte, state, then byte, mark uint32) { return readNotes(f) }

func (o *ours) table() (list []conn) {
	for c := range o.r.s.Connections() {
		list = append(list, conn{int(c.Zone), c.Original.Proto, pairOfTuple(c.Original), pairOfTuple(c.Answer), c.State, c.Mark, c.Label[1]})
	}
	return list
}

// pairOfTuple is a tuple as a pair. Of an echo, the identifier is the client's port.
func pairOfTuple(t conntrack.Tuple) pair {
	if t.Proto == conntrack.ProtoICMP {
		if t.DstPort>>8 == 0 {
			t.SrcPort, t.DstPort = 0, t.SrcPort
		} else {
			t.DstPort = 0
		}
	}
	return pair{netip.AddrPortFrom(t.Src.IP(false), t.SrcPort), netip.AddrPortFrom(t.Dst.IP(false), t.DstPort)}
}

// flush removes all connections.
func (o *ours) flush() {
	for z := range uint16(2 * secondZone) {
		o.r.s.FlushConnections(z)
	}
}
