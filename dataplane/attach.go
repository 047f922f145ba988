package dataplane

import (
	"cmp"
	"slices"
)

// attach makes all workers know ports: each sends to them, and their receive
// queues are dealt out. All that takes time is done here, so that workers stand
// still for the linking only.
func (s *Switch) attach(ports []*port) {
	if len(ports) == 0 {
		return
	}
	deal(s.workers, ports, s.dealer(s.workers))
	mine := berths(len(s.workers), ports)
	for i, w := range s.workers {
		joins := s.joins(ports)
		rx := queues(mine[i])
		w.do(func() {
			w.joinAll(joins, s.lastPort)
			w.take(rx)
		})
	}
}

// A join is a port on its way to a worker.
type join struct {
	port   *workerPort
	bridge *bridge
	peer   *port // of a patch port; nil while it is missing
}

// joins are ports as one worker is to have them.
func (s *Switch) joins(ports []*port) []join {
	list := make([]join, len(ports))
	for i, p := range ports {
		wp := newWorkerPort(p)
		if p.dev != nil {
			wp.tx = p.dev.Tx()
			wp.taker, _ = wp.tx.(OffloadTaker)
		}
		list[i] = join{wp, p.bridge, s.peerOf(p)}
	}
	return list
}

// A berth is a receive queue on its way to the worker that it is dealt to.
type berth struct {
	number uint32 // of its port
	index  int    // of the port's receive queues
	q      RxQueue
}

// queues are berths as their worker is to have them, but for their ports.
func queues(berths []berth) []*rxQueue {
	rx := make([]*rxQueue, len(berths))
	for i, b := range berths {
		rx[i] = &rxQueue{q: b.q, number: b.number, index: b.index}
	}
	return rx
}

// deal notes which of workers has which receive queue of ports.
func deal(workers []*worker, ports []*port, choose func(i int) int) {
	for _, p := range ports {
		p.dealt, p.cpus = nil, nil
		if p.dev == nil {
			continue
		}
		for i := range p.dev.Rx() {
			w := choose(i)
			p.dealt = append(p.dealt, w)
			p.cpus = append(p.cpus, workers[w].cpu)
		}
	}
}

// berths are the receive queues of ports by worker, as they were dealt to n.
func berths(n int, ports []*port) [][]berth {
	mine := make([][]berth, n)
	for _, p := range ports {
		if p.dev == nil {
			continue
		}
		for i, q := range p.dev.Rx() {
			w := p.dealt[i]
			mine[w] = append(mine[w], berth{p.number, i, q})
		}
	}
	return mine
}

// dealer returns a function that chooses the worker for a port's queue number i:
// the one with the fewest queues of that number, for most ports use their first
// only; among equals the one with the fewest in all.
func (s *Switch) dealer(workers []*worker) func(i int) int {
	type hand map[int]int // queues by number; -1: all
	hands := make([]hand, len(workers))
	for i := range hands {
		hands[i] = hand{}
	}
	for _, p := range s.ports {
		for i, w := range p.dealt {
			hands[w][i]++
			hands[w][-1]++
		}
	}
	return func(i int) int {
		least := slices.MinFunc(hands, func(a, b hand) int { return cmp.Or(cmp.Compare(a[i], b[i]), cmp.Compare(a[-1], b[-1])) })
		w := slices.IndexFunc(hands, func(h hand) bool { return h[i] == least[i] && h[-1] == least[-1] })
		hands[w][i]++
		hands[w][-1]++
		return w
	}
}

// peerOf returns the other end of patch port p: the port that it names and
// that names it.
func (s *Switch) peerOf(p *port) *port {
	o := s.ports[p.spec.Peer]
	if p.spec.Type != TypePatch || o == nil || o.spec.Type != TypePatch || o.spec.Peer != p.spec.Name {
		return nil
	}
	return o
}

// joinAll makes the worker know ports; last is the highest number that there
// is. It runs on the worker.
func (w *worker) joinAll(joins []join, last uint32) {
	if n := int(last) + 1; n > len(w.ports) {
		w.ports = append(w.ports, make([]*workerPort, n-len(w.ports))...)
	}
	for _, j := range joins {
		wp := j.port
		w.ports[wp.number] = wp
		w.order = append(w.order, wp)
		wp.bridge = w.bridgeOf(j.bridge)
		if j.peer == nil {
			continue
		}
		if o := w.ports[j.peer.number]; o != nil { // if not, it comes yet
			wp.peer, o.peer = o, wp
		}
	}
}

// take gives the worker receive queues of ports that it knows. It runs on the
// worker.
func (w *worker) take(rx []*rxQueue) {
	for _, q := range rx {
		q.port = w.ports[q.number]
		w.rx = append(w.rx, q)
		w.enliven(q)
	}
	w.noteLive()
}

// detach makes all workers forget ports. Their counters go to the removed ones.
func (s *Switch) detach(ports []*port) {
	if len(ports) == 0 {
		return
	}
	for _, p := range ports {
		s.removed.add(&p.retired)
	}
	for _, w := range s.workers {
		w.do(func() { w.detach(ports, &s.removed) })
	}
}

// detach runs on the worker.
func (w *worker) detach(ports []*port, removed *PortStats) {
	for _, p := range ports {
		wp := w.ports[p.number]
		wp.addTo(removed)
		wp.gone = true
		w.unplan(wp)
		w.forgetOuter(wp)
		w.ports[p.number] = nil
		if wp.peer != nil {
			wp.peer.peer = nil
		}
	}
	isGone := func(o *workerPort) bool { return o.gone }
	w.order = slices.DeleteFunc(w.order, isGone)
	w.signals = slices.DeleteFunc(w.signals, isGone)
	w.rx = slices.DeleteFunc(w.rx, func(q *rxQueue) bool { return q.port.gone })
	for _, o := range w.order {
		w.undirect(o)
	}
	w.endDecisions()
	w.refresh()
}
