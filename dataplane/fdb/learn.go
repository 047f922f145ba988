package fdb

import "sync/atomic"

// A Result is what became of a frame's source address.
type Result uint8

// What Touch and Learn return.
const (
	Known         Result = iota // on this port already; nothing to do
	Refreshed                   // on this port already; its second was renewed
	NeedLearn                   // from Touch only: unknown, or on another port: call Learn
	Learned                     // from Learn: new
	Moved                       // from Learn: was on another port
	StaticOnOther               // static on another port: it stays there
	LimitReached                // not learned: the port holds all it may
	Full                        // not learned: capacity is used up, and no entry may give way
	Busy                        // not learned: the table is being changed; the next frame will do
	Unlearnable                 // not learned: group or zero address, or NoPort
)

// resultNames is in the order of the constants.
var resultNames = [...]string{"known", "refreshed", "need-learn", "learned", "moved",
	"static-on-other", "limit-reached", "full", "busy", "unlearnable"}

// String returns the name of r.
func (r Result) String() string {
	if int(r) < len(resultNames) {
		return resultNames[r]
	}
	return "invalid"
}

// Touch is for the source of every frame. It reads, and once a second for an
// entry stores the second. NeedLearn asks for Learn.
func (w *Worker) Touch(key Key, port, now uint32) Result {
	s, v := w.find(key)
	if v == makeValue(port, now) && s >= 0 {
		return Known
	}
	return w.touchSlow(s, v, port, now)
}

// touchSlow is Touch for what is not plainly known: slot s holds v.
func (x *index) touchSlow(s int, v value, port, now uint32) Result {
	switch {
	case s < 0:
		return NeedLearn
	case v.port() != port && v.static():
		return StaticOnOther
	case v.port() != port:
		return NeedLearn
	case v.static() || v.seen() >= now: // another worker's clock may be ahead
		return Known
	}
	// If the value has changed, somebody else has just heard or changed it.
	b, i := x.at(s)
	b.vals[i].CompareAndSwap(uint64(v), uint64(makeValue(port, now)))
	return Refreshed
}

// Learn records that the station key was heard on port. It does not wait.
func (w *Worker) Learn(key Key, port, now uint32) Result {
	if port == NoPort || key.Group() || key&macMask == 0 {
		return Unlearnable
	}
	t := w.table
	if !t.mu.TryLock() {
		t.busy.Add(1)
		return Busy
	}
	defer t.mu.Unlock()
	r := t.learn(key, port, now)
	t.events.count(r)
	return r
}

// learn is Learn under the mutex.
func (t *Table) learn(key Key, port, now uint32) Result {
	s, v := t.find(key)
	if s >= 0 && (v.port() == port || v.static()) {
		return t.touchSlow(s, v, port, now)
	}
	p := t.portOf(port)
	if p.learned >= p.limit {
		return LimitReached
	}
	if s >= 0 {
		b, i := t.at(s)
		b.vals[i].Store(uint64(makeValue(port, now)))
		t.changes.Add(1)
		t.tell(key)
		t.uncount(v)
		t.count(makeValue(port, now))
		return Moved
	}
	if s = t.claim(key, port); s < 0 {
		return Full
	}
	t.fill(s, key, makeValue(port, now))
	return Learned
}

// portOf returns the record of a port, new if need be.
func (t *Table) portOf(n uint32) *port {
	p := t.ports[n]
	if p == nil {
		p = &port{limit: noLimit}
		t.ports[n] = p
	}
	return p
}

// fill gives the empty slot s to key. The value comes first: a reader that
// sees the key sees its value.
func (t *Table) fill(s int, key Key, v value) {
	t.base[s] = t.hits(s)
	b, i := t.at(s)
	b.vals[i].Store(uint64(v))
	b.keys[i].Store(uint64(key))
	t.tell(key)
	t.count(v)
}

// empty takes slot s from its key.
func (t *Table) empty(s int) {
	b, i := t.at(s)
	key := Key(b.keys[i].Load())
	b.keys[i].Store(0)
	t.changes.Add(1)
	t.tell(key)
	t.uncount(value(b.vals[i].Load()))
}

// count adds an entry of value v to the numbers of entries.
func (t *Table) count(v value) {
	if v.static() {
		t.static++
		return
	}
	t.learned++
	p := t.portOf(v.port())
	if p.learned++; p.learned == 1 {
		t.holders++
	}
}

// uncount takes an entry of value v from the numbers of entries.
func (t *Table) uncount(v value) {
	if v.static() {
		t.static--
		return
	}
	t.learned--
	p := t.portOf(v.port())
	if p.learned--; p.learned == 0 {
		t.holders--
	}
}

// hits returns how often slot s was found since the table was made.
func (t *Table) hits(s int) uint64 {
	var n uint64
	for _, w := range t.workers {
		n += atomic.LoadUint64(&w.hits[s])
	}
	return n
}
