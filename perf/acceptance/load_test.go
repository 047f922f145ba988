package acceptance

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"millrace/control"
	"millrace/dataplane/api"
)

// loadEnv, if set, has TestLoad judge times; it is how many pairs of spells are
// measured. Without, one short pair shows that frames go on. The others make it
// smaller.
const (
	loadEnv        = "MILLRACE_LOAD"
	loadRowsEnv    = "MILLRACE_LOAD_ROWS"
	loadSecondsEnv = "MILLRACE_LOAD_SECONDS"
)

// minute is how far back a worker remembers its longest gap, and a little.
const minute = 61 * time.Second

// A spell is what the worker did in some time.
type spell struct {
	perSecond float64       // frames received
	perFrame  float64       // ticks of turns that carried frames, by frame
	longest   time.Duration // gap between two turns; exact for a minute, else up to twice as long
	over      uint64        // gaps of more than 100 microseconds
}

func (w spell) String() string {
	return fmt.Sprintf("%.0f frames/s, %.1f cycles/frame, longest gap %v, %d over 100 µs", w.perSecond, w.perFrame, w.longest, w.over)
}

// TestLoad: a control process that loads 100,000 rows again and again changes
// neither the throughput of a worker nor its longest gap. MILLRACE_LOAD=3 is the
// measurement, of seven minutes, on a machine with nothing else to do and more
// than two CPUs: guests, database and control share all but the worker's.
func TestLoad(t *testing.T) {
	pairs := int(number(t, loadEnv, 0))
	judge := pairs > 0
	rows, seconds := int64(2000), int64(1)
	if judge {
		rows, seconds = 100_000, 62
	}
	load := int(number(t, loadRowsEnv, rows))
	length := time.Duration(number(t, loadSecondsEnv, seconds)) * time.Second
	n := runNode(t, "--poll", "busy")
	guests := n.guests()
	resume(t, guests, 1)
	n.fill(load)
	var quiet, loaded []spell
	for range max(pairs, 1) {
		quiet = append(quiet, n.measure(length, func() { time.Sleep(length) }))
		loads := 0
		loaded = append(loaded, n.measure(length, func() {
			for end := time.Now().Add(length); time.Now().Before(end); loads++ {
				n.load(load)
			}
		}))
		t.Logf("quiet: %v", quiet[len(quiet)-1])
		t.Logf("%d loads of %d rows: %v", loads, load, loaded[len(loaded)-1])
	}
	resume(t, guests, 2) // frames go on, and none was wrong
	lost, counted := uint64(0), uint64(0)
	for _, g := range guests {
		lost += g.page.lost.Load()
	}
	stats, err := n.api.GetStats(t.Context(), &api.GetStatsRequest{})
	check(t, err)
	for _, p := range stats.GetPorts() {
		counted += dropped(p.GetTxDrops()) // rings of guests that have no CPU, and guests that had not come yet
		if n := dropped(p.GetRxDrops()); n > 0 {
			t.Errorf("port %s: frames dropped on the way in: %v", p.GetName(), p.GetRxDrops())
		}
	}
	if lost > counted {
		t.Errorf("guests miss %d frames, %d of them are accounted for", lost, counted)
	}
	if !judge {
		return
	}
	for _, m := range []struct {
		what string
		of   func(spell) float64
	}{
		{"cycles per frame", func(w spell) float64 { return w.perFrame }},
		{"longest gap", func(w spell) float64 { return w.longest.Seconds() }},
	} {
		before, after := median(quiet, m.of), median(loaded, m.of)
		t.Logf("%s: %+.2f %%", m.what, 100*(after/before-1))
		if after > 1.01*before {
			t.Errorf("%s grows from %g to %g", m.what, before, after)
		}
	}
}

func median(list []spell, of func(spell) float64) float64 {
	var v []float64
	for _, w := range list {
		v = append(v, of(w))
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// fill gives the bridge ports that cannot be had, while control is away.
func (n *node) fill(rows int) {
	n.t.Helper()
	n.endControl()
	const part = 1000
	for at := 0; at < rows; at += part {
		list := names(fmt.Sprint("bad", at, "-"), min(part, rows-at))
		n.addOf("gre", list...)
	}
	n.load(rows) // which writes what is wrong into them
}

func (n *node) endControl() {
	n.t.Helper()
	check(n.t, n.control.Process.Kill())
	<-n.controlEnded
}

// load has a new control process load the database.
func (n *node) load(rows int) {
	n.t.Helper()
	select {
	case <-n.controlEnded:
	default:
		n.endControl()
	}
	n.startControl()
	pid := n.control.Process.Pid
	for end := time.Now().Add(5 * patience); ; time.Sleep(10 * time.Millisecond) {
		s, err := control.ReadStatus(n.dir)
		if err == nil && s.PID == pid && s.Counters.BadRows >= uint64(rows) && s.Counters.Passes > 0 {
			return
		}
		if time.Now().After(end) {
			n.t.Fatalf("control has not loaded %d rows: %+v, %v", rows, s.Counters, err)
		}
	}
}

// measure measures while something is done.
func (n *node) measure(length time.Duration, do func()) spell {
	n.t.Helper()
	get := func() (*api.GetStatsResponse, *api.WorkerStats) {
		r, err := n.api.GetStats(n.t.Context(), &api.GetStatsRequest{})
		check(n.t, err)
		return r, r.GetWorkers()[0]
	}
	first, a := get()
	do()
	last, b := get()
	frames := float64(b.GetFrames() - a.GetFrames())
	w := spell{
		perSecond: frames / last.GetAt().AsTime().Sub(first.GetAt().AsTime()).Seconds(),
		perFrame:  float64(b.GetBusyTicks()-a.GetBusyTicks()) / frames,
	}
	inTime := func(ticks uint64) time.Duration {
		return time.Duration(float64(ticks) / last.GetTscHz() * float64(time.Second))
	}
	for i, g := range b.GetGaps() {
		count := g.GetCount() - a.GetGaps()[i].GetCount()
		if count > 0 {
			w.longest = inTime(g.GetUpToTicks())
		}
		if inTime(g.GetUpToTicks()) > 200*time.Microsecond { // all of them are longer than half of that
			w.over += count
		}
	}
	if length >= minute {
		w.longest = inTime(b.GetGapMinuteTicks())
	}
	return w
}
