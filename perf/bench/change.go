package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"millrace/dataplane/sys"
	"millrace/perf/pktgen"
	"millrace/perf/ruleset"
)

const (
	// flipsPerTurn is how often a rule is changed in a turn: enough for a 99th
	// percentile, and a few more.
	flipsPerTurn = 200
	// flipsMost is how many changes are tried for them, and foreignMost how long others may
	// have the generator's CPU during one that counts, from before it to quietTime after.
	flipsMost   = 20 * flipsPerTurn
	foreignMost = 200 * time.Microsecond
	// flipPPS is the rate of the frames that a changed rule is for.
	flipPPS = 10e6
	// quietTime is how long the old rule's frames are waited for once the new
	// rule's have come, and the longest that anything may take to happen.
	quietTime = 3 * time.Millisecond
	patience  = 20 * time.Second
	// outPort and altPort are where rules lead to, astrayPort is where what
	// meets rules of two generations goes: see ruleset.Gate and Generation.
	outPort, altPort, astrayPort = 1, 3, 2
)

var (
	errNothing = errors.New("no frame came")
	errBusy    = errors.New("the machine has other things to do")
)

// A load is a generator that runs while something else happens.
type load struct {
	watch *pktgen.Watch
	stop  context.CancelFunc
	done  chan struct{}
	res   *pktgen.Result
	err   error
}

// startLoad has the generator send until finish. Its threads yield: whoever
// changes the switch shares their CPU.
func startLoad(ctx context.Context, cfg pktgen.Config) *load {
	l := &load{watch: pktgen.NewWatch(len(cfg.Ports)), done: make(chan struct{})}
	cfg.Watch, cfg.Duration, cfg.Warmup, cfg.Yield = l.watch, time.Hour, 0, true
	ctx, l.stop = context.WithCancel(ctx)
	go func() {
		defer close(l.done)
		l.res, l.err = pktgen.Run(ctx, cfg)
	}()
	return l
}

// await waits until a port has had n more frames.
func (l *load) await(port int, n uint64) error {
	n += l.watch.Frames(port)
	return l.until(func() bool { return l.watch.Frames(port) >= n })
}

// until waits for what.
func (l *load) until(what func() bool) error {
	for end := time.Now().Add(patience); !what(); time.Sleep(100 * time.Microsecond) {
		select {
		case <-l.done:
			return cmp.Or(l.err, errNothing)
		default:
		}
		if time.Now().After(end) {
			return fmt.Errorf("%w within %v", errNothing, patience)
		}
	}
	return nil
}

// finish ends the load.
func (l *load) finish() (*pktgen.Result, error) {
	l.stop()
	<-l.done
	return l.res, l.err
}

// A shift is one change that makes frames go to another port, as the wire shows
// it: times since the change was asked for.
type shift struct {
	call     time.Duration // until the call returned
	firstNew time.Duration // frame by the new rule
	lastOld  time.Duration // frame by the old rule; 0 if none came after
	overlap  time.Duration // that frames went by the old rule which were made after one that went by the new; only Verify knows
}

// shift has change make frames go from one port to the other. It runs on the
// generator's CPU, like all that does not poll.
func (l *load) shift(from, to int, change func() error) (shift, error) {
	var s shift
	l.watch.Arm(to)
	start := sys.TSC()
	if err := change(); err != nil {
		return s, err
	}
	s.call = sys.TSCDuration(sys.TSC() - start)
	if err := l.until(func() bool { first, _ := l.watch.Came(to); return first != 0 }); err != nil {
		return s, err
	}
	time.Sleep(quietTime)
	first, _ := l.watch.Came(to)
	s.firstNew = sys.TSCDuration(first - start)
	if _, last := l.watch.Came(from); last > start {
		s.lastOld = sys.TSCDuration(last - start)
	}
	firstMade, _ := l.watch.Sent(to)
	if _, lastMade := l.watch.Sent(from); lastMade > firstMade {
		s.overlap = sys.TSCDuration(lastMade - firstMade)
	}
	return s, nil
}

// onCPU does something on a CPU of its own choice.
func onCPU(cpu int, do func() error) error {
	return sys.OnThread(func() error { // the thread's affinity dies with it
		if err := sys.Pin(cpu); err != nil {
			return err
		}
		return do()
	})
}

// turnFlip changes one rule again and again while frames come for it.
func turnFlip(ctx context.Context, s settings, c scenario, who side, n int) (sample, error) {
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
	cfg := s.generator(c, who.ports(), n)
	cfg.Ports[0].Traffic.Rate = flipPPS
	l := startLoad(ctx, cfg)
	a := sample{Values: map[string]float64{}}
	err = l.await(outPort, 100_000)
	if err == nil {
		err = flipBy(ctx, s, l, who, ways, a.Values)
	}
	r, ended := l.finish()
	if err := errors.Join(err, ended); err != nil {
		return a, err
	}
	a.Mpps = float64(r.Total.Sent) / r.Seconds / 1e6
	a.Values["offered_mpps"] = a.Mpps
	return a, nil
}

// flips takes the times of many changes by one way. It leaves the rule as it was. Changes
// during which others had the CPUs are made again, if strict: see sharers. What a database does on
// its disk is done by threads of the kernel, which are others too.
func flips(ctx context.Context, l *load, s *sharers, way changer, strict bool, prefix string, values map[string]float64) error {
	var calls, news, olds []time.Duration
	at, disturbed := [2]int{outPort, altPort}, 0
	for i := 0; len(news) < flipsPerTurn || i%2 != 0; i++ {
		if i == flipsMost {
			return fmt.Errorf("others had the CPUs during %d of %d changes by %s: %w", disturbed, i, way.name(), errBusy)
		}
		before := s.share()
		f, err := l.shift(at[i%2], at[1-i%2], func() error { return way.gate(ctx, i%2 == 0) })
		if err != nil {
			return fmt.Errorf("change %d by %s: %w", i, way.name(), err)
		}
		if s.foreign(before) > foreignMost {
			if disturbed++; strict {
				continue
			}
		}
		calls, news, olds = append(calls, f.call), append(news, f.firstNew), append(olds, f.lastOld)
	}
	values[prefix+"new_p50_us"], values[prefix+"new_p99_us"], values[prefix+"new_max_us"] = quantile(news, 0.5), quantile(news, 0.99), quantile(news, 1)
	values[prefix+"old_p99_us"], values[prefix+"call_p50_us"], values[prefix+"call_p99_us"] = quantile(olds, 0.99), quantile(calls, 0.5), quantile(calls, 0.99)
	values[prefix+"disturbed"] = float64(disturbed)
	return nil
}

// flipBy is flips on the generator's CPU, by all ways; the first is the strict one.
func flipBy(ctx context.Context, s settings, l *load, who side, ways []changer, values map[string]float64) error {
	return onCPU(s.genCPU, func() error {
		sharers, err := newSharers(s.genCPU, who.pid())
		if err != nil {
			return err
		}
		prefix := ""
		for i := 0; i < len(ways) && err == nil; i++ {
			err = flips(ctx, l, sharers, ways[i], i == 0, prefix, values)
			prefix = "db_"
		}
		return errors.Join(err, sharers.close())
	})
}

// quantile is in microseconds.
func quantile(times []time.Duration, q float64) float64 {
	slices.Sort(times)
	i := max(0, min(len(times)-1, int(q*float64(len(times))+0.999999)-1))
	return float64(times[i]) / 1e3
}

func closeAll(ways []changer) {
	for _, w := range ways {
		w.close()
	}
}

// bulkPPS is the rate of frames that are all checked, in change-bulk.
const bulkPPS = 1e6

// turnBulk replaces all rules in one transaction, by each way there is.
func turnBulk(ctx context.Context, s settings, c scenario, who side, n int) (sample, error) {
	cfg := s.generator(c, who.ports(), n)
	cfg.Mode = pktgen.Verify
	cfg.Ports[0].Traffic = &pktgen.Traffic{Flows: bulkFlows, Shuffle: true, Rate: bulkPPS}
	l := startLoad(ctx, cfg)
	a := sample{Values: map[string]float64{}}
	err := l.await(outPort, 2*bulkFlows)
	if err == nil {
		err = onCPU(s.genCPU, func() error { return l.bulk(ctx, who, a.Values) })
	}
	r, ended := l.finish()
	if err := errors.Join(err, ended); err != nil {
		return a, err
	}
	// Frames are meant for p1; those by the other generation count as led
	// astray there, and are all that p3 may get.
	came := r.Streams[0].Received + r.Ports[altPort].Misdelivered + r.Ports[astrayPort].Misdelivered
	a.Mpps = r.Total.TxMpps
	a.Values["astray"] = float64(r.Ports[astrayPort].Misdelivered)
	lost := r.Total.Sent - min(r.Total.Sent, came)
	if a.Values["lost"] = float64(lost); lost > 0 {
		fmt.Fprintf(os.Stderr, "%s: %d frames lost of %d:\n%s", c.Name, lost, r.Total.Sent, who.explain(ctx))
	}
	return a, nil
}

// bulk goes to the other generation by the switch's tool, back and forth by its
// API and by its database if it has them, and back by the tool.
func (l *load) bulk(ctx context.Context, who side, values map[string]float64) error {
	b := bulk{load: l, who: who, values: values}
	if err := b.begin(ctx); err != nil {
		return err
	}
	defer b.close()
	err := b.tool(ctx, 1)
	if err == nil {
		err = b.direct(ctx)
	}
	if err == nil {
		err = b.rows()
	}
	if err == nil {
		err = b.tool(ctx, 0)
	}
	values["tool_ms"], values["overlap_us"] = quantile(b.tools, 0.5)/1e3, quantile(b.overlaps, 1)
	return err
}

// A bulk is the changes of one turn of change-bulk.
type bulk struct {
	*load
	who             side
	values          map[string]float64
	swaps           *swaps    // nil for a side without such an API
	rowSwaps        *rowSwaps // likewise
	tools, overlaps []time.Duration
}

// begin remembers the first generation.
func (b *bulk) begin(ctx context.Context) (err error) {
	o, ok := b.who.(*ours)
	if !ok {
		return nil
	}
	if b.swaps, err = newSwaps(ctx, o); err != nil {
		return err
	}
	if b.rowSwaps, err = newRowSwaps(ctx, o); err != nil {
		b.swaps.close()
	}
	return err
}

func (b *bulk) close() {
	if b.swaps != nil {
		b.swaps.close()
		b.rowSwaps.close()
	}
}

// step goes to a generation.
func (b *bulk) step(to int, change func() error) (shift, error) {
	at := [2]int{outPort, altPort}
	s, err := b.shift(at[1-to], at[to], change)
	b.overlaps = append(b.overlaps, s.overlap)
	return s, err
}

// tool goes to a generation by the switch's tool.
func (b *bulk) tool(ctx context.Context, to int) error {
	s, err := b.step(to, func() error { return b.who.replace(ctx, generation(to)) })
	b.tools = append(b.tools, s.firstNew)
	return err
}

// direct goes to the first generation and back by the API, if there is one. What is
// in force is then what control thinks.
func (b *bulk) direct(ctx context.Context) error {
	if b.swaps == nil {
		return nil
	}
	if err := b.swaps.learn(ctx); err != nil {
		return err
	}
	var times []time.Duration
	for to := range 2 {
		s, err := b.step(to, func() error { return b.swaps.to[to].commit(ctx) })
		if err != nil {
			return err
		}
		times = append(times, s.firstNew)
	}
	b.values["api_ms"] = quantile(times, 0.5) / 1e3
	return nil
}

// rows does the same by the database, where the time since its answer counts: all
// that comes before is its own.
func (b *bulk) rows() error {
	if b.rowSwaps == nil {
		return nil
	}
	if err := b.rowSwaps.learn(1); err != nil {
		return err
	}
	var times, sinceCommit []time.Duration
	for to := range 2 {
		if err := b.rowSwaps.settle(); err != nil {
			return err
		}
		s, err := b.step(to, func() error { return b.rowSwaps.commit(to) })
		if err != nil {
			return err
		}
		times, sinceCommit = append(times, s.firstNew), append(sinceCommit, s.firstNew-s.call)
	}
	b.values["db_ms"], b.values["commit_ms"] = quantile(times, 0.5)/1e3, quantile(sinceCommit, 0.5)/1e3
	return b.rowSwaps.settle()
}

// turnLoad has a switch start with 100,000 rules.
func turnLoad(ctx context.Context, s settings, c scenario, who side, n int) (sample, error) {
	m := mixed()
	m.Rules = 100_000
	rules := m.Set()
	if err := who.replace(ctx, ruleset.Set{}); err != nil {
		return sample{}, err
	}
	cfg := s.generator(c, who.ports(), n)
	cfg.Ports[0].Traffic = &pktgen.Traffic{Headers: m.Headers()[:1000], Rate: 100_000}
	l := startLoad(ctx, cfg)
	a := sample{Values: map[string]float64{}}
	// Not on a CPU of our choice, which what starts here would inherit.
	err := l.loading(ctx, who, rules, a.Values)
	_, ended := l.finish()
	return a, errors.Join(err, ended)
}

// loading starts the switch with rules, and takes the times.
func (l *load) loading(ctx context.Context, who side, rules ruleset.Set, values map[string]float64) error {
	if err := who.prepare(ctx, rules); err != nil {
		return err
	}
	l.watch.Arm(outPort)
	start := time.Now()
	since := func() float64 { return time.Since(start).Seconds() }
	if err := who.launch(ctx); err != nil {
		return err
	}
	values["ready_s"] = since()
	for n := 0; n < len(rules); time.Sleep(5 * time.Millisecond) {
		var err error
		if n, err = who.inForce(ctx); err != nil {
			return err
		}
		if _, begun := values["begin_s"]; n > 0 && !begun {
			values["begin_s"] = since()
		}
		if since() > loadPatience.Seconds() {
			return fmt.Errorf("%d of %d rules are in force after %v", n, len(rules), loadPatience)
		}
	}
	values["all_s"] = since()
	if err := l.until(func() bool { first, _ := l.watch.Came(outPort); return first != 0 }); err != nil {
		return err
	}
	first, _ := l.watch.Came(outPort)
	values["load_s"] = since() - sys.TSCDuration(sys.TSC()-first).Seconds()
	return nil
}

// loadPatience is how long 100,000 rules may take.
const loadPatience = 2 * time.Minute
