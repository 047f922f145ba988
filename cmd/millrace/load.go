package main

import (
	"time"

	"millrace/dataplane/api"
)

// A period is what happened between two snapshots, or from the start to one.
type period struct {
	before, now *api.GetStatsResponse // before is empty for all the time until now
}

// sinceStart is all the time until a snapshot.
func sinceStart(now *api.GetStatsResponse) period {
	return period{&api.GetStatsResponse{At: now.GetStarted()}, now}
}

func (p period) length() time.Duration {
	return p.now.GetAt().AsTime().Sub(p.before.GetAt().AsTime())
}

// perSecond turns a difference of counters into a rate. A dataplane that was
// restarted in between began at 0.
func (p period) perSecond(now, before uint64) float64 {
	if d := p.length().Seconds(); d > 0 {
		return float64(grown(now, before)) / d
	}
	return 0
}

// grown is the difference of two counts.
func grown(now, before uint64) uint64 {
	if now < before {
		return now
	}
	return now - before
}

// portBefore is the account of a port at the beginning.
func (p period) portBefore(now *api.PortStats) *api.PortStats {
	for _, b := range p.before.GetPorts() {
		if b.GetNumber() == now.GetNumber() && b.GetName() == now.GetName() {
			return b
		}
	}
	return nil
}

// A portRate is what a port did per second.
type portRate struct{ rxFrames, rxBytes, txFrames, txBytes, drops float64 }

func (p period) rate(now *api.PortStats) portRate {
	b := p.portBefore(now)
	return portRate{
		rxFrames: p.perSecond(now.GetRxFrames(), b.GetRxFrames()),
		rxBytes:  p.perSecond(now.GetRxBytes(), b.GetRxBytes()),
		txFrames: p.perSecond(now.GetTxFrames(), b.GetTxFrames()),
		txBytes:  p.perSecond(now.GetTxBytes(), b.GetTxBytes()),
		drops:    p.perSecond(total(now.GetRxDrops())+total(now.GetTxDrops()), total(b.GetRxDrops())+total(b.GetTxDrops())),
	}
}

// total is how many frames were dropped, whatever the reason.
func total(drops []*api.Drop) (n uint64) {
	for _, d := range drops {
		n += d.GetFrames()
	}
	return n
}

// A load is how a worker spent a period.
type load struct {
	busy, idle, asleep float64 // shares of the time
	frames             uint64
	framesPerBatch     float64
	cyclesPerFrame     float64 // ticks of the time stamp counter
	gaps               []*api.Gap
}

// load is how worker number i spent the period.
func (p period) load(i int) load {
	w := p.now.GetWorkers()[i]
	var b *api.WorkerStats
	if i < len(p.before.GetWorkers()) {
		b = p.before.GetWorkers()[i]
	}
	busy, idle, asleep := float64(grown(w.GetBusyTicks(), b.GetBusyTicks())), float64(grown(w.GetIdleTicks(), b.GetIdleTicks())), float64(grown(w.GetAsleepTicks(), b.GetAsleepTicks()))
	l := load{frames: grown(w.GetFrames(), b.GetFrames()), gaps: grownGaps(w, b)}
	l.busy, l.idle, l.asleep = ratio(busy, busy+idle+asleep), ratio(idle, busy+idle+asleep), ratio(asleep, busy+idle+asleep)
	l.framesPerBatch = ratio(float64(l.frames), float64(grown(w.GetBatches(), b.GetBatches())))
	l.cyclesPerFrame = ratio(busy, float64(l.frames))
	return l
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func grownGaps(now, before *api.WorkerStats) []*api.Gap {
	var gaps []*api.Gap
	for i, g := range now.GetGaps() {
		var was uint64
		if i < len(before.GetGaps()) {
			was = before.GetGaps()[i].GetCount()
		}
		gaps = append(gaps, &api.Gap{UpToTicks: g.GetUpToTicks(), Count: grown(g.GetCount(), was)})
	}
	return gaps
}
