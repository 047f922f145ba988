package dataplane

import (
	"iter"

	"millrace/dataplane/conntrack"
	"millrace/dataplane/sys"
)

// Connections yields the connections that there are, in no useful order. What programs
// have counted before the call is in their counters. It holds nothing while the caller
// works; who comes and goes meanwhile may be missing. The switch may not be
// closed before it ends.
func (s *Switch) Connections() iter.Seq[conntrack.Connection] {
	x := &s.engine.crossing
	if !s.tellConnections() {
		return func(func(conntrack.Connection) bool) {}
	}
	return x.table.Dump(x.nanos(sys.TSC()))
}

// tellConnections has programs tell connections what they have counted. It reports
// false if the switch is closed.
func (s *Switch) tellConnections() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	for _, w := range s.workers {
		for at, more := 0, true; more; more = at != 0 {
			w.do(func() { at = w.flow.cache.Tell(at, tellPart) })
		}
	}
	return true
}

// FlushConnections removes all connections of a zone, and returns how many there
// were. Their packets take the long way at once.
func (s *Switch) FlushConnections(zone uint16) (n int) {
	s.onConnections(func(t *conntrack.Table) { n = t.Flush(zone) })
	return n
}

// onConnections has do work on the table of connections, if it is there still.
func (s *Switch) onConnections(do func(t *conntrack.Table)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		do(s.engine.crossing.table)
	}
}

// FlushConnection removes the connection of which tuple is a direction, and reports
// whether there was one.
func (s *Switch) FlushConnection(zone uint16, tuple conntrack.Tuple) (gone bool) {
	s.onConnections(func(t *conntrack.Table) { gone = t.FlushTuple(zone, tuple) })
	return gone
}

// ConnectionStats is the state of the table of connections in numbers.
func (s *Switch) ConnectionStats() (st conntrack.Stats) {
	s.onConnections(func(t *conntrack.Table) { st = t.Stats() })
	return st
}

// ConnectionZone is the state of one of its zones.
func (s *Switch) ConnectionZone(zone uint16) (z conntrack.ZoneInfo) {
	s.onConnections(func(t *conntrack.Table) { z = t.Zone(zone) })
	return z
}

// SetConnectionLimit allows a zone so many connections; with 0, as many as the table
// has. Those beyond stay.
func (s *Switch) SetConnectionLimit(zone uint16, limit uint32) {
	s.onConnections(func(t *conntrack.Table) { t.SetZoneLimit(zone, limit) })
}
