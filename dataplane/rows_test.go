package dataplane

import (
	"fmt"

	"millrace/control/flows"
	"millrace/control/ovsdb/flowmodel"
	"millrace/flowtable"
)

// A ledger makes rules of rows of Flow, as control does, for the bridge of a rig.
type ledger struct {
	*rig
	book *flows.Book
	rows int
}

// rows returns the ledger of a rig.
func (r *rig) rows() *ledger {
	r.t.Helper()
	l := &ledger{rig: r, book: flows.NewBook()}
	b := r.s.FlowBridges()[0]
	ports := map[string]uint32{}
	for name, p := range r.s.ports {
		ports[name] = p.number
	}
	l.book.SetBridges(map[string]*flows.Bridge{"br0": {FDB: b.FDB, Flood: b.Flood, Ports: ports}})
	return l
}

// meter adds a meter of packets a second.
func (l *ledger) meter(name string, rate int) {
	l.book.SetMeter(&flowmodel.Meter{UUID: name, Name: name, Unit: flowmodel.MeterUnitPktps, Rate: rate, Burst: rate}, true)
}

// row adds a row.
func (l *ledger) row(table, priority int, match, actions string) {
	l.rows++
	l.book.SetFlow(&flowmodel.Flow{UUID: fmt.Sprint(l.rows), Bridge: "br0", Table: table, Priority: priority, Match: match, Actions: actions}, true)
}

// put puts all rows in force.
func (l *ledger) put() {
	l.t.Helper()
	l.book.Compile()
	changes := l.book.Changes()
	l.commit(func(x *flowtable.Txn) error {
		for i := range changes {
			c := &changes[i]
			var err error
			switch c.Kind {
			case flows.AddRule:
				rule := *c.Rule
				err = x.Add(&rule)
			case flows.SetSelect:
				err = x.SetSelect(&c.Select)
			case flows.SetMeter:
				err = x.SetMeter(&c.Meter)
			default:
				err = fmt.Errorf("change of kind %d", c.Kind)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	l.book.Done(changes, nil)
	l.book.Settle()
	if t := l.book.Tally(); t.Active != l.rows {
		l.t.Fatalf("of %d rows %d are active: %+v", l.rows, t.Active, l.book.News(l.rows))
	}
}
