package flowcache

import "sync/atomic"

// Memory that the kernel has not provided yet costs its first user a fault of up to a
// millisecond. So what a cache is about to grow into is made ready by a goroutine beside
// its worker:
//
//	Upkeep   (worker)  notes what will be needed soon: see plan
//	Asks     (worker)  says that there is something new to do
//	Supply   (other)   does a piece of it, of some megabytes at most
//
// If nobody calls Supply, or it comes late, the worker meets the faults itself.

// A supply is what the two sides know. What is not atomic belongs to one of them.
type supply struct {
	dense   [kinds + 1]atomic.Bool // tables, and the flows seen once, that are worth huge pages
	goal    atomic.Int64           // bytes of programs that should be there
	asks    bool                   // of the worker: something is new
	planned int                    // of the worker: goal
	densed  [kinds + 1]int         // of the supplier: huge pages that are done
	made    int                    // of the supplier: bytes of programs that are there
}

// seenKind is the place in a supply of the flows seen once.
const seenKind = kinds

// denseFrom is how many entries make a table worth huge pages. Few entries, which lie
// anywhere in it, would take all of its memory by them.
const denseFrom = 2048

// Programs are made ready a quarter ahead of what is in use, and a bit.
const (
	supplyPart = 4
	supplyMore = hugePage / 2
)

// plan notes what will be needed soon.
func (s *supply) plan(c *Cache) {
	for kind, t := range c.tables {
		if t.used < denseFrom {
			continue
		}
		s.want(kind)
		if c.wantsSight(t) {
			s.want(seenKind)
		}
	}
	if used := c.programs.reached * slabLines * lineBytes; used > 0 {
		goal := used + used/supplyPart + supplyMore
		goal = min((goal+hugePage-1)&^(hugePage-1), c.programs.mem.size&^(hugePage-1))
		if goal > s.planned {
			s.planned, s.asks = goal, true
			s.goal.Store(int64(goal))
		}
	}
}

// want notes that a table is worth huge pages.
func (s *supply) want(kind int) {
	if !s.dense[kind].Load() {
		s.dense[kind].Store(true)
		s.asks = true
	}
}

// Asks reports whether there is something for Supply to do that was not there when it was
// last called. It is for the worker.
func (c *Cache) Asks() bool {
	asks := c.supply.asks
	c.supply.asks = false
	return asks
}

// Supply makes a piece of memory ready that the cache is about to use, and reports whether it
// did: then there may be more. It is for one goroutine, which may be another than the worker's, and
// not after Close.
func (c *Cache) Supply() bool {
	s := &c.supply
	if goal := int(s.goal.Load()); s.made < goal {
		if s.made == 0 {
			c.programs.headMem.populate(0, c.programs.headMem.size)
		}
		c.programs.mem.populate(s.made, s.made+hugePage)
		s.made += hugePage
		c.programs.supplyTallies(s.made)
		return true
	}
	for kind := range s.dense {
		m := &c.seenMem
		if kind < kinds {
			m = &c.tables[kind].mem
		}
		if s.dense[kind].Load() && s.densed[kind] < m.size/hugePage {
			m.collapse(s.densed[kind])
			if s.densed[kind]++; s.densed[kind] == m.size/hugePage {
				m.advise() // for kernels that do not collapse when they are told
			}
			return true
		}
	}
	return false
}

// supplyTallies makes the tallies of the first bytes of programs ready.
func (a *programs) supplyTallies(bytes int) {
	end := bytes / (linesMin * lineBytes) * tallyBytes
	a.tallied.populate(max(end-hugePage/(linesMin*lineBytes)*tallyBytes, 0), end)
}
