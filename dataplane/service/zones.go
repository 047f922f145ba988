package service

import (
	"context"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"millrace/dataplane"
	"millrace/dataplane/api"
	"millrace/dataplane/conntrack"
	"millrace/flowtable"
)

// zoneNames are the names of bridges by their numbers, for zones are numbered by them.
type zoneNames map[uint32]string

func (s *Server) zoneNames() zoneNames {
	names := zoneNames{}
	for _, b := range s.Switch.FlowBridges() {
		names[b.FDB] = b.Name
	}
	return names
}

// of says of which bridge a zone is, if it is of one, and what for.
func (n zoneNames) of(zone uint16) (bridge string, kind api.ZoneKind) {
	bridge, kind = n[uint32(zone)/flowtable.ZonesOfBridge], api.ZoneKind(zone%flowtable.ZonesOfBridge)
	if bridge == "" || kind == api.ZoneKind_ZONE_KIND_UNSPECIFIED {
		return "", api.ZoneKind_ZONE_KIND_UNSPECIFIED
	}
	return bridge, kind
}

// zonesOf checks which zones a client means. They lie in a row.
func (s *Server) zonesOf(field string, z *api.ZoneSelector) (conntrack.Span, error) {
	var c checker
	switch {
	case z.Number != nil && (z.GetBridge() != "" || z.GetKind() != 0):
		c.fail(field, "a zone has a number, or a bridge and a kind, not both")
	case z.Number != nil:
		return c.span(field, "zone", z.GetNumber(), z.GetNumber(), conntrack.Zones-1), c.err
	case z.GetBridge() == "":
		c.fail(field, "say which: it has neither number nor bridge")
	case z.GetKind() < 0 || z.GetKind() >= flowtable.ZonesOfBridge:
		c.fail(field, "%d is not a kind that this release knows", z.GetKind())
	}
	if c.err != nil {
		return conntrack.Span{}, c.err
	}
	return s.zonesOfBridge(z.GetBridge(), uint16(z.GetKind()))
}

// zonesOfBridge returns one of the zones of a bridge, or with 0 all of them.
func (s *Server) zonesOfBridge(bridge string, kind uint16) (conntrack.Span, error) {
	for number, name := range s.zoneNames() {
		if name != bridge {
			continue
		}
		first := number * flowtable.ZonesOfBridge
		if first > conntrack.Zones-flowtable.ZonesOfBridge {
			return conntrack.Span{}, fmt.Errorf("zones of bridge %s: %w: it is one of too many", bridge, dataplane.ErrNoEntry)
		}
		if kind != 0 {
			return conntrack.Span{Set: true, Min: uint16(first) + kind, Max: uint16(first) + kind}, nil
		}
		return conntrack.Span{Set: true, Min: uint16(first) + 1, Max: uint16(first) + flowtable.ZonesOfBridge - 1}, nil
	}
	return conntrack.Span{}, fmt.Errorf("zones of bridge %s: %w", bridge, dataplane.ErrNoBridge)
}

// zonesPerMessage keeps a message of zones small.
const zonesPerMessage = 512

// ListZones implements api.ConnectionsServer.
func (s *connections) ListZones(req *api.ListZonesRequest, stream api.Connections_ListZonesServer) error {
	var wanted conntrack.Span
	if req.GetZone() != nil {
		var err error
		if wanted, err = s.zonesOf("zone", req.GetZone()); err != nil {
			return err
		}
	}
	zones, names, limit := s.listed(wanted), s.zoneNames(), s.Switch.ConnectionDefault()
	return inPieces(zones, zonesPerMessage, func(part []uint16) error {
		m := &api.ListZonesResponse{}
		for _, z := range part {
			m.Zones = append(m.Zones, toZone(s.Switch.ConnectionZone(z), names, limit))
		}
		return stream.Send(m)
	})
}

// listed are the zones that are named if they are wanted, by number.
func (s *connections) listed(wanted conntrack.Span) (zones []uint16) {
	if wanted.Set {
		for z := int(wanted.Min); z <= int(wanted.Max); z++ {
			zones = append(zones, uint16(z))
		}
		return zones
	}
	for _, z := range s.Switch.ConnectionZones() {
		zones = append(zones, z.Zone)
	}
	for number := range s.zoneNames() {
		for kind := range uint32(flowtable.ZonesOfBridge) {
			if z := number*flowtable.ZonesOfBridge + kind; kind != 0 && z < conntrack.Zones {
				zones = append(zones, uint16(z))
			}
		}
	}
	slices.Sort(zones)
	return slices.Compact(zones)
}

func toZone(z conntrack.ZoneInfo, names zoneNames, limit uint32) *api.Zone {
	m := &api.Zone{Number: uint32(z.Zone), Connections: z.Count, Limit: limit, Created: z.Created, Evicted: z.Evicted, Limited: z.Refused}
	m.Bridge, m.Kind = names.of(z.Zone)
	switch z.Limit {
	case 0:
	case conntrack.NoLimit:
		m.Limit, m.LimitOwn = 0, true
	default:
		m.Limit, m.LimitOwn = z.Limit, true
	}
	return m
}

// A zoneLimit is a limit that somebody has set.
type zoneLimit struct {
	Bridge string `json:"bridge,omitempty"` // that the zone is of; empty: none
	Zone   uint16 `json:"zone"`             // number; of a bridge's zones, the kind
	Limit  uint32 `json:"limit"`            // as the table has it
}

func (l zoneLimit) String() string {
	if l.Bridge == "" {
		return fmt.Sprintf("limit of zone %d", l.Zone)
	}
	return fmt.Sprintf("limit of zone %d of bridge %s", l.Zone, l.Bridge)
}

// setLimit notes a limit; 0 is none.
func (st *state) setLimit(l zoneLimit) {
	st.Limits = slices.DeleteFunc(st.Limits, func(o zoneLimit) bool { return o.Bridge == l.Bridge && o.Zone == l.Zone })
	if l.Limit != 0 {
		st.Limits = append(st.Limits, l)
	}
}

// applyLimit puts a limit in force that the directory remembers.
func (s *Server) applyLimit(l zoneLimit) error {
	z := l.Zone
	if l.Bridge != "" {
		if z == 0 || z >= flowtable.ZonesOfBridge {
			return fmt.Errorf("%s: %w", l, dataplane.ErrNoEntry)
		}
		span, err := s.zonesOfBridge(l.Bridge, z)
		if err != nil {
			return err
		}
		z = span.Min
	}
	s.Switch.SetConnectionLimit(z, l.Limit)
	return nil
}

// SetZoneLimit implements api.ConnectionsServer.
func (s *connections) SetZoneLimit(_ context.Context, req *api.SetZoneLimitRequest) (*api.SetZoneLimitResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := req.GetLimit()
	if req.GetZone() == nil {
		s.Switch.SetConnectionDefault(limit)
		s.state.LimitDefault = limit
		s.save()
		s.Log.Info("default limit of zones set", zap.Uint32("limit", limit))
		return &api.SetZoneLimitResponse{}, nil
	}
	zones, err := s.zonesOf("zone", req.GetZone())
	if err != nil {
		return nil, err
	}
	if req.Limit != nil && limit == 0 {
		limit = conntrack.NoLimit
	}
	names := s.zoneNames()
	for z := int(zones.Min); z <= int(zones.Max); z++ {
		l := zoneLimit{Zone: uint16(z), Limit: limit}
		s.Switch.SetConnectionLimit(l.Zone, limit)
		if bridge, kind := names.of(l.Zone); bridge != "" {
			l.Bridge, l.Zone = bridge, uint16(kind)
		}
		s.state.setLimit(l)
		s.settled(l.String())
	}
	s.save()
	s.Log.Info("limit of zones set", zap.Stringer("zone", req.GetZone()), zap.Uint32("limit", limit))
	return &api.SetZoneLimitResponse{}, nil
}
