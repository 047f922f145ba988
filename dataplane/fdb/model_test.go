package fdb

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
)

// A model is a table too simple to be wrong, but for the choice of who gives
// way: there it takes the table's choice and checks that it was allowed.
type model struct {
	capacity int
	entries  map[Key]modelEntry
	limits   map[uint32]int
}

type modelEntry struct {
	port   uint32
	seen   uint32
	static bool
	hits   uint64
}

// held counts the learned entries of a port.
func (m *model) held(port uint32) (n int) {
	for _, e := range m.entries {
		if e.port == port && !e.static {
			n++
		}
	}
	return n
}

// mayLose says whether e may give way to a newcomer on port.
func (m *model) mayLose(e modelEntry, port uint32) bool {
	ports := map[uint32]bool{port: true}
	static := 0
	for _, e := range m.entries {
		if e.static {
			static++
			continue
		}
		ports[e.port] = true
	}
	share := (m.capacity - static) / len(ports)
	switch held := m.held(e.port); {
	case e.static:
		return false
	case e.port == port:
		return held >= share
	default:
		return held > share && held > m.held(port)
	}
}

// touch is what Touch and Learn must say of a station on its port.
func (m *model) touch(k Key, port, now uint32) Result {
	e, ok := m.entries[k]
	switch {
	case ok && e.static && e.port != port:
		return StaticOnOther
	case !ok || e.port != port:
		return NeedLearn
	case e.static || e.seen >= now:
		return Known
	}
	e.seen = now
	m.entries[k] = e
	return Refreshed
}

// learn is what Learn must say, and Learned for a newcomer.
func (m *model) learn(k Key, port, now uint32) Result {
	if r := m.touch(k, port, now); r != NeedLearn {
		return r
	}
	limit, ok := m.limits[port]
	if ok && m.held(port) >= limit {
		return LimitReached
	}
	if e, ok := m.entries[k]; ok {
		m.entries[k] = modelEntry{port: port, seen: now, hits: e.hits}
		return Moved
	}
	return Learned
}

// remove drops the entries that goes chooses, and counts them.
func (m *model) remove(goes func(Key, modelEntry) bool) int {
	before := len(m.entries)
	maps.DeleteFunc(m.entries, goes)
	return before - len(m.entries)
}

// A trial runs the same operations on a table and its model.
type trial struct {
	t     *testing.T
	table *Table
	w     *Worker
	m     model
	now   uint32
}

// newTrial makes a table of 16 entries (8 buckets, so that the search for a
// victim sees them all) on the Go heap.
func newTrial(t *testing.T, seed uint64) *trial {
	table := heapTable(t, 16, seed)
	w, err := table.Worker(0)
	if err != nil {
		t.Fatal(err)
	}
	return &trial{t, table, w, model{16, map[Key]modelEntry{}, map[uint32]int{}}, 10}
}

// opBytes is the length of one operation of a trial.
const opBytes = 3

// run does the operations in ops, and compares after each.
func (tr *trial) run(ops []byte) {
	tr.t.Helper()
	for n := 0; len(ops) >= opBytes; n++ {
		op := [opBytes]byte(ops)
		ops = ops[opBytes:]
		if err := tr.step(op); err != nil {
			tr.t.Fatalf("operation %d (%v): %v", n, op, err)
		}
		if err := tr.compare(); err != nil {
			tr.t.Fatalf("after operation %d (%v): %v", n, op, err)
		}
	}
}

// step does one operation.
func (tr *trial) step(op [opBytes]byte) error {
	k, port := station(int(op[1]>>1), uint16(op[1]&1)), uint32(op[2]&3)
	tr.now += uint32(op[2] >> 6)
	now := tr.now - uint32(op[2]>>2&1) // some workers are late
	switch op[0] % 16 {
	case 0, 1, 2, 3, 4:
		return tr.learn(k, port, now)
	case 5, 6, 10:
		return diff("touch", tr.w.Touch(k, port, now), tr.m.touch(k, port, now))
	case 7, 8, 9:
		return tr.lookup(k)
	case 11:
		return tr.control(op, k, port)
	case 12:
		_, ok := tr.m.entries[k]
		delete(tr.m.entries, k)
		return diff("delete", tr.table.Delete(k), ok)
	case 13:
		return tr.age()
	case 14:
		return tr.flush(op, port)
	default:
		return tr.addStatic(k, port)
	}
}

// learn checks Learn, and whether whoever gave way had to.
func (tr *trial) learn(k Key, port, now uint32) error {
	want := tr.m.learn(k, port, now)
	full, crowded := len(tr.m.entries) >= tr.m.capacity, tr.crowded(k)
	got := tr.w.Learn(k, port, now)
	if want == Learned && got == Full {
		return tr.refused(port, full, crowded)
	}
	if got != want || got != Learned {
		return diff("learn", got, want)
	}
	if err := tr.gaveWay(full, crowded, func(e modelEntry) bool { return tr.m.mayLose(e, port) }); err != nil {
		return err
	}
	tr.m.entries[k] = modelEntry{port: port, seen: now}
	return nil
}

// refused checks a Full: it is right if there is no room and nobody may lose.
func (tr *trial) refused(port uint32, full, crowded bool) error {
	if crowded {
		return nil // those in other buckets cannot help
	}
	if !full {
		return fmt.Errorf("learn: full with %d entries", len(tr.m.entries))
	}
	for k, e := range tr.m.entries {
		if tr.m.mayLose(e, port) {
			return fmt.Errorf("learn: full, but %v of port %d should give way", k, e.port)
		}
	}
	return nil
}

// gaveWay takes from the model what the table has evicted: one entry that mayLose
// if the table was full, and none if there was room.
func (tr *trial) gaveWay(full, crowded bool, mayLose func(modelEntry) bool) error {
	left := tr.dump()
	gone := 0
	for k, e := range tr.m.entries {
		if _, ok := left[k]; ok {
			continue
		}
		if !mayLose(e) {
			return fmt.Errorf("%v of port %d (static %v) was evicted", k, e.port, e.static)
		}
		gone++
		defer delete(tr.m.entries, k)
	}
	if gone > 1 || full && gone == 0 || gone == 1 && !full && !crowded {
		return fmt.Errorf("%d entries evicted; full %v, crowded %v", gone, full, crowded)
	}
	return nil
}

// crowded says that both buckets of k are full.
func (tr *trial) crowded(k Key) bool {
	h := tr.table.hash(k)
	return tr.table.vacant(tr.table.first(h)) < 0 && tr.table.vacant(tr.table.second(h)) < 0
}

func (tr *trial) addStatic(k Key, port uint32) error {
	full, crowded := len(tr.m.entries) >= tr.m.capacity, tr.crowded(k)
	old, known := tr.m.entries[k]
	err := tr.table.AddStatic(k, port)
	if err != nil {
		for _, e := range tr.m.entries {
			if !crowded && !e.static {
				return fmt.Errorf("%w, but there are learned entries", err)
			}
		}
		return nil
	}
	if !known {
		if err := tr.gaveWay(full, crowded, func(e modelEntry) bool { return !e.static }); err != nil {
			return err
		}
	}
	tr.m.entries[k] = modelEntry{port: port, static: true, hits: old.hits}
	return nil
}

func (tr *trial) lookup(k Key) error {
	e, want := tr.m.entries[k]
	port, slot, ok := tr.w.Lookup(k)
	if !want {
		return diff("lookup", fmt.Sprint(port, slot, ok), fmt.Sprint(NoPort, -1, false))
	}
	e.hits++
	tr.m.entries[k] = e
	return diff("lookup", fmt.Sprint(port, ok), fmt.Sprint(e.port, true))
}

// control sets a limit, or removes a port.
func (tr *trial) control(op [opBytes]byte, k Key, port uint32) error {
	if op[2]>>3&7 != 0 {
		limit := int(op[1]%20) - 1
		tr.m.limits[port] = limit
		if limit < 0 || limit >= tr.m.capacity {
			delete(tr.m.limits, port)
		}
		tr.table.SetLimit(port, limit)
		return nil
	}
	want := tr.m.remove(func(_ Key, e modelEntry) bool { return e.port == port })
	delete(tr.m.limits, port)
	return diff("remove port", tr.table.RemovePort(port), want)
}

// age sweeps the whole table, three buckets at a time.
func (tr *trial) age() error {
	const maxAge = 5
	want := tr.m.remove(func(_ Key, e modelEntry) bool { return !e.static && e.seen+maxAge <= tr.now })
	got := 0
	for end := false; !end; {
		var n int
		n, end = tr.table.Age(tr.now, maxAge, 3)
		got += n
	}
	return diff("age", got, want)
}

func (tr *trial) flush(op [opBytes]byte, port uint32) error {
	switch vlan := uint16(op[1] & 1); op[2] >> 3 & 7 {
	case 0:
		want := tr.m.remove(func(_ Key, e modelEntry) bool { return !e.static })
		return diff("flush", tr.table.Flush(), want)
	case 1, 2:
		want := tr.m.remove(func(k Key, e modelEntry) bool { return !e.static && k.VLAN() == vlan })
		return diff("flush vlan", tr.table.FlushVLAN(vlan), want)
	default:
		want := tr.m.remove(func(_ Key, e modelEntry) bool { return !e.static && e.port == port })
		return diff("flush port", tr.table.FlushPort(port), want)
	}
}

// dump returns what the table holds.
func (tr *trial) dump() map[Key]Entry {
	all := map[Key]Entry{}
	for e := range tr.table.Dump(tr.now) {
		all[e.Key] = e
	}
	return all
}

// compare holds the whole table and its numbers against the model.
func (tr *trial) compare() error {
	got := tr.dump()
	static := 0
	for k, e := range tr.m.entries {
		want := Entry{Key: k, Port: e.port, Static: e.static, Hits: e.hits}
		if e.static {
			static++
		} else {
			want.Age = tr.now - e.seen
		}
		if got[k] != want {
			return fmt.Errorf("entry %v: got %+v, want %+v", k, got[k], want)
		}
	}
	s := tr.table.Stats()
	return diff("number of entries (dump, learned, static)",
		fmt.Sprint(len(got), s.Learned, s.Static),
		fmt.Sprint(len(tr.m.entries), len(tr.m.entries)-static, static))
}

// diff returns an error if got is not want.
func diff[T comparable](what string, got, want T) error {
	if got == want {
		return nil
	}
	return fmt.Errorf("%s: got %v, want %v", what, got, want)
}

// TestModel would fail if any operation did something else than the obvious.
func TestModel(t *testing.T) {
	seed := rand.Uint64()
	for round := range 40 {
		r := rand.New(rand.NewPCG(seed, uint64(round)))
		ops := make([]byte, 2000*opBytes)
		for i := range ops {
			ops[i] = byte(r.Uint32())
		}
		t.Run(fmt.Sprintf("seed %d round %d", seed, round), func(t *testing.T) {
			newTrial(t, r.Uint64()).run(ops)
		})
	}
}

// FuzzTable is TestModel with operations of the fuzzer's choice.
func FuzzTable(f *testing.F) {
	f.Add(uint64(1), []byte{0, 2, 0, 5, 2, 64, 7, 2, 0, 0, 2, 1})
	f.Add(uint64(2), []byte{15, 2, 0, 0, 2, 1, 12, 2, 0, 0, 2, 1, 13, 0, 192})
	flood := []byte{}
	for i := range 40 {
		flood = append(flood, 0, byte(2*i), byte(i/20))
	}
	f.Add(uint64(3), flood)
	f.Fuzz(func(t *testing.T, seed uint64, ops []byte) {
		newTrial(t, seed).run(ops[:min(len(ops), 1000*opBytes)])
	})
}
