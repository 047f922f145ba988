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
	began := w.now
	const seconds = 3
	for range seconds {
		w.clock.epoch = w.clock.epoch.Add(-time.Second) // a second is over
		w.clock.nextSecond = 0
		for range 2 * n / tellPiece * upkeepTurns { // twice what it takes
			w.turn()
		}
	}
	// Each pass is told of by all; one may have been under way. The machine may have taken seconds, too.
	if most := n * int(w.now-began+1); told < n*seconds || told > most {
		t.Errorf("connections were told %d times in %d seconds, want %d to %d", told, w.now-began, n*seconds, most)
	}
}
