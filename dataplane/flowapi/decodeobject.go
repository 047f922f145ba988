package flowapi

import "millrace/flowtable"

// set reads a FlowSet. Its width may come behind its members.
func (d *Decoder) set(b []byte) bool {
	c := &d.check
	d.c.Set, d.c.Members, d.numbers = flowtable.Set{}, d.c.Members[:0], d.numbers[:0]
	f := fields{rest: b}
	for f.next() {
		ok := true
		switch f.tag {
		case 1<<3 | varint:
			d.c.Set.ID = flowtable.SetID(f.u)
		case 2<<3 | varint:
			d.c.Set.Width = c.byte("set: width", uint32(f.u), 128)
		case 3<<3 | varint:
			d.c.Set.Exact = f.u != 0
		case 4<<3 | bytes:
			d.numbers, ok = appendFixed(d.numbers, f.b)
		case 4<<3 | fixed64:
			d.numbers = append(d.numbers, f.u)
		}
		if !ok {
			return false
		}
	}
	d.c.Members = c.members(d.c.Members, d.c.Set.Width, d.numbers)
	return !f.bad
}

// group reads a FlowGroup.
func (d *Decoder) group(b []byte) bool {
	d.c.Group, d.c.Datapaths = 0, d.c.Datapaths[:0]
	f := fields{rest: b}
	for f.next() {
		ok := true
		switch f.tag {
		case 1<<3 | varint:
			d.c.Group = flowtable.GroupID(f.u)
		case 2<<3 | bytes:
			d.c.Datapaths, ok = appendFixed(d.c.Datapaths, f.b)
		case 2<<3 | fixed64:
			d.c.Datapaths = append(d.c.Datapaths, f.u)
		}
		if !ok {
			return false
		}
	}
	return !f.bad
}

// selects reads a FlowSelect.
func (d *Decoder) selects(b []byte) bool {
	c, s := &d.check, &d.c.Select
	*s = flowtable.Select{Fields: s.Fields[:0], Buckets: s.Buckets[:0]}
	d.numbers = d.numbers[:0]
	f := fields{rest: b}
	for f.next() {
		ok := true
		switch f.tag {
		case 1<<3 | varint:
			s.ID = flowtable.SelectID(f.u)
		case 2<<3 | bytes:
			d.numbers, ok = appendVarints(d.numbers, f.b)
		case 2<<3 | varint:
			d.numbers = append(d.numbers, f.u)
		case 3<<3 | bytes:
			if c.room("buckets", len(s.Buckets), bucketsMax) {
				s.Buckets = append(s.Buckets, flowtable.Bucket{})
				ok = c.bucket(&s.Buckets[len(s.Buckets)-1], f.b)
			}
		}
		if !ok {
			return false
		}
	}
	for _, v := range d.numbers {
		if c.room("fields", len(s.Fields), fieldsMax) {
			s.Fields = append(s.Fields, c.field("select", uint32(v)))
		}
	}
	return !f.bad
}

// bucket reads a FlowBucket.
func (c *checker) bucket(w *flowtable.Bucket, b []byte) bool {
	f := fields{rest: b}
	for f.next() {
		switch f.tag {
		case 1<<3 | varint:
			w.ID = uint32(f.u)
		case 2<<3 | varint:
			w.Weight = c.short("weight", uint32(f.u))
		case 3<<3 | bytes:
			if !c.nested(&w.Actions, f.b, 1) {
				return false
			}
		}
	}
	return !f.bad
}

// meter reads a FlowMeter.
func (d *Decoder) meter(b []byte) bool {
	d.c.Meter = flowtable.Meter{}
	m, f := &d.c.Meter, fields{rest: b}
	for f.next() {
		switch f.tag {
		case 1<<3 | varint:
			m.ID = flowtable.MeterID(f.u)
		case 2<<3 | varint:
			m.Packets = f.u != 0
		case 3<<3 | varint:
			m.Rate = f.u
		case 4<<3 | varint:
			m.Burst = f.u
		}
	}
	return !f.bad
}
