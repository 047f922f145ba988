package dataplane

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// A RebalanceRequest says when receive queues shall be dealt anew.
type RebalanceRequest struct {
	DryRun      bool          // only say what would be
	Span        time.Duration // whose loads count; 0: LoadSpan. If less is known, that does
	WholeSpan   bool          // not if less than Span is known
	Load        float64       // only if a worker is at least so busy: 0 to 1
	Improvement float64       // only if the variance of loads falls by so much of itself: 0 to 1
}

// A Rebalanced is what came of a RebalanceRequest. The loads of After are those of
// Before, where the queues are or would be.
type Rebalanced struct {
	Before, After Loads
	Moves         int     // queues that are elsewhere in After
	Improvement   float64 // of the variance of workers' loads: 0 to 1
	Done          bool    // After is how it is now
	Why           string  // why it was not done, in words
}

// Rebalance deals the receive queues to the workers by what they have cost. A load
// over less than LoadLeast is waited for. No frame is lost, none comes twice, and the frames of
// a queue keep their order: a queue changes hands between two turns, when all that came
// by it before has been shown to its destination.
func (s *Switch) Rebalance(ctx context.Context, r RebalanceRequest) (*Rebalanced, error) {
	for {
		plan, wait, err := s.rebalance(r)
		if err != nil || wait <= 0 {
			return plan, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("rebalance: wait for loads of %v: %w", LoadLeast, ctx.Err())
		case <-time.After(wait):
		}
	}
}

// rebalance is one try, or says how long it is too early.
func (s *Switch) rebalance(r RebalanceRequest) (_ *Rebalanced, wait time.Duration, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, 0, ErrIsClosing
	}
	loads := s.measure(r.Span)
	if wait = LoadLeast - loads.Span; wait > 0 {
		return nil, wait, nil
	}
	plan, to := s.plan(loads)
	if plan.Why = plan.reason(r); plan.Why == "" {
		s.move(to)
		plan.Done = true
	}
	return plan, 0, nil
}

// plan deals queues by loads, and returns the workers, by place, of those that move.
func (s *Switch) plan(before Loads) (*Rebalanced, map[rxPlace]int) {
	var queues []billet
	for i := range before.Workers {
		for _, q := range before.Workers[i].Queues {
			queues = append(queues, billet{rxPlace{q.number, q.Queue}, i, q.Load})
		}
	}
	n := len(before.Workers)
	to, stay, moves := spread(queues, n), make([]int, len(queues)), map[rxPlace]int{}
	for i, q := range queues {
		if stay[i] = q.worker; to[i] != q.worker {
			moves[q.rxPlace] = to[i]
		}
	}
	was, is := loadsOf(queues, stay, n), loadsOf(queues, to, n)
	after := Loads{Span: before.Span, Workers: make([]WorkerLoad, n)}
	for i, w := range before.Workers {
		after.Workers[i] = WorkerLoad{CPU: w.CPU, Load: max(w.Load+is[i]-was[i], 0)}
	}
	k := 0
	for _, w := range before.Workers {
		for _, q := range w.Queues {
			o := &after.Workers[to[k]]
			o.Queues = append(o.Queues, q)
			k++
		}
	}
	for i := range after.Workers {
		after.Workers[i].sort()
	}
	return &Rebalanced{Before: before, After: after, Moves: len(moves), Improvement: improvement(was, is)}, moves
}

// reason says why a plan is not carried out, or is empty.
func (p *Rebalanced) reason(r RebalanceRequest) string {
	busiest := 0.0
	for _, w := range p.Before.Workers {
		busiest = max(busiest, w.Load)
	}
	switch {
	case len(p.Before.Workers) < 2:
		return "there is one worker only"
	case r.WholeSpan && p.Before.Span < r.span():
		return fmt.Sprintf("loads are known of the last %v only, not of %v", p.Before.Span.Round(time.Second), r.span())
	case busiest < r.Load:
		return fmt.Sprintf("the busiest worker has a load of %.0f %%, less than %.0f %%", 100*busiest, 100*r.Load)
	case p.Moves == 0 || p.Improvement <= 0:
		return "queues are as good as can be where they are"
	case p.Improvement < r.Improvement:
		return fmt.Sprintf("it would improve the spread by %.0f %%, less than %.0f %%", 100*p.Improvement, 100*r.Improvement)
	case r.DryRun:
		return "this is a dry run"
	}
	return ""
}

func (r *RebalanceRequest) span() time.Duration {
	if r.Span == 0 {
		return LoadSpan
	}
	return min(r.Span, LoadSpan)
}

// move gives receive queues to other workers, by place. The caller holds mu.
func (s *Switch) move(to map[rxPlace]int) {
	taken := make([][]*rxQueue, len(s.workers))
	for _, w := range s.workers {
		w.do(func() {
			for _, q := range w.yield(func(q *rxQueue) bool { _, ok := to[rxPlace{q.number, q.index}]; return ok }) {
				n := to[rxPlace{q.number, q.index}]
				taken[n] = append(taken[n], q)
			}
		})
	}
	for i, w := range s.workers {
		if len(taken[i]) > 0 {
			w.do(func() { w.take(taken[i]) })
		}
	}
	s.noteMoves(to)
	s.restartLoads()
}

// noteMoves notes which workers have the queues that moved, and tells of their ports.
func (s *Switch) noteMoves(to map[rxPlace]int) {
	for _, p := range s.byNumber() {
		moved := false
		for i := range p.dealt {
			n, ok := to[rxPlace{p.number, i}]
			if !ok {
				continue
			}
			if !moved { // others may have been given the old ones
				p.dealt, p.cpus, moved = slices.Clone(p.dealt), slices.Clone(p.cpus), true
			}
			p.dealt[i], p.cpus[i] = n, s.workers[n].cpu
		}
		if moved {
			s.watch.send(Event{EventChanged, s.info(p)})
		}
	}
}

// yield gives up the receive queues that leave, as their next worker is to have them.
// It runs on the worker.
func (w *worker) yield(leaves func(*rxQueue) bool) (gone []*rxQueue) {
	w.rx = slices.DeleteFunc(w.rx, func(q *rxQueue) bool {
		if !leaves(q) {
			return false
		}
		// A copy: this worker may still charge what fragments of the old one cost.
		gone = append(gone, &rxQueue{q: q.q, number: q.number, index: q.index})
		return true
	})
	if len(gone) > 0 {
		w.refresh()
	}
	return gone
}
