package tap

import (
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Link says how far a port has come.
type Link string

// The links.
const (
	LinkWaiting Link = "waiting" // no device, or it is down: Reason says why
	LinkUp      Link = "up"      // frames go through
)

// State is a port's account of itself.
type State struct {
	Link     Link
	Reason   string    // what is missing, or what is not as it was asked for
	Since    time.Time // when Link became what it is
	Queues   int       // of the device; 0: there is none
	Connects uint64    // times that the link came up
	Breaks   uint64    // times that Break was called
	Device   View      // as it is, or was last
}

// status holds a State for readers on any goroutine.
type status struct {
	mu sync.Mutex // held to read or write State
	State
}

func (s *status) init() { s.State = State{Link: LinkWaiting, Since: time.Now()} }

// broke counts a break.
func (s *status) broke(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Breaks++
	s.Reason = reason
}

// State returns the port's state now.
func (p *Port) State() State {
	p.status.mu.Lock()
	defer p.status.mu.Unlock()
	return p.status.State
}

// update sets link, reason, queues and device, and tells if one is different.
func (p *Port) update(link Link, reason string, queues int) (changed bool) {
	p.status.mu.Lock()
	st := &p.status.State
	old := *st
	st.Link, st.Reason, st.Queues, st.Device = link, reason, queues, p.view
	if st.Link != old.Link {
		st.Since = time.Now()
		if link == LinkUp {
			st.Connects++
		}
	}
	changed = *st != old
	p.status.mu.Unlock()
	if changed {
		p.opts.Changed()
	}
	return changed
}

// waiting says why there is no device.
func (p *Port) waiting(err error) {
	if p.update(LinkWaiting, err.Error(), 0) {
		p.opts.Log.Warn("no device, the port tries on", zap.Error(err))
	}
}

// present tells of the device that there is, and opens it to frames if it is up.
func (p *Port) present() {
	if !p.view.Up {
		p.tx.dest.Store(nil)
		p.update(LinkWaiting, p.remark(fmt.Sprintf("device %s is down: `ip link set dev %s up`", p.view.Name, p.view.Name)), len(p.dev.files))
		return
	}
	if p.trouble.Load() == nil {
		p.tx.dest.Store(p.destination())
	}
	p.update(LinkUp, p.remark(""), len(p.dev.files))
}

// destination is where workers write.
func (p *Port) destination() *dest {
	d := &dest{mtu: uint32(p.view.MTU), takes: p.dev.takes}
	for _, f := range p.dev.files {
		d.fds = append(d.fds, int32(f.Int()))
	}
	return d
}

// remark adds to a reason what others have done to the device, and what it could
// not be given.
func (p *Port) remark(reason string) string {
	add := func(s string) {
		if reason != "" {
			reason += "; "
		}
		reason += s
	}
	if p.view.Name != p.opts.Device {
		add("somebody has renamed the device " + p.view.Name)
	}
	if p.home != p.view.Netns {
		add(fmt.Sprintf("somebody has moved the device to network namespace net:[%d]", p.view.Netns))
	}
	if p.wrong != nil {
		add(p.wrong.Error())
	}
	if p.blind != nil {
		add(p.blind.Error())
	}
	return reason
}
