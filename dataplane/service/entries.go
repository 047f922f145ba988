package service

import (
	"context"
	"slices"

	"go.uber.org/zap"

	"millrace/dataplane"
	"millrace/dataplane/api"
)

// entriesPerMessage keeps a message of entries well below the 4 MB that gRPC
// takes.
const entriesPerMessage = 512

// ListEntries implements api.DataplaneServer.
func (s *Server) ListEntries(req *api.ListEntriesRequest, stream api.Dataplane_ListEntriesServer) error {
	entries, err := s.Switch.MACs(req.GetBridge())
	if err != nil {
		return err
	}
	for part := range slices.Chunk(entries, entriesPerMessage) {
		var m api.ListEntriesResponse
		for _, e := range part {
			m.Entries = append(m.Entries, toEntry(e))
		}
		if err := stream.Send(&m); err != nil {
			return err
		}
	}
	return stream.Send(&api.ListEntriesResponse{Wires: s.wires(req.GetBridge())})
}

// AddEntry implements api.DataplaneServer.
func (s *Server) AddEntry(ctx context.Context, req *api.AddEntryRequest) (*api.AddEntryResponse, error) {
	m, err := entry(req.GetEntry())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.Switch.AddMAC(ctx, m); err != nil {
		return nil, err
	}
	e := toStatic(m)
	s.state.addEntry(e)
	s.settled(e.String())
	s.save()
	s.Log.Info("static entry added", zap.String("bridge", e.Bridge), zap.String("mac", e.MAC), zap.String("port", e.Port))
	return &api.AddEntryResponse{}, nil
}

// DelEntry implements api.DataplaneServer.
func (s *Server) DelEntry(ctx context.Context, req *api.DelEntryRequest) (*api.DelEntryResponse, error) {
	var c checker
	c.name("bridge", req.GetBridge())
	m := dataplane.MACEntry{Bridge: req.GetBridge(), VLAN: c.vlan("vlan", req.GetVlan()), MAC: c.mac("mac", req.GetMac())}
	if c.err != nil {
		return nil, c.err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := toStatic(m)
	if err := s.Switch.DelMAC(ctx, m); err != nil && !(notThere(err) && s.state.delEntry(e)) {
		return nil, err
	}
	s.state.delEntry(e)
	s.save()
	s.Log.Info("entry deleted", zap.String("bridge", e.Bridge), zap.String("mac", e.MAC))
	return &api.DelEntryResponse{}, nil
}

// FlushEntries implements api.DataplaneServer.
func (s *Server) FlushEntries(_ context.Context, req *api.FlushEntriesRequest) (*api.FlushEntriesResponse, error) {
	bridges, port := []string{req.GetBridge()}, req.GetPort()
	switch {
	case port != "":
		p, err := s.Switch.Port(port)
		if err != nil {
			return nil, err
		}
		if bridges[0] == "" {
			bridges[0] = p.Bridge
		}
	case bridges[0] == "":
		bridges = nil
		for _, b := range s.Switch.Bridges() {
			bridges = append(bridges, b.Name)
		}
	}
	for _, b := range bridges {
		if err := s.Switch.FlushMACs(b, port); err != nil {
			return nil, err
		}
	}
	return &api.FlushEntriesResponse{}, nil
}
