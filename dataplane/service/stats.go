package service

import (
	"context"
	"os"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	"millrace/dataplane/api"
	"millrace/dataplane/packet"
)

// GetInfo implements api.DataplaneServer.
func (s *Server) GetInfo(context.Context, *api.GetInfoRequest) (*api.GetInfoResponse, error) {
	s.mu.Lock()
	unrestored, asked := slices.Clone(s.unrestored), toUint32(s.state.Workers)
	s.mu.Unlock()
	return &api.GetInfoResponse{
		Version: s.Version, ApiMajor: api.Major, ApiMinor: api.Minor,
		Pid: uint32(os.Getpid()), RunDir: s.Dir.path, Started: timestamppb.New(s.started),
		Workers: toUint32(s.Switch.Workers()), WorkersAsked: asked, WorkersStart: toUint32(s.CPUs), PollMode: toPoll(s.Poll), PortTypes: s.Types, NoDevices: s.NoHost,
		Unrestored: unrestored,
	}, nil
}

// GetStats implements api.DataplaneServer.
func (s *Server) GetStats(context.Context, *api.GetStatsRequest) (*api.GetStatsResponse, error) {
	snap := s.Switch.Snapshot()
	stats := &api.GetStatsResponse{At: timestamppb.New(snap.At), Started: timestamppb.New(snap.Started), TscHz: snap.TSCHz}
	for i := range snap.Ports {
		stats.Ports = append(stats.Ports, toPortStats(&snap.Ports[i]))
	}
	for i := range snap.Workers {
		stats.Workers = append(stats.Workers, toWorkerStats(&snap.Workers[i]))
	}
	for r := packet.ReasonNone + 1; r < packet.ReasonCount; r++ {
		stats.Reasons = append(stats.Reasons, &api.Reason{Name: r.String(), Text: r.Text()})
	}
	return stats, nil
}
