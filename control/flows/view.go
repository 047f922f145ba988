package flows

import (
	"millrace/control/logical"
	"millrace/flowtable"
)

// floodName is the name of all ports of a bridge but the one that a packet came
// by, as a value of outport.
const floodName = "_flood"

// names notes what a row depends on, and says what of it is not there.
func (v *view) names(match, acts *logical.References) *Problem {
	b, f := v.book, v.flow
	for _, r := range [...]*logical.References{match, acts} {
		b.dependAll(f, refPort, r.Ports)
		b.dependAll(f, refPort, r.Backends)
		b.dependAll(f, refPort, r.Residents)
		b.dependAll(f, refSet, r.AddressSets)
		b.dependAll(f, refPortGroup, r.PortGroups)
		b.dependAll(f, refMeter, r.Meters)
		b.dependAll(f, refGroup, r.Groups)
	}
	if b.assume != nil {
		return nil
	}
	if p := v.lacks("match", f.row.Match, match); p != nil {
		return p
	}
	if p := v.lacks("actions", f.row.Actions, acts); p != nil {
		return p
	}
	for _, name := range acts.Groups {
		v.needs(b.groups.byName[name])
	}
	return nil
}

// lacks says what a text refers to that is not there.
func (v *view) lacks(where, text string, r *logical.References) *Problem {
	lack := func(format, name string) *Problem {
		p := wrong(where, text, name, format, name)
		p.Missing = true
		return p
	}
	for _, name := range r.Ports {
		if !v.hasPort(name) {
			return lack("port %q is not on the bridge", name)
		}
	}
	for _, name := range r.AddressSets {
		if !v.AddressSet(name) {
			return lack("there is no address set %q", name)
		}
	}
	for _, name := range r.PortGroups {
		if !v.PortGroup(name) {
			return lack("there is no port group %q", name)
		}
	}
	for _, name := range r.Meters {
		if v.book.meters.byName[name] == nil {
			return lack("there is no meter %q", name)
		}
	}
	for _, name := range r.Groups {
		if v.book.groups.byName[name] == nil {
			return lack("there is no group %q", name)
		}
	}
	return nil
}

// hasPort reports whether a name can be resolved: a port of the bridge, all of
// them, or none.
func (v *view) hasPort(name string) bool {
	_, ok := logical.PortKey(name, v)
	return ok || name == ""
}

// Port implements logical.Resolver.
func (v *view) Port(name string) (key uint32, ok bool) {
	if name == floodName {
		return flowtable.FloodPort | v.bridge.Flood, true
	}
	if c := v.book.assume; c != nil && name != "" {
		return c.port(name), true
	}
	key, ok = v.bridge.Ports[name]
	return key, ok
}

// Resident implements logical.Resolver: the ports of the bridge are here.
func (v *view) Resident(name string) bool {
	_, ok := v.bridge.Ports[name]
	return ok || v.book.assume != nil
}

// AddressSet implements logical.Resolver.
func (v *view) AddressSet(name string) bool {
	return v.book.sets.byName[name] != nil || v.book.assume != nil
}

// PortGroup implements logical.Resolver.
func (v *view) PortGroup(name string) bool {
	return v.book.members.byName[name] != nil || v.book.assume != nil
}

// port implements objectMaker.
func (v *view) port(name string) uint32 {
	key, _ := logical.PortKey(name, v) // 0 for "", as in OVN
	return key
}

// named implements setMaker.
func (v *view) named(name string, width uint8) flowtable.SetID {
	key := addressSetKey(name, width)
	s := v.book.sets.byName[name]
	o := v.book.objectOf(v.flow, key, func(o *object) {
		o.set = flowtable.Set{ID: flowtable.SetID(o.id), Width: width}
		if s != nil {
			s.fill(o)
		}
	})
	return o.set.ID
}

// portGroup implements setMaker.
func (v *view) portGroup(name string) flowtable.SetID {
	g := v.book.members.byName[name]
	o := v.book.objectOf(v.flow, portGroupKey(name), func(o *object) {
		o.set = flowtable.Set{ID: flowtable.SetID(o.id), Width: 32, Exact: true}
		if g != nil {
			g.fill(v.book, o)
		}
	})
	return o.set.ID
}

// constants implements setMaker.
func (v *view) constants(width uint8, members []flowtable.Member) flowtable.SetID {
	d := &v.book.digest
	d.b = d.b[:0]
	d.members(width, members)
	o := v.book.objectOf(v.flow, objectKey{kindSet, "constants:" + string(d.b)}, func(o *object) {
		o.set = flowtable.Set{ID: flowtable.SetID(o.id), Width: width}
		o.fill(members)
	})
	return o.set.ID
}

// meter implements objectMaker.
func (v *view) meter(name string) flowtable.MeterID {
	v.made = true
	m := v.book.meters.byName[name]
	o := v.book.objectOf(v.flow, meterKey(name), func(o *object) {
		o.meter = flowtable.Meter{ID: flowtable.MeterID(o.id)}
		if m != nil {
			o.meter, o.row = m.meter(o.id), &m.plaint
		}
	})
	return o.meter.ID
}

// ownMeter begins the keys of meters that only one row has.
const ownMeter = "row:"

// ownMeter implements objectMaker: rows that say the same share it, as they share
// their rules.
func (v *view) ownMeter(kilobits, burst uint64) flowtable.MeterID {
	v.made = true
	row := v.flow.row
	d := &v.book.digest
	d.b = d.b[:0]
	d.text(row.Bridge)
	d.text(row.Match)
	d.text(row.Actions)
	for _, n := range [...]uint64{uint64(row.Table), uint64(row.Priority), uint64(row.Cookie), kilobits, burst} {
		d.u64(n)
	}
	o := v.book.objectOf(v.flow, objectKey{kindMeter, ownMeter + string(d.b)}, func(o *object) {
		o.meter = flowtable.Meter{ID: flowtable.MeterID(o.id), Rate: kilobits, Burst: burstOf(kilobits, burst)}
	})
	return o.meter.ID
}

// choice implements objectMaker.
func (v *view) choice(fields []flowtable.Field, buckets []flowtable.Bucket) flowtable.SelectID {
	v.made = true
	d := &v.book.digest
	d.b = d.b[:0]
	d.choice(&flowtable.Select{Fields: fields, Buckets: buckets})
	o := v.book.objectOf(v.flow, objectKey{kindSelect, "choice:" + string(d.b)}, func(o *object) {
		o.choice = flowtable.Select{ID: flowtable.SelectID(o.id), Fields: fields, Buckets: buckets}
	})
	return o.choice.ID
}
