package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// changesPerSecond is the rate of changes in change-many.
const changesPerSecond = 1000

// churnRounds is how often a turn of change-many compares peace with changes: the machine's
// speed changes within seconds, by more than what is looked for.
const churnRounds = 5

// turnChurn floods the switch, by turns in peace and while rules change that
// no frame needs. What changes them takes time from the generator, and frames then come
// in other bursts, which cost more; so in peace the same changes are made to another
// switch that has nothing to do, if the side has one. What this one could do shows in the
// cycles that a frame takes. Figures are medians.
func turnChurn(ctx context.Context, s settings, c scenario, who side, n int) (sample, error) {
	ways, err := who.changers(ctx)
	if err != nil {
		return sample{}, err
	}
	defer closeAll(ways)
	undo, err := huddle(s.genCPU)
	if err != nil {
		return sample{}, err
	}
	defer undo()
	var elsewhere changer
	if o, ok := who.(*ours); ok {
		d, err := startDecoy(ctx, s, c, o.dir)
		if err != nil {
			return sample{}, err
		}
		defer d.close()
		elsewhere = d
	}
	s.Seconds /= 3
	var rounds []sample
	for range churnRounds {
		base, _, err := churned(ctx, s, c, who, elsewhere, n)
		if err != nil {
			return base, err
		}
		a, perSecond, err := churned(ctx, s, c, who, ways[0], n)
		if err != nil {
			return a, err
		}
		rounds = append(rounds, sample{Values: map[string]float64{
			keyBase: base.Mpps, "churned": a.Mpps, "changes": perSecond, "base_cycles": base.Cycles, "churned_cycles": a.Cycles, keyKept: over(base.Cycles, a.Cycles),
		}})
	}
	a := sample{Values: medians(rounds, c.metrics)}
	a.Mpps, a.Cycles = a.Values["churned"], a.Values["churned_cycles"]
	return a, nil
}

// A decoy is another switch, whose ports nobody connects to. All of it is on the
// generator's CPU.
type decoy struct {
	changer
	other side
}

// startDecoy starts one, in a directory of its own in dir.
func startDecoy(ctx context.Context, s settings, c scenario, dir string) (*decoy, error) {
	s.swCPU, c.poll = s.genCPU, "adaptive"
	dir, err := os.MkdirTemp(dir, "decoy") // each turn's has a database of its own
	if err != nil {
		return nil, fmt.Errorf("make a directory for another switch: %w", err)
	}
	other, err := startOurs(ctx, s, c, dir)
	if err != nil {
		return nil, err
	}
	ways, err := other.changers(ctx)
	if err != nil {
		other.close()
		return nil, err
	}
	closeAll(ways[1:])
	return &decoy{ways[0], other}, nil
}

func (d *decoy) close() {
	d.changer.close()
	d.other.close()
}

// churned floods the switch while rules change by way, and returns how many a second did.
// There may be no way.
func churned(ctx context.Context, s settings, c scenario, who side, way changer, n int) (a sample, perSecond float64, err error) {
	if way == nil {
		a, err = turnRate(ctx, s, c, who, n)
		return a, 0, err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() {
		done <- onCPU(s.genCPU, func() (err error) { perSecond, err = churn(running, way); return err })
	}()
	a, err = turnRate(ctx, s, c, who, n)
	stop()
	err = errors.Join(err, <-done)
	return a, perSecond, err
}

// churn changes rules, one after the other, until ctx is done, and returns how
// many a second. It leaves them as they were, but for the first.
func churn(ctx context.Context, way changer) (perSecond float64, err error) {
	start := time.Now()
	n := 0
	for ; ctx.Err() == nil; n++ {
		rule, round := 1+n%(gateRules-1), n/(gateRules-1)
		if err := way.idle(context.WithoutCancel(ctx), rule, round%2 == 0); err != nil {
			return 0, fmt.Errorf("change %d by %s: %w", n, way.name(), err)
		}
		time.Sleep(time.Until(start.Add(time.Duration(n+1) * time.Second / changesPerSecond)))
	}
	perSecond = float64(n) / time.Since(start).Seconds()
	for rule := 1; rule < gateRules; rule++ {
		if err := way.idle(context.WithoutCancel(ctx), rule, false); err != nil {
			return 0, err
		}
	}
	return perSecond, nil
}
