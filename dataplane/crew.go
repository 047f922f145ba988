package dataplane

import (
	"errors"
	"fmt"
	"slices"

	"go.uber.org/zap"
)

// each runs fn for every worker, on it, between two of its turns.
//
// A worker is among them before it knows any port and until it knows none, so
// that also those who do not hold mu miss none that they could mean.
func (s *Switch) each(fn func(*worker)) {
	s.crew.RLock()
	workers := s.workers
	s.crew.RUnlock()
	for _, w := range workers {
		w.do(func() { fn(w) })
	}
}

// exchange makes workers the ones that there are. The caller holds mu.
func (s *Switch) exchange(workers []*worker) {
	s.crew.Lock()
	defer s.crew.Unlock()
	s.workers = workers
}

// startWorker starts a worker that nobody knows yet.
func (s *Switch) startWorker(id, cpu, n int) (*worker, error) {
	w, err := newWorker(id, cpu, s.opts.Poll, s.engine, n)
	if err != nil {
		return nil, fmt.Errorf("start worker %d: %w", id, err)
	}
	started := make(chan error, 1)
	go w.run(started)
	if err := <-started; err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (s *Switch) stopWorkers(workers []*worker) {
	for _, w := range workers {
		if err := w.stop(); err != nil {
			s.log.Warn("release memory of a worker", zap.Int("cpu", w.cpu), zap.Error(err))
		}
	}
}

// checkCPUs refuses CPUs that workers cannot have.
func (s *Switch) checkCPUs(cpus []int) error {
	if len(cpus) == 0 {
		return fmt.Errorf("%w: no CPU is named", ErrBadCPUs)
	}
	sorted := slices.Sorted(slices.Values(cpus))
	if len(slices.Compact(sorted)) < len(cpus) {
		return fmt.Errorf("%w: CPUs %v name one twice", ErrBadCPUs, cpus)
	}
	if s.opts.Allowed == nil {
		return nil
	}
	for _, c := range cpus {
		if !slices.Contains(s.opts.Allowed, c) {
			return fmt.Errorf("%w: CPU %d is not there, or not one that the dataplane may use: %v", ErrBadCPUs, c, s.opts.Allowed)
		}
	}
	return nil
}

// tune prepares the process for workers on cpus.
func (s *Switch) tune(cpus []int) error {
	if s.opts.Tune == nil {
		return nil
	}
	var threads []int
	for _, w := range s.workers {
		threads = append(threads, w.thread)
	}
	return s.opts.Tune(cpus, threads)
}

// handles is how many handles of workers a table needs: one more than the
// highest id.
func (s *Switch) handles() int {
	n := 0
	for _, w := range s.workers {
		n = max(n, w.id+1)
	}
	return n
}

// Workers are the CPUs of the workers, in order. It waits for no worker.
func (s *Switch) Workers() []int {
	s.crew.RLock()
	workers := s.workers
	s.crew.RUnlock()
	var cpus []int
	for _, w := range workers {
		cpus = append(cpus, w.cpu)
	}
	return cpus
}

// SetWorkers has one worker on each of cpus and nowhere else. Those on CPUs that
// are named already go on; all receive queues are dealt anew, by load. It takes effect
// when it returns, or not at all.
//
// Peers notice nothing. A worker changes between two turns, when it has no frame
// in hand, and a queue waits for the worker that it goes to: so no frame is lost
// or comes twice. What ended workers have counted of ports stays in the ports'
// account; what they counted of themselves goes with them.
func (s *Switch) SetWorkers(cpus []int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrIsClosing
	}
	if err := s.checkCPUs(cpus); err != nil {
		return fmt.Errorf("set workers: %w", err)
	}
	if slices.Equal(cpus, s.Workers()) {
		return nil
	}
	loads := s.measure(0)
	stay, end := s.whoStays(cpus)
	fresh, err := s.hire(cpus, stay)
	if err != nil {
		return fmt.Errorf("set workers: %w", err)
	}
	s.exchange(slices.Concat(s.workers, fresh))
	s.teach(fresh)
	s.moveQueues(cpus, loads)
	s.retire(end)
	if err := s.tune(cpus); err != nil {
		s.log.Warn("threads are not where they should be beside the workers", zap.Error(err))
	}
	return nil
}

// whoStays parts the workers by whether their CPU is among cpus.
func (s *Switch) whoStays(cpus []int) (stay map[int]*worker, end []*worker) {
	stay = map[int]*worker{}
	for _, w := range s.workers {
		if slices.Contains(cpus, w.cpu) {
			stay[w.cpu] = w
		} else {
			end = append(end, w)
		}
	}
	return stay, end
}

// hire starts workers on those of cpus that have none. If one cannot be had,
// there is none.
func (s *Switch) hire(cpus []int, stay map[int]*worker) (fresh []*worker, err error) {
	all := slices.Clone(cpus)
	used := map[int]bool{}
	for _, w := range s.workers {
		used[w.id] = true
		if stay[w.cpu] == nil {
			all = append(all, w.cpu)
		}
	}
	defer func() {
		if err != nil {
			s.stopWorkers(fresh)
			_ = s.tune(s.Workers()) // as it was
		}
	}()
	if err := s.tune(all); err != nil {
		return nil, err
	}
	for _, cpu := range cpus {
		if stay[cpu] != nil {
			continue
		}
		id := 0
		for used[id] {
			id++
		}
		used[id] = true
		w, err := s.startWorker(id, cpu, len(cpus))
		if err != nil {
			return fresh, err
		}
		fresh = append(fresh, w)
		if err := s.equip(id + 1); err != nil {
			return fresh, err
		}
	}
	return fresh, nil
}

// equip makes handles of the tables of all bridges for the first n workers.
func (s *Switch) equip(n int) error {
	for _, br := range s.bridges {
		if err := br.equip(n); err != nil {
			return err
		}
	}
	return nil
}

// teach makes workers know all ports and bridges, without any receive queue.
func (s *Switch) teach(fresh []*worker) {
	ports := s.byNumber()
	for _, w := range fresh {
		joins := s.joins(ports)
		w.do(func() {
			w.joinAll(joins, s.lastPort)
		})
	}
}

// dealByLoad deals those receive queues of ports anew that have a load.
func dealByLoad(crew []*worker, ports []*port, loads Loads) {
	known := map[rxPlace]float64{}
	for i := range loads.Workers {
		for _, q := range loads.Workers[i].Queues {
			known[rxPlace{q.number, q.Queue}] = q.Load
		}
	}
	var queues []billet
	for _, p := range ports {
		for i, w := range p.dealt {
			at := rxPlace{p.number, i}
			queues = append(queues, billet{at, w, known[at]})
		}
	}
	to, k := spread(queues, len(crew)), 0
	for _, p := range ports {
		for i := range p.dealt {
			p.dealt[i], p.cpus[i] = to[k], crew[to[k]].cpu
			k++
		}
	}
}

// moveQueues deals all receive queues to the workers on cpus, which are the
// workers afterwards, in that order: by load, as far as that is known. It tells of ports whose
// queues have moved.
func (s *Switch) moveQueues(cpus []int, loads Loads) {
	all := s.workers
	crew := make([]*worker, len(cpus))
	for i, cpu := range cpus {
		crew[i] = all[slices.IndexFunc(all, func(w *worker) bool { return w.cpu == cpu })]
	}
	ports := s.byNumber()
	was := make([][]int, len(ports))
	for i, p := range ports {
		p.dealt, was[i] = nil, p.cpus
	}
	deal(crew, ports, s.dealer(crew))
	dealByLoad(crew, ports, loads)
	mine := berths(len(crew), ports)
	rx := make([][]*rxQueue, len(crew))
	for i := range crew {
		rx[i] = queues(mine[i])
	}
	for _, w := range all {
		w.do(func() { w.rx = nil; w.refresh() })
	}
	for i, w := range crew {
		w.do(func() { w.take(rx[i]) })
	}
	s.exchange(crew)
	s.restartLoads()
	for i, p := range ports {
		if !slices.Equal(p.cpus, was[i]) {
			s.watch.send(Event{EventChanged, s.info(p)})
		}
	}
}

// retire ends workers that have no receive queue any more. What they have
// counted of ports goes to the ports.
func (s *Switch) retire(end []*worker) {
	by := make(map[uint32]*port, len(s.ports))
	for _, p := range s.ports {
		by[p.number] = p
	}
	for _, w := range end {
		w.do(func() {
			for _, wp := range w.order {
				wp.addTo(&by[wp.number].retired)
			}
			w.letGo()
			w.order = nil
		})
	}
	s.stopWorkers(end)
}
