package dataplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"
)

// An Added is what came of one port that was asked for.
type Added struct {
	Port PortInfo // zero if there is an error
	Err  error
}

// AddPort adds a port, which need not have a peer yet. A port that is there
// with the same settings is left as it is.
func (s *Switch) AddPort(_ context.Context, spec PortSpec) (PortInfo, error) {
	a := s.AddPorts([]PortSpec{spec})[0]
	return a.Port, a.Err
}

// AddPorts is AddPort for many, in order and each for itself. Workers are held
// up once for all of them.
func (s *Switch) AddPorts(specs []PortSpec) []Added {
	s.mu.Lock()
	defer s.mu.Unlock()
	results := make([]Added, len(specs))
	var fresh []*port
	for i, spec := range specs {
		p, err := s.add(spec)
		if err != nil {
			results[i].Err = fmt.Errorf("add port %s: %w", spec.Name, err)
		} else if p != nil {
			fresh = append(fresh, p)
		}
	}
	if err := s.enroll(fresh); err != nil {
		for i, spec := range specs {
			if results[i].Err == nil && slices.ContainsFunc(fresh, func(p *port) bool { return p.spec.Name == spec.Name }) {
				results[i].Err = fmt.Errorf("add port %s: %w", spec.Name, err)
			}
		}
		fresh = nil
	}
	s.attach(fresh)
	if len(fresh) > 0 {
		s.followTunnels()
	}
	for _, p := range fresh {
		s.watch.send(Event{EventAdded, s.info(p)})
		s.touchPeer(p)
	}
	for i, spec := range specs {
		if results[i].Err == nil {
			results[i].Port = s.info(s.ports[spec.Name])
		}
	}
	return results
}

// enroll gives new ports their rules. If they cannot have them, the ports are
// taken back.
func (s *Switch) enroll(fresh []*port) error {
	if len(fresh) == 0 {
		return nil
	}
	bridges := map[*bridge]bool{}
	err := s.transact(func(a *author) {
		for _, p := range fresh {
			if !bridges[p.bridge] {
				bridges[p.bridge] = true
				a.settle(p.bridge)
			}
			a.enter(p)
		}
	})
	if err == nil {
		return nil
	}
	for _, p := range fresh {
		delete(s.ports, p.spec.Name)
		br := p.bridge
		if br.ports = slices.DeleteFunc(br.ports, func(o *port) bool { return o == p }); len(br.ports) == 0 {
			s.dropBridge(br)
		}
		if p.dev != nil {
			s.close(p)
		}
	}
	return err
}

// expel takes the rules of ports away that are about to go, and those of bridges that
// go with them.
func (s *Switch) expel(gone []*port) error {
	if len(gone) == 0 {
		return nil
	}
	names, bridges := map[string]bool{}, map[*bridge]bool{}
	for _, p := range gone {
		names[p.spec.Name], bridges[p.bridge] = true, true
	}
	return s.transact(func(a *author) {
		for _, p := range gone {
			a.leave(p)
		}
		for br := range bridges {
			if len(br.ports) == 0 {
				a.end(br)
			} else {
				a.settle(br)
			}
		}
		for _, p := range s.ports {
			if names[p.wire] {
				p.wire = ""
				a.begin(p)
				s.watch.touch(p.spec.Name)
			}
		}
	})
}

// add makes a port that workers do not know yet, or returns nil if it is there.
func (s *Switch) add(spec PortSpec) (*port, error) {
	if s.closed {
		return nil, ErrIsClosing
	}
	if old := s.ports[spec.Name]; old != nil {
		if !old.spec.equal(spec) {
			return nil, fmt.Errorf("%w: delete it first", ErrExists)
		}
		return nil, nil
	}
	if err := spec.check(); err != nil {
		return nil, err
	}
	if err := s.leaving.block(spec); err != nil {
		return nil, err
	}
	p, err := s.open(spec)
	if err != nil {
		return nil, err
	}
	s.ports[spec.Name] = p
	return p, nil
}

// open makes the port's device and its place in a bridge.
func (s *Switch) open(spec PortSpec) (*port, error) {
	p := &port{spec: spec, created: time.Now(), ingress: newLimiter(spec.Ingress), egress: newLimiter(spec.Egress)}
	switch {
	case IsTunnel(spec.Type):
		t, err := s.newTunnel(spec)
		if err != nil {
			return nil, err
		}
		p.tunnel = t
	case spec.Type != TypePatch:
		open := s.opts.Openers[spec.Type]
		if open == nil {
			return nil, fmt.Errorf("%w %q", ErrBadType, spec.Type)
		}
		dev, err := open(spec, env{s, spec.Name})
		if err != nil {
			return nil, err
		}
		p.dev = dev
	}
	br, err := s.bridgeFor(spec.Bridge)
	if err != nil {
		if p.dev != nil {
			err = errors.Join(err, p.dev.Close())
		}
		return nil, err
	}
	if spec.MACLimit > 0 {
		br.table.SetLimit(s.lastPort+1, spec.MACLimit)
	}
	s.lastPort++
	p.number, p.bridge = s.lastPort, br
	br.ports = append(br.ports, p)
	return p, nil
}

// DelPort removes a port. Its socket is gone and its memory released when
// DelPort returns without an error; ErrBusy says that this takes long.
func (s *Switch) DelPort(ctx context.Context, name string) error {
	if err := s.DelPorts([]string{name})[0]; err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, closeWithin)
	defer cancel()
	return s.Closed(ctx, name)
}

// DelPorts removes ports, each for itself: workers have let them go when it
// returns, and are held up once for all. The devices are closed meanwhile and
// afterwards; Closed waits for that.
func (s *Switch) DelPorts(names []string) []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := make([]error, len(names))
	var gone []*port
	for i, name := range names {
		p := s.ports[name]
		if p == nil {
			errs[i] = fmt.Errorf("delete port %s: %w", name, ErrNoPort)
			continue
		}
		s.watch.send(Event{EventRemoved, s.info(p)})
		s.touchPeer(p)
		delete(s.ports, name)
		gone = append(gone, p)
	}
	s.unlink(gone)
	if err := s.expel(gone); err != nil {
		// Only memory can be short. What is left is about numbers that are
		// never used again.
		s.log.Warn("rules of deleted ports stay", zap.Error(err))
	}
	s.detach(gone)
	s.forget(gone)
	if len(gone) > 0 {
		s.followTunnels()
	}
	for _, p := range gone {
		if p.dev != nil {
			s.close(p)
		}
	}
	return errs
}

// unlink takes ports from their bridges.
func (s *Switch) unlink(gone []*port) {
	of := map[*bridge]map[*port]bool{}
	for _, p := range gone {
		if of[p.bridge] == nil {
			of[p.bridge] = map[*port]bool{}
		}
		of[p.bridge][p] = true
	}
	for br, ports := range of {
		br.ports = slices.DeleteFunc(br.ports, func(p *port) bool { return ports[p] })
	}
}

// forget takes ports that workers do not know any more from tables, and bridges
// that have none left.
func (s *Switch) forget(gone []*port) {
	for _, p := range gone {
		switch br := p.bridge; {
		case len(br.ports) > 0:
			br.table.RemovePort(p.number)
		case s.bridges[br.name] == br:
			s.dropBridge(br)
		}
	}
}

// closeWithin is how long a call waits for a device to be closed. It takes some
// tenths of a millisecond, unless a peer sees to it that it takes longer: what
// happens when a descriptor of its is closed may be the peer's affair.
const closeWithin = time.Second

// leavers are the ports whose devices are being closed. No other port can have
// their name or path: a guest would find two sides of one socket, and the
// switch could take the new one's file for the old one's.
type leavers struct {
	byName map[string]*leaver
	byPath map[string]int // how many of them have a path
}

// A leaver is a port whose device is being closed.
type leaver struct {
	done chan struct{}
	err  error // how it went, once done is closed
}

func newLeavers() leavers { return leavers{map[string]*leaver{}, map[string]int{}} }

// block refuses a port that would be in the way of one that leaves.
func (l *leavers) block(spec PortSpec) error {
	switch {
	case l.byName[spec.Name] != nil:
		return fmt.Errorf("%w: the port of this name that was deleted before", ErrBusy)
	case spec.Path != "" && l.byPath[spec.Path] > 0:
		return fmt.Errorf("%w: a port that was deleted before and has the path %s", ErrBusy, spec.Path)
	}
	return nil
}

// close has p's device closed, by a goroutine: nothing of ours is held
// meanwhile. The caller holds mu.
func (s *Switch) close(p *port) {
	l := &leaver{done: make(chan struct{})}
	s.leaving.byName[p.spec.Name] = l
	s.leaving.byPath[p.spec.Path]++
	go func() {
		err := p.dev.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.leaving.byName, p.spec.Name)
		if s.leaving.byPath[p.spec.Path]--; s.leaving.byPath[p.spec.Path] == 0 {
			delete(s.leaving.byPath, p.spec.Path)
		}
		if err != nil {
			l.err = fmt.Errorf("delete port %s: %w", p.spec.Name, err)
		}
		close(l.done)
	}()
}

// Closed returns when the devices of deleted ports of these names are closed,
// and how that went. If ctx ends before, the error wraps ErrBusy.
func (s *Switch) Closed(ctx context.Context, names ...string) error {
	s.mu.Lock()
	waiting := map[string]*leaver{}
	for _, name := range names {
		if l := s.leaving.byName[name]; l != nil {
			waiting[name] = l
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(waiting)) {
		l := waiting[name]
		select {
		case <-l.done:
			errs = append(errs, l.err)
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("delete port %s: %w: its peer holds that up", name, ErrBusy))
		}
	}
	return errors.Join(errs...)
}
