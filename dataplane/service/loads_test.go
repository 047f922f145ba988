package service

import (
	"errors"
	"math"
	"reflect"
	"testing"
	"time"

	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/dataplane/service/switchtest"
)

// TestLoads: what the switch says of workers and queues goes over the wire whole, and so
// does what is asked of it.
func TestLoads(t *testing.T) {
	before := dataplane.Loads{Span: 10 * time.Second, Workers: []dataplane.WorkerLoad{
		{CPU: 2, Load: .75, Queues: []dataplane.QueueLoad{{Port: "a", Queue: 1, Load: .5, Frames: 7, Cycles: 90}, {Port: "b", Load: .25}}},
		{CPU: 3},
	}}
	after := dataplane.Loads{Span: 10 * time.Second, Workers: []dataplane.WorkerLoad{
		{CPU: 2, Load: .5, Queues: before.Workers[0].Queues[:1]}, {CPU: 3, Load: .25, Queues: before.Workers[0].Queues[1:]},
	}}
	var asked dataplane.RebalanceRequest
	sw := &switchtest.Switch{LoadsNow: before, Dealt: func(r dataplane.RebalanceRequest) *dataplane.Rebalanced {
		asked = r
		return &dataplane.Rebalanced{Before: before, After: after, Moves: 1, Improvement: .9, Why: "this is a dry run"}
	}}
	dir := t.TempDir()
	serve(t, dir, sw, false)
	c := dial(t, dir)
	list, err := c.ListWorkers(testContext(t), &api.ListWorkersRequest{})
	if err != nil || list.GetSpanSeconds() != 10 || !reflect.DeepEqual(fromLoads(list.GetWorkers()), before.Workers) {
		t.Errorf("%v, %v", list, err)
	}
	r, err := c.Rebalance(testContext(t), &api.RebalanceRequest{DryRun: true, SpanSeconds: 2.5, WholeSpan: true, LoadLeast: .9, ImproveLeast: .2})
	if err != nil {
		t.Fatal(err)
	}
	want := dataplane.RebalanceRequest{DryRun: true, Span: 2500 * time.Millisecond, WholeSpan: true, Load: .9, Improvement: .2}
	if asked != want {
		t.Errorf("asked for %+v, want %+v", asked, want)
	}
	if !reflect.DeepEqual(fromLoads(r.GetBefore()), before.Workers) || !reflect.DeepEqual(fromLoads(r.GetAfter()), after.Workers) ||
		r.GetMoves() != 1 || r.GetImprovement() != .9 || r.GetDone() || r.GetReason() != "this is a dry run" {
		t.Errorf("%v", r)
	}
	for field, bad := range map[string]*api.RebalanceRequest{
		"span_seconds":  {SpanSeconds: 61},
		"load_least":    {LoadLeast: -.1},
		"improve_least": {ImproveLeast: math.NaN()},
	} {
		var e *api.Error
		if _, err := c.Rebalance(testContext(t), bad); !errors.As(err, &e) || e.Field != field {
			t.Errorf("%v: %v", bad, err)
		}
	}
	var e *api.Error
	if _, err := c.ListWorkers(testContext(t), &api.ListWorkersRequest{SpanSeconds: math.Inf(1)}); !errors.As(err, &e) || e.Field != "span_seconds" {
		t.Errorf("a span without end: %v", err)
	}
}

func fromLoads(list []*api.WorkerLoad) (out []dataplane.WorkerLoad) {
	for _, w := range list {
		o := dataplane.WorkerLoad{CPU: int(w.GetCpu()), Load: w.GetLoad()}
		for _, q := range w.GetQueues() {
			o.Queues = append(o.Queues, dataplane.QueueLoad{Port: q.GetPort(), Queue: int(q.GetQueue()), Load: q.GetLoad(), Frames: q.GetFrames(), Cycles: q.GetCyclesPerFrame()})
		}
		out = append(out, o)
	}
	return out
}
