package conntrack

import (
	"fmt"
	"math"
	"sync/atomic"
)

// Zones is how many zones there are.
const Zones = 1 << 16

// A zone has its connections in a list, newest first, so that a flush costs
// what it holds and nothing else. All but policy, limit and evicted is written under the
// zone's lock; all but the list may be read without.
type zone struct {
	head, tail uint32
	count      atomic.Uint32
	limit      atomic.Uint32 // 0: the table's default
	refused    atomic.Uint64 // connections beyond the limit
	created    atomic.Uint64
	evicted    atomic.Uint64
	policy     atomic.Uint32 // timeout policy of new connections
	_          [5]uint32
}

// NoLimit is the limit of a zone that has none, whatever the default is.
const NoLimit = math.MaxUint32

// limitOf returns how many connections a zone may have, 0 for any number.
func (t *Table) limitOf(z *zone) uint32 {
	if limit := z.limit.Load(); limit != 0 {
		return limit
	}
	return t.zoneLimit.Load()
}

// zoneLocks is how many locks zones share.
const zoneLocks = 256

func (t *Table) zoneLock(z uint16) *lock { return &t.zoneLocks[z%zoneLocks] }

// enlist puts a record into its zone's list. It reports whether the limit
// allows that.
func (t *Table) enlist(i uint32) bool {
	r := &t.records[i]
	at := r.original.zone()
	l, z := t.zoneLock(at), &t.zones[at]
	l.Lock()
	defer l.Unlock()
	if limit := t.limitOf(z); limit != 0 && z.count.Load() >= limit {
		z.refused.Add(1)
		return false
	}
	r.links = uint64(z.head)
	if z.head != 0 {
		next := &t.records[z.head]
		next.links = next.links&0xffffffff | uint64(i)<<32
	} else {
		z.tail = i
	}
	z.head = i
	put32(&z.count, z.count.Load()+1)
	put64(&z.created, z.created.Load()+1)
	return true
}

// delist takes a record out of its zone's list.
func (t *Table) delist(i uint32) {
	r := &t.records[i]
	at := r.original.zone()
	l, z := t.zoneLock(at), &t.zones[at]
	l.Lock()
	defer l.Unlock()
	next, previous := uint32(r.links), uint32(r.links>>32)
	if previous != 0 {
		p := &t.records[previous]
		p.links = p.links&^0xffffffff | uint64(next)
	} else {
		z.head = next
	}
	if next != 0 {
		n := &t.records[next]
		n.links = n.links&0xffffffff | uint64(previous)<<32
	} else {
		z.tail = previous
	}
	put32(&z.count, z.count.Load()-1)
}

// SetZoneLimit allows a zone limit connections; 0 stands for the table's default.
// Connections beyond it stay.
func (t *Table) SetZoneLimit(z uint16, limit uint32) { t.zones[z].limit.Store(limit) }

// SetDefaultLimit allows zones without a limit of their own limit connections
// each; 0 any number.
func (t *Table) SetDefaultLimit(limit uint32) { t.zoneLimit.Store(limit) }

// DefaultLimit returns what SetDefaultLimit was given, or Options.ZoneLimit.
func (t *Table) DefaultLimit() uint32 { return t.zoneLimit.Load() }

// SetZonePolicy gives new connections of a zone a timeout policy, which
// SetPolicy has made.
func (t *Table) SetZonePolicy(z uint16, policy uint8) error {
	if t.policies[policy].Load() == nil {
		return fmt.Errorf("set timeout policy %d of zone %d: %w", policy, z, ErrNoPolicy)
	}
	t.zones[z].policy.Store(uint32(policy))
	return nil
}

// A ZoneInfo is the state of a zone. What it counts, it counts since the table was
// made or the zone was reset.
type ZoneInfo struct {
	Zone    uint16
	Count   uint32 // connections now
	Limit   uint32 // 0: the default
	Policy  uint8
	Created uint64
	Evicted uint64 // gave way to new ones, of any zone, because the table was nearly full
	Refused uint64 // connections that were not made because of the limit
}

// Zone returns the state of a zone.
func (t *Table) Zone(z uint16) ZoneInfo {
	at := &t.zones[z]
	return ZoneInfo{
		Zone: z, Count: at.count.Load(), Limit: at.limit.Load(), Policy: uint8(at.policy.Load()),
		Created: at.created.Load(), Evicted: at.evicted.Load(), Refused: at.refused.Load(),
	}
}

// Reset makes a zone what it was at first, with no connections, settings and
// counts: it belongs to somebody else now. Like Flush, it holds nothing for long. It ends early, and
// changes nothing but connections, when stop reports true.
func (t *Table) Reset(z uint16, stop func() bool) {
	if t.flush(z, stop); stop() {
		return
	}
	l, at := t.zoneLock(z), &t.zones[z]
	l.Lock()
	defer l.Unlock()
	at.limit.Store(0)
	at.policy.Store(0)
	at.created.Store(0)
	at.evicted.Store(0)
	at.refused.Store(0)
}

// flushStep is how many connections Flush takes at a time.
const flushStep = 64

// Flush removes the connections that a zone has, and returns how many. Programs
// with one of them as guard take the long way at once. It takes time for these
// connections only, and holds no lock for longer than one of them takes.
func (t *Table) Flush(z uint16) int { return t.flush(z, func() bool { return false }) }

// flush is Flush until stop reports true.
func (t *Table) flush(z uint16, stop func() bool) (n int) {
	for left := int(t.zones[z].count.Load()); left > 0 && !stop(); {
		step := 0
		t.inside(func() {
			var refs [flushStep]Ref
			step = t.oldest(z, refs[:min(left, flushStep)])
			for _, ref := range refs[:step] {
				if t.remove(ref, &t.counts.flushed) {
					n++
				}
			}
		})
		if step == 0 {
			return n
		}
		left -= step
	}
	return n
}

// oldest writes the oldest connections of a zone into refs, and returns how many.
func (t *Table) oldest(z uint16, refs []Ref) (n int) {
	l := t.zoneLock(z)
	l.Lock()
	defer l.Unlock()
	for i := t.zones[z].tail; i != 0 && n < len(refs); i = uint32(t.records[i].links >> 32) {
		refs[n] = t.ref(i)
		n++
	}
	return n
}

// FlushTuple removes the connection of which tuple is a direction, and reports
// whether there was one.
func (t *Table) FlushTuple(z uint16, tuple Tuple) (gone bool) {
	k := tuple.key(z)
	t.inside(func() {
		if i, _ := t.find(&k, t.index.seed.hash(&k)); i != 0 {
			gone = t.remove(t.ref(i), &t.counts.flushed)
		}
	})
	return gone
}

// FlushSelected removes the connections that a filter has, and returns how many
// there were. Like Flush, it holds nothing for long; but for filters that ask for
// zones only, it looks at all connections.
func (t *Table) FlushSelected(f *Filter) (n int) {
	if f.onlyZones() {
		for z := int(f.Zones.Min); z <= int(f.Zones.Max); z++ {
			n += t.Flush(uint16(z))
		}
		return n
	}
	for from := uint32(1); from < t.stock.touched.Load(); from += flushStep {
		t.inside(func() {
			for i := from; i < min(from+flushStep, t.stock.touched.Load()); i++ {
				if c, ok := t.chosen(f, i, 0); ok && t.remove(c.Ref, &t.counts.flushed) {
					n++
				}
			}
		})
	}
	return n
}
