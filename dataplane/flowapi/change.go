package flowapi

import (
	"millrace/dataplane/api"
	"millrace/flowtable"
)

// A Kind is what a Change does: the number of its field in api.FlowChange.
type Kind uint8

// The kinds of changes.
const (
	AddRule Kind = iota + 1
	ReplaceRule
	RemoveRule
	SetSet
	AddMembers
	DelMembers
	RemoveSet
	SetGroup
	RemoveGroup
	SetSelect
	RemoveSelect
	SetMeter
	RemoveMeter
)

// A Change is an api.FlowChange in the words of flowtable. What it has depends
// on Kind; other fields are left over from earlier changes.
type Change struct {
	Kind Kind
	// Err says what cannot be about the change. It is to be refused then. ID
	// and Rule.ID hold all the same.
	Err error

	Rule flowtable.Rule // to add, or to replace
	ID   uint64         // of what is removed

	Set     flowtable.Set
	Members []flowtable.Member

	Group     flowtable.GroupID
	Datapaths []uint64

	Select flowtable.Select
	Meter  flowtable.Meter
}

// RuleID is the id of the rule that the change is about, or 0.
func (c *Change) RuleID() flowtable.RuleID {
	switch c.Kind {
	case AddRule, ReplaceRule:
		return c.Rule.ID
	case RemoveRule:
		return flowtable.RuleID(c.ID)
	}
	return 0
}

// FromChange returns a message as a change.
func FromChange(m *api.FlowChange) Change {
	var c Change
	switch v := m.GetChange().(type) {
	case *api.FlowChange_Add:
		c.Kind = AddRule
		c.Rule, c.Err = FromRule(v.Add)
	case *api.FlowChange_Replace:
		c.Kind = ReplaceRule
		c.Rule, c.Err = FromRule(v.Replace)
	case *api.FlowChange_Remove:
		c.Kind, c.ID = RemoveRule, v.Remove
	case *api.FlowChange_Set:
		c.Kind = SetSet
		c.Set, c.Members, c.Err = FromSet(v.Set)
	case *api.FlowChange_AddMembers:
		c.Kind = AddMembers
		c.Set, c.Members, c.Err = FromSet(v.AddMembers)
	case *api.FlowChange_DelMembers:
		c.Kind = DelMembers
		c.Set, c.Members, c.Err = FromSet(v.DelMembers)
	case *api.FlowChange_RemoveSet:
		c.Kind, c.ID = RemoveSet, uint64(v.RemoveSet)
	case *api.FlowChange_Group:
		c.Kind, c.Group, c.Datapaths = SetGroup, flowtable.GroupID(v.Group.GetId()), v.Group.GetDatapaths()
	case *api.FlowChange_RemoveGroup:
		c.Kind, c.ID = RemoveGroup, uint64(v.RemoveGroup)
	case *api.FlowChange_Select:
		c.Kind = SetSelect
		c.Select, c.Err = FromSelect(v.Select)
	case *api.FlowChange_RemoveSelect:
		c.Kind, c.ID = RemoveSelect, uint64(v.RemoveSelect)
	case *api.FlowChange_Meter:
		c.Kind, c.Meter = SetMeter, FromMeter(v.Meter)
	case *api.FlowChange_RemoveMeter:
		c.Kind, c.ID = RemoveMeter, uint64(v.RemoveMeter)
	default:
		c.Err = errNoChange
	}
	return c
}
