package flowtext

import (
	"fmt"
	"strings"

	"millrace/flowtable"
)

// Program writes the steps of a program for packets of the kind that the match
// is about. Copies are in braces.
func Program(ops []flowtable.Op, match []flowtable.Masked, n *Names) string {
	if len(ops) == 0 {
		return "drop;"
	}
	w := newWriter(kindOf(match), n)
	out := make([]string, 0, len(ops))
	for i := range ops {
		out = append(out, w.op(&ops[i]))
	}
	return strings.Join(out, " ")
}

func (w *writer) op(o *flowtable.Op) string {
	switch o.Code {
	case flowtable.OpSet:
		return w.assign(o)
	case flowtable.OpPushVLAN:
		return fmt.Sprintf("push_vlan(0x%x);", o.Arg)
	case flowtable.OpPopVLAN:
		return "pop_vlan;"
	case flowtable.OpDecTTL:
		return "ip.ttl--;"
	case flowtable.OpOutput:
		return fmt.Sprintf("output(%s);", w.names.port(uint64(o.Arg)))
	case flowtable.OpFlood:
		return fmt.Sprintf("flood(%s);", w.names.flood(o.Arg))
	case flowtable.OpSave:
		return "clone {"
	case flowtable.OpRestore:
		return "};"
	case flowtable.OpMeter:
		return w.names.meter(o.Arg) + ";"
	case flowtable.OpLearn:
		return fmt.Sprintf("learn(%s, %s);", w.names.port(o.Value), value{0, o.Mask}.text(formMAC, nil))
	}
	return w.odd(o)
}

// odd writes the steps of connection tracking.
func (w *writer) odd(o *flowtable.Op) string {
	switch o.Code {
	case flowtable.OpCT:
		return fmt.Sprintf("ct_count(0x%x, %d);", o.Value, o.Arg)
	case flowtable.OpReply:
		return w.replyOp(o)
	case flowtable.OpInner:
		return "quoted packet: " + w.assign(o)
	}
	return fmt.Sprintf("op(%d);", o.Code)
}

// assign writes what becomes of bits of a word.
func (w *writer) assign(o *flowtable.Op) string {
	m := []flowtable.Masked{{Word: o.Word, Value: o.Value, Mask: o.Mask}}
	return strings.Join(w.assignments(m), "; ") + ";"
}

// Changes writes what fields have become, as in "reg0 = 5". Values are of whole
// words; masks say which bits are new. The packet says what they are about.
func Changes(changed, packet []flowtable.Masked, n *Names) []string {
	w := newWriter(kindOf(packet), n)
	var out []string
	for _, p := range w.parts(changed) {
		m := ones(64)
		if p.named {
			m = w.whole(p.place, p.m)
		}
		out = append(out, w.became(p.place, p.v, m))
	}
	return out
}

// whole widens the bits of a field that have changed to those that have a name.
func (w *writer) whole(p place, m value) value {
	switch {
	case p.name == "vlan.tci" && m.low&^0xfff == 0:
		return ones(12)
	case p.name == "flags" && m.low&(m.low-1) == 0:
		return m
	}
	return ones(p.Width)
}

func (w *writer) assignments(match []flowtable.Masked) []string {
	var out []string
	for _, p := range w.parts(match) {
		out = append(out, w.became(p.place, p.v, p.m))
	}
	return out
}

// became writes an assignment to the bits of a mask.
func (w *writer) became(p place, v, m value) string {
	lo, n, run := m.run()
	v = v.and(m)
	switch f := (found{p, lo, n}); {
	case !run:
		return p.name + " = " + v.number(formHex) + "/" + m.number(formHex)
	case n == p.Width:
		return p.name + " = " + v.text(p.form, w.names)
	case bitName(&f) != "":
		return bitName(&f) + " = " + v.shiftRight(lo).number(formNumber)
	default:
		return f.text() + " = " + v.shiftRight(lo).number(numeric(p.form))
	}
}
