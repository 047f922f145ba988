package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"millrace/dataplane"
	"millrace/dataplane/api"
)

// AddPort implements api.DataplaneServer.
func (s *Server) AddPort(_ context.Context, req *api.AddPortRequest) (*api.AddPortResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	added := s.addPorts([]*api.PortSpec{req.GetSpec()})[0]
	if added.err != nil {
		return nil, added.err
	}
	s.save()
	return &api.AddPortResponse{Port: added.port}, nil
}

// portsMax is how many ports one call may name.
const portsMax = 1024

// AddPorts implements api.DataplaneServer.
func (s *Server) AddPorts(_ context.Context, req *api.AddPortsRequest) (*api.AddPortsResponse, error) {
	if n := len(req.GetSpecs()); n > portsMax {
		return nil, api.Invalid("specs", fmt.Sprintf("specs: %d ports are more than %d", n, portsMax))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var r api.AddPortsResponse
	for _, added := range s.addPorts(req.GetSpecs()) {
		if errors.Is(added.err, dataplane.ErrIsClosing) {
			return nil, added.err
		}
		result := &api.AddPortsResult{Port: added.port}
		if added.err != nil {
			result.Error = added.err.Error()
		}
		r.Results = append(r.Results, result)
	}
	s.save()
	return &r, nil
}

// An added is a port that is there, or why it is not.
type added struct {
	port *api.Port
	err  error
}

// addPorts adds ports and notes them. The caller holds mu, and saves.
func (s *Server) addPorts(list []*api.PortSpec) []added {
	results := make([]added, len(list))
	var specs []dataplane.PortSpec
	var place []int // of each of specs in list
	for i, p := range list {
		spec, err := s.spec(p)
		if err != nil {
			results[i].err = err
			continue
		}
		specs, place = append(specs, spec), append(place, i)
	}
	for k, a := range s.Switch.AddPorts(specs) {
		if a.Err != nil {
			results[place[k]].err = a.Err
			continue
		}
		port := toPort(a.Port)
		results[place[k]].port = port
		s.state.addPort(port.GetSpec())
		s.settled("port " + a.Port.Name)
		s.Log.Info("port added", zap.String("bridge", a.Port.Bridge), zap.String("port", a.Port.Name), zap.String("type", a.Port.Type))
	}
	return results
}

// SetPort implements api.DataplaneServer.
func (s *Server) SetPort(ctx context.Context, req *api.SetPortRequest) (*api.SetPortResponse, error) {
	spec, err := s.spec(req.GetSpec())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	info, err := s.Switch.SetPort(ctx, spec)
	if err != nil {
		return nil, err
	}
	port := toPort(info)
	s.state.addPort(port.GetSpec())
	s.save()
	s.Log.Info("port changed", zap.String("bridge", spec.Bridge), zap.String("port", spec.Name))
	return &api.SetPortResponse{Port: port}, nil
}

// DelPort implements api.DataplaneServer. A port that could not be restored is
// deleted by forgetting it.
func (s *Server) DelPort(ctx context.Context, req *api.DelPortRequest) (*api.DelPortResponse, error) {
	names := []string{req.GetName()}
	if err := s.delPorts(names)[0]; err != nil {
		return nil, err
	}
	s.awaitClosed(ctx, names)
	return &api.DelPortResponse{}, nil
}

// DelPorts implements api.DataplaneServer.
func (s *Server) DelPorts(ctx context.Context, req *api.DelPortsRequest) (*api.DelPortsResponse, error) {
	if n := len(req.GetNames()); n > portsMax {
		return nil, api.Invalid("names", fmt.Sprintf("names: %d ports are more than %d", n, portsMax))
	}
	s.delPorts(req.GetNames()) // what is not there is passed over
	s.awaitClosed(ctx, req.GetNames())
	return &api.DelPortsResponse{}, nil
}

// delPorts removes ports, forgets them, and says which of them there were not.
func (s *Server) delPorts(names []string) []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := s.Switch.DelPorts(names)
	for i, name := range names {
		if s.state.delPort(name) {
			errs[i] = nil
		}
		if errs[i] != nil {
			continue
		}
		delete(s.wiredAt, name)
		s.settled("port " + name)
		s.Log.Info("port deleted", zap.String("port", name))
	}
	s.save()
	return errs
}

// closeWithin is how long a call waits for sockets and memory of deleted ports.
// A peer can hold that up; the ports are deleted all the same, and others do
// not wait.
const closeWithin = time.Second

func (s *Server) awaitClosed(ctx context.Context, names []string) {
	ctx, cancel := context.WithTimeout(ctx, closeWithin)
	defer cancel()
	if err := s.Switch.Closed(ctx, names...); err != nil {
		s.Log.Warn("port deleted, but not cleanly", zap.Error(err))
	}
}

// ListPorts implements api.DataplaneServer.
func (s *Server) ListPorts(_ context.Context, req *api.ListPortsRequest) (*api.ListPortsResponse, error) {
	bridge, name := req.GetBridge(), req.GetName()
	var list api.ListPortsResponse
	for _, p := range s.Switch.Ports() {
		if (bridge == "" || p.Bridge == bridge) && (name == "" || p.Name == name) {
			list.Ports = append(list.Ports, toPort(p))
		}
	}
	switch {
	case len(list.Ports) > 0:
	case name != "":
		return nil, fmt.Errorf("%w: %s", dataplane.ErrNoPort, name)
	case bridge != "":
		return nil, fmt.Errorf("%w: %s", dataplane.ErrNoBridge, bridge)
	}
	return &list, nil
}

// WatchPorts implements api.DataplaneServer.
func (s *Server) WatchPorts(_ *api.WatchPortsRequest, stream api.Dataplane_WatchPortsServer) error {
	ctx := stream.Context()
	for e := range s.Switch.Watch(ctx) {
		if err := stream.Send(&api.WatchPortsResponse{Kind: toKind(e.Kind), Port: toPort(e.Port)}); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return &api.Error{Kind: api.ErrSlow, Text: "watch ports: the dataplane is ending, or this watcher is too slow: watch again"}
}

// ListBridges implements api.DataplaneServer.
func (s *Server) ListBridges(context.Context, *api.ListBridgesRequest) (*api.ListBridgesResponse, error) {
	var list api.ListBridgesResponse
	for _, b := range s.Switch.Bridges() {
		list.Bridges = append(list.Bridges, toBridge(b))
	}
	return &list, nil
}

// SetBridge implements api.DataplaneServer.
func (s *Server) SetBridge(_ context.Context, req *api.SetBridgeRequest) (*api.SetBridgeResponse, error) {
	set, err := bridgeSettings(req)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.Switch.SetBridge(req.GetName(), set.settings()); err != nil {
		return nil, err
	}
	s.state.setBridge(set)
	s.settled(set.String())
	s.save()
	s.Log.Info("bridge changed", zap.String("bridge", set.Name))
	return &api.SetBridgeResponse{}, nil
}

// SetWire implements api.DataplaneServer.
func (s *Server) SetWire(_ context.Context, req *api.SetWireRequest) (*api.SetWireResponse, error) {
	w := wire{req.GetIn(), req.GetOut()}
	var c checker
	c.name("in", w.In)
	c.name("out", w.Out)
	if w.In == w.Out {
		c.fail("out", "a port cannot be wired to itself")
	}
	if c.err != nil {
		return nil, c.err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := rxFrames(s.Switch.Snapshot(), w.In)
	if err := s.Switch.Wire(w.In, w.Out); err != nil {
		return nil, err
	}
	s.wiredAt[w.In] = before
	s.state.addWire(w)
	s.settled(w.String())
	s.save()
	s.Log.Info("port wired", zap.String("in", w.In), zap.String("out", w.Out))
	return &api.SetWireResponse{}, nil
}

// DelWire implements api.DataplaneServer.
func (s *Server) DelWire(_ context.Context, req *api.DelWireRequest) (*api.DelWireResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.Switch.Unwire(req.GetIn())
	if err != nil && !(notThere(err) && s.state.delWire(req.GetIn())) {
		return nil, err
	}
	delete(s.wiredAt, req.GetIn())
	s.state.delWire(req.GetIn())
	s.save()
	s.Log.Info("port unwired", zap.String("in", req.GetIn()))
	return &api.DelWireResponse{}, nil
}

// rxFrames is how many frames a port has received.
func rxFrames(snap dataplane.Snapshot, port string) uint64 {
	for i := range snap.Ports {
		if snap.Ports[i].Name == port {
			return snap.Ports[i].RxFrames
		}
	}
	return 0
}

// wires lists the wires into ports of the bridge, or all if it is empty.
func (s *Server) wires(bridge string) []*api.Wire {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*api.Wire
	var snap dataplane.Snapshot
	for _, p := range s.Switch.Ports() {
		if p.Wire == "" || bridge != "" && p.Bridge != bridge {
			continue
		}
		if snap.Ports == nil {
			snap = s.Switch.Snapshot()
		}
		list = append(list, &api.Wire{In: p.Name, Out: p.Wire, Hits: rxFrames(snap, p.Name) - s.wiredAt[p.Name]})
	}
	return list
}
