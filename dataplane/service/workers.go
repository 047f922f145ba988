package service

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"go.uber.org/zap"

	"millrace/dataplane/api"
)

// cpuMax is the number of CPUs that a client can name.
const cpuMax = 1024

// onCPUs is the place of workers in words, as GetInfo shows it when they cannot
// be there.
func onCPUs(cpus []int) string {
	return "workers on CPUs " + strings.Trim(fmt.Sprint(cpus), "[]")
}

// SetWorkers implements api.DataplaneServer.
func (s *Server) SetWorkers(_ context.Context, req *api.SetWorkersRequest) (*api.SetWorkersResponse, error) {
	asked, err := workers(req.GetCpus())
	if err != nil {
		return nil, err
	}
	cpus := asked
	if len(cpus) == 0 {
		cpus = s.CPUs
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.Switch.SetWorkers(cpus); err != nil {
		return nil, err
	}
	s.settled(onCPUs(s.state.Workers))
	if !slices.Equal(s.state.Workers, asked) {
		s.state.Workers = asked
		s.save()
		s.Log.Info("workers changed", zap.Ints("cpus", cpus))
	}
	return &api.SetWorkersResponse{Workers: toUint32(cpus)}, nil
}

// workers checks a list of CPUs, and sorts it.
func workers(list []uint32) ([]int, error) {
	var c checker
	var cpus []int
	for _, n := range list {
		if n >= cpuMax {
			c.fail("cpus", "%d is not a CPU: they are 0..%d", n, cpuMax-1)
		}
		cpus = append(cpus, int(n))
	}
	slices.Sort(cpus)
	return slices.Compact(cpus), c.err
}
