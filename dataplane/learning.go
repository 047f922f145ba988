package dataplane

import (
	"millrace/dataplane/packet"
	"millrace/flowtable"
)

// A learning bridge is rules in a datapath of its own:
//
//	0 admit    by in port: the frame's VLAN, or drop
//	1 secure   of ports with sources: is it from one of them? (security.go)
//	2 sender   and what does ARP or neighbour discovery say there?
//	3 check    bad sources and reserved destinations: drop
//	4 learn    the source is put into the FDB, but in VLANs that only flood
//	5 find     groups are flooded, other destinations are looked up in the FDB
//	6 known    unknown ones are flooded, those behind the in port dropped
//	7 egress   by out port: does it carry the VLAN, and with a tag?
//	8 plain    output without a tag
//	9 tagged   output with one
//
// What is flooded goes to a flood list with all ports of the bridge, which is
// told the VLAN: each port then does by its vlanPolicy what tables 7 to 9 do for
// one. A frame keeps its tag as long as it can, and with it priority and
// drop eligibility.
const (
	tableAdmit = iota
	tableSecure
	tableSender
	tableCheck
	tableLearn
	tableFind
	tableKnown
	tableEgress
	tablePlain
	tableTagged
)

// Fields that the rules of a learning bridge use. Metadata: xreg0 is the
// address and VLAN that the FDB is asked for, reg3 the VLAN, with a bit above it
// that entries set, by which whoever floods knows that it is told a VLAN.
var (
	fieldVID      = flowtable.Field{Name: "vlan.vid", Word: flowtable.WordIn, Shift: 16, Width: 12}
	fieldDst      = flowtable.Field{Name: "eth.dst", Word: flowtable.WordDst, Shift: 16, Width: 48}
	fieldSrc      = flowtable.Field{Name: "eth.src", Word: flowtable.WordSrc, Shift: 16, Width: 48}
	fieldInport   = flowtable.Field{Name: "inport", Word: flowtable.WordPorts, Shift: 32, Width: 32}
	fieldOutport  = flowtable.Field{Name: "outport", Word: flowtable.WordPorts, Shift: 0, Width: 32}
	fieldStation  = flowtable.Field{Name: "xreg0", Word: flowtable.WordReg0, Shift: 0, Width: 64}
	fieldAddress  = flowtable.Field{Word: flowtable.WordReg0, Shift: 0, Width: 48}
	fieldInVLAN   = flowtable.Field{Word: flowtable.WordReg0, Shift: 48, Width: 12}
	fieldVLAN     = flowtable.Field{Word: flowtable.WordReg2, Shift: 0, Width: 12}
	fieldToldVLAN = flowtable.Field{Word: flowtable.WordReg2, Shift: 0, Width: 17}
)

// toldVLAN is the bit above a VLAN that whoever floods is told.
const toldVLAN = 1 << 16

// Ids of what the switch makes in tables that it shares with clients: theirs are
// below. Numbers of ports and bridges follow.
const (
	ownDatapath = 1 << 62                             // bit 63 is clear
	ownRuleID   = 0xb5d7_0000_0000_0000               // clients' are digests: that one meets one of ours is not to be expected
	ownSet      = flowtable.SetID(1 << 31)            // of trunks
	ownFloodSet = flowtable.SetID(1<<31 | 1<<30)      // of VLANs of a bridge
	ownFlood    = flowtable.FloodID(1 << 31)          // of a bridge
	wires       = uint64(ownDatapath) | uint64(1<<32) // datapath of ports that are wired
)

// isOwn reports whether a datapath is one that the switch has made.
func isOwn(datapath uint64) bool { return datapath>>62 == 1 }

func (br *bridge) datapath() uint64            { return ownDatapath | uint64(br.number) }
func (br *bridge) floodID() flowtable.FloodID  { return ownFlood | flowtable.FloodID(br.number) }
func (br *bridge) floodVLANs() flowtable.SetID { return ownFloodSet | flowtable.SetID(br.number) }
func dropFor(why packet.Reason) flowtable.Action {
	return flowtable.Action{Code: flowtable.ActDrop, Arg: ownDrop | uint32(why)}
}
func next(table uint8) flowtable.Action {
	return flowtable.Action{Code: flowtable.ActNext, Table: table}
}
func move(dst, src flowtable.Field) flowtable.Action {
	return flowtable.Action{Code: flowtable.ActMove, Dst: dst, Src: src}
}
func outputKnown() flowtable.Action {
	return flowtable.Action{Code: flowtable.ActOutput, Dst: fieldOutport}
}

// is matches a field of one word.
func is(f flowtable.Field, value uint64) flowtable.Masked {
	mask, _ := f.Bits()
	return flowtable.Masked{Word: f.Word, Value: value << f.Shift, Mask: mask}
}

// outside is the predicate that a VLAN is not in a set.
func outside(f flowtable.Field, set flowtable.SetID) flowtable.Pred {
	return flowtable.Pred{Kind: flowtable.NotInSet, Field: f, Set: set}
}

// A rulebook collects rules of one datapath.
type rulebook struct {
	datapath uint64
	rules    []flowtable.Rule
}

// add adds a rule; matches are in the order of words.
func (r *rulebook) add(table uint8, priority uint16, match []flowtable.Masked, preds []flowtable.Pred, actions ...flowtable.Action) {
	r.rules = append(r.rules, flowtable.Rule{Table: table, Priority: priority, Datapath: r.datapath, Match: match, Preds: preds, Actions: actions})
}

// learningRules are the rules of br but for those of its ports.
func learningRules(br *bridge) []flowtable.Rule {
	r := rulebook{datapath: br.datapath()}
	match := func(m ...flowtable.Masked) []flowtable.Masked { return m }
	flood := flowtable.Action{Code: flowtable.ActFlood, Arg: uint32(br.floodID()), Dst: fieldToldVLAN}
	const group = 1 << 40 // of an address, as fields have it
	r.add(tableCheck, 100, match(flowtable.Masked{Word: flowtable.WordSrc, Value: group << 16, Mask: group << 16}), nil, dropFor(packet.ReasonSourceMAC))
	r.add(tableCheck, 100, match(is(fieldSrc, 0)), nil, dropFor(packet.ReasonSourceMAC))
	r.add(tableCheck, 90, match(flowtable.Masked{Word: flowtable.WordDst, Value: 0x0180c2000000 << 16, Mask: 0xfffffffffff0 << 16}), nil, dropFor(packet.ReasonReservedMAC))
	r.add(tableCheck, 0, nil, nil, next(tableLearn))
	r.add(tableLearn, 10, nil, []flowtable.Pred{outside(fieldVLAN, br.floodVLANs())},
		move(fieldAddress, fieldSrc), move(fieldInVLAN, fieldVLAN),
		flowtable.Action{Code: flowtable.ActPutFDB, Arg: br.number, Src: fieldStation, Src2: fieldInport}, next(tableFind))
	r.add(tableLearn, 0, nil, nil, flood)
	r.add(tableFind, 10, match(flowtable.Masked{Word: flowtable.WordDst, Value: group << 16, Mask: group << 16}), nil, flood)
	r.add(tableFind, 0, nil, nil, move(fieldAddress, fieldDst),
		flowtable.Action{Code: flowtable.ActGetFDB, Arg: br.number, Dst: fieldOutport, Src: fieldStation}, next(tableKnown))
	r.add(tableKnown, 10, match(is(fieldOutport, 0)), nil, flood)
	r.add(tableKnown, 0, nil, nil, next(tableEgress))
	r.add(tableEgress, 0, nil, nil, flood) // the FDB names a port that is gone
	tagged := match(flowtable.Masked{Word: flowtable.WordIn, Value: flowtable.TagPresent << 16, Mask: flowtable.TagPresent << 16})
	r.add(tablePlain, 10, tagged, nil, flowtable.Action{Code: flowtable.ActPopVLAN}, outputKnown())
	r.add(tablePlain, 0, nil, nil, outputKnown())
	r.add(tableTagged, 10, tagged, nil, move(fieldVID, fieldVLAN), outputKnown())
	r.add(tableTagged, 0, nil, nil, flowtable.Action{Code: flowtable.ActPushVLAN, Arg: etherVLAN}, move(fieldVID, fieldVLAN), outputKnown())
	return r.rules
}

// portRules are the rules of a port of a learning bridge. trunk is the set of
// its VLANs; 0 if it carries all.
func portRules(br *bridge, number uint32, v *vlanPolicy, trunk flowtable.SetID, sources []Source) []flowtable.Rule {
	r := rulebook{datapath: br.datapath()}
	if len(sources) == 0 {
		r.admit(number, v, trunk, tableCheck)
	} else {
		r.admit(number, v, trunk, tableSecure)
		r.secure(number, sources)
	}
	both := []flowtable.Masked{{Word: flowtable.WordPorts, Value: uint64(number)<<32 | uint64(number), Mask: ^uint64(0)}}
	r.add(tableKnown, 5, both, nil, dropFor(packet.ReasonSamePort))
	r.egress(number, v, trunk)
	return r.rules
}

// admit is vlanPolicy.accept as rules; what is accepted goes on in table then.
func (r *rulebook) admit(number uint32, v *vlanPolicy, trunk flowtable.SetID, then uint8) {
	in := []flowtable.Masked{{Word: flowtable.WordIn, Value: uint64(number) << 32, Mask: 0xffffffff << 32}}
	if v.mode != VLANTrunk {
		bare := []flowtable.Masked{{Word: flowtable.WordIn, Value: uint64(number) << 32, Mask: 0xffffffff<<32 | vidMask<<16}}
		r.add(tableAdmit, 30, bare, nil, flowtable.Action{Code: flowtable.ActSet, Dst: fieldVLAN, Value: uint64(v.tag)}, next(then))
	}
	switch {
	case v.mode == VLANAccess:
		r.add(tableAdmit, 10, in, nil, dropFor(packet.ReasonVLANIngress))
		return
	case trunk != 0:
		r.add(tableAdmit, 20, in, []flowtable.Pred{outside(fieldVID, trunk)}, dropFor(packet.ReasonVLANIngress))
	}
	r.add(tableAdmit, 10, in, nil, move(fieldVLAN, fieldVID), next(then))
}

// egress is vlanPolicy.emit as rules.
func (r *rulebook) egress(number uint32, v *vlanPolicy, trunk flowtable.SetID) {
	out := []flowtable.Masked{is(fieldOutport, uint64(number))}
	in := func(vlan uint16) []flowtable.Masked { return []flowtable.Masked{out[0], is(fieldVLAN, uint64(vlan))} }
	if trunk != 0 {
		r.add(tableEgress, 30, out, []flowtable.Pred{outside(fieldVLAN, trunk)}, dropFor(packet.ReasonVLANEgress))
	}
	if v.mode == VLANAccess {
		r.add(tableEgress, 20, in(v.tag), nil, next(tablePlain))
		r.add(tableEgress, 10, out, nil, dropFor(packet.ReasonVLANEgress))
		return
	}
	r.add(tableEgress, 20, in(0), nil, next(tablePlain))
	if v.mode == VLANNativeUntagged {
		r.add(tableEgress, 20, in(v.tag), nil, next(tablePlain))
	}
	r.add(tableEgress, 10, out, nil, next(tableTagged))
}

// wireRule sends what comes in by one port out by another.
func wireRule(in, out uint32) flowtable.Rule {
	r := rulebook{datapath: wires}
	m := []flowtable.Masked{{Word: flowtable.WordIn, Value: uint64(in) << 32, Mask: 0xffffffff << 32}}
	r.add(0, 0, m, nil, flowtable.Action{Code: flowtable.ActOutput, Arg: out})
	return r.rules[0]
}
