// Package switchtest is a switch without workers, for tests of what speaks to
// one. It keeps ports, wires and entries in maps, and shows the counters that
// the test gives it. Its flow table is a real one.
package switchtest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"millrace/dataplane"
)

// A Switch is a switch in name only. The zero value has no ports.
type Switch struct {
	// Counters is what Snapshot returns, with a line of zeros for each port
	// that it has none of. The test sets it while nobody calls.
	Counters dataplane.Snapshot

	// Refuse, if set, is asked before a port is added.
	Refuse func(dataplane.PortSpec) error

	// RefuseWorkers, if set, is asked before workers are set.
	RefuseWorkers func(cpus []int) error

	// LoadsNow is what Loads returns, and Dealt, if set, answers Rebalance.
	LoadsNow dataplane.Loads
	Dealt    func(dataplane.RebalanceRequest) *dataplane.Rebalanced

	// Closing, if set, is what Closed does.
	Closing func(ctx context.Context) error

	mu       sync.Mutex // held by every method
	stuck    chan struct{}
	ports    []dataplane.PortInfo
	macs     map[key]dataplane.MACEntry
	watchers map[chan dataplane.Event]struct{}
	last     uint32
	settings map[string]dataplane.BridgeSettings
	workers  []int
	flow     flow

	connections connections
}

type key struct {
	bridge string
	vlan   uint16
	mac    [6]byte
}

func keyOf(e dataplane.MACEntry) key { return key{e.Bridge, e.VLAN, e.MAC} }

// AddPort adds a port that waits for a peer.
func (s *Switch) AddPort(_ context.Context, spec dataplane.PortSpec) (dataplane.PortInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.program()
	return s.addPort(spec)
}

// addPort is AddPort but for the tables. The caller holds mu.
func (s *Switch) addPort(spec dataplane.PortSpec) (dataplane.PortInfo, error) {
	if i := s.find(spec.Name); i >= 0 {
		if old := s.ports[i]; fmt.Sprint(old.PortSpec) != fmt.Sprint(spec) {
			return dataplane.PortInfo{}, fmt.Errorf("add port %s: %w", spec.Name, dataplane.ErrExists)
		}
		return s.ports[i], nil
	}
	if s.Refuse != nil {
		if err := s.Refuse(spec); err != nil {
			return dataplane.PortInfo{}, err
		}
	}
	s.last++
	p := dataplane.PortInfo{PortSpec: spec, Number: s.last, State: dataplane.DeviceState{Link: dataplane.LinkWaiting, Reason: "no peer"}}
	s.ports = append(s.ports, p)
	s.tell(dataplane.EventAdded, p)
	return p, nil
}

// AddPorts adds ports.
func (s *Switch) AddPorts(specs []dataplane.PortSpec) []dataplane.Added {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.program()
	list := make([]dataplane.Added, len(specs))
	for i, spec := range specs {
		list[i].Port, list[i].Err = s.addPort(spec)
	}
	return list
}

// DelPorts removes ports.
func (s *Switch) DelPorts(names []string) []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.program()
	errs := make([]error, len(names))
	for i, name := range names {
		errs[i] = s.delPort(name)
	}
	return errs
}

// Closed asks Closing. Without it all is closed at once.
func (s *Switch) Closed(ctx context.Context, _ ...string) error {
	if s.Closing == nil {
		return nil
	}
	return s.Closing(ctx)
}

// SetWorkers notes where workers are.
func (s *Switch) SetWorkers(cpus []int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.RefuseWorkers != nil {
		if err := s.RefuseWorkers(cpus); err != nil {
			return err
		}
	}
	s.workers = slices.Clone(cpus)
	return nil
}

// Workers are where SetWorkers has them; before, there is one on CPU 0.
func (s *Switch) Workers() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.workers == nil {
		return []int{0}
	}
	return slices.Clone(s.workers)
}

// Loads returns LoadsNow.
func (s *Switch) Loads(time.Duration) dataplane.Loads {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.LoadsNow
}

// Rebalance asks Dealt. Without it there is nothing to deal.
func (s *Switch) Rebalance(_ context.Context, r dataplane.RebalanceRequest) (*dataplane.Rebalanced, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Dealt == nil {
		return &dataplane.Rebalanced{Before: s.LoadsNow, After: s.LoadsNow, Why: "there is one worker only"}, nil
	}
	return s.Dealt(r), nil
}

// SetPort changes a port's VLANs and MAC limit, and the MTU.
func (s *Switch) SetPort(_ context.Context, spec dataplane.PortSpec) (dataplane.PortInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.find(spec.Name)
	if i < 0 {
		return dataplane.PortInfo{}, fmt.Errorf("set port %s: %w", spec.Name, dataplane.ErrNoPort)
	}
	p := &s.ports[i]
	old := p.PortSpec
	old.Tag, old.Trunks, old.Mode, old.MACLimit, old.MTU = spec.Tag, spec.Trunks, spec.Mode, spec.MACLimit, spec.MTU
	old.Host.MAC, old.Host.Addresses, old.Host.Up = spec.Host.MAC, spec.Host.Addresses, spec.Host.Up
	if fmt.Sprint(old) != fmt.Sprint(spec) {
		return dataplane.PortInfo{}, fmt.Errorf("set port %s: %w", spec.Name, dataplane.ErrExists)
	}
	p.PortSpec = spec
	s.tell(dataplane.EventChanged, *p)
	return *p, nil
}

// SetBridge notes the settings of a bridge.
func (s *Switch) SetBridge(name string, b dataplane.BridgeSettings) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.has(name) {
		return fmt.Errorf("set bridge %s: %w", name, dataplane.ErrNoBridge)
	}
	if s.settings == nil {
		s.settings = make(map[string]dataplane.BridgeSettings)
	}
	s.settings[name] = b
	s.program()
	return nil
}

func (s *Switch) find(name string) int {
	return slices.IndexFunc(s.ports, func(p dataplane.PortInfo) bool { return p.Name == name })
}

// DelPort removes a port, the wires to it and its entries.
func (s *Switch) DelPort(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.program()
	return s.delPort(name)
}

// delPort is DelPort but for the tables. The caller holds mu.
func (s *Switch) delPort(name string) error {
	i := s.find(name)
	if i < 0 {
		return fmt.Errorf("delete port %s: %w", name, dataplane.ErrNoPort)
	}
	s.tell(dataplane.EventRemoved, s.ports[i])
	bridge := s.ports[i].Bridge
	s.ports = slices.Delete(s.ports, i, i+1)
	if !s.has(bridge) {
		delete(s.settings, bridge)
	}
	for i := range s.ports {
		if s.ports[i].Wire == name {
			s.ports[i].Wire = ""
		}
	}
	maps.DeleteFunc(s.macs, func(_ key, e dataplane.MACEntry) bool { return e.Port == name })
	return nil
}

// SetState changes what a port says of itself.
func (s *Switch) SetState(name string, state dataplane.DeviceState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.find(name)
	s.ports[i].State = state
	s.tell(dataplane.EventChanged, s.ports[i])
}

// tell tells watchers. The caller holds mu.
func (s *Switch) tell(kind dataplane.EventKind, p dataplane.PortInfo) {
	for c := range s.watchers {
		c <- dataplane.Event{Kind: kind, Port: p}
	}
}

// Port describes one port.
func (s *Switch) Port(name string) (dataplane.PortInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.find(name)
	if i < 0 {
		return dataplane.PortInfo{}, fmt.Errorf("port %s: %w", name, dataplane.ErrNoPort)
	}
	return s.ports[i], nil
}

// Ports describes all ports.
func (s *Switch) Ports() []dataplane.PortInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ports)
}

// Bridges describes the bridges that ports name.
func (s *Switch) Bridges() []dataplane.BridgeInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	bridges := make(map[string]*dataplane.BridgeInfo)
	for _, p := range s.ports {
		b := bridges[p.Bridge]
		if b == nil {
			set := s.settings[p.Bridge]
			b = &dataplane.BridgeInfo{
				Name: p.Bridge, MACsMax: cmp.Or(set.MACTable, dataplane.DefaultMACTable),
				MACAge: cmp.Or(set.MACAge, dataplane.DefaultMACAge), Flood: set.Flood, Pipeline: cmp.Or(set.Pipeline, dataplane.PipelineLearning),
			}
			bridges[p.Bridge] = b
		}
		b.Ports = append(b.Ports, p.Name)
	}
	for k := range s.macs {
		bridges[k.bridge].MACs++
	}
	var list []dataplane.BridgeInfo
	for _, name := range slices.Sorted(maps.Keys(bridges)) {
		list = append(list, *bridges[name])
	}
	return list
}

// watchRoom is how many events a watcher may be behind before the switch
// waits for it.
const watchRoom = 1024

// Watch tells of ports until ctx ends.
func (s *Switch) Watch(ctx context.Context) <-chan dataplane.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := make(chan dataplane.Event, watchRoom)
	for _, p := range s.ports {
		c <- dataplane.Event{Kind: dataplane.EventAdded, Port: p}
	}
	if s.watchers == nil {
		s.watchers = make(map[chan dataplane.Event]struct{})
	}
	s.watchers[c] = struct{}{}
	context.AfterFunc(ctx, func() { s.drop(c) })
	return c
}

func (s *Switch) drop(c chan dataplane.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.watchers[c]; ok {
		delete(s.watchers, c)
		close(c)
	}
}

// LoseWatchers lets all watchers go, as if they were too slow.
func (s *Switch) LoseWatchers() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.watchers {
		close(c)
	}
	clear(s.watchers)
}

// Stick has Snapshot wait from now on, until what it returns is called.
func (s *Switch) Stick() (free func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stuck = make(chan struct{})
	return sync.OnceFunc(func() { close(s.stuck) })
}

// Snapshot returns Counters.
func (s *Switch) Snapshot() dataplane.Snapshot {
	s.mu.Lock()
	stuck := s.stuck
	s.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	snap := s.Counters
	snap.Ports = slices.Clone(snap.Ports)
	for _, p := range s.ports {
		if !slices.ContainsFunc(snap.Ports, func(c dataplane.PortStats) bool { return c.Name == p.Name }) {
			snap.Ports = append(snap.Ports, dataplane.PortStats{Name: p.Name, Number: p.Number})
		}
	}
	return snap
}

// MACs lists entries.
func (s *Switch) MACs(bridge string) ([]dataplane.MACEntry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if bridge != "" && !s.has(bridge) {
		return nil, fmt.Errorf("addresses of bridge %s: %w", bridge, dataplane.ErrNoBridge)
	}
	var list []dataplane.MACEntry
	for _, e := range s.macs {
		if bridge == "" || e.Bridge == bridge {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b dataplane.MACEntry) int {
		return cmp.Or(cmp.Compare(a.Bridge, b.Bridge), cmp.Compare(a.VLAN, b.VLAN), slices.Compare(a.MAC[:], b.MAC[:]))
	})
	return list, nil
}

func (s *Switch) has(bridge string) bool {
	return slices.ContainsFunc(s.ports, func(p dataplane.PortInfo) bool { return p.Bridge == bridge })
}

// AddMAC adds an entry, static or not.
func (s *Switch) AddMAC(_ context.Context, e dataplane.MACEntry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.find(e.Port); i < 0 || s.ports[i].Bridge != e.Bridge {
		return fmt.Errorf("add address to bridge %s: %w: %s", e.Bridge, dataplane.ErrNoPort, e.Port)
	}
	if s.macs == nil {
		s.macs = make(map[key]dataplane.MACEntry)
	}
	s.macs[keyOf(e)] = e
	return nil
}

// DelMAC removes an entry.
func (s *Switch) DelMAC(_ context.Context, e dataplane.MACEntry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.macs[keyOf(e)]; !ok {
		return fmt.Errorf("delete address from bridge %s: %w", e.Bridge, dataplane.ErrNoEntry)
	}
	delete(s.macs, keyOf(e))
	return nil
}

// FlushMACs forgets entries that are not static.
func (s *Switch) FlushMACs(bridge, port string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.has(bridge) {
		return fmt.Errorf("flush addresses of bridge %s: %w", bridge, dataplane.ErrNoBridge)
	}
	maps.DeleteFunc(s.macs, func(k key, e dataplane.MACEntry) bool {
		return k.bridge == bridge && !e.Static && (port == "" || e.Port == port)
	})
	return nil
}

// Wire notes a wire.
func (s *Switch) Wire(in, out string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.find(in)
	if i < 0 || s.find(out) < 0 {
		return fmt.Errorf("wire %s to %s: %w", in, out, dataplane.ErrNoPort)
	}
	s.ports[i].Wire = out
	s.tell(dataplane.EventChanged, s.ports[i])
	return nil
}

// Unwire forgets a wire.
func (s *Switch) Unwire(in string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.find(in)
	switch {
	case i < 0:
		return fmt.Errorf("unwire %s: %w", in, dataplane.ErrNoPort)
	case s.ports[i].Wire == "":
		return fmt.Errorf("unwire %s: %w", in, dataplane.ErrNoEntry)
	}
	s.ports[i].Wire = ""
	return nil
}

// Close frees the flow table.
func (s *Switch) Close() error { return s.flow.close() }
