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

// tellPiece is how many programs are told of in one go.
const tellPiece = 16

// upkeep is for every few turns.
func (c *connector) upkeep(cache *flowcache.Cache, ticks uint64, second uint32) {
	if c.used && (c.place != 0 || c.second != second || c.untold) {
		if c.place == 0 {
			c.second, c.untold = second, false
		}
		c.place = cache.Tell(c.place, tellPiece)
	}
	c.sweep(ticks, second)
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
