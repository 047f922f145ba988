package control

import (
	"millrace/control/flows"
	"millrace/control/ovsdb"
	"millrace/control/ovsdb/flowmodel"
)

// flowsLock is the lock that whoever writes what came of rows into a Millrace
// database holds.
const flowsLock = "millrace_flows"

// flowTables are what control reads of the Millrace database.
func flowTables() []ovsdb.Table {
	return []ovsdb.Table{
		{Name: flowmodel.GlobalTable, Row: &flowmodel.Global{}, Watch: []string{"next_cfg"}, Once: []string{"cur_cfg"}},
		{
			Name: flowmodel.FlowTable, Row: &flowmodel.Flow{},
			Watch: []string{"actions", "bridge", "cookie", "match", "priority", "table"}, Once: []string{"error", "n_bytes", "n_packets", "status"},
		},
		{Name: flowmodel.AddressSetTable, Row: &flowmodel.AddressSet{}, Watch: []string{"addresses", "name"}, Once: []string{"error"}},
		{Name: flowmodel.PortGroupTable, Row: &flowmodel.PortGroup{}, Watch: []string{"name", "ports"}},
		{Name: flowmodel.MeterTable, Row: &flowmodel.Meter{}, Watch: []string{"burst", "name", "rate", "unit"}, Once: []string{"error"}},
		{Name: flowmodel.GroupTable, Row: &flowmodel.Group{}, Watch: []string{"buckets", "hash_fields", "name"}, Once: []string{"error"}},
		{Name: flowmodel.BucketTable, Row: &flowmodel.Bucket{}, Watch: []string{"actions", "weight"}},
	}
}

// A flowbook is the Millrace database as far as it is known, and the book that its
// rows are in.
type flowbook struct {
	*flows.Book
	global    string // UUID of the row of Global; empty: there is none
	next, cur int    // its columns; cur as it was written last
}

// take brings the book up to date. After a reset the changes are all rows that
// there are.
func (b *flowbook) take(changes []ovsdb.Change, reset bool) {
	old := reset && (!b.Empty() || b.global != "")
	for _, c := range changes {
		if c.Row == nil {
			b.drop(c)
		} else {
			b.put(c, reset)
		}
	}
	if old {
		b.retain(changes)
	}
}

// retain forgets the rows that are not among changes.
func (b *flowbook) retain(changes []ovsdb.Change) {
	there := make(map[string]bool, len(changes))
	for _, c := range changes {
		there[c.UUID] = true
	}
	b.Retain(func(uuid string) bool { return there[uuid] })
	if !there[b.global] {
		b.global = ""
	}
}

// put takes a row that is new or has changed.
func (b *flowbook) put(c ovsdb.Change, fresh bool) {
	switch row := c.Row.(type) {
	case *flowmodel.Global:
		if fresh || b.global != c.UUID {
			b.cur = row.CurCfg
		}
		b.global, b.next = c.UUID, row.NextCfg
	case *flowmodel.Flow:
		b.SetFlow(row, fresh)
	case *flowmodel.AddressSet:
		b.SetAddressSet(row, fresh)
	case *flowmodel.PortGroup:
		b.SetPortGroup(row)
	case *flowmodel.Meter:
		b.SetMeter(row, fresh)
	case *flowmodel.Group:
		b.SetGroup(row, fresh)
	case *flowmodel.Bucket:
		b.SetBucket(row)
	}
}

// drop forgets a row.
func (b *flowbook) drop(c ovsdb.Change) {
	switch c.Table {
	case flowmodel.GlobalTable:
		if b.global == c.UUID {
			b.global = ""
		}
	case flowmodel.FlowTable:
		b.DropFlow(c.UUID)
	case flowmodel.AddressSetTable:
		b.DropAddressSet(c.UUID)
	case flowmodel.PortGroupTable:
		b.DropPortGroup(c.UUID)
	case flowmodel.MeterTable:
		b.DropMeter(c.UUID)
	case flowmodel.GroupTable:
		b.DropGroup(c.UUID)
	case flowmodel.BucketTable:
		b.DropBucket(c.UUID)
	}
}
