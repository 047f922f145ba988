package afxdp

import (
	"slices"
	"sync"
	"time"
)

// Link says how far a port has come.
type Link string

// The links, from nothing to forwarding.
const (
	LinkWaiting Link = "waiting" // no device, or it is down: Reason says so
	LinkUp      Link = "up"      // forwards
	LinkBroken  Link = "broken"  // the kernel's rings made no sense: Reason says how
)

// State is a port's account of itself.
type State struct {
	Link     Link
	Reason   string    // what is missing or broken
	Since    time.Time // when Link or Reason became what they are
	Queues   int       // queues in use
	Features []string  // what was chosen, in words: native, copy, need-wakeup, ...
	How      string    // what was chosen and why, in a sentence
	Opens    uint64    // times that the port took the device
	Breaks   uint64    // times that rings were broken
	Device   NetDevice // as it is; zero if there is none
}

// A NetDevice is the port's network device.
type NetDevice struct {
	Index   int
	MAC     [6]byte
	MTU     int
	Up      bool // by the administrator
	Carrier bool
	Driver  string
}

// status holds a State for readers on any goroutine.
type status struct {
	mu sync.Mutex // held to read or write State
	State
}

func (s *status) init() { s.State = State{Link: LinkWaiting, Since: time.Now()} }

// State returns the port's state now.
func (p *Port) State() State {
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	st := p.state.State
	st.Features = slices.Clone(st.Features)
	return st
}

// update has fn change the state, and tells if it is different afterwards.
func (p *Port) update(fn func(*State)) {
	p.state.mu.Lock()
	st := &p.state.State
	old := *st
	fn(st)
	if st.Link != old.Link || st.Reason != old.Reason {
		st.Since = time.Now()
	}
	changed := st.Link != old.Link || st.Reason != old.Reason || st.Queues != old.Queues || st.How != old.How ||
		st.Opens != old.Opens || st.Device != old.Device || st.Breaks != old.Breaks || !slices.Equal(st.Features, old.Features)
	p.state.mu.Unlock()
	if changed {
		p.opts.Changed()
	}
}
