package service

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"

	"millrace/dataplane"
	"millrace/dataplane/api"
)

// answerWithin is how long workers may take for a snapshot before they count
// as stuck. They answer between two turns: microseconds, or a wake-up.
const answerWithin = time.Second

// A probe asks the workers whether they live. A stuck worker costs one waiting
// goroutine, however often it is asked.
type probe struct {
	snapshot func() dataplane.Snapshot

	mu      sync.Mutex
	pending chan struct{} // closes when the question that is out is answered
}

// alive reports whether the workers answer in time.
func (p *probe) alive(ctx context.Context) error {
	p.mu.Lock()
	if p.pending == nil {
		done := make(chan struct{})
		p.pending = done
		go func() {
			p.snapshot()
			p.mu.Lock()
			p.pending = nil
			p.mu.Unlock()
			close(done)
		}()
	}
	done := p.pending
	p.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-time.After(answerWithin):
		select {
		case <-done: // it is we who were late
			return nil
		default:
		}
		return fmt.Errorf("workers have not answered for %v", answerWithin)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Health implements api.DataplaneServer.
func (s *Server) Health(ctx context.Context, _ *api.HealthRequest) (*api.HealthResponse, error) {
	if err := s.health.alive(ctx); err != nil {
		return &api.HealthResponse{Reason: err.Error()}, nil
	}
	h := &api.HealthResponse{Serving: true}
	for _, p := range s.Switch.Ports() {
		h.Ports++
		switch p.State.Link {
		case dataplane.LinkUp:
			h.PortsUp++
		case dataplane.LinkBroken:
			h.PortsBroken++
		}
	}
	return h, nil
}

// standardHealth answers grpc.health.v1.Health in the same way.
type standardHealth struct {
	grpc_health_v1.UnimplementedHealthServer
	s *Server
}

// Check implements grpc_health_v1.HealthServer.
func (h standardHealth) Check(ctx context.Context, req *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	if n := req.GetService(); n != "" && n != api.Dataplane_ServiceDesc.ServiceName {
		return nil, &api.Error{Code: codes.NotFound, Text: fmt.Sprintf("health of %q: no such service", n)}
	}
	return &grpc_health_v1.HealthCheckResponse{Status: h.status(ctx)}, nil
}

func (h standardHealth) status(ctx context.Context) grpc_health_v1.HealthCheckResponse_ServingStatus {
	if h.s.health.alive(ctx) != nil {
		return grpc_health_v1.HealthCheckResponse_NOT_SERVING
	}
	return grpc_health_v1.HealthCheckResponse_SERVING
}

// watchHealthEvery is how often a watcher's answer is looked at anew.
const watchHealthEvery = 2 * time.Second

// Watch implements grpc_health_v1.HealthServer: it tells of every change.
func (h standardHealth) Watch(req *grpc_health_v1.HealthCheckRequest, stream grpc.ServerStreamingServer[grpc_health_v1.HealthCheckResponse]) error {
	t := time.NewTicker(watchHealthEvery)
	defer t.Stop()
	last := grpc_health_v1.HealthCheckResponse_UNKNOWN
	for {
		if now := h.statusOf(stream.Context(), req.GetService()); now != last {
			last = now
			if err := stream.Send(&grpc_health_v1.HealthCheckResponse{Status: now}); err != nil {
				return err
			}
		}
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-t.C:
		}
	}
}

// statusOf is status for a watcher, who is told of unknown services that way.
func (h standardHealth) statusOf(ctx context.Context, service string) grpc_health_v1.HealthCheckResponse_ServingStatus {
	if service != "" && service != api.Dataplane_ServiceDesc.ServiceName {
		return grpc_health_v1.HealthCheckResponse_SERVICE_UNKNOWN
	}
	return h.status(ctx)
}
