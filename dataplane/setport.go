package dataplane

import (
	"context"
	"fmt"
	"slices"
)

// SetPort changes what can be changed of a port without its peer's notice: its
// VLANs, its rates and sources, its MAC limit, its MTU if its device is an MTUSetter, and
// what a HostSetter changes. The rest of spec must be as it is. What was learned on the port is forgotten if its VLANs
// change.
//
// The number of queue pairs is not among these: a front-end asks for it once,
// when it connects, and sets up as many.
func (s *Switch) SetPort(_ context.Context, spec PortSpec) (PortInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.ports[spec.Name]
	if p == nil {
		return PortInfo{}, fmt.Errorf("set port %s: %w", spec.Name, ErrNoPort)
	}
	if err := spec.check(); err != nil {
		return PortInfo{}, fmt.Errorf("set port %s: %w", spec.Name, err)
	}
	if !p.canBecome(spec) {
		return PortInfo{}, fmt.Errorf("set port %s: %w: only VLANs, rates, sources, the MAC limit, the MTU, and MAC, addresses and link of a tap or internal port change in flight: delete it first", spec.Name, ErrExists)
	}
	old := p.spec
	if old.equal(spec) {
		return s.info(p), nil
	}
	p.spec = spec
	if !old.sameVLANs(spec) || !old.sameSources(spec) {
		if err := s.setRules(p); err != nil {
			p.spec = old
			return PortInfo{}, fmt.Errorf("set port %s: %w", spec.Name, err)
		}
	}
	s.setLimits(p, old)
	if old.MTU != spec.MTU {
		p.dev.(MTUSetter).SetMTU(spec.MTU) // canBecome has looked
	}
	if !old.Host.equal(spec.Host) {
		p.dev.(HostSetter).SetHost(spec.Host) // as above
	}
	limit := spec.MACLimit
	if limit == 0 {
		limit = -1
	}
	p.bridge.table.SetLimit(p.number, limit)
	info := s.info(p)
	s.watch.send(Event{EventChanged, info})
	return info, nil
}

// canBecome reports whether p can have spec without its peer's notice.
func (p *port) canBecome(spec PortSpec) bool {
	same := p.spec
	same.Tag, same.Trunks, same.Mode, same.MACLimit = spec.Tag, spec.Trunks, spec.Mode, spec.MACLimit
	same.Ingress, same.Egress, same.Sources = spec.Ingress, spec.Egress, spec.Sources
	if _, can := p.dev.(MTUSetter); can {
		same.MTU = spec.MTU
	}
	if _, can := p.dev.(HostSetter); can && p.spec.Host.same(spec.Host) {
		same.Host = spec.Host
	}
	return same.equal(spec)
}

// sameVLANs reports whether two ports treat tags alike. Their trunks may be
// said in another order.
func (s *PortSpec) sameVLANs(o PortSpec) bool {
	return s.Tag == o.Tag && s.Mode == o.Mode &&
		slices.Equal(slices.Sorted(slices.Values(s.Trunks)), slices.Sorted(slices.Values(o.Trunks)))
}

// setRules gives the tables and workers the VLANs and sources of p's spec, and forgets
// what was learned from others. Workers read whole headers as long as rules want them.
func (s *Switch) setRules(p *port) error {
	if p.readFully() {
		s.each(func(w *worker) { w.setLevel(w.ports[p.number], true) })
	}
	err := s.transact(func(a *author) { a.enter(p) })
	vlan, fully := newVLANPolicy(p.spec), p.readFully()
	s.each(func(w *worker) {
		if err == nil {
			w.ports[p.number].vlan = vlan
			w.setLevel(w.ports[p.number], fully)
		}
	})
	if err == nil {
		p.bridge.table.FlushPort(p.number)
	}
	return err
}

// setLimits gives workers the rates of p's spec, where they are not as of old.
func (s *Switch) setLimits(p *port, old PortSpec) {
	if old.Ingress == p.spec.Ingress && old.Egress == p.spec.Egress {
		return
	}
	if old.Ingress != p.spec.Ingress {
		p.ingress = newLimiter(p.spec.Ingress)
	}
	if old.Egress != p.spec.Egress {
		p.egress = newLimiter(p.spec.Egress)
	}
	s.each(func(w *worker) {
		w.ports[p.number].ingress, w.ports[p.number].egress = p.ingress, p.egress
	})
}

// readFully reports whether rules about what comes in by p look beyond its Ethernet
// header.
func (p *port) readFully() bool {
	return p.bridge.settings.Pipeline == PipelineFlows || len(p.spec.Sources) > 0
}
