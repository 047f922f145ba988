package service

import (
	"millrace/dataplane/api"
	"millrace/dataplane/flowapi"
	"millrace/flowtable"
)

// ListObjects implements api.FlowsServer. A set or group that is too large for a
// message comes in several.
func (f *flows) ListObjects(_ *api.ListObjectsRequest, stream api.Flows_ListObjectsServer) error {
	for _, list := range []func(*flowtable.Tables, api.Flows_ListObjectsServer) error{f.listSets, listGroups, listSelects, listMeters} {
		if err := list(f.Switch.Tables(), stream); err != nil {
			return err
		}
	}
	return nil
}

// listSets lists sets of clients.
func (f *flows) listSets(t *flowtable.Tables, stream api.Flows_ListObjectsServer) error {
	m, n := &api.ListObjectsResponse{}, 0
	send := func() error {
		err := stream.Send(m)
		m, n = &api.ListObjectsResponse{}, 0
		return err
	}
	for _, declared := range t.Sets() {
		s, members, ok := t.Members(declared.ID)
		if !ok || f.Switch.OwnSet(s.ID) {
			continue
		}
		for first := true; first || len(members) > 0; first = false {
			part := members[:min(numbersPerMessage/2, len(members))]
			members = members[len(part):]
			m.Sets = append(m.Sets, flowapi.ToSet(s, part))
			if n += 4 + len(part); n < numbersPerMessage/2 {
				continue
			}
			if err := send(); err != nil {
				return err
			}
		}
	}
	return sendObjects(m, stream)
}

// sendObjects sends a message that is not empty.
func sendObjects(m *api.ListObjectsResponse, stream api.Flows_ListObjectsServer) error {
	if len(m.GetSets())+len(m.GetGroups())+len(m.GetSelects())+len(m.GetMeters()) == 0 {
		return nil
	}
	return stream.Send(m)
}

func listGroups(t *flowtable.Tables, stream api.Flows_ListObjectsServer) error {
	for _, id := range t.Groups() {
		members, ok := t.Group(id)
		if !ok {
			continue
		}
		for first := true; first || len(members) > 0; first = false {
			part := members[:min(numbersPerMessage, len(members))]
			members = members[len(part):]
			if err := stream.Send(&api.ListObjectsResponse{Groups: []*api.FlowGroup{flowapi.ToGroup(id, part)}}); err != nil {
				return err
			}
		}
	}
	return nil
}

func listSelects(t *flowtable.Tables, stream api.Flows_ListObjectsServer) error {
	for _, id := range t.Selects() {
		s, ok := t.Select(id)
		if !ok {
			continue
		}
		if err := stream.Send(&api.ListObjectsResponse{Selects: []*api.FlowSelect{flowapi.ToSelect(&s)}}); err != nil {
			return err
		}
	}
	return nil
}

func listMeters(t *flowtable.Tables, stream api.Flows_ListObjectsServer) error {
	return inPieces(t.Meters(), numbersPerMessage/8, func(ids []flowtable.MeterID) error {
		m := &api.ListObjectsResponse{}
		for _, id := range ids {
			if meter, ok := t.Meter(id); ok {
				m.Meters = append(m.Meters, flowapi.ToMeter(&meter))
			}
		}
		return sendObjects(m, stream)
	})
}
