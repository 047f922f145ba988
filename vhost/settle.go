package vhost

import "slices"

// A change is what settle does to one ring: stop what runs, run what is
// planned, or one after the other.
type change struct {
	v    *vring
	next plan
	on   bool // next is to run
}

// isTx reports whether the port fills the ring.
func (v *vring) isTx() bool { return v.index%2 == 0 }

// settle brings what runs in line with what is wanted. It waits for workers
// only if something that they have changes.
//
// The order keeps three promises. Memory that a worker may touch is what Owns
// knows: receive rings are stopped, and the transmit queue is locked, while
// memory is exchanged. A transmit ring that is exchanged loses no frame: the
// queue is locked, not empty. Descriptors and memory are freed when no worker
// can have them.
func (s *session) settle() error {
	changes := s.changes()
	if len(changes) == 0 {
		s.p.setMem(s.mem)
		s.sweep() // no ring that runs has any of it
		return nil
	}
	s.haltRx(changes)
	err := s.exchange(changes)
	s.signalAll()
	s.p.quiesce()
	if err == nil {
		s.sweep()
	}
	return err // the rest is free's
}

// changes compares what runs with what is wanted.
func (s *session) changes() []change {
	var cs []change
	for _, v := range s.rings {
		next, on := s.plan(v)
		if on == (v.run != nil) && (!on || v.run.plan == next) {
			continue
		}
		cs = append(cs, change{v, next, on})
	}
	return cs
}

// haltRx takes the receive rings among cs away from the workers and returns
// when none is inside.
func (s *session) haltRx(cs []change) {
	halted := false
	for _, c := range cs {
		if !c.v.isTx() && c.v.run != nil {
			s.p.rx[c.v.index/2].ring.Store(nil)
			halted = true
		}
	}
	if halted {
		s.p.quiesce()
	}
}

// exchange makes the planned rings and shows them to the workers.
func (s *session) exchange(cs []change) error {
	tx := s.p.tx
	tx.acquire()
	defer tx.release()
	s.p.setMem(s.mem)
	var first error
	for _, c := range cs {
		if err := s.apply(c); first == nil {
			first = err
		}
	}
	s.publishTx()
	for _, c := range cs {
		if !c.v.isTx() {
			s.p.rx[c.v.index/2].ring.Store(c.v.run)
		}
	}
	return first
}

// apply makes the ring that c plans. No worker is inside the one before.
func (s *session) apply(c change) error {
	v, old := c.v, c.v.run
	v.run = nil
	if old != nil {
		v.base = old.dev.Base()
	}
	if !c.on {
		return nil
	}
	if old != nil && old.plan.device == c.next.device && old.dev.Err() == nil {
		v.run = &ring{plan: c.next, dev: old.dev, s: s, index: v.index}
	} else {
		r, err := s.build(v, c.next)
		if err != nil {
			return err
		}
		v.run = r
	}
	return nil
}

// signalAll wakes the drivers of all rings that run. One may wait for a signal
// that went to another descriptor, that somebody before us did not live to send,
// or that a worker gave up to send while the transmit queue was locked for us.
func (s *session) signalAll() {
	for _, v := range s.rings {
		if v.run != nil {
			v.run.signal()
		}
	}
}

// publishTx shows the workers the transmit rings that run. The queue is locked.
func (s *session) publishTx() {
	var set txSet
	for _, v := range s.rings {
		if v.isTx() && v.run != nil {
			set.rings = append(set.rings, v.run)
		}
	}
	if len(set.rings) == 0 {
		s.p.tx.set.Store(nil)
		return
	}
	if old := s.p.tx.set.Load(); old == nil || !slices.Equal(old.rings, set.rings) {
		s.p.tx.set.Store(&set)
	}
}

// haltAll takes all rings away from the workers and returns when none is inside.
func (s *session) haltAll() {
	for _, q := range s.p.rx {
		q.ring.Store(nil)
	}
	s.p.tx.set.Store(nil)
	s.p.quiesce()
	for _, v := range s.rings {
		v.run = nil
	}
}
