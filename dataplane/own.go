package dataplane

import (
	"fmt"
	"slices"

	"millrace/flowtable"
)

// transact makes a transaction of the switch's own. The caller holds mu.
func (s *Switch) transact(do func(*author)) error {
	a := &author{s: s, x: s.engine.tables.Begin()}
	do(a)
	if a.err != nil {
		a.x.Abort()
		return fmt.Errorf("change rules of bridges: %w", a.err)
	}
	if _, err := a.x.Commit(false); err != nil {
		return fmt.Errorf("change rules of bridges: %w", err)
	}
	for _, f := range a.done {
		f()
	}
	return nil
}

// An author writes the switch's own rules and what belongs to them, in one
// transaction. After an error it does nothing more, and nothing takes effect; what
// control notes of the rules is noted by done, when they are in force.
type author struct {
	s    *Switch
	x    *flowtable.Txn
	err  error
	done []func()
}

// do notes an error, if it is the first.
func (a *author) do(err error) {
	if a.err == nil {
		a.err = err
	}
}

// write puts rules in the place of those whose ids are in have.
func (a *author) write(have *[]flowtable.RuleID, rules []flowtable.Rule) {
	if a.err != nil {
		return
	}
	for _, id := range *have {
		a.do(a.x.Remove(id))
	}
	ids := make([]flowtable.RuleID, len(rules))
	for i := range rules {
		a.s.lastRule++
		rules[i].ID = flowtable.RuleID(ownRuleID | a.s.lastRule)
		ids[i] = rules[i].ID
		if a.err == nil {
			a.do(a.x.Add(&rules[i]))
		}
	}
	a.done = append(a.done, func() { *have = ids })
}

// settle brings the tables to what bridge br is: its flood list and, if it
// learns, its rules.
func (a *author) settle(br *bridge) {
	if a.err != nil {
		return
	}
	ports := make([]uint32, len(br.ports))
	for i, p := range br.ports {
		ports[i] = p.number
	}
	a.do(a.x.SetFlood(br.floodID(), ports))
	a.setVLANs(br.floodVLANs(), br.settings.Flood)
	switch learns := br.settings.Pipeline != PipelineFlows; {
	case learns && br.rules == nil:
		a.write(&br.rules, learningRules(br))
	case !learns && br.rules != nil:
		a.write(&br.rules, nil)
		a.done = append(a.done, func() { br.rules = nil })
	}
}

// setVLANs gives a set of VLANs its members.
func (a *author) setVLANs(id flowtable.SetID, vlans []uint16) {
	members := make([]flowtable.Member, len(vlans))
	for i, v := range vlans {
		members[i] = flowtable.Member{Low: uint64(v), MaskLow: vidMask}
	}
	a.do(a.x.SetSet(flowtable.Set{ID: id, Width: 12, Exact: true}, members))
}

// enter brings the tables to what port p is: where its frames begin, and its
// rules if its bridge learns. A set of VLANs that it needs no more stays until it
// leaves.
func (a *author) enter(p *port) {
	if a.err != nil {
		return
	}
	br, v := p.bridge, newVLANPolicy(p.spec)
	var rules []flowtable.Rule
	if br.settings.Pipeline != PipelineFlows {
		trunk := flowtable.SetID(0)
		if !v.all && v.mode != VLANAccess {
			trunk = ownSet | flowtable.SetID(p.number)
			a.setVLANs(trunk, v.vlans())
			a.done = append(a.done, func() { p.trunk = true })
		}
		rules = portRules(br, p.number, &v, trunk, p.spec.Sources)
	}
	a.write(&p.rules, rules)
	a.begin(p)
}

// begin says where frames that come in by p begin.
func (a *author) begin(p *port) {
	e := flowtable.Entry{Port: p.number, Inport: p.number}
	var wired []flowtable.Rule
	switch o := a.s.ports[p.wire]; {
	case o != nil:
		e.Datapath = wires
		wired = []flowtable.Rule{wireRule(p.number, o.number)}
	case p.bridge.settings.Pipeline == PipelineFlows:
		e.Datapath = flowtable.DatapathOf(p.bridge.name)
	default:
		e.Datapath = p.bridge.datapath()
		e.Words = []flowtable.Masked{{Word: flowtable.WordReg2, Value: toldVLAN, Mask: toldVLAN}}
	}
	a.write(&p.wireRules, wired)
	a.do(a.x.SetEntry(&e))
}

// leave takes from the tables what port p has there.
func (a *author) leave(p *port) {
	if a.err != nil {
		return
	}
	a.write(&p.rules, nil)
	a.write(&p.wireRules, nil)
	a.do(a.x.RemoveEntry(p.number))
	if p.trunk {
		a.do(a.x.RemoveSet(ownSet | flowtable.SetID(p.number)))
	}
}

// end takes from the tables what bridge br has there but for its flood list,
// which clients' rules may name.
func (a *author) end(br *bridge) {
	if a.err != nil {
		return
	}
	a.write(&br.rules, nil)
	a.do(a.x.RemoveSet(br.floodVLANs()))
	a.do(a.x.SetFlood(br.floodID(), nil))
}

// newNumber is a number for a bridge: the lowest that none has. Those of bridges
// that went while clients' rules named their flood lists are not free until the
// rules are gone, nor are others until their connections are.
func (s *Switch) newNumber() uint32 {
	s.stuck = slices.DeleteFunc(s.stuck, s.freeFlood)
	used := make(map[uint32]bool, len(s.bridges))
	for _, n := range slices.Concat(s.stuck, s.engine.crossing.notForgotten()) {
		used[n] = true
	}
	for _, br := range s.bridges {
		used[br.number] = true
	}
	n := uint32(1)
	for used[n] {
		n++
	}
	return n
}

// freeFlood removes the flood list of a bridge that is gone, and reports whether
// it could.
func (s *Switch) freeFlood(number uint32) bool {
	x := s.engine.tables.Begin()
	if err := x.RemoveFlood(ownFlood | flowtable.FloodID(number)); err != nil {
		x.Abort()
		return false
	}
	_, err := x.Commit(false)
	return err == nil
}
