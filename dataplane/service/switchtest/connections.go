package switchtest

import (
	"iter"
	"maps"
	"slices"
	"sync"

	"millrace/dataplane/conntrack"
)

// connections is what a switch tracks: what the test says.
type connections struct {
	mu    sync.Mutex
	list  []conntrack.Connection
	stats conntrack.Stats
	limit uint32
	zones map[uint16]conntrack.ZoneInfo
}

// SetConnections makes these the connections that there are, in zones that have made
// as many.
func (s *Switch) SetConnections(list ...conntrack.Connection) {
	c := &s.connections
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = list
	for _, row := range list {
		z := c.zone(row.Zone)
		z.Created++
		c.zones[row.Zone] = z
	}
}

// zone returns what is known of a zone but for its connections. The caller holds mu.
func (c *connections) zone(n uint16) conntrack.ZoneInfo {
	if c.zones == nil {
		c.zones = map[uint16]conntrack.ZoneInfo{}
	}
	z := c.zones[n]
	z.Zone = n
	return z
}

// SetConnectionStats sets what ConnectionStats returns but for the number of connections.
func (s *Switch) SetConnectionStats(st conntrack.Stats) {
	s.connections.mu.Lock()
	defer s.connections.mu.Unlock()
	s.connections.stats = st
}

// ConnectionStats returns what SetConnectionStats has set.
func (s *Switch) ConnectionStats() conntrack.Stats {
	c := &s.connections
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.stats
	st.Connections = len(c.list)
	return st
}

// SelectConnections yields the connections that a filter has, in the test's order.
func (s *Switch) SelectConnections(f *conntrack.Filter) iter.Seq[conntrack.Connection] {
	s.connections.mu.Lock()
	list := slices.Clone(s.connections.list)
	s.connections.mu.Unlock()
	return func(yield func(conntrack.Connection) bool) {
		for i := range list {
			if f.Has(&list[i]) && !yield(list[i]) {
				return
			}
		}
	}
}

// ConnectionsOf returns the connections of these names.
func (s *Switch) ConnectionsOf(refs []conntrack.Ref) (out []conntrack.Connection) {
	for c := range s.SelectConnections(&conntrack.Filter{}) {
		if slices.Contains(refs, c.Ref) {
			out = append(out, c)
		}
	}
	return out
}

// FlushSelected removes connections.
func (s *Switch) FlushSelected(f *conntrack.Filter) int {
	c := &s.connections
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.list)
	c.list = slices.DeleteFunc(slices.Clone(c.list), func(row conntrack.Connection) bool { return f.Has(&row) })
	return n - len(c.list)
}

// ConnectionZone describes a zone.
func (s *Switch) ConnectionZone(n uint16) conntrack.ZoneInfo {
	c := &s.connections
	c.mu.Lock()
	defer c.mu.Unlock()
	z := c.zone(n)
	for i := range c.list {
		if c.list[i].Zone == n {
			z.Count++
		}
	}
	return z
}

// ConnectionZones describes the zones that were told something, or have had connections.
func (s *Switch) ConnectionZones() (zones []conntrack.ZoneInfo) {
	s.connections.mu.Lock()
	told := slices.Sorted(maps.Keys(s.connections.zones))
	s.connections.mu.Unlock()
	for _, n := range told {
		if z := s.ConnectionZone(n); z.Created > 0 || z.Limit > 0 {
			zones = append(zones, z)
		}
	}
	return zones
}

// SetConnectionLimit notes the limit of a zone.
func (s *Switch) SetConnectionLimit(n uint16, limit uint32) {
	c := &s.connections
	c.mu.Lock()
	defer c.mu.Unlock()
	z := c.zone(n)
	z.Limit = limit
	c.zones[n] = z
}

// SetConnectionDefault notes the limit of zones that have none.
func (s *Switch) SetConnectionDefault(limit uint32) {
	s.connections.mu.Lock()
	defer s.connections.mu.Unlock()
	s.connections.limit = limit
}

// ConnectionDefault is what SetConnectionDefault was given.
func (s *Switch) ConnectionDefault() uint32 {
	s.connections.mu.Lock()
	defer s.connections.mu.Unlock()
	return s.connections.limit
}
