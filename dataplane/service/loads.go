package service

import (
	"context"
	"time"

	"millrace/dataplane"
	"millrace/dataplane/api"
)

// ListWorkers implements api.DataplaneServer.
func (s *Server) ListWorkers(_ context.Context, req *api.ListWorkersRequest) (*api.ListWorkersResponse, error) {
	var c checker
	span := c.loadSpan(req.GetSpanSeconds())
	if c.err != nil {
		return nil, c.err
	}
	l := s.Switch.Loads(span)
	return &api.ListWorkersResponse{SpanSeconds: l.Span.Seconds(), Workers: toLoads(l)}, nil
}

// Rebalance implements api.DataplaneServer.
func (s *Server) Rebalance(ctx context.Context, req *api.RebalanceRequest) (*api.RebalanceResponse, error) {
	var c checker
	r := dataplane.RebalanceRequest{
		DryRun: req.GetDryRun(), Span: c.loadSpan(req.GetSpanSeconds()), WholeSpan: req.GetWholeSpan(),
		Load: c.part("load_least", req.GetLoadLeast()), Improvement: c.part("improve_least", req.GetImproveLeast()),
	}
	if c.err != nil {
		return nil, c.err
	}
	p, err := s.Switch.Rebalance(ctx, r)
	if err != nil {
		return nil, err
	}
	return &api.RebalanceResponse{
		SpanSeconds: p.Before.Span.Seconds(), Before: toLoads(p.Before), After: toLoads(p.After),
		Moves: uint32(p.Moves), Improvement: p.Improvement, Done: p.Done, Reason: p.Why,
	}, nil
}

// loadSpan checks a span of loads in seconds.
func (c *checker) loadSpan(seconds float64) time.Duration {
	if !(seconds >= 0 && seconds <= dataplane.LoadSpan.Seconds()) {
		c.fail("span_seconds", "%v is not a number from 0 to %v", seconds, dataplane.LoadSpan.Seconds())
		return 0
	}
	return time.Duration(seconds * float64(time.Second))
}

// part checks a part of one.
func (c *checker) part(field string, x float64) float64 {
	if !(x >= 0 && x <= 1) {
		c.fail(field, "%v is not a number from 0 to 1", x)
	}
	return x
}

func toLoads(l dataplane.Loads) []*api.WorkerLoad {
	out := make([]*api.WorkerLoad, len(l.Workers))
	for i, w := range l.Workers {
		out[i] = &api.WorkerLoad{Cpu: uint32(w.CPU), Load: w.Load}
		for _, q := range w.Queues {
			out[i].Queues = append(out[i].Queues, &api.QueueLoad{Port: q.Port, Queue: uint32(q.Queue), Load: q.Load, Frames: q.Frames, CyclesPerFrame: q.Cycles})
		}
	}
	return out
}
