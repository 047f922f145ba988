package dataplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"millrace/flowtable"
	"millrace/flowtable/flowcache"
)

// Options say how a Switch is made.
type Options struct {
	CPUs     []int // one worker on each
	Poll     PollMode
	Openers  map[string]Opener // by port type; patch ports need none
	Log      *zap.Logger
	MACAge   time.Duration // 0: DefaultMACAge
	MACTable int           // addresses that a bridge can learn; 0: DefaultMACTable

	Cache       *flowcache.CacheOptions // sizes of a worker's flow cache; nil: by CacheMemory
	CacheMemory uint64                  // bytes that the flow caches of all workers may take; 0: a sixteenth of the machine's memory
	RulesMax    int                     // rules that there can be; 0: 16 million
	Connections int                     // that are tracked; 0: by the machine's memory
	Underlay    Underlay                // how tunnels reach other hosts; nil: there are no tunnels
	RuleMemory  uint64                  // bytes that rules may take; 0: 32 GiB of addresses, of which is used what is needed

	// Allowed are the CPUs that workers may be given. None: those on which the
	// kernel lets them be.
	Allowed []int

	// Tune prepares the process for workers on cpus, before they start and
	// after they have changed. threads are those of workers that run already,
	// for the caller to leave where they are. Nil: nothing is prepared.
	Tune func(cpus, threads []int) error
}

// Defaults, as in the Open_vSwitch schema (mac-aging-time, mac-table-size).
const (
	DefaultMACAge   = 300 * time.Second
	DefaultMACTable = 8192
)

// A Switch is ports, bridges and the workers that carry frames between them.
// Its methods may be called by any goroutine.
type Switch struct {
	opts    Options
	log     *zap.Logger
	started time.Time
	engine  *engine

	crew    sync.RWMutex // held to exchange workers, and to read them without mu
	workers []*worker    // exchanged with mu and crew held; never changed in place
	telling telling

	mu       sync.Mutex // serialises changes, and guards what follows
	ports    map[string]*port
	leaving  leavers // ports whose devices are being closed
	bridges  map[string]*bridge
	lastPort uint32
	lastRule uint64    // of the switch's own, in the order of their making
	stuck    []uint32  // numbers of bridges that are gone and whose flood lists are not
	tracer   *tracer   // made when it is first needed
	removed  PortStats // sum of ports that are gone
	closed   bool

	tunnelled bool // there are tunnel ports
	loads     loadLog

	watch watchers
	stop  chan struct{} // ends the housekeeper
	done  chan struct{} // it has ended
}

// A port is the control side's account of a port.
type port struct {
	spec    PortSpec
	number  uint32
	created time.Time
	dev     Device     // nil for a patch port or a tunnel
	tunnel  *tunnelEnd // nil: it is none
	ends    *ending    // tunnels that end at its device; nil: none
	bridge  *bridge
	dealt   []int // worker of each receive queue, by its place in Switch.workers
	cpus    []int // and its CPU
	wire    string
	retired PortStats // counted by workers that have ended

	ingress, egress *limiter // nil: no limit

	rules, wireRules []flowtable.RuleID // what it has in the tables
	trunk            bool               // it has a set of VLANs there
}

// New starts the workers.
func New(o Options) (*Switch, error) {
	if len(o.CPUs) == 0 {
		return nil, errors.New("start switch: no CPU for a worker")
	}
	s, err := newSwitch(o)
	if err != nil {
		return nil, fmt.Errorf("start switch: %w", err)
	}
	if err := s.start(); err != nil {
		s.stopWorkers(s.workers)
		return nil, fmt.Errorf("start switch: %w", errors.Join(err, s.engine.close()))
	}
	go s.keepHouse()
	return s, nil
}

// start starts the first workers.
func (s *Switch) start() error {
	cpus := s.opts.CPUs
	if err := s.checkCPUs(cpus); err != nil {
		return err
	}
	if err := s.tune(cpus); err != nil {
		return err
	}
	for id, cpu := range cpus {
		w, err := s.startWorker(id, cpu, len(cpus))
		if err != nil {
			return err
		}
		s.workers = append(s.workers, w)
	}
	s.loads.forget(s.readMeters())
	return nil
}

// newSwitch makes a switch without workers.
func newSwitch(o Options) (*Switch, error) {
	o.MACAge = cmp.Or(o.MACAge, DefaultMACAge)
	o.MACTable = cmp.Or(o.MACTable, DefaultMACTable)
	o.Poll = cmp.Or(o.Poll, PollAdaptive)
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	s := &Switch{
		opts: o, log: o.Log, started: time.Now(),
		ports: map[string]*port{}, bridges: map[string]*bridge{}, leaving: newLeavers(),
		stop: make(chan struct{}), done: make(chan struct{}),
		watch: watchers{chans: map[chan Event]struct{}{}, kick: make(chan struct{}, 1)},
	}
	s.removed.Name = "(removed)"
	var err error
	if s.engine, err = newEngine(&s.opts, s.started); err == nil {
		s.engine.wants.stir = s.watch.stir
	}
	return s, err
}

// Close removes all ports and ends the workers.
func (s *Switch) Close() error {
	if !s.beginClose() {
		return nil
	}
	names := s.names()
	errs := s.DelPorts(names)
	ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
	defer cancel()
	errs = append(errs, s.Closed(ctx, names...))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopWorkers(s.workers)
	s.watch.close()
	if s.tracer != nil {
		s.tracer.flow.walker.Close()
	}
	return errors.Join(append(errs, s.engine.close())...)
}

// names are the names of all ports, sorted.
func (s *Switch) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.ports))
}

// beginClose refuses changes from now on and ends the housekeeper, who needs
// the mutex to come to its end. It reports whether Close is called the first
// time.
func (s *Switch) beginClose() bool {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false
	}
	s.closed = true
	s.mu.Unlock()
	close(s.stop)
	<-s.done
	return true
}

// env is what devices see of the switch.
type env struct {
	s    *Switch
	name string
}

// Quiesce implements Env.
func (e env) Quiesce() { e.s.each((*worker).refresh) }

// Changed implements Env. It may be called by a device that holds locks of its
// own, so the port is described later, by the housekeeper.
func (e env) Changed() { e.s.watch.touch(e.name) }

// Port describes the port of that name.
func (s *Switch) Port(name string) (PortInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.ports[name]
	if p == nil {
		return PortInfo{}, fmt.Errorf("port %s: %w", name, ErrNoPort)
	}
	return s.info(p), nil
}

// Ports describes all ports, by number.
func (s *Switch) Ports() []PortInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	infos := make([]PortInfo, 0, len(s.ports))
	for _, p := range s.byNumber() {
		infos = append(infos, s.info(p))
	}
	return infos
}

func (s *Switch) byNumber() []*port {
	return slices.SortedFunc(maps.Values(s.ports), func(a, b *port) int { return cmp.Compare(a.number, b.number) })
}

// info describes p. A patch port is up when its other end is there.
func (s *Switch) info(p *port) PortInfo {
	i := PortInfo{PortSpec: p.spec, Number: p.number, Created: p.created, Workers: p.cpus, Wire: p.wire}
	switch {
	case p.dev != nil:
		i.State = p.dev.State()
	case p.tunnel != nil:
		i.State = p.tunnel.state()
	case s.peerOf(p) != nil:
		i.State = DeviceState{Link: LinkUp, Since: p.created}
	default:
		i.State = DeviceState{Link: LinkWaiting, Since: p.created, Reason: fmt.Sprintf("no patch port %s that names %s as its peer", p.spec.Peer, p.spec.Name)}
	}
	return i
}

// Wire sends all frames that come in by port in to port out, past the bridge.
func (s *Switch) Wire(in, out string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, b := s.ports[in], s.ports[out]
	switch {
	case a == nil:
		return fmt.Errorf("wire %s to %s: %w: %s", in, out, ErrNoPort, in)
	case b == nil:
		return fmt.Errorf("wire %s to %s: %w: %s", in, out, ErrNoPort, out)
	case a == b:
		return fmt.Errorf("wire %s to %s: %w: a port cannot be wired to itself", in, out, ErrBadSpec)
	case a.dev == nil || b.dev == nil:
		return fmt.Errorf("wire %s to %s: %w: a patch port or a tunnel cannot be wired", in, out, ErrBadSpec)
	}
	if err := s.rewire(a, out); err != nil {
		return fmt.Errorf("wire %s to %s: %w", in, out, err)
	}
	s.watch.send(Event{EventChanged, s.info(a)})
	return nil
}

// Unwire gives the frames of port in back to its bridge.
func (s *Switch) Unwire(in string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.ports[in]
	if a == nil {
		return fmt.Errorf("unwire %s: %w", in, ErrNoPort)
	}
	if a.wire == "" {
		return fmt.Errorf("unwire %s: %w: it is not wired", in, ErrNoEntry)
	}
	if err := s.rewire(a, ""); err != nil {
		return fmt.Errorf("unwire %s: %w", in, err)
	}
	s.watch.send(Event{EventChanged, s.info(a)})
	return nil
}

// rewire has frames that come in by p begin where a port with that wire does.
func (s *Switch) rewire(p *port, wire string) error {
	old := p.wire
	p.wire = wire
	if err := s.transact(func(a *author) { a.begin(p) }); err != nil {
		p.wire = old
		return err
	}
	return nil
}
