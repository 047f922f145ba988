package flowtext

import (
	"fmt"
	"strings"

	"millrace/flowtable"
)

// Actions writes the actions of a rule, each with its semicolon. The match says
// what they are about. No actions are "drop;".
func Actions(acts []flowtable.Action, match []flowtable.Masked, n *Names) string {
	return newWriter(kindOf(match), n).actions(acts)
}

// Action writes one action for a packet, without what is nested in it.
func Action(a *flowtable.Action, packet []flowtable.Masked, n *Names) string {
	w := newWriter(kindOf(packet), n)
	switch a.Code {
	case flowtable.ActClone:
		return "clone"
	case flowtable.ActReply:
		return replyVerb(a.Table)
	}
	return strings.TrimSuffix(w.action(a), ";")
}

func (w *writer) actions(acts []flowtable.Action) string {
	if len(acts) == 0 {
		return "drop;"
	}
	out := make([]string, len(acts))
	for i := range acts {
		out[i] = w.action(&acts[i])
	}
	return strings.Join(out, " ")
}

// ref writes a field.
func (w *writer) ref(f flowtable.Field) string {
	r := w.find(f)
	return r.text()
}

func (w *writer) action(a *flowtable.Action) string {
	switch a.Code {
	case flowtable.ActSet:
		return w.set(a)
	case flowtable.ActMove:
		return w.ref(a.Dst) + " = " + w.ref(a.Src) + ";"
	case flowtable.ActExchange:
		return w.ref(a.Dst) + " <-> " + w.ref(a.Src) + ";"
	case flowtable.ActNext:
		return fmt.Sprintf("next(%d);", a.Table)
	case flowtable.ActOutput:
		return w.output(a)
	case flowtable.ActFlood:
		if a.Dst.Width != 0 {
			return fmt.Sprintf("flood(%s, %s);", w.names.flood(a.Arg), w.ref(a.Dst))
		}
		return fmt.Sprintf("flood(%s);", w.names.flood(a.Arg))
	case flowtable.ActClone:
		return "clone { " + w.actions(a.Nested) + " };"
	case flowtable.ActDrop:
		return w.names.drop(a.Arg)
	case flowtable.ActPushVLAN:
		return fmt.Sprintf("push_vlan(0x%x);", a.Arg)
	case flowtable.ActPopVLAN:
		return "pop_vlan;"
	case flowtable.ActDecTTL:
		return "ip.ttl--;"
	}
	return w.verb(a)
}

// verb writes the less frequent actions.
func (w *writer) verb(a *flowtable.Action) string {
	switch a.Code {
	case flowtable.ActSelect:
		if a.Dst.Width != 0 {
			return fmt.Sprintf("%s = %s; next(%d);", w.ref(a.Dst), w.choice(a.Arg), a.Table)
		}
		return w.choice(a.Arg) + ";"
	case flowtable.ActMeter:
		return w.names.meter(a.Arg) + ";"
	case flowtable.ActGetFDB:
		return fmt.Sprintf("%s = get_fdb(%s);", w.ref(a.Dst), w.ref(a.Src))
	case flowtable.ActLookupFDB:
		return fmt.Sprintf("%s = lookup_fdb(%s, %s);", w.ref(a.Dst), w.ref(a.Src2), w.ref(a.Src))
	case flowtable.ActPutFDB:
		return fmt.Sprintf("put_fdb(%s, %s);", w.ref(a.Src2), w.ref(a.Src))
	case flowtable.ActLarger:
		return fmt.Sprintf("%s = check_pkt_larger(%d);", w.ref(a.Dst), a.Arg)
	case flowtable.ActDatapath:
		return fmt.Sprintf("datapath(%s, table=%d, inport=%s);", w.names.datapath(a.Value), a.Table, w.names.port(uint64(a.Arg)))
	}
	return w.connection(a)
}

// bucketsMax is how many buckets of a group are written.
const bucketsMax = 8

// choice writes a select group: by its name, or else as what it chooses from, values
// with their weights or weights with actions.
func (w *writer) choice(id uint32) string {
	if w.names != nil && w.names.Group != nil {
		if name := w.names.Group(id); name != "" {
			return fmt.Sprintf("group(%q)", name)
		}
	}
	var buckets []flowtable.Bucket
	if w.names != nil && w.names.Buckets != nil {
		buckets = w.names.Buckets(id)
	}
	if len(buckets) == 0 {
		return fmt.Sprintf("select(%d)", id)
	}
	names := *w.names
	names.Buckets = nil // groups in groups are numbers
	in := &writer{w.kind, w.places, &names}
	var list []string
	for i := range buckets[:min(len(buckets), bucketsMax)] {
		b := &buckets[i]
		if len(b.Actions) == 0 {
			list = append(list, fmt.Sprintf("%d=%d", b.ID, b.Weight))
			continue
		}
		list = append(list, fmt.Sprintf("%d { %s }", b.Weight, in.actions(b.Actions)))
	}
	if n := len(buckets); n > bucketsMax {
		list = append(list, fmt.Sprintf("and %d more", n-bucketsMax))
	}
	return "select(" + strings.Join(list, ", ") + ")"
}

// connection writes the actions of connection tracking.
func (w *writer) connection(a *flowtable.Action) string {
	switch a.Code {
	case flowtable.ActCT:
		return "ct(" + strings.Join(w.terms(a), ", ") + ");"
	case flowtable.ActCTClear:
		return "ct_clear;"
	case flowtable.ActCTOriginal:
		return fmt.Sprintf("%s = %s();", w.ref(a.Dst), w.ref(a.Src))
	}
	return w.balance(a)
}

// terms writes what an ActCT says.
func (w *writer) terms(a *flowtable.Action) []string {
	zone := fmt.Sprintf("zone=%d", a.Arg>>16)
	if a.Src.Width != 0 {
		zone = "zone=" + w.ref(a.Src)
	}
	out := []string{zone}
	for _, f := range [...]struct {
		flag uint32
		text string
	}{{flowtable.CTCommit, "commit"}, {flowtable.CTForce, "force"}, {flowtable.CTTranslate, "nat"}} {
		if a.Arg&f.flag != 0 {
			out = append(out, f.text)
		}
	}
	if a.Arg&flowtable.CTResume != 0 {
		out = append(out, fmt.Sprintf("table=%d", a.Table))
	}
	for i := range a.Nested {
		if n := &a.Nested[i]; n.Code == flowtable.ActNAT {
			out = append(out, translation(n))
		} else {
			out = append(out, strings.TrimSuffix(w.action(n), ";"))
		}
	}
	return out
}

// translation writes an ActNAT.
func translation(a *flowtable.Action) string {
	out := "dst"
	if a.Table&flowtable.NATSource != 0 {
		out = "src"
	}
	if a.Table&flowtable.NATLast != 0 {
		out += "_last"
	}
	form := formIP4
	if a.Table&flowtable.NATSix != 0 {
		form = formIP6
	}
	if a.Table&flowtable.NATOriginal != 0 {
		out += "=original destination"
	}
	if v := (value{a.Value, a.ValueLow}); !v.zero() {
		out += "=" + v.text(form, nil)
	}
	if low, high := uint16(a.Arg), uint16(a.Arg>>16); high != 0 {
		out += fmt.Sprintf(" ports=%d-%d", low, high)
	}
	if a.Table&flowtable.NATPersistent != 0 {
		out += " persistent"
	}
	if a.Table&flowtable.NATRandom != 0 {
		out += " random"
	}
	return out
}

// set writes an assignment of a value.
func (w *writer) set(a *flowtable.Action) string {
	f, v := w.find(a.Dst), value{0, a.Value}
	if a.Dst.Width == 128 {
		v = value{a.Value, a.ValueLow}
	}
	if name := bitName(&f); name != "" {
		return name + " = " + v.number(formNumber) + ";"
	}
	return f.text() + " = " + v.text(f.form, w.names) + ";"
}

// bitName returns the symbol for bits of a field that the language can assign to,
// or "".
func bitName(f *found) string {
	switch {
	case f.name == "vlan.tci" && f.lo == 0 && f.n == 12:
		return "vlan.vid"
	case f.name == "vlan.tci" && f.lo == 13 && f.n == 3:
		return "vlan.pcp"
	case f.name == "flags" && f.n == 1 && int(f.lo) < len(flagNames()):
		return flagNames()[f.lo]
	}
	return ""
}

// output writes a delivery: to a port by its number, or to that in a field.
func (w *writer) output(a *flowtable.Action) string {
	if a.Arg != 0 {
		return fmt.Sprintf("output(%s);", w.names.port(uint64(a.Arg)))
	}
	if name := w.ref(a.Dst); name != "outport" {
		return fmt.Sprintf("output(%s);", name)
	}
	return "output;"
}
