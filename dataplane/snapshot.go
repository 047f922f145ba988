package dataplane

import (
	"time"

	"millrace/dataplane/sys"
)

// Snapshot is the account of all ports and workers. Each worker gives its share
// between two turns, so that every port's part balances.
func (s *Switch) Snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	snap := Snapshot{Started: s.started, TSCHz: sys.TSCHz()}
	ports := s.byNumber()
	snap.Ports = make([]PortStats, len(ports), len(ports)+1)
	place := make(map[uint32]*PortStats, len(ports))
	for i, p := range ports {
		snap.Ports[i] = p.retired
		snap.Ports[i].Name, snap.Ports[i].Number = p.spec.Name, p.number
		place[p.number] = &snap.Ports[i]
	}
	snap.Workers = make([]WorkerStats, len(s.workers))
	for i, w := range s.workers {
		w.do(func() {
			for _, p := range w.order {
				p.addTo(place[p.number])
			}
			snap.Workers[i] = w.stats
			snap.Workers[i].GapMinute = w.clock.recent.max(s.now())
		})
		g := &snap.Workers[i]
		g.Gaps[0] = g.Turns
		for _, n := range g.Gaps[1:] {
			g.Gaps[0] -= n
		}
	}
	if s.removed.RxFrames+s.removed.Offered > 0 {
		snap.Ports = append(snap.Ports, s.removed)
	}
	snap.At = time.Now()
	return snap
}

// add adds the counts of o.
func (s *PortStats) add(o *PortStats) {
	s.RxFrames += o.RxFrames
	s.RxBytes += o.RxBytes
	s.TxFrames += o.TxFrames
	s.TxBytes += o.TxBytes
	s.Outputs += o.Outputs
	s.Copies += o.Copies
	s.Offered += o.Offered
	for i := range s.RxDrops {
		s.RxDrops[i] += o.RxDrops[i]
		s.TxDrops[i] += o.TxDrops[i]
	}
	s.Finished.add(&o.Finished)
}
