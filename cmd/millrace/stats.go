package main

import (
	"context"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"millrace/dataplane/api"
)

// statsFlags are the flags of stats.
type statsFlags struct {
	interval time.Duration
	count    int
}

func (a *app) statsCmd() *cobra.Command {
	var f statsFlags
	cmd := &cobra.Command{
		Use:   "stats [PORT...]",
		Short: "Show counters of ports and workers, and the jitter of polling",
		Long: `Shows the counters of all ports, or of some, and of the workers. All numbers are
of one moment, between two turns of the workers.

With --interval, shows what happened in each interval as rates, until --count
intervals are over or you press Ctrl-C; --json prints a document for each.

Of a worker:

  BUSY, IDLE, ASLEEP  shares of its time: turns with frames, without, sleeping
  CYCLES/FRAME        ticks of the time stamp counter in turns with frames, per frame
  LONGEST GAP         longest time between two turns since the start, sleep aside:
                      a frame that arrives then waits so long

The histogram has the times between turns of each worker.`,
		Example: `  millrace stats
  millrace stats vm1 vm2 --interval 1s
  millrace stats --interval 10s --count 1 --json | jq '.workers[].cycles_per_frame'`,
		ValidArgsFunction: a.portNames(),
	}
	cmd.Flags().DurationVar(&f.interval, "interval", 0, "show rates over intervals of this length")
	cmd.Flags().IntVar(&f.count, "count", 0, "intervals to show (default: until interrupted)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case f.interval < 0, f.interval > 0 && f.interval < 10*time.Millisecond:
			return usage(cmd, "--interval: %v is less than 10ms", f.interval)
		case f.count < 0, f.count > 0 && f.interval == 0:
			return usage(cmd, "--count: needs --interval, and is not negative")
		case f.interval > 0:
			return a.follow(func(ctx context.Context, c *api.Client, args []string) error { return a.statsEvery(ctx, c, &f, args) })(cmd, args)
		}
		return a.call(a.stats)(cmd, args)
	}
	return cmd
}

// stats shows what happened since the start.
func (a *app) stats(ctx context.Context, c *api.Client, ports []string) error {
	now, err := c.GetStats(ctx, &api.GetStatsRequest{})
	if err == nil {
		err = only(now, ports)
	}
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(sinceStart(now).json(false))
	}
	a.printCounters(now)
	a.printWorkers(sinceStart(now))
	return nil
}

// statsEvery shows interval after interval.
func (a *app) statsEvery(ctx context.Context, c *api.Client, f *statsFlags, ports []string) error {
	return every(ctx, c, f.interval, f.count, func(p period) error {
		if err := only(p.now, ports); err != nil {
			return err
		}
		if a.json {
			return a.printJSON(p.json(true))
		}
		fmt.Fprintf(a.out, "%s\n", p.now.GetAt().AsTime().Local().Format("15:04:05.000"))
		printRates(a.out, p)
		a.printWorkers(p)
		fmt.Fprintln(a.out)
		return nil
	})
}

// every takes a snapshot each interval and calls show with each two that
// follow one another: n times, or for ever if n is 0.
func every(ctx context.Context, c *api.Client, interval time.Duration, n int, show func(period) error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	before, err := c.GetStats(ctx, &api.GetStatsRequest{})
	for i := 0; err == nil && (n == 0 || i < n); i++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		var now *api.GetStatsResponse
		if now, err = c.GetStats(ctx, &api.GetStatsRequest{}); err == nil {
			err = show(period{before, now})
		}
		before = now
	}
	return err
}

// only leaves the ports of those names in s, in the order of the names.
func only(s *api.GetStatsResponse, names []string) error {
	if len(names) == 0 {
		return nil
	}
	var ports []*api.PortStats
	for _, name := range names {
		i := slices.IndexFunc(s.GetPorts(), func(p *api.PortStats) bool { return p.GetName() == name })
		if i < 0 {
			return &api.Error{Kind: api.ErrNoPort, Text: "no such port: " + name}
		}
		ports = append(ports, s.GetPorts()[i])
	}
	s.Ports = ports
	return nil
}

// json is the snapshot at the end of the period with what can be computed from
// it, and with rates if wanted.
func (p period) json(rates bool) object {
	o := toJSON(p.now)
	for i := range o {
		switch o[i].name {
		case "ports":
			o[i].value = p.portsJSON(rates)
		case "workers":
			o[i].value = p.workersJSON()
		}
	}
	return append(o, field{"period_seconds", p.length().Seconds()})
}

func (p period) portsJSON(rates bool) []object {
	ports := list(p.now.GetPorts())
	for i, s := range p.now.GetPorts() {
		if r := p.rate(s); rates {
			ports[i] = append(ports[i], object{
				{"rx_frames_per_second", r.rxFrames}, {"rx_bytes_per_second", r.rxBytes},
				{"tx_frames_per_second", r.txFrames}, {"tx_bytes_per_second", r.txBytes},
				{"drops_per_second", r.drops},
			}...)
		}
	}
	return ports
}

func (p period) workersJSON() []object {
	workers := list(p.now.GetWorkers())
	for i, w := range p.now.GetWorkers() {
		l := p.load(i)
		workers[i] = append(workers[i], object{
			{"busy_share", l.busy}, {"idle_share", l.idle}, {"asleep_share", l.asleep},
			{"frames_per_batch", l.framesPerBatch}, {"cycles_per_frame", l.cyclesPerFrame},
			{"gap_max_seconds", ticks(p.now, w.GetGapMaxTicks()).Seconds()},
			{"gap_minute_seconds", ticks(p.now, w.GetGapMinuteTicks()).Seconds()},
		}...)
	}
	return workers
}

func (a *app) printCounters(s *api.GetStatsResponse) {
	t := newTable("PORT", ">RX FRAMES", ">RX BYTES", ">RX DROPS", ">TX FRAMES", ">TX BYTES", ">TX DROPS")
	for _, p := range s.GetPorts() {
		t.add(p.GetName(), count(p.GetRxFrames()), count(p.GetRxBytes()), count(total(p.GetRxDrops())),
			count(p.GetTxFrames()), count(p.GetTxBytes()), count(total(p.GetTxDrops())))
	}
	t.print(a.out, "no ports")
	a.printFinished(s)
	a.printMerged(s)
}

// printFinished prints what the switch did because peers do not, if there is any.
func (a *app) printFinished(s *api.GetStatsResponse) {
	t := newTable("PORT", ">CHECKSUMS", ">TCP CUT", ">UDP CUT", ">SEGMENTS")
	some := false
	for _, p := range s.GetPorts() {
		if f := p.GetFinished(); f.GetChecksums()+f.GetTcp()+f.GetUdp() != 0 {
			t.add(p.GetName(), count(f.GetChecksums()), count(f.GetTcp()), count(f.GetUdp()), count(f.GetSegments()))
			some = true
		}
	}
	if some {
		fmt.Fprintln(a.out, "\nfinished in software on the way out:")
		t.print(a.out, "")
	}
}

// printMerged prints what was put together for peers that take it, if there is any.
func (a *app) printMerged(s *api.GetStatsResponse) {
	t := newTable("PORT", ">SUPER-FRAMES", ">SEGMENTS JOINED")
	some := false
	for _, p := range s.GetPorts() {
		if f := p.GetFinished(); f.GetMerged() != 0 {
			t.add(p.GetName(), count(f.GetMerged()), count(f.GetJoined()))
			some = true
		}
	}
	if some {
		fmt.Fprintln(a.out, "\nmerged on the way out (gro):")
		t.print(a.out, "")
	}
}

func printRates(w io.Writer, p period) {
	t := newTable("PORT", ">RX FRAMES/S", ">RX BIT/S", ">TX FRAMES/S", ">TX BIT/S", ">DROPS/S")
	for _, s := range p.now.GetPorts() {
		r := p.rate(s)
		t.add(s.GetName(), short(r.rxFrames), short(8*r.rxBytes), short(r.txFrames), short(8*r.txBytes), short(r.drops))
	}
	t.print(w, "no ports")
}

// printWorkers prints how the workers spent the period.
func (a *app) printWorkers(p period) {
	fmt.Fprintln(a.out)
	workerTable(a.out, p)
	for i, w := range p.now.GetWorkers() {
		fmt.Fprintf(a.out, "\ntimes between turns of the worker on CPU %d\n", w.GetCpu())
		printGaps(a.out, p.now, p.load(i).gaps)
		if w.GetFaults() > 0 {
			fmt.Fprintf(a.out, "  survived %s memory faults (peers that took their memory away)\n", count(w.GetFaults()))
		}
	}
}

func workerTable(out io.Writer, p period) {
	t := newTable("WORKER", ">QUEUES", ">BUSY", ">IDLE", ">ASLEEP", ">FRAMES", ">FRAMES/BATCH", ">CYCLES/FRAME", ">LONGEST GAP", ">IN 60 S")
	for i, w := range p.now.GetWorkers() {
		l := p.load(i)
		t.add(fmt.Sprintf("CPU %d", w.GetCpu()), fmt.Sprint(w.GetQueues()), percent(l.busy), percent(l.idle), percent(l.asleep),
			count(l.frames), strconv.FormatFloat(l.framesPerBatch, 'f', 1, 64), strconv.FormatFloat(l.cyclesPerFrame, 'f', 1, 64),
			span(ticks(p.now, w.GetGapMaxTicks())), span(ticks(p.now, w.GetGapMinuteTicks())))
	}
	t.print(out, "no workers")
}

// ticks turns ticks of the time stamp counter into time.
func ticks(s *api.GetStatsResponse, n uint64) time.Duration {
	return seconds(ratio(float64(n), s.GetTscHz()))
}

// printGaps prints a histogram, from the first bucket that has something to
// the last. Bars grow with the logarithm: one gap in millions is what matters.
func printGaps(w io.Writer, s *api.GetStatsResponse, gaps []*api.Gap) {
	has := func(g *api.Gap) bool { return g.GetCount() > 0 }
	first := slices.IndexFunc(gaps, has)
	if first < 0 {
		fmt.Fprintln(w, "  none yet")
		return
	}
	last := len(gaps) - 1
	for !has(gaps[last]) {
		last--
	}
	t := newTable(">  UP TO", ">TIMES", "")
	for _, g := range gaps[first : last+1] {
		t.add(span(ticks(s, g.GetUpToTicks())), count(g.GetCount()), bar(g.GetCount()))
	}
	t.print(w, "")
}

// bar has as many marks as n has binary digits.
func bar(n uint64) string { return strings.Repeat("#", bits.Len64(n)) }
