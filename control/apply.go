package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"millrace/control/bridge"
	"millrace/dataplane/api"
)

// A device is a port that the dataplane has.
type device struct {
	want   bridge.Port // as it could be wanted
	number uint32
	state  *api.PortState
}

// plant is what the dataplane has, as far as control knows.
type plant struct {
	ports   map[string]*device
	wants   map[string]bridge.Port // ports as they could be wanted
	bridges map[string]bridge.Bridge
	wired   map[string]bool // names of the ports that have a wire
	cpus    []int           // where workers were asked to be, sorted
	workers []int           // where they are
	gone    map[uint32]bool // numbers of ports that we deleted and may still hear of
	members map[string]int  // how many ports a bridge has
	version int             // counts what has changed of ports and their bridges

	first        map[string]bool // ports that there were when the session began
	firstBridges map[string]bool
}

// newPlant is what the dataplane had when session s began.
func newPlant(s *session) *plant {
	p := &plant{
		cpus: narrow[int](s.client.Info.GetWorkersAsked()), workers: narrow[int](s.client.Info.GetWorkers()), members: map[string]int{},
		ports: map[string]*device{}, wants: map[string]bridge.Port{}, bridges: map[string]bridge.Bridge{}, wired: map[string]bool{}, gone: map[uint32]bool{},
		first: map[string]bool{}, firstBridges: map[string]bool{},
	}
	for _, port := range s.ports {
		p.put(port)
		p.first[port.GetSpec().GetName()] = true
	}
	for _, b := range s.bridges {
		p.firstBridges[b.GetName()] = true
		p.bridges[b.GetName()] = fromBridge(b)
	}
	return p
}

func (p *plant) put(port *api.Port) {
	p.version++
	name := port.GetSpec().GetName()
	p.forget(name)
	d := &device{fromSpec(port.GetSpec()), port.GetNumber(), port.GetState()}
	p.ports[name], p.wants[name] = d, d.want
	p.members[d.want.Bridge]++
	p.wire(name, port.GetWire())
}

// wire notes where all frames of a port go.
func (p *plant) wire(name, to string) {
	delete(p.wired, name)
	if d := p.ports[name]; d != nil {
		d.want.Wire = to
		p.wants[name] = d.want
		if to != "" {
			p.wired[name] = true
		}
	}
}

// have is the plant as Diff takes it.
func (p *plant) have() bridge.Have {
	return bridge.Have{Ports: p.wants, Bridges: p.bridges, CPUs: p.cpus}
}

// additions are those of changes that leave alone what there was when the
// session began.
func (p *plant) additions(changes []bridge.Change) []bridge.Change {
	return slices.DeleteFunc(changes, func(c bridge.Change) bool {
		switch c.Kind {
		case bridge.SetWorkers:
			return len(p.first) > 0
		case bridge.SetBridge:
			return p.firstBridges[c.Bridge.Name]
		}
		return p.first[c.Port.Name]
	})
}

// forget takes a port out of the account.
func (p *plant) forget(name string) {
	if d := p.ports[name]; d != nil {
		delete(p.ports, name)
		delete(p.wants, name)
		delete(p.wired, name)
		p.members[d.want.Bridge]--
	}
}

// remove notes that a port is gone, with the wires to it, and with its last port
// the bridge.
func (p *plant) remove(name string) {
	d := p.ports[name]
	if d == nil {
		return
	}
	p.version++
	p.forget(name)
	for in := range p.wired {
		if p.ports[in].want.Wire == name {
			p.wire(in, "")
		}
	}
	if p.members[d.want.Bridge] == 0 {
		delete(p.bridges, d.want.Bridge)
		delete(p.members, d.want.Bridge)
	}
}

// heard takes an event. It may be older than what our own calls have changed
// since: the number tells one port from the next of its name.
func (p *plant) heard(e *api.WatchPortsResponse) {
	name, number := e.GetPort().GetSpec().GetName(), e.GetPort().GetNumber()
	old := p.ports[name]
	switch {
	case e.GetKind() == api.EventKind_EVENT_KIND_REMOVED:
		delete(p.gone, number)
		if old != nil && old.number == number {
			p.remove(name)
		}
	case old != nil && old.number == number:
		old.state = e.GetPort().GetState()
	case !p.gone[number] && (old == nil || old.number < number):
		p.put(e.GetPort())
	}
}

// A failure is a port that the dataplane could not make, or a place where it
// could not have workers.
type failure struct {
	want  bridge.Port // what it was asked for
	kind  bridge.Kind // how
	cpus  []int       // or where workers were to be
	text  string
	tries int
	again time.Time // when it is asked again
}

// Times between tries of what the dataplane refuses.
const (
	againMin = time.Second
	againMax = 30 * time.Second
)

// apply makes changes, in their order. It returns how many it made, and an
// error if the session is over. What the dataplane refuses is in failed.
func (l *loop) apply(ctx context.Context, changes []bridge.Change) (made int, err error) {
	changes = slices.DeleteFunc(slices.Clone(changes), l.waits)
	for len(changes) > 0 && err == nil {
		n := alike(changes)
		one, cancel := context.WithTimeout(ctx, callTimeout)
		refusals := make([]error, n)
		switch changes[0].Kind {
		case bridge.Add:
			refusals, err = l.add(one, changes[:n])
		case bridge.Delete:
			err = l.remove(one, changes[:n])
		default:
			n = 1
			refusals[0] = l.change(one, changes[0])
			if over(refusals[0]) {
				err = refusals[0]
			}
		}
		cancel()
		if err == nil {
			made += l.note(changes[:n], refusals)
		}
		changes = changes[n:]
	}
	return made, err
}

// waits reports whether a change was refused, and is not to be tried yet.
func (l *loop) waits(c bridge.Change) bool {
	f := l.failed[c.Port.Name]
	switch c.Kind {
	case bridge.Delete:
		return false
	case bridge.SetWorkers:
		f = l.misplaced
		if f != nil && !slices.Equal(f.cpus, c.CPUs) {
			return false
		}
	}
	return f != nil && f.want.Equal(c.Port) && time.Now().Before(f.again)
}

// callMax is how many ports are added or deleted by one call.
const callMax = 256

// alike is how many changes, from the first on, one call might make.
func alike(changes []bridge.Change) int {
	n := 1
	for n < min(len(changes), callMax) && changes[n].Kind == changes[0].Kind {
		n++
	}
	return n
}

// note counts what was made and what was refused.
func (l *loop) note(changes []bridge.Change, refusals []error) (made int) {
	for i, c := range changes {
		if err := refusals[i]; err != nil {
			l.refused(c, err)
			continue
		}
		made++
		switch c.Kind {
		case bridge.SetBridge:
		case bridge.SetWorkers:
			l.misplaced = nil
		default:
			delete(l.failed, c.Port.Name)
		}
		l.log.Debug("changed", zap.Stringer("change", c))
	}
	l.status.Counters.Changes += uint64(made)
	return made
}

// refused notes what the dataplane did not do, and when to ask again.
func (l *loop) refused(c bridge.Change, err error) {
	l.status.Counters.Failures++
	f := l.failed[c.Port.Name]
	switch c.Kind {
	case bridge.SetBridge:
		l.log.Warn("bridge not changed", zap.Stringer("change", c), zap.Error(err))
		return
	case bridge.SetWorkers:
		f = l.misplaced
		if f == nil || !slices.Equal(f.cpus, c.CPUs) {
			f = &failure{cpus: c.CPUs}
			l.misplaced = f
			l.log.Warn("workers stay where they are: correct other_config:pmd-cpu-mask", zap.Ints("cpus", c.CPUs), zap.Error(err))
		}
	default:
		known := f != nil && f.want.Equal(c.Port)
		if known && c.Kind == bridge.Wire && f.kind != bridge.Wire {
			return // no wire, because there is no port
		}
		if !known {
			f = &failure{want: c.Port, kind: c.Kind}
			l.failed[c.Port.Name] = f
			l.log.Warn("port not changed", zap.Stringer("change", c), zap.Error(err))
		}
	}
	f.text, f.kind = err.Error(), c.Kind
	f.again = time.Now().Add(min(againMin<<min(f.tries, 10), againMax))
	f.tries++
}

// add makes new ports. It returns what was wrong with each, or an error if
// they could not be asked for.
func (l *loop) add(ctx context.Context, changes []bridge.Change) ([]error, error) {
	var req api.AddPortsRequest
	for _, c := range changes {
		req.Specs = append(req.Specs, toSpec(c.Port))
	}
	r, err := l.session.client.AddPorts(ctx, &req)
	if err != nil {
		return nil, err
	}
	if len(r.GetResults()) != len(changes) {
		return nil, fmt.Errorf("add %d ports: the dataplane tells of %d", len(changes), len(r.GetResults()))
	}
	refusals := make([]error, len(changes))
	for i, result := range r.GetResults() {
		if result.GetPort() == nil {
			refusals[i] = errors.New(result.GetError())
			continue
		}
		l.plant.put(result.GetPort())
	}
	return refusals, nil
}

// remove deletes ports. One that others have deleted is no matter.
func (l *loop) remove(ctx context.Context, changes []bridge.Change) error {
	var req api.DelPortsRequest
	for _, c := range changes {
		req.Names = append(req.Names, c.Port.Name)
	}
	if _, err := l.session.client.DelPorts(ctx, &req); err != nil {
		return err
	}
	for _, c := range changes {
		l.plant.gone[l.plant.ports[c.Port.Name].number] = true
		l.plant.remove(c.Port.Name)
	}
	return nil
}

// change makes one change other than Add and Delete, and notes what there is then.
func (l *loop) change(ctx context.Context, c bridge.Change) error {
	client := l.session.client
	switch c.Kind {
	case bridge.Set:
		r, err := client.SetPort(ctx, &api.SetPortRequest{Spec: toSpec(c.Port)})
		if err != nil {
			return err
		}
		l.plant.put(r.GetPort())
	case bridge.Wire:
		if _, err := client.SetWire(ctx, &api.SetWireRequest{In: c.Port.Name, Out: c.Port.Wire}); err != nil {
			return err
		}
		l.plant.wire(c.Port.Name, c.Port.Wire)
	case bridge.Unwire:
		if _, err := client.DelWire(ctx, &api.DelWireRequest{In: c.Port.Name}); err != nil && !errors.Is(err, api.ErrNoEntry) {
			return err
		}
		l.plant.wire(c.Port.Name, "")
	case bridge.SetWorkers:
		r, err := client.SetWorkers(ctx, &api.SetWorkersRequest{Cpus: widen(c.CPUs)})
		if err != nil {
			return err
		}
		l.plant.cpus, l.plant.workers = c.CPUs, narrow[int](r.GetWorkers())
	case bridge.SetBridge:
		if _, err := client.SetBridge(ctx, toBridge(c.Bridge)); err != nil {
			return err
		}
		l.plant.bridges[c.Bridge.Name] = c.Bridge
	}
	return nil
}
