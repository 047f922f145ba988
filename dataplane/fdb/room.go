package fdb

import "math/bits"

// handBuckets is how many buckets beside a newcomer's own are searched for a
// victim at once. The search goes on from there for the next newcomer. For a
// static entry, which control adds, it goes round the table.
const handBuckets = 16

// claim returns an empty slot for key, a newcomer on port newPort, and has an
// entry give way if that is needed and allowed. It returns none if not. For a
// newcomer that will be static, newPort is NoPort: any learned entry gives way.
func (t *Table) claim(key Key, newPort uint32) int {
	h := t.hash(key)
	s := t.room(h)
	full := t.learned+t.static >= t.capacity
	if s >= 0 && !full {
		return s
	}
	v := t.newVictim(newPort)
	v.consider(t.first(h))
	v.consider(t.second(h))
	if s >= 0 && v.slot < 0 {
		look := handBuckets
		if newPort == NoPort {
			look = len(t.buckets)
		}
		for range look {
			v.consider(uint64(t.handNext))
			t.handNext = (t.handNext + 1) & int(t.mask)
		}
	}
	if v.slot < 0 {
		return none
	}
	t.empty(v.slot)
	t.events.Evicted++
	if s < 0 {
		return v.slot
	}
	return s
}

// room returns an empty slot for a key of hash h, or none. If both buckets are
// full, one entry that is in the first of its own two may move to the second.
func (t *Table) room(h uint64) int {
	first, second := t.first(h), t.second(h)
	if s := t.vacant(first); s >= 0 {
		return s
	}
	if s := t.vacant(second); s >= 0 {
		return s
	}
	if s := t.makeRoom(first); s >= 0 {
		return s
	}
	return t.makeRoom(second)
}

// vacant returns an empty slot of a bucket, or none.
func (t *Table) vacant(at uint64) int {
	b := &t.buckets[at]
	if free := b.match(0, 0) | b.match(2, 0)<<2; free != 0 {
		return int(at)*bucketSlots + bits.TrailingZeros(free)
	}
	return none
}

// makeRoom moves an entry of the full bucket at to its second bucket, and
// returns the slot that it left, or none.
func (t *Table) makeRoom(at uint64) int {
	for i := range bucketSlots {
		h := t.hash(Key(t.buckets[at].keys[i].Load()))
		if t.first(h) != at {
			continue
		}
		if to := t.vacant(t.second(h)); to >= 0 {
			from := int(at)*bucketSlots + i
			t.move(from, to)
			return from
		}
	}
	return none
}

// move takes the entry of slot from to the empty slot to, with its hits. It is
// in both for a moment, and never in neither. A refresh in that moment is lost.
func (t *Table) move(from, to int) {
	t.base[to] = t.hits(to) - (t.hits(from) - t.base[from])
	a, i := t.at(from)
	b, j := t.at(to)
	b.vals[j].Store(a.vals[i].Load())
	b.keys[j].Store(a.keys[i].Load())
	a.keys[i].Store(0)
	t.changes.Add(1)
}

// A victim is the entry that gives way to a newcomer, as far as the table has
// looked: the stalest of the port that holds the most.
type victim struct {
	table *Table
	slot  int    // none if nobody may give way yet
	held  int    // entries of its port
	seen  uint32 // when it was heard

	newPort uint32 // the newcomer's; NoPort if it is static
	atLeast int    // entries that another port must hold to lose one
	own     bool   // newPort may lose one

	lastPort uint32 // the last port asked for
	lastHeld int    // and what it holds
}

// newVictim begins the search for a newcomer on newPort.
func (t *Table) newVictim(newPort uint32) victim {
	v := victim{table: t, slot: none, newPort: newPort, lastPort: NoPort}
	if newPort == NoPort {
		return v
	}
	p := t.portOf(newPort)
	sharers := t.holders
	if p.learned == 0 {
		sharers++
	}
	share := (t.capacity - t.static) / sharers
	v.atLeast = max(p.learned, share) + 1
	v.own = p.learned >= share
	return v
}

// consider looks at the entries of one bucket.
func (v *victim) consider(at uint64) {
	b := &v.table.buckets[at]
	for i := range bucketSlots {
		val := value(b.vals[i].Load())
		if b.keys[i].Load() == 0 || val.static() {
			continue
		}
		held := v.heldBy(val.port())
		if held < v.atLeast && !(v.own && val.port() == v.newPort) {
			continue
		}
		if v.slot < 0 || held > v.held || held == v.held && val.seen() < v.seen {
			v.slot, v.held, v.seen = int(at)*bucketSlots+i, held, val.seen()
		}
	}
}

// heldBy returns the number of entries learned on port n.
func (v *victim) heldBy(n uint32) int {
	if n != v.lastPort {
		v.lastPort, v.lastHeld = n, v.table.ports[n].learned
	}
	return v.lastHeld
}
