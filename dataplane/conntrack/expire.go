package conntrack

// graceTicks is how long a connection whose time is over is kept for packets
// that composed programs carried past it: two seconds.
const graceTicks = 30

// removeCost is how many records a sweep could look at in the time that one
// removal takes.
const removeCost = 128

// sweepStep is how many records are taken at a time from the cursor that
// sweepers share.
const sweepStep = 16

// A sweeper looks at records from one number to another, which it has taken from the cursor.
type sweeper struct{ from, to uint32 }

// Expire looks at some connections, and removes those whose time is over. One that it
// looks at costs 1 of the budget, one whose time is over 128 more; it ends with the one that uses
// the budget up, so with 128 it does what cannot be parted and no more: one
// removal, or a look at eight lines of deadlines. It goes on where the last call of anybody
// has stopped. It also lets go of old fragments and affinities, and makes
// records free that were removed earlier. It returns how many connections it has looked at, and how many were removed.
//
// A connection whose time is over is not removed at once: its cell moves first,
// so that packets which went by it unseen come this way, and it goes two seconds
// later if none did and no Touch told of one.
func (w *Worker) Expire(now uint64, budget int) (looked, removed int) {
	looked, removed = w.t.expire(&w.sweeper, tickOf(now), budget, &w.counts)
	if w.t.stock.waiting.Load() != 0 && w.t.stock.mu.TryLock() {
		w.t.stock.reclaim()
		w.t.stock.mu.Unlock()
	}
	return looked, removed
}

// Expire is Worker.Expire for whoever is no worker. It ends with the last connection, too. It
// returns how many were removed.
func (t *Table) Expire(now uint64, budget int) (removed int) {
	t.inside(func() { _, removed = t.expire(&t.sweeper, tickOf(now), budget, &t.counts) })
	t.stock.mu.Lock()
	defer t.stock.mu.Unlock()
	t.stock.reclaim()
	return removed
}

// expire looks at connections until the budget is used up, or the last one has been looked at.
func (t *Table) expire(s *sweeper, now uint32, budget int, c *counts) (looked, removed int) {
	t.fragments.expire(now, budget/256+1, c)
	t.affinity.expire(t, now, budget/256+1)
	for last := false; budget > 0 && !(last && s.from == s.to); {
		if s.from == s.to {
			last = t.claim(s)
		}
		for ; s.from < s.to && budget > 0; s.from++ {
			budget--
			looked++
			if d := t.deadlines[s.from].Load(); d != 0 && over(d, now) {
				budget -= removeCost
				if t.overdue(s.from, now, d, c) {
					removed++
				}
			}
		}
	}
	return looked, removed
}

// claim gives a sweeper the next records, and reports whether they are the last ones.
func (t *Table) claim(s *sweeper) (last bool) {
	for {
		n, at := t.stock.touched.Load(), t.sweep.Load()
		from := max(at, 1)
		to := min(from+sweepStep, max(n, from))
		next := to
		if last = to >= n; last {
			next = 1
		}
		if t.sweep.CompareAndSwap(at, next) {
			s.from, s.to = from, to
			return last
		}
	}
}

// overdue deals with record i, whose deadline d has passed. It reports whether it
// was removed.
func (t *Table) overdue(i, now, d uint32, c *counts) bool {
	r := &t.records[i]
	s := status(r.state.Load())
	switch {
	case s&dead != 0:
		return false
	case s&dying == 0:
		if r.state.CompareAndSwap(uint64(s), uint64(s|dying)) {
			t.deadlines[i].CompareAndSwap(d, max((now+graceTicks)<<1, 2)|d&staysBit)
			t.move(i)
		}
		return false
	}
	if !r.state.CompareAndSwap(uint64(s), uint64(s|dead)) {
		return false
	}
	t.bury(i, &c.expired)
	return true
}

// Eviction.
const (
	evictWindow = 32 // deadlines in a row that are looked at for one that may go
	evictAmong  = 4  // connections that may go of which one goes
	evictTries  = 16 // windows
	evictMax    = 2  // connections that go for one that comes, if many tries before were in vain
)

// makeRoom removes one of a few connections that may go if the table is
// nearly full, so that there is room for the next ones when the workers are quiet.
func (w *Worker) makeRoom() {
	s := &w.t.stock
	for gone, try := 0, 0; gone < evictMax && try < evictTries && s.left.Load() < w.t.reserve(); try++ {
		if i := w.t.victim(uint32(w.random.Uint64())); i != 0 && w.t.remove(w.t.ref(i), &w.counts.evicted) {
			gone++
			w.t.zones[w.t.records[i].original.zone()].evicted.Add(1) // its key stays for this turn
		}
	}
}

// reserve is how many records eviction keeps free.
func (t *Table) reserve() int64 { return int64(min(t.options.Capacity/8, 4096)) }

// victim returns one of a few connections that may go, or 0: the oldest that is not assured, and
// only if there is none, the oldest that is about to end. Only their
// records are looked at: who stays is in the deadlines.
func (t *Table) victim(random uint32) (victim uint32) {
	n := t.stock.touched.Load()
	if n < 2 {
		return 0
	}
	oldest, ends, seen := uint32(0), false, 0
	at := random % n
	for range evictWindow {
		if at++; at >= n {
			at = 1
		}
		if d := t.deadlines[at].Load(); d == 0 || d&staysBit != 0 {
			continue
		}
		r := &t.records[at]
		created, e := uint32(r.ident.Load()), status(r.state.Load())&assured != 0
		if victim == 0 || ends && !e || ends == e && int32(created-oldest) < 0 {
			victim, oldest, ends = at, created, e
		}
		if seen++; seen == evictAmong {
			break
		}
	}
	return victim
}
