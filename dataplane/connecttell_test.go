package dataplane

import (
	"testing"
	"time"
)

// TestTellsOnceASecond checks that a worker under load does not tell connections more often
// than once a second what programs have counted, and that it does tell.
func TestTellsOnceASecond(t *testing.T) {
	const n = 256
	s := newStage(t, udpFlows(n), shuffled(n))
	s.add(tracking(1, false))
	w := s.s.workers[0]
	for range 50 {
		w.turn()
	}
	told := 0
	w.flow.cache.TellConnections(func(ref uint64, what uint32, packets, bytes uint64) {
		told++
		w.flow.ct.told(ref, what, packets, bytes)
	}, w.flow.ct.worker.TouchAhead)
	began := time.Now()
	for w.now < 3 { // seconds of the worker's life
		w.turn()
	}
	// Each pass is told of by all; one may have been under way.
	if most := n * int(time.Since(began)/time.Second+3); told < n || told > most {
		t.Errorf("connections were told %d times in %v, want %d to %d", told, time.Since(began).Round(time.Millisecond), n, most)
	}
}
