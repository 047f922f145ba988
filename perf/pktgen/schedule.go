package pktgen

import "math/rand/v2"

// scheduleMax is how many frames a skewed schedule is long before it comes
// round: long enough that rare flows are there in their share.
const scheduleMax = 1 << 22

// schedule is the order in which lane q of n sends its part of a stream's
// flows: one after the other; shuffled, in an order without one that comes
// round; or, with Zipf, at random so that the k-th most popular flow has a share
// in proportion to k^-Zipf. It is the same each time.
func schedule(t Traffic, q, n int) []uint32 {
	var mine []uint32
	for f := q; f < t.Flows; f += n {
		mine = append(mine, uint32(f))
	}
	if t.Zipf == 0 && !t.Shuffle || len(mine) < 2 {
		return mine
	}
	r := rand.New(rand.NewPCG(1, uint64(q)))
	r.Shuffle(len(mine), func(i, k int) { mine[i], mine[k] = mine[k], mine[i] }) // popular flows are not neighbours
	if t.Zipf == 0 {
		return mine
	}
	draw := rand.NewZipf(r, t.Zipf, 1, uint64(len(mine)-1))
	order := make([]uint32, scheduleMax)
	for i := range order {
		order[i] = mine[draw.Uint64()]
	}
	return order
}
