package control

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"millrace/dataplane/api"
)

// retryDial is how often a dataplane that is not there is tried.
const retryDial = 50 * time.Millisecond

// callTimeout is how long the dataplane may take for one call.
const callTimeout = 10 * time.Second

// A session is a connection to one life of a dataplane.
type session struct {
	client  *api.Client
	ports   []*api.Port // as the session began
	bridges []*api.Bridge

	ready  chan struct{} // has room for one: take has something
	done   chan struct{} // closed when the session has ended
	mu     sync.Mutex
	events []*api.WatchPortsResponse
}

// sessions gives out one session after the other until ctx ends. A dataplane
// that is there and has no session with us is told of once.
func sessions(ctx context.Context, runDir string, log *zap.Logger, out chan<- *session) {
	said := ""
	for ctx.Err() == nil {
		s, err := begin(ctx, runDir, callTimeout)
		if err != nil {
			if text := err.Error(); text != said && !errors.Is(err, api.ErrNotRunning) && ctx.Err() == nil {
				log.Warn("no session with the dataplane: trying again", zap.Error(err))
				said = text
			}
			select {
			case <-ctx.Done():
			case <-time.After(retryDial):
			}
			continue
		}
		said = ""
		select {
		case out <- s:
			<-s.done
		case <-ctx.Done():
		}
		_ = s.client.Close() // the session has ended
	}
}

// begin connects, watches ports, and lists what there is, all of it within a limit.
func begin(ctx context.Context, runDir string, limit time.Duration) (*session, error) {
	first, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c, err := api.Dial(first, runDir)
	if err != nil {
		return nil, err
	}
	s := &session{client: c, ready: make(chan struct{}, 1), done: make(chan struct{})}
	if err := s.open(ctx, first); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return s, nil
}

// open watches ports, for as long as ctx, and lists what there is, for as long as first. It watches
// before it lists: no change falls between the two.
func (s *session) open(ctx, first context.Context) error {
	stream, err := s.client.WatchPorts(ctx, &api.WatchPortsRequest{})
	if err != nil {
		return err
	}
	ports, err := s.client.ListPorts(first, &api.ListPortsRequest{})
	if err != nil {
		return err
	}
	bridges, err := s.client.ListBridges(first, &api.ListBridgesRequest{})
	if err != nil {
		return err
	}
	s.ports, s.bridges = ports.GetPorts(), bridges.GetBridges()
	go s.watch(stream)
	return nil
}

// watch keeps what the stream says until it ends: the dataplane is gone, or
// control ends.
func (s *session) watch(stream api.Dataplane_WatchPortsClient) {
	defer close(s.done)
	for {
		e, err := stream.Recv()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.events = append(s.events, e)
		s.mu.Unlock()
		select {
		case s.ready <- struct{}{}:
		default:
		}
	}
}

// take returns the events since the last call.
func (s *session) take() []*api.WatchPortsResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.events
	s.events = nil
	return e
}

// over reports whether err says that the dataplane could not be asked: that is
// about the session, not about what was asked.
func over(err error) bool {
	if err == nil {
		return false
	}
	var e *api.Error
	if !errors.As(err, &e) {
		return true
	}
	if e.Kind != nil {
		return errors.Is(e, api.ErrClosing)
	}
	switch e.Code {
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded:
		return true
	}
	return false
}
