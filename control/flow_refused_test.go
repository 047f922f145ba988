package control

import (
	"context"
	"io"
	"maps"
	"testing"

	"google.golang.org/grpc"

	"millrace/control/flows"
	"millrace/dataplane/api"
	"millrace/flowtable"
)

// fewTold is a dataplane that has rules 1 to 3 and refuses others, and names only
// one of them in its answer.
type fewTold struct {
	api.FlowsClient
	grpc.ClientStream
}

func (f fewTold) Transact(context.Context, ...grpc.CallOption) (api.Flows_TransactClient, error) {
	return toldStream{}, nil
}

func (f fewTold) ListRules(context.Context, *api.ListRulesRequest, ...grpc.CallOption) (api.Flows_ListRulesClient, error) {
	return &oneMessage[api.ListRulesResponse]{m: &api.ListRulesResponse{Ids: []uint64{1, 2, 3}}}, nil
}

func (f fewTold) ListObjects(context.Context, *api.ListObjectsRequest, ...grpc.CallOption) (api.Flows_ListObjectsClient, error) {
	return &oneMessage[api.ListObjectsResponse]{m: &api.ListObjectsResponse{}}, nil
}

// toldStream takes a transaction.
type toldStream struct{ api.Flows_TransactClient }

func (toldStream) SendMsg(any) error { return nil }

func (toldStream) CloseAndRecv() (*api.TransactResponse, error) {
	return &api.TransactResponse{NRefused: 3, Refused: []*api.Refusal{{Change: 4, Rule: 5, Error: "full"}}}, nil
}

// oneMessage is a stream of one message.
type oneMessage[M any] struct {
	grpc.ClientStream
	m *M
}

func (s *oneMessage[M]) Recv() (*M, error) {
	m := s.m
	s.m = nil
	if m == nil {
		return nil, io.EOF
	}
	return m, nil
}

// TestManyRefused: of more refusals than an answer names, each rule that is not there is
// one.
func TestManyRefused(t *testing.T) {
	s := &session{client: &api.Client{Flows: fewTold{}}}
	changes := []flows.Change{{Kind: flows.RemoveRule, Removed: 9}}
	for id := range flowtable.RuleID(6) {
		changes = append(changes, flows.Change{Kind: flows.AddRule, Rule: &flowtable.Rule{ID: id + 2}})
	}
	got, err := s.send(t.Context(), changes)
	const untold = "refused together with too many others for a reason of its own to be told"
	if want := (map[int]string{3: untold, 4: "full", 5: untold, 6: untold}); err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}
