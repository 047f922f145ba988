package dataplane

import (
	"fmt"
	"slices"
	"time"

	"millrace/dataplane/tunnel"
)

// A tunnelEnd is the control side's account of a tunnel port.
type tunnelEnd struct {
	config tunnel.Config
	way    Way     // as it was last seen
	out    *outlet // how frames leave; nil: not now
	reason string  // why not
	since  time.Time
	named  namedEnds // if frames name its ends
}

// newTunnel reads what a tunnel port shall be, which must not be what another one
// is.
func (s *Switch) newTunnel(spec PortSpec) (*tunnelEnd, error) {
	if s.opts.Underlay == nil {
		return nil, fmt.Errorf("%w %q", ErrBadType, spec.Type)
	}
	c, err := tunnel.Parse(tunnel.Kind(spec.Type), spec.Options)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadSpec, err)
	}
	mine := placeOf(&c, 0)
	for _, o := range s.ports {
		if o.tunnel == nil {
			continue
		}
		theirs := placeOf(&o.tunnel.config, 0)
		switch {
		case o.tunnel.config.Port == c.Port && o.tunnel.config.Kind != c.Kind:
			return nil, fmt.Errorf("%w: UDP port %d is that of port %s, which is of type %s", ErrExists, c.Port, o.spec.Name, o.spec.Type)
		case mine.same(&theirs):
			return nil, fmt.Errorf("%w: port %s has the same remote_ip, local_ip and key", ErrExists, o.spec.Name)
		}
	}
	return &tunnelEnd{config: c, reason: "looking for a way", since: time.Now()}, nil
}

// host is the other end.
func (t *tunnelEnd) host() Host { return Host{t.config.Remote, t.config.Local} }

// state describes a tunnel port.
func (t *tunnelEnd) state() DeviceState {
	if t.config.Named() {
		return t.namedState()
	}
	d := DeviceState{Link: LinkWaiting, Reason: t.reason, Since: t.since}
	if t.out != nil {
		d.Link, d.How = LinkUp, fmt.Sprintf("from %s to %s by %s", t.way.Path.Local, t.config.Remote, t.way.Name)
	}
	return d
}

// followTunnels tells the underlay which hosts matter, and brings workers to what it
// knows. The caller holds mu, and calls it when ports have come or gone.
func (s *Switch) followTunnels() {
	if s.opts.Underlay == nil {
		return
	}
	var hosts []Host
	seen, some := map[Host]struct{}{}, false
	for _, p := range s.byNumber() {
		if p.tunnel == nil {
			continue
		}
		some = true
		for _, h := range p.tunnel.hosts() {
			if _, known := seen[h]; !known {
				seen[h] = struct{}{}
				hosts = append(hosts, h)
			}
		}
	}
	if !some && !s.tunnelled {
		return
	}
	if s.tunnelled = some; some && hosts == nil {
		hosts = []Host{} // who comes to a port that names no host comes to an address
	}
	s.opts.Underlay.Follow(hosts, s.watch.stir)
	s.routeTunnels()
}

// tunnelsMoved is routeTunnels if there are tunnels, for who does not hold mu.
func (s *Switch) tunnelsMoved() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.tunnelled || s.closed:
	case s.takeWants():
		s.followTunnels()
	default:
		s.routeTunnels()
	}
}

// routeTunnels brings ports to what the underlay knows now.
func (s *Switch) routeTunnels() {
	devices := s.kernelPorts()
	changed := false
	for _, p := range s.byNumber() {
		if p.tunnel != nil && s.routeTunnel(p, devices) {
			changed = true
			s.watch.send(Event{EventChanged, s.info(p)})
		}
	}
	if s.endTunnels(devices) || changed {
		s.each(func(w *worker) { w.retunnel(s) })
	}
}

// kernelPorts are the ports that are network devices of the switch's namespace, by
// index.
func (s *Switch) kernelPorts() map[int]*port {
	devices := map[int]*port{}
	for _, p := range s.ports {
		if p.dev == nil {
			continue
		}
		st := p.dev.State()
		switch {
		case st.Device != nil:
			devices[st.Device.Index] = p
		case IsHost(p.spec.Type) && st.Host.Index != 0 && st.Host.Netns == s.opts.Underlay.Netns():
			devices[st.Host.Index] = p
		}
	}
	return devices
}

// routeTunnel brings one tunnel port to what the underlay knows, and reports whether
// anything is different.
func (s *Switch) routeTunnel(p *port, devices map[int]*port) bool {
	t := p.tunnel
	if t.config.Named() {
		return s.routeNamed(p, devices)
	}
	way := s.opts.Underlay.Way(t.host())
	via, reason := devices[way.Device], way.Reason
	if reason == "" && via == nil {
		reason = fmt.Sprintf("%s is reached by %s, which is no port of this switch: add it to a bridge, or move its address to a bridge's own port", t.config.Remote, way.Name)
	}
	old := t.out
	if reason != "" {
		if old == nil && t.reason == reason {
			return false
		}
		t.out, t.reason, t.way, t.since = nil, reason, way, time.Now()
		return true
	}
	direct := !IsHost(via.spec.Type)
	if old != nil && t.way == way && old.via == via.number && old.direct == direct {
		return false
	}
	if old == nil {
		t.since = time.Now()
	}
	t.out, t.reason, t.way = &outlet{tunnel.NewHeader(t.config, way.Path), via.number, direct}, "", way
	return true
}

// endTunnels brings ports that are network devices to which tunnels end there, and
// reports whether that is different from before.
func (s *Switch) endTunnels(devices map[int]*port) (changed bool) {
	var list []place
	var kinds []endKind
	var locals []tunnel.Address
	for _, p := range s.byNumber() {
		if p.tunnel == nil {
			continue
		}
		c := &p.tunnel.config
		list = append(list, placeOf(c, p.number))
		if k := (endKind{c.Port, c.Kind}); !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
		if c.Local.IsValid() {
			locals = append(locals, tunnel.AddressOf(c.Local))
		}
	}
	ends := map[*port]*ending{}
	for index, p := range devices {
		if len(list) == 0 {
			break
		}
		e := &ending{arriving: !IsHost(p.spec.Type), kinds: kinds, addresses: slices.Clone(locals)}
		for _, a := range s.opts.Underlay.Addresses(index) {
			e.addresses = append(e.addresses, tunnel.AddressOf(a))
		}
		e.fill(list)
		ends[p] = e
	}
	for _, p := range s.ports {
		if !p.ends.equal(ends[p]) {
			p.ends, changed = ends[p], true
		}
	}
	return changed
}

// equal reports whether two endings, which may be nil, are the same.
func (e *ending) equal(o *ending) bool {
	if e == nil || o == nil {
		return e == o
	}
	return e.arriving == o.arriving && slices.Equal(e.addresses, o.addresses) && slices.Equal(e.kinds, o.kinds) && slices.Equal(e.places, o.places)
}

// IsTunnel reports whether the ports of a type are tunnels.
func IsTunnel(portType string) bool { return tunnel.IsKind(portType) }

// checkTunnel refuses what a tunnel port cannot have.
func (s *PortSpec) checkTunnel() error {
	switch {
	case !IsTunnel(s.Type):
		return nil
	case s.Path != "" || s.Peer != "" || s.Queues != 0:
		return fmt.Errorf("%w: a tunnel port has neither path nor peer nor queues", ErrBadSpec)
	case s.MTU != 0:
		return fmt.Errorf("%w: the MTU of a tunnel port is that of its path", ErrBadSpec)
	}
	return nil
}
