package dataplane

import (
	"time"

	"millrace/dataplane/sys"
)

// sweepSeconds is in how many seconds a worker looks at all connections.
const sweepSeconds = 1

// fragmentParts is in how many parts fragments are looked over in a second.
const fragmentParts = 256

// A sweep looks at some connections in pieces of sweepPiece, between which it looks at the clock: it
// ends after sweepTime. One piece is a removal at most, which is some misses of the cache. All of a sweep
// holds up the worker for less than 20 microseconds, unless the machine does.
const (
	sweepPiece = 128
	sweepTime  = 8 * time.Microsecond
)

// sweep looks for fragments and connections whose time is over: as many as are due for all to
// be looked at once in sweepSeconds, or as many as there is time for. What is left over is due next time.
func (c *connector) sweep(ticks uint64, second uint32) {
	if ticks-c.sweptFragments > uint64(sys.TSCHz()/fragmentParts) {
		c.sweptFragments = ticks
		c.worker.ExpireFragments(c.nanos(ticks), fragmentParts)
		return // that takes its time, too
	}
	perTick := float64(c.table.Touched()) / (sweepSeconds * sys.TSCHz())
	since := min(float64(ticks-c.swept), sweepSeconds*sys.TSCHz())
	due := perTick * since
	if due < sweepPiece/2 && since < sys.TSCHz()/4 {
		return
	}
	c.crossing.swept.Store(second)
	looked := c.expire(ticks, int(due)+1, sys.TSC)
	c.swept = ticks - uint64(max(due-float64(looked), 0)/max(perTick, 1e-12))
}

// expire looks at n connections, or as many as there is time for by a clock, and returns how many.
func (c *connector) expire(ticks uint64, n int, clock func() uint64) (looked int) {
	end := clock() + uint64(sweepTime.Seconds()*sys.TSCHz())
	for now := c.nanos(ticks); looked < n; {
		some, _ := c.worker.Expire(now, min(sweepPiece, n-looked))
		if looked += some; some == 0 || clock() >= end {
			break
		}
	}
	return looked
}
