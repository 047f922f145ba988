package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"millrace/perf/peers"
	"millrace/perf/pktgen"
)

// generatorPages are huge pages of 2 MiB for one port of the generator.
const generatorPages = 32

// measure runs one case: both sides are set up, then take turns.
func measure(ctx context.Context, s settings, c scenario) (outcome, error) {
	s = s.limited(c)
	o := outcome{Case: c, Seconds: s.Seconds, Ring: s.ring(c), Machine: machine(), Date: time.Now().UTC().Format(time.DateOnly)}
	dir, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return o, err
	}
	defer os.RemoveAll(dir)
	restore, err := prepareMachine(c)
	if err != nil {
		return o, err
	}
	defer restore()
	fmt.Fprintf(os.Stderr, "%s: measuring the generator alone\n", c.Name)
	measureCeiling := c.ceiling
	if measureCeiling == nil {
		measureCeiling = ceilingFrames
	}
	if o.Ceiling, err = measureCeiling(ctx, s, c); err != nil {
		return o, fmt.Errorf("generator's ceiling: %w", err)
	}
	var peer, mine side
	if s.Only != "millrace" {
		start := c.rival
		if start == nil {
			start = startOVS
		}
		if peer, err = start(ctx, s, c, dir); err != nil {
			return o, err
		}
		defer peer.close()
		o.PeerName = peer.about()
	}
	if s.Only != "ovs" {
		start := c.ours
		if start == nil {
			start = startOurs
		}
		if mine, err = start(ctx, s, c, dir); err != nil {
			return o, err
		}
		defer mine.close()
		o.OursName = mine.about()
	}
	if c.done != nil {
		defer c.done()
	}
	return o, o.pairs(ctx, s, peer, mine)
}

// limited are the settings for a case that says how long its turns are, or how many.
func (s settings) limited(c scenario) settings {
	if c.seconds > 0 {
		s.Seconds = min(s.Seconds, c.seconds)
	}
	if c.once {
		s.Pairs = min(s.Pairs, 1)
	}
	return s
}

// prepareMachine makes what both sides need, and returns the function that takes
// it away.
func prepareMachine(c scenario) (restore func(), err error) {
	if c.plug != nil {
		return c.plug.prepare()
	}
	pages, err := peers.Hugepages(generatorPages * c.generatorPorts())
	if err != nil || c.underlay == nil {
		return pages, err
	}
	devices, err := c.underlay.prepare()
	if err != nil {
		pages()
		return nil, err
	}
	return func() { devices(); pages() }, nil
}

// ceilingFrames is how many frames the generator sends through a forwarder that only
// copies, in Mpps.
func ceilingFrames(ctx context.Context, s settings, c scenario) (float64, error) {
	r, err := pktgen.Ceiling(ctx, s.generator(c, nil, 0))
	if err != nil {
		return 0, err
	}
	return r.Total.RxMpps, nil
}

// pairs has both sides take turns. One of them may be nil: a look at the other.
func (o *outcome) pairs(ctx context.Context, s settings, peer, mine side) (err error) {
	c := o.Case
	if mine != nil {
		if err := warmUp(ctx, s, c, mine, peer); err != nil {
			return fmt.Errorf("warm up millrace: %w", err)
		}
	}
	if peer != nil {
		if o.Tried, err = chooseTuning(ctx, s, c, peer, mine); err != nil {
			return fmt.Errorf("%s: %w", c.rivalName(), err)
		}
		o.PeerName = peer.about()
	}
	for i := range s.Pairs {
		fmt.Fprintf(os.Stderr, "%s: pair %d of %d\n", c.Name, i+1, s.Pairs)
		a, err := turn(ctx, s, c, mine, peer, i)
		if err != nil {
			return fmt.Errorf("millrace: %w", err)
		}
		b, err := turn(ctx, s, c, peer, mine, i)
		if err != nil {
			return fmt.Errorf("%s: %w", c.rivalName(), err)
		}
		o.Ours, o.Peer = append(o.Ours, a), append(o.Peer, b)
	}
	return nil
}

// chooseTuning gives each tuning of OVS a turn, and applies the best.
func chooseTuning(ctx context.Context, s settings, c scenario, peer, mine side) ([]tried, error) {
	var all []tried
	best := 0
	for i, t := range c.tunings {
		a, err := try(ctx, s, c, peer, mine, i)
		if err != nil {
			return nil, fmt.Errorf("with %s: %w", t.Name, err)
		}
		fmt.Fprintf(os.Stderr, "%s: %s with %s: %.3f %s\n", c.Name, c.rivalName(), t.Name, a.Mpps, c.rates())
		if all = append(all, tried{t.Name, a.Mpps}); a.Mpps > all[best].Mpps {
			best = i
		}
	}
	if len(all) == 0 || best == len(all)-1 {
		return all, nil
	}
	return all, apply(ctx, s, c, peer, mine, best)
}

// try has OVS take a turn with tuning i.
func try(ctx context.Context, s settings, c scenario, peer, mine side, i int) (sample, error) {
	if err := apply(ctx, s, c, peer, mine, i); err != nil {
		return sample{}, err
	}
	return turn(ctx, s, c, peer, mine, i)
}

// apply applies tuning i, and shows OVS all flows if the case wants it to know
// them.
func apply(ctx context.Context, s settings, c scenario, peer, mine side, i int) error {
	if err := alone(peer, mine); err != nil { // it cannot be configured while it is stopped
		return err
	}
	if err := peer.tune(ctx, c.tunings[i]); err != nil {
		return err
	}
	if err := warmUp(ctx, s, c, peer, mine); err != nil {
		return err
	}
	return peer.settle(ctx, c.tunings[i])
}

// warmTime is how long a side is shown all flows before its first turn: OVS
// allows itself 10,000 more a second.
const warmTime = 20 * time.Second

// warmUp shows a side all flows, if the case wants it to know them.
func warmUp(ctx context.Context, s settings, c scenario, who, other side) error {
	if c.warm == nil {
		return nil
	}
	if err := alone(who, other); err != nil {
		return err
	}
	cfg := s.generator(c, who.ports(), 0)
	cfg.Ports[0].Traffic, cfg.Duration = &c.warm()[0], warmTime
	_, err := pktgen.Run(ctx, cfg)
	return err
}

// alone lets who go on and stops the other, which may be nil.
func alone(who, other side) error {
	if other != nil {
		if err := other.pause(); err != nil {
			return err
		}
	}
	return who.resume()
}

// turn measures who, while the other one is stopped.
func turn(ctx context.Context, s settings, c scenario, who, other side, n int) (sample, error) {
	if who == nil {
		return sample{}, nil
	}
	if err := alone(who, other); err != nil {
		return sample{}, err
	}
	if c.warm == nil {
		if err := who.reset(ctx); err != nil {
			return sample{}, err
		}
	}
	if c.turn != nil {
		return c.turn(ctx, s, c, who, n)
	}
	return turnRate(ctx, s, c, who, n)
}

// turnRate sends as much as the switch takes.
func turnRate(ctx context.Context, s settings, c scenario, who side, n int) (sample, error) {
	a, _, err := flood(ctx, s, c, who, n)
	if err != nil || c.metrics == nil || c.warm == nil {
		return a, err
	}
	masks, err := who.masks(ctx)
	a.Values[keyMasks] = float64(masks)
	return a, err
}

// flood sends as much as the switch takes, and says what came of it.
func flood(ctx context.Context, s settings, c scenario, who side, n int) (sample, *pktgen.Result, error) {
	if err := who.mark(ctx); err != nil {
		return sample{}, nil, err
	}
	r, err := pktgen.Run(ctx, s.generator(c, who.ports(), n))
	if err != nil {
		return sample{}, nil, err
	}
	u, err := who.usage(ctx)
	a := sample{Mpps: r.Total.RxMpps, Gbps: r.Total.RxGbps, Cycles: u.Cycles}
	if err != nil || c.metrics == nil {
		return a, r, err
	}
	a.Values = map[string]float64{keyBusy: u.Busy, keyWalks: u.Walks * r.Total.RxMpps}
	if u.Batch > 0 {
		a.Values[keyBatch] = u.Batch
	}
	return a, r, nil
}

// turnAttack measures the victim alone, then under attack: it sends from port 0
// to 1, the attacker from 2.
func turnAttack(ctx context.Context, s settings, c scenario, who side, n int) (sample, error) {
	cfg := s.generator(c, who.ports(), n)
	calm, err := pktgen.Run(ctx, cfg)
	if err != nil {
		return sample{}, err
	}
	cfg.Ports[2].Silent = false
	cfg.Ports[2].Traffic = &pktgen.Traffic{Headers: attack(), Rate: attackPPS}
	cfg.Warmup = attackWarmup
	if err := who.mark(ctx); err != nil {
		return sample{}, err
	}
	attacked, err := pktgen.Run(ctx, cfg)
	if err != nil {
		return sample{}, err
	}
	u, err := who.usage(ctx)
	if err != nil {
		return sample{}, err
	}
	masks, err := who.masks(ctx)
	base, left := calm.Ports[1].RxMpps, attacked.Ports[1].RxMpps
	return sample{Mpps: left, Gbps: attacked.Total.RxGbps, Cycles: u.Cycles, Values: map[string]float64{
		keyBase: base, keyAttacked: left, keyKept: over(left, base), keyMasks: float64(masks),
	}}, err
}

// attackWarmup is how long the attack lasts before the victim's rate is taken:
// long enough for each mask to have been asked for.
const attackWarmup = time.Second

// ring is the number of descriptors of the generator's rings.
func (s settings) ring(c scenario) uint {
	if c.ring != 0 {
		return c.ring
	}
	return s.Queue
}

// generator is the same for both sides and, with no ports, for the ceiling:
// there the first stream is alone, and not limited.
func (s settings) generator(c scenario, ports []pktgen.Port, turn int) pktgen.Config {
	streams := c.streams(turn)
	if ports == nil {
		ports = make([]pktgen.Port, 2)
		streams[0].Rate = 0
	}
	cfg := pktgen.Config{
		Ports: append([]pktgen.Port(nil), ports...), Direction: pktgen.Uni, Mode: pktgen.Fast, Sizes: c.Sizes, Flows: c.Flows,
		Duration: s.turn(), Warmup: max(s.turn()/6, c.warmup), RingSize: uint16(s.ring(c)), Huge: true, CPUs: []int{s.genCPU}, PeerCPU: s.swCPU,
	}
	for i := range cfg.Ports {
		cfg.Ports[i].Traffic, cfg.Ports[i].Silent = &streams[i], i > 0
	}
	return cfg
}
