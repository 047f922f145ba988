package conntrack

// graceTicks is how long a connection whose time is over is kept for packets
// that composed programs carried past it: two seconds.
const graceTicks = 30

// removeCost is how many records a sweep could look at in the time that one
// removal takes.
const removeCost = 128

// Expire looks at some connections, as many as budget allows, and removes those
// whose time is over; a removal costs 128 of the budget. It goes on where the last
// call of anybody has stopped. It also lets go of old fragments and affinities.
// A budget of 4,096 takes some 10 microseconds. It returns how many
// connections were removed.
//
// A connection whose time is over is not removed at once: its cell moves first,
// so that packets which went by it unseen come this way, and it goes two seconds
// later if none did and no Touch told of one.
func (w *Worker) Expire(now uint64, budget int) int {
	return w.t.expire(tickOf(now), budget, &w.counts)
}

// Expire is Worker.Expire for whoever is no worker.
func (t *Table) Expire(now uint64, budget int) (n int) {
	t.inside(func() { n = t.expire(tickOf(now), budget, &t.counts) })
	return n
}

// sweepStep is how many records are taken at a time from the cursor that
// sweepers share.
const sweepStep = 16

func (t *Table) expire(now uint32, budget int, c *counts) (n int) {
	t.fragments.expire(now, budget/256+1, c)
	t.affinity.expire(t, now, budget/256+1)
	for budget > 0 {
		from := t.sweep.Load()
		to := min(from+sweepStep, t.stock.touched.Load())
		next := to
		if to >= t.stock.touched.Load() {
			next = 1
		}
		if !t.sweep.CompareAndSwap(from, next) {
			continue
		}
		budget -= sweepStep
		for i := max(from, 1); i < to; i++ {
			if d := t.deadlines[i].Load(); d != 0 && over(d, now) {
				budget -= removeCost
				if t.overdue(i, now, d, c) {
					n++
				}
			}
		}
		if next == 1 {
			t.stock.mu.Lock()
			t.reclaim()
			t.stock.mu.Unlock()
			return n
		}
	}
	return n
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
			t.deadlines[i].CompareAndSwap(d, max((now+graceTicks)<<1, 2)|d&assuredBit)
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
	evictAmong  = 4  // unassured connections of which the oldest goes
	evictTries  = 16 // windows
	evictMax    = 2  // connections that go for one that comes, if many tries before were in vain
)

// makeRoom removes the oldest unassured connection of a few if the table is
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

// victim returns the oldest of a few unassured connections, or 0. Only their
// records are looked at: who is assured is in the deadlines.
func (t *Table) victim(random uint32) (victim uint32) {
	n := t.stock.touched.Load()
	if n < 2 {
		return 0
	}
	oldest, seen := uint32(0), 0
	at := random % n
	for range evictWindow {
		if at++; at >= n {
			at = 1
		}
		if d := t.deadlines[at].Load(); d == 0 || d&assuredBit != 0 {
			continue
		}
		created := uint32(t.records[at].ident.Load())
		if victim == 0 || int32(created-oldest) < 0 {
			victim, oldest = at, created
		}
		if seen++; seen == evictAmong {
			break
		}
	}
	return victim
}
