package dataplane

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"millrace/dataplane/fdb"
)

// BridgeSettings are what a bridge can be told while it works.
type BridgeSettings struct {
	MACAge   time.Duration // an address silent for so long is forgotten; 0: as the switch was started
	MACTable int           // addresses that it can learn; 0: as the switch was started
	Flood    []uint16      // VLANs in which it learns nothing: all frames go to all ports
	Pipeline Pipeline      // what decides about its frames; empty: PipelineLearning
}

// SetBridge changes the settings of a bridge, all of them, until its last port
// goes. Addresses stay known as far as the new table has room for them; a
// table of another size counts anew.
func (s *Switch) SetBridge(name string, b BridgeSettings) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	br := s.bridges[name]
	if br == nil {
		return fmt.Errorf("set bridge %s: %w", name, ErrNoBridge)
	}
	b.Pipeline = cmp.Or(b.Pipeline, PipelineLearning)
	if b.Pipeline != PipelineLearning && b.Pipeline != PipelineFlows {
		return fmt.Errorf("set bridge %s: %w: pipeline %q is neither %s nor %s", name, ErrBadSpec, b.Pipeline, PipelineLearning, PipelineFlows)
	}
	if b.MACAge < 0 || b.MACTable < 0 || slices.ContainsFunc(b.Flood, func(v uint16) bool { return v > 4094 }) {
		return fmt.Errorf("set bridge %s: %w: age %v and size %d of its address table must not be negative, and VLANs %v not over 4094", name, ErrBadSpec, b.MACAge, b.MACTable, b.Flood)
	}
	b.MACAge, b.MACTable = cmp.Or(b.MACAge, s.opts.MACAge), cmp.Or(b.MACTable, s.opts.MACTable)
	if b.MACTable != br.settings.MACTable {
		if err := s.resize(br, b.MACTable); err != nil {
			return fmt.Errorf("set bridge %s: %w", name, err)
		}
	}
	b.Flood = slices.Compact(slices.Sorted(slices.Values(b.Flood)))
	if err := s.settle(br, b); err != nil {
		return fmt.Errorf("set bridge %s: %w", name, err)
	}
	for _, v := range br.settings.Flood {
		br.table.FlushVLAN(v)
	}
	return nil
}

// settle brings the tables and workers to what settings b say of br. Workers
// read whole headers before rules see the first frame, and as long as they do.
func (s *Switch) settle(br *bridge, b BridgeSettings) error {
	old := br.settings
	br.settings = b
	if b.Pipeline == PipelineFlows {
		s.each(func(w *worker) { w.readPorts(br) })
	}
	err := s.transact(func(a *author) {
		a.settle(br)
		if b.Pipeline == old.Pipeline {
			return
		}
		for _, p := range br.ports {
			a.enter(p)
		}
	})
	if err != nil {
		br.settings = old
	}
	if br.settings.Pipeline != PipelineFlows {
		s.each(func(w *worker) { w.readPorts(br) })
	}
	return err
}

// readPorts has the worker read as much of what comes in by ports of br as their
// rules need.
func (w *worker) readPorts(br *bridge) {
	for _, p := range br.ports {
		w.setLevel(w.ports[p.number], p.readFully())
	}
}

// resize gives br a table of another size that knows what the old one knew.
func (s *Switch) resize(br *bridge, capacity int) error {
	fresh, err := s.newTable(br.number, capacity)
	if err != nil {
		return err
	}
	now := s.now()
	for _, p := range br.ports {
		if p.spec.MACLimit > 0 {
			fresh.table.SetLimit(p.number, p.spec.MACLimit)
		}
	}
	for e := range br.table.Dump(now) {
		if e.Static {
			err = fresh.table.AddStatic(e.Key, e.Port)
		} else {
			fresh.mine[0].Learn(e.Key, e.Port, now-e.Age)
		}
		if err != nil {
			_ = fresh.table.Close() // nobody has seen it
			return err
		}
	}
	old := br.table
	br.macs = fresh
	s.each(func(w *worker) {
		wb := w.bridgeOf(br)
		wb.table, wb.mine = br.table, br.mine[w.id]
		w.endDecisions()
	})
	s.engine.cells.moveFDB(br.number)
	return old.Close()
}

// macs is a table and the handles of the workers.
type macs struct {
	table *fdb.Table
	mine  []*fdb.Worker // by worker.id
}

// newTable makes the table of bridge number, for capacity addresses.
func (s *Switch) newTable(number uint32, capacity int) (macs, error) {
	table, err := fdb.New(capacity)
	if err != nil {
		return macs{}, err
	}
	cells := s.engine.cells
	table.Watch(func(k fdb.Key) { cells.Move(cells.fdbCell(number, k)) })
	m := macs{table: table}
	if err := m.equip(max(s.handles(), 1)); err != nil {
		_ = table.Close() // nobody has seen it
		return macs{}, err
	}
	return m, nil
}

// equip makes the handles of the first n workers. Those that there are stay.
func (m *macs) equip(n int) error {
	for i := len(m.mine); i < n; i++ {
		h, err := m.table.Worker(i)
		if err != nil {
			return err
		}
		m.mine = append(m.mine, h)
	}
	return nil
}
