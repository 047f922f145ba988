package dataplane

import (
	"cmp"
	"slices"
)

// A billet is a receive queue and where it is, for a plan.
type billet struct {
	rxPlace
	worker int     // that has it, by place
	load   float64 // 0: nothing came by it
}

// spread returns which of n workers each of queues shall have. Those with a load are
// dealt heaviest first, each to the worker that has the least by then, which comes
// within a third of the best (Graham 1969); where two have as little, the
// queue stays, or goes to the one with fewer queues. Those without a load stay.
func spread(queues []billet, n int) []int {
	to := make([]int, len(queues))
	loads, counts := make([]float64, n), make([]int, n)
	var order []int
	for i, q := range queues {
		to[i] = q.worker
		if q.load > 0 {
			order = append(order, i)
		} else {
			counts[q.worker]++
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(queues[b].load, queues[a].load) })
	for _, i := range order {
		q, best := &queues[i], queues[i].worker
		for w := range n {
			if loads[w] < loads[best] || loads[w] == loads[best] && best != q.worker && counts[w] < counts[best] {
				best = w
			}
		}
		to[i] = best
		loads[best] += q.load
		counts[best]++
	}
	return to
}

// loadsOf are the loads of n workers that have queues as to says.
func loadsOf(queues []billet, to []int, n int) []float64 {
	loads := make([]float64, n)
	for i, q := range queues {
		loads[to[i]] += q.load
	}
	return loads
}

// variance is how far numbers are from their mean, squared, on average.
func variance(x []float64) float64 {
	var sum, squares float64
	for _, v := range x {
		sum += v
	}
	mean := sum / float64(len(x))
	for _, v := range x {
		squares += (v - mean) * (v - mean)
	}
	return squares / float64(len(x))
}

// improvement is by how much of itself the variance of workers' loads falls, as
// Open vSwitch estimates it: 0 to 1, and less than 0 for the worse.
func improvement(before, after []float64) float64 {
	was := variance(before)
	if was == 0 {
		return 0
	}
	return (was - variance(after)) / was
}
