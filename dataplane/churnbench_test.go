package dataplane

import (
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"millrace/flowtable"
)

// BenchmarkChanges forwards 1,024 flows by one rule, by turns in peace and while a thousand
// rules that no frame needs change at a rate of 1,000 a second. The worker's thread and
// the one that changes rules need a CPU each. kept is the throughput that is left, as the
// median of pairs.
func BenchmarkChanges(b *testing.B) {
	s := newStage(b, udpFlows(1024), shuffled(1024))
	const idle = 1000
	rules := append(idleRules(idle), flowtable.Rule{Priority: 1, Match: []flowtable.Masked{is(fields("eth.type")[0], 0x0800)}, Actions: []flowtable.Action{out(2)}})
	s.add(rules)
	w := s.s.workers[0]
	var on, ended atomic.Bool
	made := make(chan int)
	go func() { made <- s.change(rules[:idle], &on, &ended) }()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var kept []float64
	began := time.Now()
	for b.Loop() {
		on.Store(false)
		peace := framesIn(b, w, 50*time.Millisecond)
		on.Store(true)
		kept = append(kept, framesIn(b, w, 50*time.Millisecond)/peace)
	}
	ended.Store(true)
	n := <-made
	slices.Sort(kept)
	b.ReportMetric(kept[len(kept)/2], "kept")
	b.ReportMetric(float64(n)/time.Since(began).Seconds()*2, "changes/s")
	b.ReportMetric(0, "ns/op")
}

// idleRules are n rules for destinations that nobody asks for.
func idleRules(n int) []flowtable.Rule {
	f := fields("eth.type", "ip.proto", "ip4.dst", "tp.dst")
	rules := make([]flowtable.Rule, n)
	for i := range rules {
		rules[i] = flowtable.Rule{Priority: 50, Match: []flowtable.Masked{is(f[0], 0x0800), is(f[1], 17), is(f[2], 10<<24|200<<16|uint64(i)), is(f[3], 4789)}, Actions: []flowtable.Action{out(2)}}
	}
	return rules
}

// change changes one rule after the other, 1,000 a second while on, until it is to
// end, and returns how many.
func (s *stage) change(rules []flowtable.Rule, on, ended *atomic.Bool) (n int) {
	for ; !ended.Load(); time.Sleep(time.Millisecond) {
		if !on.Load() {
			continue
		}
		r := rules[n%len(rules)]
		if n/len(rules)%2 == 0 {
			r.Actions = []flowtable.Action{{Code: flowtable.ActDrop}}
		}
		x := s.s.Tables().Begin()
		if err := x.Replace(&r); err != nil {
			x.Abort()
			panic(err)
		}
		if _, err := x.Commit(false); err != nil {
			panic(err)
		}
		n++
	}
	return n
}

// framesIn is how many frames a millisecond w carries, by what its thread has had of time.
func framesIn(b *testing.B, w *worker, d time.Duration) float64 {
	start, n := threadTime(b), w.stats.Frames
	now := start
	for now-start < int64(d) {
		for range 64 {
			w.turn()
		}
		now = threadTime(b)
	}
	return float64(w.stats.Frames-n) / float64(now-start) * 1e6
}
