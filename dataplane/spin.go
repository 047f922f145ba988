package dataplane

import (
	"time"

	"millrace/dataplane/sys"
)

// A spin is how long an adaptive worker without traffic polls before it sleeps, in
// ticks. Polling that ends in a sleep all the same is time taken from whoever shares
// the CPU, so it is done where it would have spared the sleep: after a short wait the
// next spin is twice as long, after one that no spin would have lasted for, half as long.
type spin struct{ least, short, most, now uint64 }

// Bounds of a spin, and a short wait. A sleep and a wake cost some 5 us of the worker's time, and delay
// a frame by tens of microseconds where a CPU is slow to wake.
const (
	spinLeast = 5 * time.Microsecond
	waitShort = 25 * time.Microsecond
	spinMost  = 100 * time.Microsecond
)

func newSpin() spin {
	hz := sys.TSCHz()
	most := uint64(spinMost.Seconds() * hz)
	return spin{least: uint64(spinLeast.Seconds() * hz), short: uint64(waitShort.Seconds() * hz), most: most, now: most}
}

// slept takes note of a sleep: of the time from the last frame until something came.
func (s *spin) slept(waited uint64) {
	switch {
	case waited <= s.short:
		s.now = min(2*s.now, s.most)
	case waited > s.most:
		s.now = max(s.now/2, s.least)
	}
}
