package acceptance

import (
	"encoding/json"
	"os/exec"
	"testing"
	"time"

	"millrace/dataplane/api"
	"millrace/dataplane/sys"
	"millrace/waittest"
)

// TestQueuesMoveUnderTraffic deals receive queues anew, again and again, while two guests
// send to each other in many flows: pktgen finds no frame lost, duplicated, reordered or
// changed.
func TestQueuesMoveUnderTraffic(t *testing.T) {
	need(t)
	all, err := sys.AllowedCPUs()
	check(t, err)
	if len(all) < 2 {
		t.Skip("needs two CPUs")
	}
	s := runSwitch(t)
	s.add("a", listens, 0)
	s.add("b", listens, 0)
	generator := exec.Command(program, "--run-dir", s.dir, "pktgen", s.path("a"), s.path("b"),
		"--bidi", "--flows", "32", "--queues", "2", "--rate", "2000", "--ring", "1024", "--duration", "4s", "--no-ceiling", "--json")
	var out, errs waittest.Buffer
	generator.Stdout, generator.Stderr = &out, &errs
	done := make(chan struct{})
	check(t, startChild(generator, done))
	defer func() {
		_ = generator.Process.Kill()
		<-done
	}()
	s.awaitLink("a", api.Link_LINK_UP)
	s.awaitLink("b", api.Link_LINK_UP)
	places, moves := [][]uint32{{uint32(all[0]), uint32(all[1])}, {uint32(all[1])}, {uint32(all[1]), uint32(all[0])}, {uint32(all[0])}}, 0
	for i := 0; ; i++ {
		select {
		case <-done:
			s.onlyBusy(out.String(), errs.String())
			if i < 4 {
				t.Errorf("queues were dealt %d times only", i)
			}
			t.Logf("workers were set %d times, and %d queues moved besides", i, moves)
			return
		default:
		}
		_, err := s.api.SetWorkers(t.Context(), &api.SetWorkersRequest{Cpus: places[i%len(places)]})
		check(t, err)
		if i%len(places) == 0 && i > 0 { // two workers: a second passes until loads are known
			r, err := s.api.Rebalance(t.Context(), &api.RebalanceRequest{})
			check(t, err)
			moves += int(r.GetMoves())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// onlyBusy checks that a generator has lost no frames but those that found the output queue
// held by the other worker: one that has lost its CPU to the generator holds it for long.
func (s *switchRun) onlyBusy(result, errs string) {
	s.t.Helper()
	var r struct {
		Total struct{ Lost, Duplicated, Reordered, Corrupted int }
	}
	if err := json.Unmarshal([]byte(result), &r); err != nil {
		s.t.Fatalf("pktgen printed %s%s: %v", result, errs, err)
	}
	busy := 0
	stats, err := s.api.GetStats(s.t.Context(), &api.GetStatsRequest{})
	check(s.t, err)
	for _, p := range stats.GetPorts() {
		for _, d := range p.GetTxDrops() {
			if d.GetReason() == "tx_busy" {
				busy += int(d.GetFrames())
			}
		}
	}
	if r.Total.Lost != busy || r.Total.Duplicated+r.Total.Reordered+r.Total.Corrupted > 0 {
		s.t.Errorf("%+v, of which %d found the output busy: %s%s", r.Total, busy, errs, s.cli("drops"))
	}
}
