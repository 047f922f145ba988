package flowapi

import (
	"millrace/dataplane/api"
	"millrace/flowtable"
)

// ToRule returns a rule as a message. The message shares nothing with it.
func ToRule(r *flowtable.Rule) *api.FlowRule {
	return &api.FlowRule{
		Id: uint64(r.ID), Table: uint32(r.Table), Priority: uint32(r.Priority), Datapath: r.Datapath, Group: uint32(r.Group),
		Match: ToMatch(r.Match), Predicates: toPreds(r.Preds), Actions: toActions(r.Actions), Cookie: r.Cookie,
	}
}

// ToMatch returns masked words as messages.
func ToMatch(match []flowtable.Masked) []*api.FlowMasked {
	if len(match) == 0 {
		return nil
	}
	all := make([]api.FlowMasked, len(match)) // one allocation for all
	out := make([]*api.FlowMasked, len(match))
	for i, m := range match {
		all[i].Word, all[i].Value, all[i].Mask = uint32(m.Word), m.Value, m.Mask
		out[i] = &all[i]
	}
	return out
}

// ToMasked returns the words of values where mask has bits, as messages.
func ToMasked(values, mask []uint64) []*api.FlowMasked {
	var out []*api.FlowMasked
	for w, m := range mask {
		if m != 0 {
			out = append(out, &api.FlowMasked{Word: uint32(w), Value: values[w] & m, Mask: m})
		}
	}
	return out
}

func toPreds(preds []flowtable.Pred) []*api.FlowPredicate {
	if len(preds) == 0 {
		return nil
	}
	out := make([]*api.FlowPredicate, len(preds))
	for i := range preds {
		p := &preds[i]
		out[i] = &api.FlowPredicate{
			Kind: api.PredicateKind(p.Kind), Field: PackField(p.Field), Set: uint32(p.Set),
			Low: p.Low, High: p.High, LowLow: p.LowLow, Mask: p.Mask, MaskLow: p.MaskLow,
		}
	}
	return out
}

func toActions(acts []flowtable.Action) []*api.FlowAction {
	if len(acts) == 0 {
		return nil
	}
	out := make([]*api.FlowAction, len(acts))
	for i := range acts {
		out[i] = ToAction(&acts[i])
	}
	return out
}

// ToAction returns an action as a message.
func ToAction(a *flowtable.Action) *api.FlowAction {
	return &api.FlowAction{
		Code: api.ActionCode(a.Code), Table: uint32(a.Table), Dst: PackField(a.Dst), Src: PackField(a.Src), Src2: PackField(a.Src2),
		Arg: a.Arg, Value: a.Value, ValueLow: a.ValueLow, Nested: toActions(a.Nested),
	}
}

// ToSet returns a set with members as a message.
func ToSet(s flowtable.Set, members []flowtable.Member) *api.FlowSet {
	m := &api.FlowSet{Id: uint32(s.ID), Width: uint32(s.Width), Exact: s.Exact}
	if len(members) > 0 {
		m.Members = make([]uint64, 0, len(members)*memberNumbers(s.Width))
	}
	for _, v := range members {
		m.Members = appendMember(m.Members, s.Width, v)
	}
	return m
}

// memberNumbers is how many numbers a member of a set of a width takes.
func memberNumbers(width uint8) int {
	if width == 128 {
		return 4
	}
	return 2
}

func appendMember(out []uint64, width uint8, m flowtable.Member) []uint64 {
	if width == 128 {
		return append(out, m.High, m.Low, m.MaskHigh, m.MaskLow)
	}
	return append(out, m.Low, m.MaskLow)
}

// setNumbers is how many numbers of a set go into one change.
const setNumbers = 1 << 15

// SetChanges returns the changes that make a set with members. There are several
// if it is too large for a message.
func SetChanges(s flowtable.Set, members []flowtable.Member) []*api.FlowChange {
	n := min(setNumbers/memberNumbers(s.Width), len(members))
	out := []*api.FlowChange{{Change: &api.FlowChange_Set{Set: ToSet(s, members[:n])}}}
	for members = members[n:]; len(members) > 0; members = members[n:] {
		n = min(n, len(members))
		out = append(out, &api.FlowChange{Change: &api.FlowChange_AddMembers{AddMembers: ToSet(s, members[:n])}})
	}
	return out
}

// ToGroup returns a group of datapaths as a message, which shares them.
func ToGroup(id flowtable.GroupID, datapaths []uint64) *api.FlowGroup {
	return &api.FlowGroup{Id: uint32(id), Datapaths: datapaths}
}

// ToSelect returns a select group as a message.
func ToSelect(s *flowtable.Select) *api.FlowSelect {
	m := &api.FlowSelect{Id: uint32(s.ID)}
	for _, f := range s.Fields {
		m.Fields = append(m.Fields, PackField(f))
	}
	for i := range s.Buckets {
		b := &s.Buckets[i]
		m.Buckets = append(m.Buckets, &api.FlowBucket{Id: b.ID, Weight: uint32(b.Weight), Actions: toActions(b.Actions)})
	}
	return m
}

// ToMeter returns a meter as a message.
func ToMeter(m *flowtable.Meter) *api.FlowMeter {
	return &api.FlowMeter{Id: uint32(m.ID), Packets: m.Packets, Rate: m.Rate, Burst: m.Burst}
}

// ToOps returns the ops of a program as messages.
func ToOps(ops []flowtable.Op) []*api.FlowOp {
	var out []*api.FlowOp
	for i := range ops {
		o := &ops[i]
		out = append(out, &api.FlowOp{Code: uint32(o.Code), Word: uint32(o.Word), Arg: o.Arg, Value: o.Value, Mask: o.Mask})
	}
	return out
}
