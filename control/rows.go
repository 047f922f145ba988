package control

import (
	"slices"

	libovsdb "github.com/ovn-kubernetes/libovsdb/ovsdb"

	"millrace/control/bridge"
	"millrace/control/ovsdb"
	"millrace/control/ovsdb/model"
	"millrace/dataplane/api"
)

// databaseLock is the lock that whoever serves an Open_vSwitch database holds;
// ovs-vswitchd does, too.
const databaseLock = "ovs_vswitchd"

// tables are what control reads: what others write always, what only control
// writes once.
func tables() []ovsdb.Table {
	return []ovsdb.Table{
		{
			Name: model.OpenvSwitchTable, Row: &model.OpenvSwitch{},
			Watch: []string{"bridges", "next_cfg", "other_config"},
			Once:  []string{"cur_cfg", "datapath_types", "dpdk_initialized", "dpdk_version", "iface_types", "ovs_version", "system_type", "system_version"},
		}, {
			Name: model.BridgeTable, Row: &model.Bridge{},
			Watch: []string{"controller", "fail_mode", "flood_vlans", "ipfix", "mirrors", "name", "netflow", "other_config", "ports", "rstp_enable", "sflow", "stp_enable"},
			Once:  []string{"datapath_id", "datapath_version", "status"},
		}, {
			Name: model.PortTable, Row: &model.Port{},
			Watch: []string{"fake_bridge", "interfaces", "name", "other_config", "qos", "tag", "trunks", "vlan_mode"},
			Once:  []string{"status"},
		}, {
			Name: model.InterfaceTable, Row: &model.Interface{},
			Watch: []string{"bfd", "cfm_mpid", "ingress_policing_burst", "ingress_policing_kpkts_burst", "ingress_policing_kpkts_rate", "ingress_policing_rate", "mac", "mtu_request", "name", "ofport_request", "options", "other_config", "type"},
			Once:  []string{"admin_state", "error", "ifindex", "link_resets", "link_state", "mac_in_use", "mtu", "ofport", "statistics", "status"},
		}, {
			Name: model.QoSTable, Row: &model.QoS{},
			Watch: []string{"other_config", "type"},
		},
	}
}

// A copybook has the rows, and what is written in the columns that are ours.
type copybook struct {
	rows     bridge.Rows
	rootUUID string

	// Last written, or read with the row when it was new, by UUID.
	root       *model.OpenvSwitch
	bridges    map[string]*model.Bridge
	ports      map[string]*model.Port
	interfaces map[string]*model.Interface

	// told is what each Interface row was last told of, by UUID: where nothing
	// is new, nothing is compared.
	told map[string]news
}

// news is all that an Interface row's columns follow from. Equal news make
// equal rows.
type news struct {
	view   bridge.InterfaceView
	device *device
	state  *api.PortState
	failed string
	egress *egressState
}

func newCopybook() *copybook {
	return &copybook{
		rows: bridge.Rows{
			Bridges: map[string]*model.Bridge{}, Ports: map[string]*model.Port{}, Interfaces: map[string]*model.Interface{}, QoS: map[string]*model.QoS{},
		},
		bridges: map[string]*model.Bridge{}, ports: map[string]*model.Port{}, interfaces: map[string]*model.Interface{},
		told: map[string]news{},
	}
}

// take brings the rows up to date.
func (b *copybook) take(changes []ovsdb.Change) {
	for _, c := range changes {
		switch row := c.Row.(type) {
		case nil:
			b.drop(c)
		case *model.OpenvSwitch:
			b.rows.Root, b.rootUUID = row, c.UUID
			if b.root == nil {
				b.root = row
			}
		case *model.Bridge:
			b.rows.Bridges[c.UUID] = row
			note(b.bridges, c.UUID, row)
		case *model.Port:
			b.rows.Ports[c.UUID] = row
			note(b.ports, c.UUID, row)
		case *model.Interface:
			note(b.interfaces, c.UUID, row)
			b.number(c.UUID, row)
		case *model.QoS:
			b.rows.QoS[c.UUID] = row
		}
	}
}

// note keeps what a new row has in our columns. Later we know better.
func note[T any](written map[string]*T, uuid string, row *T) {
	if written[uuid] == nil {
		written[uuid] = row
	}
}

// number puts a row where From reads it, with the port number that was written
// last.
func (b *copybook) number(uuid string, row *model.Interface) {
	if n := b.interfaces[uuid].Ofport; !equal(n, row.Ofport) {
		numbered := *row
		numbered.Ofport = n
		row = &numbered
	}
	b.rows.Interfaces[uuid] = row
}

// drop forgets a row.
func (b *copybook) drop(c ovsdb.Change) {
	switch c.Table {
	case model.OpenvSwitchTable:
		if c.UUID == b.rootUUID {
			b.rows.Root, b.root, b.rootUUID = nil, nil, ""
		}
	case model.BridgeTable:
		delete(b.rows.Bridges, c.UUID)
		delete(b.bridges, c.UUID)
	case model.PortTable:
		delete(b.rows.Ports, c.UUID)
		delete(b.ports, c.UUID)
	case model.InterfaceTable:
		delete(b.rows.Interfaces, c.UUID)
		delete(b.interfaces, c.UUID)
		delete(b.told, c.UUID)
	case model.QoSTable:
		delete(b.rows.QoS, c.UUID)
	}
}

// toldOtherwise are the Port rows that may not say what is wrong with them now,
// sorted.
func (b *copybook) toldOtherwise(errors map[string]string) []string {
	var uuids []string
	for uuid, row := range b.ports {
		if len(row.Status) > 0 || errors[uuid] != "" {
			uuids = append(uuids, uuid)
		}
	}
	slices.Sort(uuids)
	return uuids
}

// A writing is one transaction that gives our columns their values, and what
// to note when it is made.
type writing struct {
	client *ovsdb.Client
	ops    []libovsdb.Operation
	done   []func()
	err    error
}

// set adds the columns of a row that have changed.
func (w *writing) set(table, uuid string, row any, columns []string, done func()) {
	if len(columns) == 0 || w.err != nil {
		return
	}
	op, err := w.client.NewUpdate(table, uuid, row, columns...)
	if err != nil {
		w.err = err
		return
	}
	w.ops = append(w.ops, op)
	w.done = append(w.done, done)
}
