package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"millrace/control/flows"
	"millrace/dataplane/api"
	"millrace/dataplane/flowapi"
	"millrace/flowtable"
)

// flowTimeout is how long the dataplane may take to list its flow table, or for
// one transaction of it, which may have a million rules.
const flowTimeout = time.Minute

// flowChange is a change as the dataplane is asked for it.
func flowChange(c *flows.Change) *api.FlowChange {
	m := &api.FlowChange{}
	switch c.Kind {
	case flows.AddRule:
		m.Change = &api.FlowChange_Add{Add: flowapi.ToRule(c.Rule)}
	case flows.RemoveRule:
		m.Change = &api.FlowChange_Remove{Remove: uint64(c.Removed)}
	case flows.SetSet:
		m.Change = &api.FlowChange_Set{Set: flowapi.ToSet(c.Set, c.Members)}
	case flows.AddMembers:
		m.Change = &api.FlowChange_AddMembers{AddMembers: flowapi.ToSet(c.Set, c.Members)}
	case flows.DelMembers:
		m.Change = &api.FlowChange_DelMembers{DelMembers: flowapi.ToSet(c.Set, c.Members)}
	case flows.RemoveSet:
		m.Change = &api.FlowChange_RemoveSet{RemoveSet: c.ID}
	case flows.SetSelect:
		m.Change = &api.FlowChange_Select{Select: flowapi.ToSelect(&c.Select)}
	case flows.RemoveSelect:
		m.Change = &api.FlowChange_RemoveSelect{RemoveSelect: c.ID}
	case flows.SetMeter:
		m.Change = &api.FlowChange_Meter{Meter: flowapi.ToMeter(&c.Meter)}
	case flows.RemoveMeter:
		m.Change = &api.FlowChange_RemoveMeter{RemoveMeter: c.ID}
	}
	return m
}

// send makes one transaction of changes. It returns what was refused, by place.
func (s *session) send(ctx context.Context, changes []flows.Change) (map[int]string, error) {
	one, cancel := context.WithTimeout(ctx, flowTimeout)
	defer cancel()
	r, err := s.transact(one, changes)
	if err != nil {
		return nil, err
	}
	refused := make(map[int]string, len(r.GetRefused()))
	for _, x := range r.GetRefused() {
		refused[int(x.GetChange())] = x.GetError()
	}
	if len(refused) < int(r.GetNRefused()) {
		err = s.addUntold(ctx, changes, refused)
	}
	return refused, err
}

// addUntold adds the rules that were refused, where they are too many for the answer
// to name them all: those that are not there.
func (s *session) addUntold(ctx context.Context, changes []flows.Change, refused map[int]string) error {
	have, err := s.flowHave(ctx)
	if err != nil {
		return err
	}
	there := make(map[flowtable.RuleID]bool, len(have.Rules))
	for _, id := range have.Rules {
		there[id] = true
	}
	for i := range changes {
		if c := &changes[i]; c.Kind == flows.AddRule && refused[i] == "" && !there[c.Rule.ID] {
			refused[i] = "refused together with too many others for a reason of its own to be told"
		}
	}
	return nil
}

// flowBridges asks for the bridges as the flow table knows them.
func (s *session) flowBridges(ctx context.Context) ([]*api.FlowBridge, error) {
	one, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := s.client.Flows.GetFlowTable(one, &api.GetFlowTableRequest{})
	if err != nil {
		return nil, api.FromStatus(err)
	}
	if err := flowapi.CheckLayout(r.GetFields()); err != nil {
		return nil, err
	}
	return r.GetBridges(), nil
}

// flowHave lists what the dataplane has of clients.
func (s *session) flowHave(ctx context.Context) (flows.Have, error) {
	var h flows.Have
	one, cancel := context.WithTimeout(ctx, flowTimeout)
	defer cancel()
	rules, err := s.client.Flows.ListRules(one, &api.ListRulesRequest{Brief: true})
	if err != nil {
		return h, api.FromStatus(err)
	}
	err = each(rules.Recv, func(r *api.ListRulesResponse) error {
		for _, id := range r.GetIds() {
			h.Rules = append(h.Rules, flowtable.RuleID(id))
		}
		return nil
	})
	if err != nil {
		return h, err
	}
	objects, err := s.client.Flows.ListObjects(one, &api.ListObjectsRequest{})
	if err != nil {
		return h, api.FromStatus(err)
	}
	return h, each(objects.Recv, func(r *api.ListObjectsResponse) error { return addObjects(&h, r) })
}

// addObjects adds objects that the dataplane has.
func addObjects(h *flows.Have, r *api.ListObjectsResponse) error {
	for _, m := range r.GetSets() {
		s, members, err := flowapi.FromSet(m)
		if err != nil {
			return fmt.Errorf("set %d of the dataplane: %w", m.GetId(), err)
		}
		h.Sets = append(h.Sets, flows.HaveSet{Set: s, Members: members})
	}
	for _, m := range r.GetSelects() {
		s, err := flowapi.FromSelect(m)
		if err != nil {
			return fmt.Errorf("select group %d of the dataplane: %w", m.GetId(), err)
		}
		h.Selects = append(h.Selects, s)
	}
	for _, m := range r.GetMeters() {
		h.Meters = append(h.Meters, flowapi.FromMeter(m))
	}
	return nil
}

// flowCounters calls f with the counters of rules that have counted since a
// cursor, and returns the next cursor.
func (s *session) flowCounters(ctx context.Context, since uint64, f func(id flowtable.RuleID, packets, bytes uint64)) (uint64, error) {
	one, cancel := context.WithTimeout(ctx, flowTimeout)
	defer cancel()
	stream, err := s.client.Flows.ListCounters(one, &api.ListCountersRequest{Since: since})
	if err != nil {
		return since, api.FromStatus(err)
	}
	err = each(stream.Recv, func(r *api.ListCountersResponse) error {
		if len(r.GetPackets()) != len(r.GetRules()) || len(r.GetBytes()) != len(r.GetRules()) {
			return errors.New("counters of the dataplane: lists of different lengths")
		}
		for i, id := range r.GetRules() {
			f(flowtable.RuleID(id), r.GetPackets()[i], r.GetBytes()[i])
		}
		if c := r.GetCursor(); c != 0 {
			since = c
		}
		return nil
	})
	return since, err
}

// each calls f with all messages of a stream.
func each[M any](recv func() (M, error), f func(M) error) error {
	for {
		m, err := recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return api.FromStatus(err)
		}
		if err := f(m); err != nil {
			return err
		}
	}
}
