package sys

import (
	"math"
	"sync"
	"time"
)

// TSCHz is the rate of TSC, measured against the clock once, for 20 ms.
var TSCHz = sync.OnceValue(func() float64 {
	t0, c0 := together()
	time.Sleep(20 * time.Millisecond)
	t1, c1 := together()
	return float64(c1-c0) / t1.Sub(t0).Seconds()
})

// together reads the clock and TSC at one time: of several tries the one that took
// least, for the thread may lose its CPU between the two.
func together() (t time.Time, c uint64) {
	least := uint64(math.MaxUint64)
	for range 5 {
		before := TSC()
		now := time.Now()
		if took := TSC() - before; took < least {
			least, t, c = took, now, before+took/2
		}
	}
	return t, c
}

// TSCDuration turns ticks of TSC into time.
func TSCDuration(ticks uint64) time.Duration {
	return time.Duration(float64(ticks) / TSCHz() * 1e9)
}
