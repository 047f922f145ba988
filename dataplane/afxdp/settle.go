package afxdp

import (
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// lookEvery is how often a port that has its device asks the kernel for drops,
// and one that waits looks for its device. At each lookQueues of these times it
// asks for the number of queues, which the kernel does not tell by itself, and
// at each lookAll for everything, whatever the watcher says.
const (
	lookEvery  = time.Second
	lookQueues = 4
	lookAll    = 60
)

// firstLook is the moment from which lookEvery is counted, by all ports: for a process that has nothing
// else to do, waking costs more than what it wakes for.
var firstLook = time.Now()

// untilLook is how long it is until all ports look.
func untilLook() time.Duration { return lookEvery - time.Since(firstLook)%lookEvery }

// follow is the port's goroutine: it holds the port to what the device is.
func (p *Port) follow() {
	tick := time.NewTimer(untilLook())
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case err := <-p.faults:
			p.anew(err)
		case <-p.watch.news:
		case <-tick.C:
			tick.Reset(untilLook())
			if !p.due() {
				continue
			}
		}
		if err := p.settle(); err != nil && !errors.Is(err, errBroken) {
			p.waits(err.Error())
		}
	}
}

// due does what has to be done every second, and reports whether it is time to
// look at everything.
func (p *Port) due() bool {
	p.collect()
	p.lookAtRuns()
	p.ticks++
	switch {
	case p.run == nil || p.blind || p.opts.Watcher == nil || p.ticks%lookAll == 0:
		return true
	case p.ticks%lookQueues != 0:
		return false
	}
	c, err := newControl()
	if err != nil {
		return false
	}
	defer c.close()
	return c.queues(p.opts.Name) != p.run.dev.queues
}

// collect asks the kernel what it has dropped, and wakes workers to count it.
func (p *Port) collect() {
	if p.run == nil {
		return
	}
	lost := false
	for _, s := range p.run.sockets {
		lost = s.collect() || lost
	}
	if lost {
		p.opts.Quiesce()
	}
}

// lookAtRuns sees to whether frames can be sent by runs, if that is asked for: it
// depends on the other end.
func (p *Port) lookAtRuns() {
	if p.run == nil || p.run.out == nil || !p.run.out.look(&p.run.dev) {
		return
	}
	how := p.run.how(&p.opts.Select)
	p.opts.Log.Info("device is used otherwise", zap.String("how", how))
	p.update(func(st *State) { st.Features, st.How = p.run.features(), how })
}

// settle brings the port in line with its device. An error says why the port
// cannot have a device that is there.
func (p *Port) settle() error {
	d, err := look(p.opts.Name)
	if err != nil && !errors.Is(err, errNoDevice) {
		if p.run == nil {
			return err
		}
		p.cannotSee(err)
		return nil
	}
	p.blind = false
	if p.run != nil {
		if why := p.run.obsolete(d); why != "" {
			p.opts.Log.Info("device is let go", zap.String("why", why))
			if err := p.end(); err != nil {
				p.opts.Log.Warn("device could not be let go in full", zap.Error(err))
			}
		}
	}
	p.update(func(st *State) { st.Device = d.report() })
	if err != nil {
		p.waits(p.missing(err))
		return nil
	}
	if p.run == nil {
		if err := p.attempt(d); err != nil {
			return err
		}
	}
	return p.adjust(d)
}

// cannotSee says that the device could not be looked at, which says nothing of it: the
// port goes on, and looks again.
func (p *Port) cannotSee(err error) {
	if !p.blind {
		p.opts.Log.Warn("the device cannot be looked at: the port goes on as it is", zap.Error(err))
	}
	p.blind = true
}

// A failure is an attempt to take a device that did not go well. Attempts are
// felt by the device, and by what runs on it.
type failure struct {
	dev  device
	err  error
	next time.Time // not before is the same tried again
	wait time.Duration
}

// waitMax is how long a port waits at most before it tries again to take a
// device that has not changed.
const waitMax = time.Minute

// attempt takes device d, if it is worth a try.
func (p *Port) attempt(d device) error {
	f := &p.failed
	if f.err != nil && f.dev == d && time.Now().Before(f.next) {
		return f.err
	}
	if f.dev != d {
		f.wait = 0
	}
	err := p.take(d)
	switch {
	case err == nil:
		*f = failure{}
	case errors.Is(err, ErrForeign) || errors.Is(err, errFewQueues): // the device was not touched
		*f = failure{}
	default:
		wait := min(max(2*f.wait, lookEvery), waitMax)
		*f = failure{d, err, time.Now().Add(wait), wait}
	}
	return err
}

// errFewQueues is the error of a device that has fewer queues than it shall have.
var errFewQueues = errors.New("fewer receive queues than n_rxq says")

// missing says that there is no device.
func (p *Port) missing(err error) string {
	if p.watch.hasMoved() {
		return "the device was moved to another network namespace"
	}
	return err.Error()
}

// obsolete says why a session with what was the device cannot go on with d: it
// is another device, or has other queues.
func (s *session) obsolete(d device) string {
	switch {
	case d.index == 0:
		return "it is gone"
	case d.index != s.dev.index:
		return "there is another one of its name"
	case d.queues.rx != s.dev.queues.rx || d.queues.tx != s.dev.queues.tx:
		return fmt.Sprintf("it has %d receive and %d transmit queues, no more %d and %d", d.queues.rx, d.queues.tx, s.dev.queues.rx, s.dev.queues.tx)
	case !s.binding.multi && d.mtu > s.dev.mtu:
		return fmt.Sprintf("its MTU has grown from %d to %d", s.dev.mtu, d.mtu)
	}
	return ""
}

// take takes device d, which workers do not use yet.
func (p *Port) take(d device) error {
	queues := min(d.queues.rx, len(p.rx))
	if p.opts.Queues > d.queues.rx {
		return fmt.Errorf("%w: device %s has %d, not %d: leave n_rxq out or give the device more (`ethtool -L %s combined %d`; it can have %d)",
			errFewQueues, d.name, d.queues.rx, p.opts.Queues, d.name, p.opts.Queues, d.queues.most)
	}
	s, err := choose(d, &p.opts, queues, p.broke)
	if err != nil {
		return err
	}
	p.run = s
	p.watch.follow(d.index)
	for i, sock := range s.sockets {
		p.rx[i].sock.Store(sock)
	}
	p.opts.Quiesce() // workers take note of WakeFD
	how := s.how(&p.opts.Select)
	p.opts.Log.Info("device is taken", zap.String("how", how))
	p.update(func(st *State) {
		st.Queues, st.Features, st.How = len(s.sockets), s.features(), how
		st.Opens++
	})
	return nil
}

// adjust brings what can change under a session in line with d.
func (p *Port) adjust(d device) error {
	p.applyMTU(&d)
	p.run.dev = d
	if p.opts.Select.all() {
		hosts, err := d.hosts()
		if err == nil {
			err = p.run.prog.setHosts(hosts)
		}
		if err != nil {
			p.opts.Log.Warn("the host's addresses may have changed: frames to them go to the port", zap.Error(err))
		}
	}
	switch {
	case !d.up:
		p.waits(fmt.Sprintf("the device is down: `ip link set dev %s up`", d.name))
	case !d.carrier:
		p.waits("the device has no carrier: the other end is down or not connected")
	default:
		p.works()
	}
	return nil
}

// works lets workers send.
func (p *Port) works() {
	senders := p.run.senders()
	if p.tx.set.Load() == nil {
		p.tx.exchange(senders)
		for _, s := range senders {
			s.kick() // what was left when the device went down
		}
	}
	p.update(func(st *State) { st.Link, st.Reason = LinkUp, "" })
}

// waits says why nothing is forwarded, and has workers send nothing.
func (p *Port) waits(why string) {
	p.tx.exchange(nil)
	if p.State().Reason != why {
		p.opts.Log.Info("port waits", zap.String("why", why))
	}
	p.update(func(st *State) {
		if p.run == nil {
			st.Queues, st.Features, st.How = 0, nil, ""
		}
		st.Link, st.Reason = LinkWaiting, why
	})
}

// anew lets the device go because of an error; settle takes it again after a
// while.
func (p *Port) anew(err error) {
	p.opts.Log.Error("rings are broken: the device is taken anew", zap.Error(err))
	if p.run != nil { // not at once again: it could be for ever
		p.failed = failure{p.run.dev, err, time.Now().Add(lookEvery), lookEvery}
	}
	if err := p.end(); err != nil {
		p.opts.Log.Warn("device could not be let go in full", zap.Error(err))
	}
	select {
	case <-p.faults: //nolint:errcheck // of what was let go just now
	default:
	}
	p.update(func(st *State) {
		st.Link, st.Reason = LinkBroken, err.Error()
		st.Queues, st.Features, st.How = 0, nil, ""
		st.Breaks++
	})
}

// end takes the device away from workers and lets it go.
func (p *Port) end() error {
	s := p.run
	if s == nil {
		return nil
	}
	p.tx.exchange(nil)
	for _, q := range p.rx {
		q.sock.Store(nil)
	}
	p.opts.Quiesce()
	p.run = nil
	p.watch.follow(0)
	return s.close()
}
