package dataplane

import (
	"millrace/dataplane/conntrack"
	"millrace/dataplane/sys"
	"millrace/flowtable"
	"millrace/flowtable/flowcache"
)

// Composed programs carry packets past connection tracking. Connections hear of them
// in pieces, between turns: once a second, when a program goes, and when
// somebody asks.

// told tells a connection, or a client's entry, what a program has counted for it.
func (c *connector) told(ref uint64, what uint32, packets, bytes uint64) {
	if what == flowtable.CountClient {
		c.worker.TouchAffinity(ref, c.nanos(sys.TSC()))
		return
	}
	c.worker.Touch(conntrack.Ref(ref), what == flowtable.CountReply, packets, bytes, c.nanos(sys.TSC()))
}

// kept takes note that a walk's program is in the cache. Its packet of n bytes, which
// connections have counted already, is counted by the program as well, so
// it is taken off.
func (c *connector) kept(comp *flowtable.Composed, n uint32) {
	for i := range comp.Ops {
		op := &comp.Ops[i]
		if op.Code != flowtable.OpCT {
			continue
		}
		c.used = true
		if op.Arg != flowtable.CountClient {
			c.worker.Touch(conntrack.Ref(op.Value), op.Arg == flowtable.CountReply, ^uint64(0), -uint64(n), c.now)
		}
	}
}

// sweepSeconds is in how many seconds a worker looks at all connections, and tellPiece
// how many programs are told of in one go.
const (
	sweepSeconds = 1
	tellPiece    = 16
)

// upkeep is for every few turns; idle says that the worker would sleep if it could. Programs
// tell once a second, and then: who sleeps leaves nothing untold.
func (c *connector) upkeep(cache *flowcache.Cache, ticks uint64, second uint32, idle bool) {
	if c.used && (c.place != 0 || c.second != second || c.untold && idle) {
		if c.place == 0 {
			c.second, c.untold = second, false
		}
		c.place = cache.Tell(c.place, tellPiece)
	}
	c.sweep(ticks, second)
}

// fragmentParts is in how many parts fragments are looked over in a second.
const fragmentParts = 64

// sweep looks for fragments and connections whose time is over: as many as are due for all to
// be looked at once in sweepSeconds.
func (c *connector) sweep(ticks uint64, second uint32) {
	since := ticks - c.swept
	if ticks-c.sweptFragments > uint64(sys.TSCHz()/fragmentParts) {
		c.sweptFragments = ticks
		c.worker.ExpireFragments(c.nanos(ticks), fragmentParts)
	}
	touched := float64(c.table.Touched())
	due := touched * float64(since) / (sweepSeconds * sys.TSCHz())
	if due < 64 && since < uint64(sys.TSCHz()/4) {
		return
	}
	c.swept = ticks
	c.crossing.swept.Store(second)
	c.worker.Expire(c.nanos(ticks), int(min(due+64, expireBudget)))
}

// isDone reports whether connections know all that programs have counted, so that
// the worker may sleep.
func (c *connector) isDone() bool { return !c.used || c.place == 0 && !c.untold }

// retire gives the way into the table back. The cache has told of all its programs.
func (c *connector) retire() {
	c.worker.Retire()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used = false
	c.crossing.used[c.number] = false
}
