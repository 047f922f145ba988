package dataplane

import (
	"slices"
	"testing"
	"time"

	"millrace/dataplane/conntrack"
	"millrace/dataplane/sys"
)

// populate makes n connections of UDP in a zone, and returns the worker's way into the table.
func (r *rig) populate(zone uint16, n int) *connector {
	c := r.s.workers[0].flow.ct
	began := c.nanos(sys.TSC())
	for i := range n {
		p := conntrack.Packet{Tuple: conntrack.Tuple{Src: conntrack.Addr{1: uint64(i)}, Dst: conntrack.Addr{1: 1}, SrcPort: 1, DstPort: 53, Proto: conntrack.ProtoUDP}, Len: 100}
		var v conntrack.Verdict
		if got := c.worker.Commit(zone, &p, &conntrack.Terms{}, began, &v); got != conntrack.Created {
			r.t.Fatalf("connection %d: %v", i, got)
		}
		c.worker.Quiet()
	}
	return c
}

// overdue is populate for connections whose time is over; when that is, in ticks, it returns too.
func (r *rig) overdue(n int) (c *connector, ticks uint64) {
	c = r.populate(1, n)
	seconds := func(n float64) uint64 { return sys.TSC() + uint64(n*sys.TSCHz()) }
	c.table.Expire(c.nanos(seconds(40)), 1<<30) // they are about to go
	return c, seconds(50)
}

// TestSweepTime checks that a sweep ends when its time is over, however much there is to do, and that
// what it leaves over is done by those behind it.
func TestSweepTime(t *testing.T) {
	n := 3000
	if raceOn {
		n = 600
	}
	r := newRigFor(t, nil, 2*n)
	c, ticks := r.overdue(n)
	const steps = 4 // the clock goes on by a part of the time whenever it is looked at
	read, at := 0, uint64(0)
	clock := func() uint64 {
		read++
		at += uint64(sweepTime.Seconds()*sys.TSCHz())/steps + 1
		return at
	}
	sweeps := 0
	for ; r.s.ConnectionStats().Connections > 0 && sweeps < n; sweeps++ {
		read = 0
		left := r.s.ConnectionStats().Connections
		c.expire(ticks, n, clock)
		c.worker.Quiet()
		if read > steps+1 {
			t.Fatalf("a sweep has gone on for %d looks at the clock, want %d", read, steps+1)
		}
		if gone := left - r.s.ConnectionStats().Connections; gone > steps {
			t.Fatalf("a sweep has removed %d between %d looks at the clock", gone, read)
		}
	}
	if left := r.s.ConnectionStats().Connections; left > 0 {
		t.Errorf("%d of %d connections are left after %d sweeps", left, n, sweeps)
	}
}

// TestSweepPace checks that a worker's sweeps look at all connections in a second, and a busy
// one's catch up.
func TestSweepPace(t *testing.T) {
	const n = 1000
	r := newRigFor(t, nil, 2*n)
	c, ticks := r.overdue(n)
	c.swept = ticks
	part := uint64(sys.TSCHz()) / 100
	for range 105 {
		ticks += part
		c.sweptFragments = ticks
		c.sweep(ticks, 1)
	}
	if left := r.s.ConnectionStats().Connections; left > n/20 {
		// a sweep may be cut short by the machine: give those left over some more time
		for range 20000 {
			ticks += part / 100
			c.sweptFragments = ticks
			c.sweep(ticks, 1)
		}
		if left = r.s.ConnectionStats().Connections; left > 0 {
			t.Errorf("%d of %d connections are left", left, n)
		}
	}
}

// BenchmarkSweep is how long one sweep holds up a worker, in a table of a million connections: of
// which none is over, and all are.
func BenchmarkSweep(b *testing.B) {
	const n = 1 << 20
	for _, all := range []bool{false, true} {
		b.Run(map[bool]string{false: "none over", true: "all over"}[all], func(b *testing.B) {
			r := newRigFor(b, nil, n+n/8)
			c, over := r.overdue(n)
			ticks := over
			if !all {
				ticks = sys.TSC()
			}
			step := uint64(sys.TSCHz() / 250) // a turn so long that more is due than there is time for
			var times []time.Duration
			for b.Loop() {
				ticks += step
				c.sweptFragments = ticks
				begin := sys.TSC()
				c.sweep(ticks, 1)
				times = append(times, sys.TSCDuration(sys.TSC()-begin))
				c.worker.Quiet()
			}
			slices.Sort(times)
			for _, q := range []struct {
				name string
				part float64
			}{{"median-ns", 0.5}, {"p99-ns", 0.99}, {"p99.9-ns", 0.999}} {
				b.ReportMetric(float64(times[int(q.part*float64(len(times)-1))]), q.name)
			}
		})
	}
}
