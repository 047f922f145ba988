package dataplane

import (
	"iter"

	"millrace/dataplane/conntrack"
	"millrace/dataplane/sys"
)

// Connections yields the connections that there are, in no useful order. What programs
// have counted before the call is in their counters. It holds nothing while the
// caller works; who comes and goes meanwhile may be missing. The switch may not be
// closed before it ends.
func (s *Switch) Connections() iter.Seq[conntrack.Connection] {
	return s.SelectConnections(&conntrack.Filter{})
}

// SelectConnections is Connections for those that a filter has.
func (s *Switch) SelectConnections(f *conntrack.Filter) iter.Seq[conntrack.Connection] {
	if !s.tell() {
		return func(func(conntrack.Connection) bool) {}
	}
	x := &s.engine.crossing
	return x.table.Select(f, x.nanos(sys.TSC()))
}

// ConnectionsOf returns the connections that refs name and that are there still, as
// SelectConnections does.
func (s *Switch) ConnectionsOf(refs []conntrack.Ref) []conntrack.Connection {
	if !s.tell() {
		return nil
	}
	x := &s.engine.crossing
	out := make([]conntrack.Connection, 0, len(refs))
	for _, ref := range refs {
		if c, ok := x.table.At(ref, x.nanos(sys.TSC())); ok {
			out = append(out, c)
		}
	}
	return out
}

// FlushConnections removes all connections of a zone, and returns how many there
// were. Their packets take the long way at once. Changes of the switch do not wait for it.
func (s *Switch) FlushConnections(zone uint16) (n int) {
	s.besides(func(t *conntrack.Table) { n = t.Flush(zone) })
	return n
}

// besides has do work on the table of connections, if it is there still, with nothing held. The
// switch's end waits for it.
func (s *Switch) besides(do func(t *conntrack.Table)) {
	if x := &s.engine.crossing; x.enter() {
		defer x.users.Done()
		do(x.table)
	}
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

// FlushSelected removes the connections that a filter has, and returns how many
// there were. Changes of the switch do not wait for it.
func (s *Switch) FlushSelected(f *conntrack.Filter) (n int) {
	s.besides(func(t *conntrack.Table) { n = t.FlushSelected(f) })
	return n
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

// ConnectionZones are the zones that have had connections, or have a limit, by
// number.
func (s *Switch) ConnectionZones() (zones []conntrack.ZoneInfo) {
	s.onConnections(func(t *conntrack.Table) {
		for n := range conntrack.Zones {
			if z := t.Zone(uint16(n)); z.Created > 0 || z.Limit > 0 || z.Refused > 0 {
				zones = append(zones, z)
			}
		}
	})
	return zones
}

// SetConnectionDefault allows zones without a limit of their own so many connections
// each; with 0, as many as the table has.
func (s *Switch) SetConnectionDefault(limit uint32) {
	s.onConnections(func(t *conntrack.Table) { t.SetDefaultLimit(limit) })
}

// ConnectionDefault is what SetConnectionDefault was given.
func (s *Switch) ConnectionDefault() (limit uint32) {
	s.onConnections(func(t *conntrack.Table) { limit = t.DefaultLimit() })
	return limit
}

// SetConnectionLimit allows a zone so many connections; with 0, as many as the default
// says, and with conntrack.NoLimit, as many as the table has. Those beyond stay.
func (s *Switch) SetConnectionLimit(zone uint16, limit uint32) {
	s.onConnections(func(t *conntrack.Table) { t.SetZoneLimit(zone, limit) })
}
