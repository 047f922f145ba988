package dataplane

import (
	"fmt"

	"millrace/flowtable"
	"millrace/flowtable/flowcache"
)

// RuleCounts returns what rules have counted, by handles. Frames that were forwarded
// before the call are in it, and of those during it some. All that is cached is looked
// over once for all handles, and for all who ask at a time: ask for many.
func (s *Switch) RuleCounts(handles []uint32) []RuleCount {
	out := make([]RuleCount, len(handles))
	s.tell()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return out
	}
	addCounts(out, handles, s.engine.gone)
	for _, w := range s.workers {
		addCounts(out, handles, w.flow.counters)
	}
	return out
}

// addCounts adds what c has counted.
func addCounts(out []RuleCount, handles []uint32, c *flowtable.Counters) {
	for i, h := range handles {
		packets, bytes := c.Get(h)
		out[i].Packets += packets
		out[i].Bytes += bytes
	}
}

// Memory returns what parts of the switch take outside of Go's heap.
func (s *Switch) Memory() []MemoryUse {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	var out []MemoryUse
	rules := uint64(s.engine.tables.Rules())
	for _, u := range s.engine.tables.Usage() {
		m := MemoryUse{Part: "flow table: " + u.Name, Bytes: u.Bytes}
		if u.Name == "rules" {
			m.Used = rules
		}
		out = append(out, m)
	}
	out = append(out, MemoryUse{Part: "guard cells", Bytes: 4 * uint64(s.engine.cells.Len()), Used: s.engine.cells.inUse(), Capacity: uint64(s.engine.cells.Len())})
	st, touched := s.engine.crossing.table.Stats(), s.engine.crossing.table.Touched()
	out = append(out, MemoryUse{Part: "connections", Bytes: connectionBytes * uint64(touched+1), Used: uint64(st.Connections), Capacity: uint64(st.Capacity)})
	for _, w := range s.workers {
		out = append(out, s.cacheMemory(w)...)
	}
	for _, br := range s.bridges {
		st := br.table.Stats()
		out = append(out, MemoryUse{Part: "forwarding database " + br.name, Bytes: br.table.Bytes(), Used: uint64(st.Learned + st.Static), Capacity: uint64(st.Capacity)})
	}
	return out
}

// cacheMemory is what worker w has.
func (s *Switch) cacheMemory(w *worker) (out []MemoryUse) {
	var u flowcache.CacheUsage
	w.do(func() { u = w.flow.cache.Usage() })
	for kind, name := range [...]string{"exact cache", "exact cache, wide keys", "wildcard cache", "wildcard cache, wide keys"} {
		out = append(out, MemoryUse{Part: fmt.Sprintf("%s of CPU %d", name, w.cpu), Bytes: uint64(u.TableBytes[kind]), Used: uint64(u.Entries[kind]), Capacity: uint64(u.Capacity[kind])})
	}
	rest := u.MappedBytes
	for _, n := range u.TableBytes {
		rest -= n
	}
	return append(out,
		MemoryUse{Part: fmt.Sprintf("programs of CPU %d", w.cpu), Bytes: uint64(rest), Used: uint64(u.ProgramBytes), Capacity: uint64(u.ProgramCapacity)},
		MemoryUse{Part: fmt.Sprintf("rule counters of CPU %d", w.cpu), Bytes: w.flow.counters.Bytes()})
}
