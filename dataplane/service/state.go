package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"

	"millrace/dataplane"
	"millrace/dataplane/api"
)

// stateVersion is the version of the layout of ports.json.
const stateVersion = 1

// state is what clients have configured, in the order in which they did. It
// is kept in ports.json, which a later dataplane of the directory reads.
type state struct {
	Version int             `json:"version"`
	Ports   []*api.PortSpec `json:"ports"` // with defaults filled in
	Wires   []wire          `json:"wires"`
	Entries []staticEntry   `json:"entries"`
	Bridges []bridgeState   `json:"bridges,omitempty"` // those that were told something
	Workers []int           `json:"workers,omitempty"` // their CPUs; none: as the dataplane is started

	Limits       []zoneLimit `json:"zone_limits,omitempty"`
	LimitDefault uint32      `json:"zone_limit_default,omitempty"`
}

// bridgeState is what a bridge was told.
type bridgeState struct {
	Name    string   `json:"name"`
	MACAge  float64  `json:"mac_age_seconds"` // 0: as the dataplane is started
	MACsMax int      `json:"macs_max"`        // 0: as the dataplane is started
	Flood   []uint16 `json:"flood_vlans"`

	Pipeline dataplane.Pipeline `json:"pipeline,omitempty"` // none: learning
}

func (b bridgeState) String() string { return "settings of bridge " + b.Name }

func (b bridgeState) settings() dataplane.BridgeSettings {
	return dataplane.BridgeSettings{MACAge: time.Duration(b.MACAge * float64(time.Second)), MACTable: b.MACsMax, Flood: b.Flood, Pipeline: b.Pipeline}
}

// setBridge notes the settings of a bridge.
func (st *state) setBridge(b bridgeState) {
	st.Bridges = slices.DeleteFunc(st.Bridges, func(o bridgeState) bool { return o.Name == b.Name })
	st.Bridges = append(st.Bridges, b)
}

type wire struct {
	In  string `json:"in"`
	Out string `json:"out"`
}

func (w wire) String() string { return "wire " + w.In + " to " + w.Out }

type staticEntry struct {
	Bridge string `json:"bridge"`
	VLAN   uint16 `json:"vlan"`
	MAC    string `json:"mac"`
	Port   string `json:"port"`
}

func (e staticEntry) String() string {
	return fmt.Sprintf("entry %s in VLAN %d of bridge %s", e.MAC, e.VLAN, e.Bridge)
}

// at reports whether two entries are for the same address.
func (e staticEntry) at(o staticEntry) bool {
	return e.Bridge == o.Bridge && e.VLAN == o.VLAN && e.MAC == o.MAC
}

func toStatic(e dataplane.MACEntry) staticEntry {
	return staticEntry{e.Bridge, e.VLAN, net.HardwareAddr(e.MAC[:]).String(), e.Port}
}

// addPort notes a port. One of that name is replaced: it could not be
// restored, or is the same.
func (st *state) addPort(spec *api.PortSpec) {
	same := func(p *api.PortSpec) bool { return p.GetName() == spec.GetName() }
	if i := slices.IndexFunc(st.Ports, same); i >= 0 {
		st.Ports[i] = spec
		return
	}
	st.Ports = append(st.Ports, spec)
}

// delPort forgets a port and what names it, and reports whether it was there.
func (st *state) delPort(name string) bool {
	n := len(st.Ports)
	st.Ports = slices.DeleteFunc(st.Ports, func(p *api.PortSpec) bool { return p.GetName() == name })
	st.Wires = slices.DeleteFunc(st.Wires, func(w wire) bool { return w.In == name || w.Out == name })
	st.Entries = slices.DeleteFunc(st.Entries, func(e staticEntry) bool { return e.Port == name })
	st.Bridges = slices.DeleteFunc(st.Bridges, func(b bridgeState) bool { return !st.hasBridge(b.Name) })
	st.Limits = slices.DeleteFunc(st.Limits, func(l zoneLimit) bool { return l.Bridge != "" && !st.hasBridge(l.Bridge) })
	return len(st.Ports) < n
}

// hasBridge reports whether a port is of a bridge.
func (st *state) hasBridge(name string) bool {
	return slices.ContainsFunc(st.Ports, func(p *api.PortSpec) bool { return p.GetBridge() == name })
}

func (st *state) addWire(w wire) {
	st.delWire(w.In)
	st.Wires = append(st.Wires, w)
}

// delWire forgets the wire from a port, and reports whether there was one.
func (st *state) delWire(in string) bool {
	n := len(st.Wires)
	st.Wires = slices.DeleteFunc(st.Wires, func(w wire) bool { return w.In == in })
	return len(st.Wires) < n
}

func (st *state) addEntry(e staticEntry) {
	st.delEntry(e)
	st.Entries = append(st.Entries, e)
}

// delEntry forgets an entry, and reports whether it was there.
func (st *state) delEntry(e staticEntry) bool {
	n := len(st.Entries)
	st.Entries = slices.DeleteFunc(st.Entries, e.at)
	return len(st.Entries) < n
}

// names are what is remembered, in the words of what could not be restored.
func (st *state) names() map[string]bool {
	names := map[string]bool{onCPUs(st.Workers): true}
	for _, p := range st.Ports {
		names["port "+p.GetName()] = true
	}
	note(names, st.Bridges)
	note(names, st.Wires)
	note(names, st.Limits)
	note(names, st.Entries)
	return names
}

func note[T fmt.Stringer](names map[string]bool, list []T) {
	for _, x := range list {
		names[x.String()] = true
	}
}

// readState reads what the directory remembers: nothing, if it is new.
func (d *Dir) readState() (state, error) {
	path := d.file(stateName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil
	}
	var st state
	if err == nil {
		err = json.Unmarshal(b, &st)
	}
	if err == nil && st.Version != stateVersion {
		err = fmt.Errorf("version %d of its layout is not %d", st.Version, stateVersion)
	}
	if err != nil {
		return state{}, fmt.Errorf("read %s: %w: remove the file, or start with --fresh, to begin without ports", path, err)
	}
	return st, nil
}

// writeState puts st in place of what the directory remembers, at once. It
// does not wait for the disk: the file is for the next process, not for the
// next boot.
func (d *Dir) writeState(st state) error {
	st.Version = stateVersion
	b, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return fmt.Errorf("encode ports: %w", err)
	}
	path := d.file(stateName)
	if err := os.WriteFile(path+newSuffix, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("remember ports: %w", err)
	}
	if err := os.Rename(path+newSuffix, path); err != nil {
		return fmt.Errorf("remember ports: %w", err)
	}
	return nil
}

// save remembers what is configured now. A change that cannot be remembered
// stands all the same: traffic is worth more. The caller holds mu.
func (s *Server) save() {
	if len(s.unrestored) > 0 {
		names := s.state.names()
		s.unrestored = slices.DeleteFunc(s.unrestored, func(u *api.Unrestored) bool { return !names[u.GetWhat()] })
	}
	if err := s.Dir.writeState(s.state); err != nil {
		s.Log.Error("the next restart will miss the last change", zap.Error(err))
	}
}

// restore configures what the directory remembers, or forgets it if fresh.
// What cannot be had again is remembered still, and shown by GetInfo.
func (s *Server) restore(ctx context.Context, fresh bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if fresh {
		return s.Dir.writeState(state{})
	}
	st, err := s.Dir.readState()
	if err != nil {
		return err
	}
	s.state = st
	if len(st.Workers) > 0 {
		s.restored(onCPUs(st.Workers), s.Switch.SetWorkers(st.Workers))
	}
	for i, added := range s.addPorts(slices.Clone(st.Ports)) {
		s.restored("port "+st.Ports[i].GetName(), added.err)
	}
	for _, b := range st.Bridges {
		s.restored(b.String(), s.Switch.SetBridge(b.Name, b.settings()))
	}
	for _, w := range st.Wires {
		s.restored(w.String(), s.Switch.Wire(w.In, w.Out))
	}
	s.Switch.SetConnectionDefault(st.LimitDefault)
	for _, l := range st.Limits {
		s.restored(l.String(), s.applyLimit(l))
	}
	for _, e := range st.Entries {
		m, err := entry(&api.Entry{Bridge: e.Bridge, Vlan: uint32(e.VLAN), Mac: e.MAC, Port: e.Port})
		if err == nil {
			err = s.Switch.AddMAC(ctx, m)
		}
		s.restored(e.String(), err)
	}
	if n := len(st.Ports); n > 0 {
		s.Log.Info("ports of the last run restored", zap.Int("ports", n), zap.Int("failures", len(s.unrestored)))
	}
	return nil
}

// notThere reports whether an error of the switch says that there is no such thing. If it
// could not be restored, it is deleted by forgetting it.
func notThere(err error) bool {
	return errors.Is(err, dataplane.ErrNoEntry) || errors.Is(err, dataplane.ErrNoPort) || errors.Is(err, dataplane.ErrNoBridge)
}

func (s *Server) restored(what string, err error) {
	if err == nil {
		return
	}
	s.unrestored = append(s.unrestored, &api.Unrestored{What: what, Error: err.Error()})
	s.Log.Error("not restored", zap.String("what", what), zap.Error(err))
}

// settled forgets what could not be restored, and has come after all. What is no longer
// wanted, save forgets.
func (s *Server) settled(what string) {
	s.unrestored = slices.DeleteFunc(s.unrestored, func(u *api.Unrestored) bool { return u.GetWhat() == what })
}
