package sys

import (
	"sync"
	"time"
)

// TSCHz is the rate of TSC, measured against the clock once, for 20 ms.
var TSCHz = sync.OnceValue(func() float64 {
	t0, c0 := time.Now(), TSC()
	time.Sleep(20 * time.Millisecond)
	c1, t1 := TSC(), time.Now()
	return float64(c1-c0) / t1.Sub(t0).Seconds()
})

// TSCDuration turns ticks of TSC into time.
func TSCDuration(ticks uint64) time.Duration {
	return time.Duration(float64(ticks) / TSCHz() * 1e9)
}
