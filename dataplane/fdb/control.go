package fdb

import (
	"fmt"
	"iter"
	"math"
)

// noLimit is the limit of a port that may use the whole capacity. When that is
// used up, its newcomers replace its own entries; a limit refuses them.
const noLimit = math.MaxInt

// SetLimit sets how many entries the port may have learned. A limit below 0, or
// of the capacity or more, is none, and so it is for ports that were never
// named. Entries beyond a new limit stay until they age. Static entries do not
// count.
func (t *Table) SetLimit(port uint32, limit int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if limit < 0 || limit >= t.capacity {
		limit = noLimit
	}
	t.portOf(port).limit = limit
}

// Watch has f called for each key that comes, goes, or changes port from now on:
// after the change, with the mutex held, so f must be short and not call the
// table. It is for answers that are kept. Call it before the table is in use.
func (t *Table) Watch(f func(Key)) { t.watch = f }

// tell tells the watcher of a change of key.
func (t *Table) tell(key Key) {
	if t.watch != nil {
		t.watch(key)
	}
}

// AddStatic pins a station to a port. It replaces what was known of it, and
// in a full table a learned entry gives way, or ErrFull says that there is none.
func (t *Table) AddStatic(key Key, port uint32) error {
	if err := t.addStatic(key, port); err != nil {
		return fmt.Errorf("add static %v on port %d: %w", key, port, err)
	}
	return nil
}

// addStatic is AddStatic without the words.
func (t *Table) addStatic(key Key, port uint32) error {
	if port == NoPort {
		return ErrPort
	}
	if key.Group() {
		return ErrGroup
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	v := value(port) | valueStatic
	s, old := t.find(key)
	if s >= 0 {
		b, i := t.at(s)
		b.vals[i].Store(uint64(v))
		t.changes.Add(1)
		t.tell(key)
		t.uncount(old)
		t.count(v)
		return nil
	}
	if s = t.claim(key, NoPort); s < 0 {
		return ErrFull
	}
	t.fill(s, key, v)
	return nil
}

// Delete removes an entry, learned or static, and says whether it was there.
func (t *Table) Delete(key Key) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, _ := t.find(key)
	if s < 0 {
		return false
	}
	t.empty(s)
	return true
}

// An Entry is a row of Dump.
type Entry struct {
	Key    Key
	Port   uint32
	Age    uint32 // seconds since the station was heard; 0 if static
	Static bool
	Hits   uint64 // lookups by workers since the entry came; they survive a change of port
}

// dumpBuckets is how many buckets Dump copies while it holds the mutex.
const dumpBuckets = 64

// Dump yields the entries in no useful order. It copies a part of the table at
// a time and holds no lock while the caller works, so entries that come, go or
// move meanwhile may be missing or come twice, but none is half old and half
// new. Hits may lack those of the last microseconds.
func (t *Table) Dump(now uint32) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		part := make([]Entry, 0, dumpBuckets*bucketSlots)
		for at := 0; at < len(t.buckets); at += dumpBuckets {
			part = t.copyEntries(part[:0], at, min(at+dumpBuckets, len(t.buckets)), now)
			for _, e := range part {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// copyEntries appends the entries of buckets from to to-1.
func (t *Table) copyEntries(part []Entry, from, to int, now uint32) []Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	for s := from * bucketSlots; s < to*bucketSlots; s++ {
		b, i := t.at(s)
		k, v := Key(b.keys[i].Load()), value(b.vals[i].Load())
		if k == 0 {
			continue
		}
		part = append(part, Entry{
			Key:    k,
			Port:   v.port(),
			Age:    v.age(now),
			Static: v.static(),
			Hits:   t.hits(s) - t.base[s],
		})
	}
	return part
}

// Events counts what happened since the table was made.
type Events struct {
	Learned       uint64 // new entries
	Moved         uint64 // entries that changed port
	Aged          uint64 // entries removed by Age
	Flushed       uint64 // entries removed by Flush, FlushPort, FlushVLAN, RemovePort
	Evicted       uint64 // entries that gave way to a newcomer
	StaticOnOther uint64 // not learned: static on another port
	LimitReached  uint64 // not learned: limit of the port
	Full          uint64 // not learned: no entry may give way
	Busy          uint64 // not learned: the table was being changed
}

// count adds one for a result of Learn.
func (e *Events) count(r Result) {
	switch r {
	case Learned:
		e.Learned++
	case Moved:
		e.Moved++
	case StaticOnOther:
		e.StaticOnOther++
	case LimitReached:
		e.LimitReached++
	case Full:
		e.Full++
	}
}

// WouldLearn reports whether an address heard on a port would be behind it
// afterwards, as far as static entries and the port's limit say.
func (t *Table) WouldLearn(key Key, number uint32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s, v := t.find(key); s >= 0 && (v.static() || v.port() == number) {
		return v.port() == number
	}
	p := t.ports[number]
	return !key.Group() && key&macMask != 0 && (p == nil || p.learned < p.limit)
}

// Bytes is how much memory the table has mapped.
func (t *Table) Bytes() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.words)
	for _, w := range t.workers {
		n += len(w.hits)
	}
	return 8 * uint64(n)
}

// Stats is the state of a table in numbers.
type Stats struct {
	Capacity int // entries at most
	Learned  int // entries now that are not static
	Static   int // entries now that are
	Buckets  int // to sweep with Age
	Events   Events
}

// Stats returns the state now.
func (t *Table) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := Stats{
		Capacity: t.capacity,
		Learned:  t.learned,
		Static:   t.static,
		Buckets:  len(t.buckets),
		Events:   t.events,
	}
	s.Events.Busy = t.busy.Load()
	return s
}
