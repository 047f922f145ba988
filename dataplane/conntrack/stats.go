package conntrack

import "sync/atomic"

// counts are what one worker, or control, has counted. Each is written by its
// owner and read by Stats.
type counts struct {
	created, expired, evicted, flushed, ended, reopened     atomic.Uint64
	full, bucketFull, limited, clash, noPort, raced         atomic.Uint64
	invalid, related, late                                  atomic.Uint64
	fragTracked, fragHeld, fragReleased, fragLost, fragOver atomic.Uint64
}

// Stats is the state of a table in numbers. All but the first three count since
// it was made.
type Stats struct {
	Connections, Capacity int
	Bytes                 int // mapped; the kernel provides what is touched

	Created  uint64
	Expired  uint64 // their time was over
	Evicted  uint64 // unassured or about to end, gave way to new ones because the table was nearly full
	Flushed  uint64
	Ended    uint64 // TCP connections that were refused: nothing is left of them
	Reopened uint64 // TCP connections that gave way to a SYN after their end
	Full     uint64 // not made: every connection is assured and goes on
	Bucket   uint64 // not made: both buckets of the index are full
	Limited  uint64 // not made: limit of the zone
	Clash    uint64 // not made: another one has the reply's addresses and ports
	NoPort   uint64 // not made: no address and port is free to translate to
	Raced    uint64 // two workers made the same one; the first was kept

	Invalid uint64 // packets that belong to no connection and cannot begin one
	Related uint64 // ICMP errors about connections
	Late    uint64 // packets counted for connections that had gone

	Fragments         uint64 // later fragments that were given their first's ports
	FragmentsHeld     uint64
	FragmentsReleased uint64
	FragmentsLost     uint64 // held ones whose first did not come in time
	FragmentsRefused  uint64 // not held: no room
}

// Touched returns the number of records that were ever used: what a sweep looks at.
func (t *Table) Touched() int { return int(t.stock.touched.Load()) }

// Stats returns the state now.
func (t *Table) Stats() Stats {
	s := Stats{Capacity: t.options.Capacity, Bytes: t.memory.size}
	s.add(&t.counts)
	t.mu.Lock()
	for _, w := range t.workers {
		if w != nil {
			s.add(&w.counts)
		}
	}
	t.mu.Unlock()
	s.Connections = int(s.Created - s.Expired - s.Evicted - s.Flushed - s.Ended - s.Reopened)
	return s
}

// add adds the counts of one owner.
func (s *Stats) add(c *counts) {
	for _, p := range [...]struct {
		sum *uint64
		n   *atomic.Uint64
	}{
		{&s.Expired, &c.expired}, {&s.Evicted, &c.evicted}, {&s.Flushed, &c.flushed}, {&s.Ended, &c.ended},
		{&s.Reopened, &c.reopened}, {&s.Created, &c.created}, {&s.Full, &c.full}, {&s.Bucket, &c.bucketFull}, {&s.Limited, &c.limited}, {&s.Clash, &c.clash},
		{&s.NoPort, &c.noPort}, {&s.Raced, &c.raced}, {&s.Invalid, &c.invalid}, {&s.Related, &c.related}, {&s.Late, &c.late},
		{&s.Fragments, &c.fragTracked}, {&s.FragmentsHeld, &c.fragHeld}, {&s.FragmentsReleased, &c.fragReleased},
		{&s.FragmentsLost, &c.fragLost}, {&s.FragmentsRefused, &c.fragOver},
	} {
		*p.sum += p.n.Load()
	}
}
