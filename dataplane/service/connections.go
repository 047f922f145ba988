package service

import (
	"context"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"millrace/dataplane/api"
	"millrace/dataplane/conntrack"
)

// connections is the service api.Connections of a server.
type connections struct {
	api.UnimplementedConnectionsServer
	*Server
}

// connectionsPerMessage keeps a message of connections below 64 kB.
const connectionsPerMessage = 256

// ListConnections implements api.ConnectionsServer.
func (s *connections) ListConnections(req *api.ListConnectionsRequest, stream api.Connections_ListConnectionsServer) error {
	l := newConnectionLister(stream, s.zoneNames(), req)
	if len(req.GetIds()) > 0 {
		list, err := s.named(req)
		if err != nil {
			return err
		}
		return l.all(slices.Values(list))
	}
	f, err := s.filter(req.GetFilter())
	if err != nil {
		return err
	}
	return l.all(s.Switch.SelectConnections(&f))
}

// named returns the connections that a request has the ids of.
func (s *connections) named(req *api.ListConnectionsRequest) ([]conntrack.Connection, error) {
	ids := req.GetIds()
	switch {
	case req.GetFilter() != nil:
		return nil, api.Invalid("filter", "filter: with ids, there is none")
	case len(ids) > numbersPerMessage:
		return nil, api.Invalid("ids", fmt.Sprintf("ids: %d are more than %d", len(ids), numbersPerMessage))
	}
	refs := make([]conntrack.Ref, len(ids))
	for i, id := range ids {
		refs[i] = conntrack.Ref(id)
	}
	return s.Switch.ConnectionsOf(refs), nil
}

// FlushConnections implements api.ConnectionsServer.
func (s *connections) FlushConnections(_ context.Context, req *api.FlushConnectionsRequest) (*api.FlushConnectionsResponse, error) {
	f, err := s.filter(req.GetFilter())
	switch {
	case err != nil:
		return nil, err
	case req.GetAll() && !f.IsZero():
		return nil, api.Invalid("all", "all: there is a filter too: leave one out")
	case !req.GetAll() && f.IsZero():
		return nil, api.Invalid("filter", "filter: it is empty: set all if all connections are meant")
	}
	n := s.Switch.FlushSelected(&f)
	s.Log.Info("connections flushed", zap.Int("connections", n), zap.Stringer("filter", req.GetFilter()))
	return &api.FlushConnectionsResponse{Flushed: uint64(n)}, nil
}

// GetConnectionStats implements api.ConnectionsServer.
func (s *connections) GetConnectionStats(context.Context, *api.GetConnectionStatsRequest) (*api.GetConnectionStatsResponse, error) {
	st := s.Switch.ConnectionStats()
	return &api.GetConnectionStatsResponse{
		Connections: uint64(st.Connections), Capacity: uint64(st.Capacity), Bytes: uint64(st.Bytes), DefaultLimit: s.Switch.ConnectionDefault(),
		Created: st.Created, Expired: st.Expired, Evicted: st.Evicted, Flushed: st.Flushed, Ended: st.Ended, Reopened: st.Reopened,
		Full: st.Full + st.Bucket, Limited: st.Limited, Clashes: st.Clash, NoPort: st.NoPort, Raced: st.Raced,
		Invalid: st.Invalid, Related: st.Related, Late: st.Late,
		Fragments: st.Fragments, FragmentsHeld: st.FragmentsHeld, FragmentsLost: st.FragmentsLost, FragmentsRefused: st.FragmentsRefused,
		FragmentsWaiting: waiting(&st),
	}, nil
}

// waiting is how many fragments wait. Counters are read one after the other, so
// some may have gone that have not come.
func waiting(st *conntrack.Stats) uint64 {
	gone := st.FragmentsReleased + st.FragmentsLost
	return st.FragmentsHeld - min(gone, st.FragmentsHeld)
}
