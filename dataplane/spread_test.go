package dataplane

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// TestSpread deals by load: what there is to gain is gained, and what need not move
// stays.
func TestSpread(t *testing.T) {
	q := func(worker int, load float64) billet { return billet{worker: worker, load: load} }
	for _, tt := range []struct {
		name   string
		queues []billet
		n      int
		want   string
	}{
		{"none", nil, 2, "[]"},
		{"all on one", []billet{q(0, .5), q(0, .4)}, 2, "[0 1]"},
		{"good already", []billet{q(1, .5), q(0, .4)}, 2, "[1 0]"},
		{"one moves", []billet{q(0, .5), q(0, .3), q(1, .4)}, 2, "[0 1 1]"},
		{"a heavy one keeps its worker alone", []billet{q(1, .9), q(1, .2), q(0, .2), q(1, .2)}, 2, "[1 0 0 0]"},
		{"idle ones stay", []billet{q(0, 0), q(0, 0), q(0, 0)}, 2, "[0 0 0]"},
		{"idle ones stay beside loaded ones", []billet{q(0, 0), q(0, .1), q(0, .1)}, 2, "[0 0 1]"},
		{"fewer queues among equals", []billet{q(0, 0), q(1, 0), q(1, 0), q(2, .3), q(2, .3)}, 3, "[0 1 1 2 0]"},
	} {
		if got := fmt.Sprint(spread(tt.queues, tt.n)); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// TestSpreadNearBest compares with the best of all ways to deal a few queues: the
// busiest worker has at most a third more.
func TestSpreadNearBest(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 500 {
		n := 2 + r.IntN(2)
		queues := make([]billet, 1+r.IntN(7))
		for i := range queues {
			queues[i] = billet{worker: r.IntN(n), load: float64(r.IntN(5))}
		}
		best, to := math.Inf(1), make([]int, len(queues))
		for way := range int(math.Pow(float64(n), float64(len(queues)))) {
			for i := range to {
				to[i], way = way%n, way/n
			}
			best = min(best, most(loadsOf(queues, to, n)))
		}
		if got := most(loadsOf(queues, spread(queues, n), n)); got > best*4/3+1e-9 {
			t.Fatalf("seed %d: %+v on %d workers: the busiest has %v, it could have %v", seed, queues, n, got, best)
		}
	}
}

func most(x []float64) float64 {
	m := 0.0
	for _, v := range x {
		m = max(m, v)
	}
	return m
}

// TestImprovement has the numbers of the manual page of Open vSwitch's way: the
// share by which the variance falls.
func TestImprovement(t *testing.T) {
	for _, tt := range []struct {
		before, after []float64
		want          float64
	}{
		{[]float64{80, 40}, []float64{60, 60}, 1},
		{[]float64{80, 40}, []float64{50, 70}, .75},
		{[]float64{80, 40}, []float64{80, 40}, 0},
		{[]float64{60, 60}, []float64{60, 60}, 0},
		{[]float64{50, 70}, []float64{80, 40}, -3},
	} {
		if got := improvement(tt.before, tt.after); math.Abs(got-tt.want) > 1e-9 {
			t.Errorf("%v to %v: %v, want %v", tt.before, tt.after, got, tt.want)
		}
	}
}
