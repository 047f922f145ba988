package main

import (
	"millrace/control"
	"millrace/control/bridge"
	"millrace/dataplane/api"
)

// rowTypes are the types of ports whose rows say another one than the dataplane, by
// name: an egress port is a vhost-user or a tap port there.
type rowTypes map[string]string

// rowTypes reads what control has written of egress ports: neither it nor the database
// need be there.
func (a *app) rowTypes() rowTypes {
	names, _ := control.EgressPorts(a.runDir) // without them the dataplane's word is all there is
	types := rowTypes{}
	for _, name := range names {
		types[name] = bridge.TypeEgress
	}
	return types
}

// of is the type of a port, as its row has it.
func (r rowTypes) of(p *api.Port) string {
	if t, ok := r[p.GetSpec().GetName()]; ok {
		return t
	}
	return p.GetSpec().GetType()
}

// line is of for people, with what the port is to the dataplane where that is another.
func (r rowTypes) line(p *api.Port) string {
	t := r.of(p)
	if s := p.GetSpec().GetType(); s != t {
		t += ", a " + s + " port of the dataplane"
	}
	return t
}

// json is a port for programs, with the type that its row has beside the dataplane's.
func (r rowTypes) json(p *api.Port) object { return append(toJSON(p), field{"type", r.of(p)}) }

func (r rowTypes) list(ports []*api.Port) []object {
	all := make([]object, 0, len(ports))
	for _, p := range ports {
		all = append(all, r.json(p))
	}
	return all
}
