package service

import (
	"errors"
	"fmt"

	"go.uber.org/zap"

	"millrace/dataplane/api"
	"millrace/dataplane/flowapi"
	"millrace/flowtable"
)

// How many refusals are told: in an answer, and in the trailer of an error.
const (
	refusalsMax      = 10000
	refusalsErrorMax = 1000
	refusalTextMax   = 300 // bytes of one
)

// Transact implements api.FlowsServer.
func (f *flows) Transact(stream api.Flows_TransactServer) error {
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		return &api.Error{Kind: api.ErrBusy, Text: fmt.Sprintf("transact: %d transactions are under way: try again", transactMax)}
	}
	sp, err := f.spare.take()
	if err != nil {
		return err
	}
	r, err := f.commit(stream, sp)
	if err := errors.Join(err, f.spare.give(sp)); err != nil {
		return err
	}
	return stream.SendAndClose(r)
}

// commit takes what the client sends, and makes it.
func (f *flows) commit(stream api.Flows_TransactServer, sp *spool) (*api.TransactResponse, error) {
	if err := sp.fill(stream); err != nil {
		return nil, err
	}
	if err := stream.Context().Err(); err != nil {
		return nil, err // nobody waits for it any more
	}
	r, err := transact(f.Switch, sp)
	if err != nil {
		return nil, err
	}
	f.Log.Debug("flow table changed", zap.Uint64("version", r.GetVersion()), zap.Uint32("added", r.GetAdded()), zap.Uint32("removed", r.GetRemoved()), zap.Uint32("refused", r.GetNRefused()))
	return r, nil
}

// A maker makes the changes of one transaction.
type maker struct {
	x      *flowtable.Txn
	sw     Switch
	fdbs   map[uint32]bool
	floods map[uint32]bool
	change uint32 // number of the next one
	answer api.TransactResponse
}

// newMaker begins a transaction.
func newMaker(sw Switch) *maker {
	m := &maker{sw: sw, fdbs: map[uint32]bool{}, floods: map[uint32]bool{}}
	for _, b := range sw.FlowBridges() {
		m.fdbs[b.FDB], m.floods[b.Flood] = true, true
	}
	m.x = sw.Tables().Begin()
	return m
}

// transact makes a transaction of what a client sent. It comes into force as a
// whole, or not at all.
func transact(sw Switch, sp *spool) (*api.TransactResponse, error) {
	m := newMaker(sw)
	open := true
	defer func() {
		if open {
			m.x.Abort() // also when a panic is under way: the lock must not stay
		}
	}()
	var d flowapi.Decoder
	err := sp.messages(func(b []byte) error {
		return d.Read(b, func(c *flowapi.Change) bool { m.make(c); return true })
	})
	if err != nil {
		return nil, api.Invalid("changes", fmt.Sprintf("changes: message with change %d: %v", m.change, err))
	}
	if m.answer.NRefused > 0 && !sp.partial {
		return nil, m.refusal()
	}
	open = false
	result, err := m.x.Commit(true)
	if err != nil {
		return nil, fmt.Errorf("transact: %w", err)
	}
	m.answer.Version, m.answer.Added, m.answer.Removed = result.Version, uint32(result.Added), uint32(result.Removed)
	return &m.answer, nil
}

// refusal is the error of a transaction that is refused as a whole.
func (m *maker) refusal() error {
	a := &m.answer
	text := fmt.Sprintf("transaction refused: %d of %d changes cannot be made, the first: %s", a.GetNRefused(), m.change, a.GetRefused()[0].GetError())
	a.Refused = a.GetRefused()[:min(len(a.GetRefused()), refusalsErrorMax)]
	return &api.Error{Kind: api.ErrRefused, Text: text, Refused: a}
}

// make makes a change, or notes why not.
func (m *maker) make(c *flowapi.Change) {
	if err := m.try(c); err != nil {
		m.refuse(c.RuleID(), err)
	}
	m.change++
}

// refuse notes that the change is refused.
func (m *maker) refuse(rule flowtable.RuleID, err error) {
	m.answer.NRefused++
	if len(m.answer.GetRefused()) == refusalsMax {
		return
	}
	text := err.Error()
	if len(text) > refusalTextMax {
		text = text[:refusalTextMax-3] + "..."
	}
	m.answer.Refused = append(m.answer.Refused, &api.Refusal{Change: m.change, Rule: uint64(rule), Error: text})
}

// try makes a change.
func (m *maker) try(c *flowapi.Change) error {
	if c.Err != nil {
		return m.about(c, c.Err)
	}
	if err := m.allowed(c); err != nil {
		return m.about(c, err)
	}
	switch c.Kind {
	case flowapi.AddRule:
		return m.x.Add(&c.Rule)
	case flowapi.ReplaceRule:
		return m.x.Replace(&c.Rule)
	case flowapi.RemoveRule:
		return m.x.Remove(flowtable.RuleID(c.ID))
	case flowapi.SetSet:
		return m.x.SetSet(c.Set, c.Members)
	case flowapi.AddMembers:
		return m.x.AddMembers(c.Set.ID, c.Members...)
	case flowapi.DelMembers:
		return m.x.DelMembers(c.Set.ID, c.Members...)
	case flowapi.RemoveSet:
		return m.x.RemoveSet(flowtable.SetID(c.ID))
	case flowapi.SetGroup:
		return m.x.SetGroup(c.Group, c.Datapaths)
	case flowapi.RemoveGroup:
		return m.x.RemoveGroup(flowtable.GroupID(c.ID))
	case flowapi.SetSelect:
		return m.x.SetSelect(&c.Select)
	case flowapi.RemoveSelect:
		return m.x.RemoveSelect(flowtable.SelectID(c.ID))
	case flowapi.SetMeter:
		return m.x.SetMeter(&c.Meter)
	case flowapi.RemoveMeter:
		return m.x.RemoveMeter(flowtable.MeterID(c.ID))
	}
	return fmt.Errorf("change of kind %d", c.Kind) // none: the decoder knows no other
}

// about says what an error is about.
func (m *maker) about(c *flowapi.Change, err error) error {
	switch c.Kind {
	case flowapi.AddRule, flowapi.ReplaceRule, flowapi.RemoveRule:
		return fmt.Errorf("rule %016x: %w", uint64(c.RuleID()), err)
	case flowapi.SetSet, flowapi.AddMembers, flowapi.DelMembers:
		return fmt.Errorf("set %d: %w", c.Set.ID, err)
	case flowapi.SetGroup:
		return fmt.Errorf("group %d: %w", c.Group, err)
	case flowapi.SetSelect:
		return fmt.Errorf("select %d: %w", c.Select.ID, err)
	}
	return err
}

// errOwn says that a client has no business with it.
var errOwn = errors.New("is the dataplane's own")

// allowed reports what of a change is not for clients to do.
func (m *maker) allowed(c *flowapi.Change) error {
	switch c.Kind {
	case flowapi.AddRule, flowapi.ReplaceRule:
		return m.rule(&c.Rule)
	case flowapi.RemoveRule:
		if b, ok := m.x.Brief(c.RuleID()); ok && m.sw.OwnRule(b) {
			return errOwn
		}
	case flowapi.SetGroup:
		return m.group(c)
	case flowapi.RemoveSet:
		if id := flowtable.SetID(c.ID); m.sw.OwnSet(id) {
			return fmt.Errorf("set %d %w", id, errOwn)
		}
	case flowapi.SetSet, flowapi.AddMembers, flowapi.DelMembers:
		if m.sw.OwnSet(c.Set.ID) {
			return errOwn
		}
		if c.Kind == flowapi.SetSet {
			return nil
		}
		if s, ok := m.x.Set(c.Set.ID); ok && s.Width != c.Set.Width {
			return fmt.Errorf("members of %d bits for a set of %d", c.Set.Width, s.Width)
		}
	case flowapi.SetSelect:
		for i := range c.Select.Buckets {
			if err := m.actions(c.Select.Buckets[i].Actions); err != nil {
				return fmt.Errorf("bucket %d: %w", c.Select.Buckets[i].ID, err)
			}
		}
	}
	return nil
}

// groupMax is how many datapaths a group can have.
const groupMax = 1 << 16

// group checks the members of a group.
func (m *maker) group(c *flowapi.Change) error {
	if n := len(c.Datapaths); n > groupMax {
		return fmt.Errorf("%d datapaths, of at most %d", n, groupMax)
	}
	for _, d := range c.Datapaths {
		if m.ownDatapath(d) {
			return fmt.Errorf("datapath %016x %w", d, errOwn)
		}
	}
	return nil
}

// ownDatapath reports whether only the dataplane has rules in a datapath.
func (m *maker) ownDatapath(d uint64) bool { return m.sw.OwnRule(flowtable.Brief{Datapath: d}) }

// rule checks where a rule would be, what is in its place, and its actions.
func (m *maker) rule(r *flowtable.Rule) error {
	if r.Group == 0 && m.ownDatapath(r.Datapath) {
		return fmt.Errorf("datapath %016x %w", r.Datapath, errOwn)
	}
	if r.Group != 0 && r.Datapath != 0 {
		return errors.New("both a datapath and a group")
	}
	if b, ok := m.x.Brief(r.ID); ok && m.sw.OwnRule(b) || m.sw.OwnID(r.ID) {
		return errOwn
	}
	for i := range r.Preds {
		if p := &r.Preds[i]; p.Kind <= flowtable.NotInSet && m.sw.OwnSet(p.Set) {
			return fmt.Errorf("predicate %d: set %d %w", i, p.Set, errOwn)
		}
	}
	return m.actions(r.Actions)
}

// actions checks where actions go.
func (m *maker) actions(acts []flowtable.Action) error {
	for i := range acts {
		a := &acts[i]
		switch a.Code {
		case flowtable.ActDatapath:
			if m.ownDatapath(a.Value) {
				return fmt.Errorf("action %d: datapath %016x %w", i, a.Value, errOwn)
			}
		case flowtable.ActFlood:
			if !m.floods[a.Arg] {
				return fmt.Errorf("action %d: no bridge has flood list %d", i, a.Arg)
			}
		case flowtable.ActGetFDB, flowtable.ActLookupFDB, flowtable.ActPutFDB, flowtable.ActAffinity, flowtable.ActStick:
			if !m.fdbs[a.Arg] {
				return fmt.Errorf("action %d: no bridge has forwarding database %d", i, a.Arg)
			}
		}
		if err := m.actions(a.Nested); err != nil {
			return err
		}
	}
	return nil
}
