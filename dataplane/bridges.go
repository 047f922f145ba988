package dataplane

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"millrace/dataplane/fdb"
	"millrace/flowtable"
)

// A bridge is the control side's account of a bridge.
type bridge struct {
	name   string
	number uint32 // of its forwarding database, and in the ids of what it has in the tables
	macs
	settings BridgeSettings // with defaults filled in
	ports    []*port
	rules    []flowtable.RuleID // its own rules but for those of ports; nil: none
}

// bridgeFor returns the bridge of that name, made if need be.
func (s *Switch) bridgeFor(name string) (*bridge, error) {
	if br := s.bridges[name]; br != nil {
		return br, nil
	}
	number := s.newNumber()
	table, err := s.newTable(number, s.opts.MACTable)
	if err != nil {
		return nil, fmt.Errorf("make bridge %s: %w", name, err)
	}
	br := &bridge{name: name, number: number, macs: table, settings: BridgeSettings{MACAge: s.opts.MACAge, MACTable: s.opts.MACTable, Pipeline: PipelineLearning}}
	s.bridges[name] = br
	return br, nil
}

// dropBridge forgets a bridge without ports, whose rules are gone.
func (s *Switch) dropBridge(br *bridge) {
	s.each(func(w *worker) {
		if w.bridgeNumbered(br.number) != nil {
			w.fdbs[br.number] = nil
		}
	})
	delete(s.bridges, br.name)
	s.engine.cells.moveFDB(br.number)
	s.engine.crossing.forget(br.number)
	s.stuck = append(s.stuck, br.number)
	if err := br.table.Close(); err != nil {
		s.log.Warn("release MAC table", zap.String("bridge", br.name), zap.Error(err))
	}
}

// bridgeOf returns the worker's side of br.
func (w *worker) bridgeOf(br *bridge) *workerBridge {
	for int(br.number) >= len(w.fdbs) {
		w.fdbs = append(w.fdbs, nil)
	}
	wb := w.fdbs[br.number]
	if wb == nil {
		wb = &workerBridge{number: br.number, table: br.table, mine: br.mine[w.id]}
		w.fdbs[br.number] = wb
	}
	return wb
}

// agePart is how many buckets are aged in one go: learning waits for no more.
const agePart = 256

// housekeeping is how often tables are aged.
const housekeeping = time.Second

// keepHouse ages tables and tells watchers what devices have to tell.
func (s *Switch) keepHouse() {
	defer close(s.done)
	t := time.NewTicker(housekeeping)
	defer t.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-s.watch.kick:
			s.tellTouched()
			s.tunnelsMoved()
		case <-t.C:
			s.age()
			s.sampleLoads()
			s.engine.keep()
		}
	}
}

// now is the time in the form that tables keep it, as workers count it.
func (s *Switch) now() uint32 { return uint32(time.Since(s.engine.epoch) / time.Second) }

// age forgets addresses that have been silent for long.
func (s *Switch) age() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, br := range s.bridges {
		for end := false; !end; {
			_, end = br.table.Age(s.now(), uint32(br.settings.MACAge/time.Second), agePart)
		}
	}
}

// Bridges describes all bridges, by name.
func (s *Switch) Bridges() []BridgeInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	var infos []BridgeInfo
	for _, name := range slices.Sorted(maps.Keys(s.bridges)) {
		br := s.bridges[name]
		st := br.table.Stats()
		i := BridgeInfo{
			Name: name, MACs: st.Learned + st.Static, MACsMax: st.Capacity, MACAge: br.settings.MACAge, Flood: br.settings.Flood, Pipeline: br.settings.Pipeline,
			Learned: st.Events.Learned, Moved: st.Events.Moved, Evicted: st.Events.Evicted, Forgotten: st.Events.Aged,
			Refused: st.Events.LimitReached + st.Events.Full + st.Events.StaticOnOther + st.Events.Busy,
		}
		for _, p := range br.ports {
			i.Ports = append(i.Ports, p.spec.Name)
		}
		infos = append(infos, i)
	}
	return infos
}

// MACs returns the addresses that the bridge knows, or those of all bridges if
// the name is empty, by bridge, VLAN and address.
func (s *Switch) MACs(name string) ([]MACEntry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name != "" && s.bridges[name] == nil {
		return nil, fmt.Errorf("addresses of bridge %s: %w", name, ErrNoBridge)
	}
	s.each((*worker).tellDecisions)
	names := make(map[uint32]string, len(s.ports))
	for _, p := range s.ports {
		names[p.number] = p.spec.Name
	}
	var entries []MACEntry
	for _, br := range s.bridges {
		if name == "" || br.name == name {
			entries = append(entries, s.macsOf(br, names)...)
		}
	}
	slices.SortFunc(entries, func(a, b MACEntry) int {
		return cmp.Or(cmp.Compare(a.Bridge, b.Bridge), cmp.Compare(a.VLAN, b.VLAN), slices.Compare(a.MAC[:], b.MAC[:]))
	})
	return entries, nil
}

// macsOf lists br's table.
func (s *Switch) macsOf(br *bridge, names map[uint32]string) []MACEntry {
	var entries []MACEntry
	for e := range br.table.Dump(s.now()) {
		entries = append(entries, MACEntry{
			Bridge: br.name, VLAN: e.Key.VLAN(), MAC: e.Key.MAC(), Port: names[e.Port],
			Static: e.Static, Age: time.Duration(e.Age) * time.Second, Hits: e.Hits,
		})
	}
	return entries
}

// AddMAC makes an address known for good.
func (s *Switch) AddMAC(_ context.Context, e MACEntry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bridges[e.Bridge] == nil {
		return fmt.Errorf("add address to bridge %s: %w", e.Bridge, ErrNoBridge)
	}
	p := s.ports[e.Port]
	if p == nil || p.spec.Bridge != e.Bridge {
		return fmt.Errorf("add address to bridge %s: %w: %s", e.Bridge, ErrNoPort, e.Port)
	}
	if e.MAC[0]&1 != 0 || e.MAC == [6]byte{} || e.VLAN > 4094 {
		return fmt.Errorf("add address to bridge %s: %w: %x in VLAN %d is not one station's", e.Bridge, ErrBadSpec, e.MAC, e.VLAN)
	}
	if err := p.bridge.table.AddStatic(fdb.KeyOf(e.MAC, e.VLAN), p.number); err != nil {
		return fmt.Errorf("add address to bridge %s: %w", e.Bridge, err)
	}
	return nil
}

// DelMAC forgets an address, learned or static.
func (s *Switch) DelMAC(_ context.Context, e MACEntry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	br := s.bridges[e.Bridge]
	if br == nil {
		return fmt.Errorf("delete address from bridge %s: %w", e.Bridge, ErrNoBridge)
	}
	if !br.table.Delete(fdb.KeyOf(e.MAC, e.VLAN)) {
		return fmt.Errorf("delete address from bridge %s: %w", e.Bridge, ErrNoEntry)
	}
	return nil
}

// FlushMACs forgets the learned addresses of a bridge, or of one of its ports.
func (s *Switch) FlushMACs(name, portName string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	br := s.bridges[name]
	if br == nil {
		return fmt.Errorf("flush addresses of bridge %s: %w", name, ErrNoBridge)
	}
	if portName == "" {
		br.table.Flush()
		return nil
	}
	p := s.ports[portName]
	if p == nil || p.bridge != br {
		return fmt.Errorf("flush addresses of bridge %s: %w: %s", name, ErrNoPort, portName)
	}
	br.table.FlushPort(p.number)
	return nil
}
