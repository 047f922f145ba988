package flowapi

import (
	"millrace/dataplane/api"
	"millrace/flowtable"
)

// FromRule undoes ToRule, but for the names of fields. The error says what
// cannot be, without naming the rule.
func FromRule(m *api.FlowRule) (flowtable.Rule, error) {
	var c checker
	r := flowtable.Rule{
		ID: flowtable.RuleID(m.GetId()), Table: c.byte("table", m.GetTable(), flowtable.TablesMax-1), Priority: c.short("priority", m.GetPriority()),
		Datapath: m.GetDatapath(), Group: flowtable.GroupID(m.GetGroup()), Cookie: m.GetCookie(),
	}
	for _, w := range m.GetMatch() {
		if c.room("words to match", len(r.Match), matchMax) {
			r.Match = append(r.Match, flowtable.Masked{Word: c.byte("match: word", w.GetWord(), flowtable.ContextWords-1), Value: w.GetValue(), Mask: w.GetMask()})
		}
	}
	for _, p := range m.GetPredicates() {
		if c.room("predicates", len(r.Preds), predsMax) {
			r.Preds = append(r.Preds, c.pred(p))
		}
	}
	r.Actions = c.list(m.GetActions(), 1)
	return r, c.err
}

func (c *checker) pred(m *api.FlowPredicate) flowtable.Pred {
	return flowtable.Pred{
		Kind: c.kind(uint32(m.GetKind())), Field: c.field("predicate", m.GetField()), Set: flowtable.SetID(m.GetSet()),
		Low: m.GetLow(), High: m.GetHigh(), LowLow: m.GetLowLow(), Mask: m.GetMask(), MaskLow: m.GetMaskLow(),
	}
}

func (c *checker) list(acts []*api.FlowAction, depth int) []flowtable.Action {
	var out []flowtable.Action
	for _, m := range acts {
		if !c.oneAction(depth) {
			return out
		}
		out = append(out, c.action(m, depth))
	}
	return out
}

func (c *checker) action(m *api.FlowAction, depth int) flowtable.Action {
	return flowtable.Action{
		Code: c.code(uint32(m.GetCode())), Table: c.byte("action: table", m.GetTable(), flowtable.TablesMax-1),
		Dst: c.field("action: destination", m.GetDst()), Src: c.field("action: source", m.GetSrc()), Src2: c.field("action: second source", m.GetSrc2()),
		Arg: m.GetArg(), Value: m.GetValue(), ValueLow: m.GetValueLow(), Nested: c.list(m.GetNested(), depth+1),
	}
}

// FromAction undoes ToAction, but for the names of fields.
func FromAction(m *api.FlowAction) (flowtable.Action, error) {
	var c checker
	c.oneAction(1)
	return c.action(m, 1), c.err
}

// FromSet undoes ToSet.
func FromSet(m *api.FlowSet) (flowtable.Set, []flowtable.Member, error) {
	var c checker
	s := flowtable.Set{ID: flowtable.SetID(m.GetId()), Width: c.byte("set: width", m.GetWidth(), 128), Exact: m.GetExact()}
	return s, c.members(nil, s.Width, m.GetMembers()), c.err
}

// FromSelect undoes ToSelect, but for the names of fields.
func FromSelect(m *api.FlowSelect) (flowtable.Select, error) {
	var c checker
	s := flowtable.Select{ID: flowtable.SelectID(m.GetId())}
	for _, v := range m.GetFields() {
		if c.room("fields", len(s.Fields), fieldsMax) {
			s.Fields = append(s.Fields, c.field("select", v))
		}
	}
	for _, b := range m.GetBuckets() {
		if c.room("buckets", len(s.Buckets), bucketsMax) {
			s.Buckets = append(s.Buckets, flowtable.Bucket{ID: b.GetId(), Weight: c.short("weight", b.GetWeight()), Actions: c.list(b.GetActions(), 1)})
		}
	}
	return s, c.err
}

// FromMeter undoes ToMeter.
func FromMeter(m *api.FlowMeter) flowtable.Meter {
	return flowtable.Meter{ID: flowtable.MeterID(m.GetId()), Packets: m.GetPackets(), Rate: m.GetRate(), Burst: m.GetBurst()}
}
