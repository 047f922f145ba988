package service

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/dataplane/flowapi"
	"millrace/flowtable"
)

// flows is the service api.Flows of a server.
type flows struct {
	api.UnimplementedFlowsServer
	*Server
	slots   chan struct{} // transactions under way
	spare   spareSpools
	counted counted

	calls  sync.RWMutex // held by each call
	closed bool         // under calls
}

func newFlows(s *Server) *flows {
	var b [4]byte
	rand.Read(b[:]) // crypto/rand does not fail (Go 1.24)
	return &flows{Server: s, slots: make(chan struct{}, transactMax), spare: make(spareSpools, sparesMax), counted: counted{life: binary.LittleEndian.Uint32(b[:]) | 1}}
}

// enter begins a call, if it is one of Flows or Connections. What such calls look at
// is outside the Go heap, and stays until each of them has left.
func (f *flows) enter(method string) (leave func(), err error) {
	if !strings.HasPrefix(method, "/"+api.Flows_ServiceDesc.ServiceName+"/") && !strings.HasPrefix(method, "/"+api.Connections_ServiceDesc.ServiceName+"/") {
		return func() {}, nil
	}
	f.calls.RLock()
	if f.closed {
		f.calls.RUnlock()
		return nil, &api.Error{Kind: api.ErrClosing, Text: api.ErrClosing.Error()}
	}
	return f.calls.RUnlock, nil
}

// close waits for the calls that are under way, and lets no more in. The switch
// may be closed then.
func (f *flows) close() error {
	f.calls.Lock()
	defer f.calls.Unlock()
	f.closed = true
	return errors.Join(f.spare.close(), f.counted.close())
}

// GetFlowTable implements api.FlowsServer.
func (f *flows) GetFlowTable(context.Context, *api.GetFlowTableRequest) (*api.GetFlowTableResponse, error) {
	r := &api.GetFlowTableResponse{
		Fields: flowapi.ToLayout(), Version: f.Switch.Tables().Version(),
		TablesMax: flowtable.TablesMax, SubtablesMax: flowtable.SubtablesMax,
	}
	f.Switch.Tables().EachBrief(func(b flowtable.Brief) bool {
		if !f.Switch.OwnRule(b) {
			r.Rules++
		}
		return true
	})
	for _, b := range f.Switch.FlowBridges() {
		r.Bridges = append(r.Bridges, &api.FlowBridge{Name: b.Name, Datapath: b.Datapath, Fdb: b.FDB, Flood: b.Flood, Pipeline: toPipeline(b.Pipeline)})
	}
	own := f.Switch.OwnDatapaths()
	for _, d := range slices.Sorted(maps.Keys(own)) {
		r.Own = append(r.Own, &api.OwnDatapath{Datapath: d, Bridge: own[d]})
	}
	return r, nil
}

func toPipeline(p dataplane.Pipeline) api.Pipeline {
	switch p {
	case dataplane.PipelineFlows:
		return api.Pipeline_PIPELINE_FLOWS
	case dataplane.PipelineLearning, "":
		return api.Pipeline_PIPELINE_LEARNING
	}
	return api.Pipeline_PIPELINE_UNSPECIFIED
}

// pipeline checks which pipeline a client wants.
func (c *checker) pipeline(field string, p api.Pipeline) dataplane.Pipeline {
	switch p {
	case api.Pipeline_PIPELINE_FLOWS:
		return dataplane.PipelineFlows
	case api.Pipeline_PIPELINE_LEARNING, api.Pipeline_PIPELINE_UNSPECIFIED:
		return dataplane.PipelineLearning
	}
	c.fail(field, "%d is not a pipeline that this release knows", p)
	return ""
}

// rulesPerMessage and wordsPerMessage bound a message of rules: it is sent when
// it has as many rules, or as many words and actions.
const (
	rulesPerMessage = 256
	wordsPerMessage = 8192
)

// ListRules implements api.FlowsServer.
func (f *flows) ListRules(req *api.ListRulesRequest, stream api.Flows_ListRulesServer) error {
	rules := f.handles(req.GetDatapath(), req.GetBridges())
	if req.GetBrief() {
		return inPieces(rules, numbersPerMessage, func(part []ruleHandle) error {
			m := &api.ListRulesResponse{}
			for _, r := range part {
				m.Ids = append(m.Ids, r.id)
			}
			return stream.Send(m)
		})
	}
	var counts []dataplane.RuleCount
	if req.GetCounters() {
		counts = f.counts(rules)
	}
	l := ruleLister{stream: stream}
	for i, h := range rules {
		r, ok := f.Switch.Tables().Rule(flowtable.RuleID(h.id))
		if !ok {
			continue // it has gone meanwhile
		}
		m := &api.RuleStatus{Rule: flowapi.ToRule(&r.Rule)}
		if counts != nil && r.Handle == h.handle {
			m.Packets, m.Bytes = counts[i].Packets, counts[i].Bytes
		}
		if err := l.add(m, len(r.Match)+countActions(r.Actions)); err != nil {
			return err
		}
	}
	return l.flush()
}

// numbersPerMessage is how many numbers of a list go into one message.
const numbersPerMessage = 4096

// inPieces calls f with parts of a list.
func inPieces[T any](list []T, size int, f func(part []T) error) error {
	for len(list) > 0 {
		n := min(size, len(list))
		if err := f(list[:n]); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

// A ruleHandle is a rule and where it counts.
type ruleHandle struct {
	id     uint64
	handle uint32
}

// handles returns the rules of a datapath and of the groups that it is in, or all
// if it is zero; with those that the dataplane has made if own.
func (f *flows) handles(datapath uint64, own bool) []ruleHandle {
	t := f.Switch.Tables()
	groups := map[flowtable.GroupID]bool{}
	for _, g := range t.Groups() {
		if members, _ := t.Group(g); slices.Contains(members, datapath) {
			groups[g] = true
		}
	}
	out := make([]ruleHandle, 0, t.Rules())
	t.EachBrief(func(b flowtable.Brief) bool {
		here := datapath == 0 || b.Group == 0 && b.Datapath == datapath || groups[b.Group]
		if here && (own || !f.Switch.OwnRule(b)) {
			out = append(out, ruleHandle{uint64(b.ID), b.Handle})
		}
		return true
	})
	return out
}

// A ruleLister gathers rules into messages.
type ruleLister struct {
	stream api.Flows_ListRulesServer
	rules  []*api.RuleStatus
	words  int
}

// add takes a rule of so many words and actions, and sends what there is if it is
// enough for a message.
func (l *ruleLister) add(r *api.RuleStatus, words int) error {
	l.rules = append(l.rules, r)
	if l.words += words; len(l.rules) < rulesPerMessage && l.words < wordsPerMessage {
		return nil
	}
	return l.flush()
}

// countActions counts actions and what is nested in them.
func countActions(acts []flowtable.Action) int {
	n := len(acts)
	for i := range acts {
		n += countActions(acts[i].Nested)
	}
	return n
}

// flush sends what there is.
func (l *ruleLister) flush() error {
	if len(l.rules) == 0 {
		return nil
	}
	err := l.stream.Send(&api.ListRulesResponse{Rules: l.rules})
	l.rules, l.words = nil, 0
	return err
}
