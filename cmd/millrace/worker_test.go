package main

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"millrace/dataplane"
)

// loadsBefore are two queues on one of two workers.
func loadsBefore() dataplane.Loads {
	return dataplane.Loads{Span: 10 * time.Second, Workers: []dataplane.WorkerLoad{
		{CPU: 2, Load: .8, Queues: []dataplane.QueueLoad{
			{Port: "vm1", Load: .5, Frames: 5_000_000, Cycles: 300}, {Port: "vm1", Queue: 1}, {Port: "vm2", Load: .3, Frames: 1_000_000, Cycles: 900},
		}},
		{CPU: 3, Queues: []dataplane.QueueLoad{{Port: "vm2", Queue: 1}}},
	}}
}

// TestWorkerCommands: what is said of workers and queues, before and after they are
// dealt anew. UPDATE_GOLDEN=1 writes the files anew.
func TestWorkerCommands(t *testing.T) {
	sw, dir := serveFake(t)
	after := loadsBefore()
	from, to := &after.Workers[0], &after.Workers[1]
	to.Queues = append([]dataplane.QueueLoad{}, from.Queues[2], to.Queues[0])
	from.Queues = from.Queues[:2]
	from.Load, to.Load = .5, .3
	sw.LoadsNow = loadsBefore()
	var asked dataplane.RebalanceRequest
	sw.Dealt = func(r dataplane.RebalanceRequest) *dataplane.Rebalanced {
		asked = r
		p := &dataplane.Rebalanced{Before: loadsBefore(), After: after, Moves: 1, Improvement: .9375, Done: !r.DryRun}
		if r.DryRun {
			p.Why = "this is a dry run"
		}
		return p
	}
	for _, args := range []string{"worker show", "worker show --all", "worker show --json", "worker rebalance", "worker rebalance --dry-run --span 10s", "worker rebalance --json"} {
		t.Run(args, func(t *testing.T) {
			golden(t, args, must(t, dir, strings.Fields(args)...))
		})
	}
	must(t, dir, "worker", "rebalance", "--dry-run", "--span", "10s")
	if want := (dataplane.RebalanceRequest{DryRun: true, Span: 10 * time.Second}); asked != want {
		t.Errorf("asked for %+v, want %+v", asked, want)
	}
	for _, span := range []string{"0s", "61s", "-1s"} {
		if r := run(t, "--run-dir", dir, "worker", "show", "--span", span); r.code != exitUsage || !strings.Contains(r.err, "--span") {
			t.Errorf("--span %s: exit code %d, %s", span, r.code, r.err)
		}
	}
	for _, args := range []string{"worker", "worker show", "worker rebalance", "doctor"} {
		out := must(t, dir, append(strings.Fields(args), "--help")...)
		golden(t, args+" --help", regexp.MustCompile(`\(default "/[^"]*"\)`).ReplaceAllString(out, `(default "RUN-DIR")`))
	}
}
