package main

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"millrace/control/bridge"
	"millrace/control/ovsdb"
	"millrace/control/ovsdb/model"
)

// shownTables are the tables and columns that commands read.
func shownTables() []ovsdb.Table {
	return []ovsdb.Table{
		{Name: model.OpenvSwitchTable, Row: &model.OpenvSwitch{}, Watch: []string{"bridges", "cur_cfg", "manager_options", "next_cfg", "other_config", "ovs_version"}},
		{Name: model.BridgeTable, Row: &model.Bridge{}, Watch: []string{"datapath_type", "fail_mode", "flood_vlans", "name", "other_config", "ports", "status"}},
		{Name: model.PortTable, Row: &model.Port{}, Watch: []string{"interfaces", "name", "other_config", "tag", "trunks", "vlan_mode"}},
		{Name: model.InterfaceTable, Row: &model.Interface{}, Watch: []string{"error", "link_state", "mac", "mtu_request", "name", "ofport", "ofport_request", "options", "type"}},
		{Name: model.ManagerTable, Row: &model.Manager{}, Watch: []string{"is_connected", "target"}},
	}
}

// A vswitch is the rows as they were at one moment.
type vswitch struct {
	bridge.Rows
	uuid     string // of Root
	managers map[string]*model.Manager
}

// read reads the rows.
func (d *database) read(ctx context.Context) (*vswitch, error) {
	rows, err := d.Rows(ctx)
	if err != nil {
		return nil, err
	}
	v := &vswitch{Rows: bridge.Rows{
		Bridges: map[string]*model.Bridge{}, Ports: map[string]*model.Port{}, Interfaces: map[string]*model.Interface{},
	}, managers: map[string]*model.Manager{}}
	for _, r := range rows {
		switch row := r.Row.(type) {
		case *model.OpenvSwitch:
			v.Root, v.uuid = row, r.UUID
		case *model.Bridge:
			v.Bridges[r.UUID] = row
		case *model.Port:
			v.Ports[r.UUID] = row
		case *model.Interface:
			v.Interfaces[r.UUID] = row
		case *model.Manager:
			v.managers[r.UUID] = row
		}
	}
	return v, nil
}

// bridges returns the bridges in use, by name.
func (v *vswitch) bridges() []*model.Bridge {
	if v.Root == nil {
		return nil
	}
	return pick(v.Bridges, v.Root.Bridges, func(b *model.Bridge) string { return b.Name })
}

// portsOf returns the ports of a bridge, by name.
func (v *vswitch) portsOf(b *model.Bridge) []*model.Port {
	return pick(v.Ports, b.Ports, func(p *model.Port) string { return p.Name })
}

// interfacesOf returns the interfaces of a port, by name.
func (v *vswitch) interfacesOf(p *model.Port) []*model.Interface {
	return pick(v.Interfaces, p.Interfaces, func(i *model.Interface) string { return i.Name })
}

// pick returns the rows that a set of UUIDs refers to, by name.
func pick[T any](rows map[string]*T, uuids []string, name func(*T) string) []*T {
	var list []*T
	for _, uuid := range uuids {
		if r := rows[uuid]; r != nil {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b *T) int { return cmp.Compare(name(a), name(b)) })
	return list
}

// bridge returns the bridge of that name, or nil.
func (v *vswitch) bridge(name string) *model.Bridge {
	for _, b := range v.bridges() {
		if b.Name == name {
			return b
		}
	}
	return nil
}

// port returns the port of that name and its bridge, or nil.
func (v *vswitch) port(name string) (*model.Port, *model.Bridge) {
	for _, b := range v.bridges() {
		for _, p := range v.portsOf(b) {
			if p.Name == name {
				return p, b
			}
		}
	}
	return nil, nil
}

// own reports whether a port is its bridge's own, which comes and goes with it.
func own(p *model.Port, b *model.Bridge) bool { return p.Name == b.Name }

// bridgeNames returns the names of all bridges.
func (v *vswitch) bridgeNames() []string {
	var names []string
	for _, b := range v.bridges() {
		names = append(names, b.Name)
	}
	return names
}

// portNames returns the names of all ports but the bridges' own.
func (v *vswitch) portNames() []string {
	var names []string
	for _, b := range v.bridges() {
		for _, p := range v.portsOf(b) {
			if !own(p, b) {
				names = append(names, p.Name)
			}
		}
	}
	return names
}

// keys returns the pairs of a map column as KEY=VALUE, by key.
func keys(m map[string]string) []string {
	list := []string{}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list = append(list, k+"="+m[k])
	}
	return list
}
