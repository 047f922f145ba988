package vhost

import (
	"slices"
	"sync"
	"time"
)

// Link says how far a port has come.
type Link string

// The links, from nothing to forwarding.
const (
	LinkWaiting Link = "waiting" // no peer: Reason says what is missing
	LinkSetup   Link = "setup"   // peer connected, rings not all there
	LinkUp      Link = "up"      // both rings of queue pair 0 run
	LinkBroken  Link = "broken"  // peer misbehaved and was cut off: Reason says how
)

// State is a port's account of itself.
type State struct {
	Link      Link
	Reason    string    // what is missing, on which side, or what is broken
	Since     time.Time // when Link or Reason became what they are
	Queues    int       // queue pairs of which both rings run
	Features  []string  // what was negotiated, by the names of the specifications
	Regions   int       // memory regions of the peer
	Connects  uint64    // times that a peer connected
	Refused   uint64    // connections closed because there was a peer already
	Breaks    uint64    // times that a peer was cut off for misbehaving
	LastBreak string    // why the last one was
	Peer      string    // process and user id of the peer
}

// status holds a State for readers on any goroutine.
type status struct {
	mu sync.Mutex // held to read or write State
	State
}

func (s *status) init(reason string) {
	s.State = State{Link: LinkWaiting, Reason: reason, Since: time.Now()}
}

// State returns the port's state now.
func (p *Port) State() State {
	p.status.mu.Lock()
	defer p.status.mu.Unlock()
	st := p.status.State
	st.Features = slices.Clone(st.Features)
	return st
}

// update has fn change the state, and tells if it is different afterwards.
func (p *Port) update(fn func(*State)) {
	p.status.mu.Lock()
	st := &p.status.State
	old := *st
	fn(st)
	if st.Link != old.Link || st.Reason != old.Reason {
		st.Since = time.Now()
	}
	changed := st.differs(&old)
	p.status.mu.Unlock()
	if changed {
		p.opts.Changed()
	}
}

// differs reports whether anything but Since is not as in old.
func (st *State) differs(old *State) bool {
	return st.Link != old.Link || st.Reason != old.Reason || st.Queues != old.Queues ||
		st.Regions != old.Regions || st.Connects != old.Connects || st.Refused != old.Refused ||
		st.Breaks != old.Breaks || st.LastBreak != old.LastBreak || st.Peer != old.Peer ||
		!slices.Equal(st.Features, old.Features)
}

// waiting says why there is no peer. A port that cut off its last peer stays
// broken until another one connects.
func (p *Port) waiting(reason string) {
	p.update(func(st *State) {
		if st.Link == LinkBroken {
			return
		}
		st.Link, st.Reason = LinkWaiting, reason
	})
}

// noPeer clears what belongs to a connection.
func (st *State) noPeer() {
	st.Queues, st.Features, st.Regions, st.Peer = 0, nil, 0, ""
}
