package flowapi

import (
	"errors"

	"millrace/flowtable"
)

var (
	// ErrMalformed says that bytes are no message at all.
	ErrMalformed = errors.New("not a TransactRequest")
	errNoChange  = errors.New("no change, or one of a kind that this dataplane does not know")
	errChanges   = errors.New("more than one change in a FlowChange")
)

// Numbers of fields and their wire types. They are those of flows.proto; a test
// compares.
const (
	requestPartial = 1<<3 | varint
	requestChange  = 2<<3 | bytes
)

// Count looks at an encoded api.TransactRequest without reading its changes: how
// many there are, and allow_partial.
func Count(message []byte) (changes int, allowPartial bool, err error) {
	f := fields{rest: message}
	for f.next() {
		switch f.tag {
		case requestPartial:
			allowPartial = f.u != 0
		case requestChange:
			changes++
		}
	}
	if f.bad {
		return 0, false, ErrMalformed
	}
	return changes, allowPartial, nil
}

// A Decoder reads changes. What it reads into is used again and again, so that
// rules without nested actions cost no allocation. Its zero value is ready.
type Decoder struct {
	c       Change
	check   checker
	numbers []uint64
}

// Read calls do with each change of an encoded api.TransactRequest, until it
// returns false. The change belongs to the decoder, and holds until do returns.
func (d *Decoder) Read(message []byte, do func(*Change) bool) error {
	f := fields{rest: message}
	for f.next() {
		if f.tag != requestChange {
			continue
		}
		if !d.change(f.b) {
			return ErrMalformed
		}
		if !do(&d.c) {
			return nil
		}
	}
	if f.bad {
		return ErrMalformed
	}
	return nil
}

// change reads a FlowChange. Like all that follow, it reports false if b is no
// message; what cannot be in one that is goes to the checker.
func (d *Decoder) change(b []byte) bool {
	d.check = checker{}
	d.c.Kind, d.c.Err = 0, nil
	f, n := fields{rest: b}, 0
	for f.next() {
		known, ok := d.oneOf(&f)
		if !ok {
			return false
		}
		if known {
			n++
		}
	}
	switch {
	case n == 0:
		d.c.Err = errNoChange
	case n > 1:
		d.c.Err = errChanges
	default:
		d.c.Err = d.check.err
	}
	return !f.bad
}

// oneOf reads what a FlowChange does.
func (d *Decoder) oneOf(f *fields) (known, ok bool) {
	c := &d.c
	switch f.tag {
	case uint32(AddRule)<<3 | bytes, uint32(ReplaceRule)<<3 | bytes:
		ok = d.rule(f.b)
	case uint32(SetSet)<<3 | bytes, uint32(AddMembers)<<3 | bytes, uint32(DelMembers)<<3 | bytes:
		ok = d.set(f.b)
	case uint32(SetGroup)<<3 | bytes:
		ok = d.group(f.b)
	case uint32(SetSelect)<<3 | bytes:
		ok = d.selects(f.b)
	case uint32(SetMeter)<<3 | bytes:
		ok = d.meter(f.b)
	case uint32(RemoveRule)<<3 | fixed64:
		c.ID, ok = f.u, true
	case uint32(RemoveSet)<<3 | varint, uint32(RemoveGroup)<<3 | varint, uint32(RemoveSelect)<<3 | varint, uint32(RemoveMeter)<<3 | varint:
		c.ID, ok = uint64(uint32(f.u)), true
	default:
		return false, true
	}
	c.Kind = Kind(f.tag >> 3)
	return true, ok
}

// rule reads a FlowRule.
func (d *Decoder) rule(b []byte) bool {
	c, r := &d.check, &d.c.Rule
	*r = flowtable.Rule{Match: r.Match[:0], Preds: r.Preds[:0], Actions: r.Actions[:0]}
	f := fields{rest: b}
	for f.next() {
		ok := true
		switch f.tag {
		case 1<<3 | fixed64:
			r.ID = flowtable.RuleID(f.u)
		case 2<<3 | varint:
			r.Table = c.byte("table", uint32(f.u), flowtable.TablesMax-1)
		case 3<<3 | varint:
			r.Priority = c.short("priority", uint32(f.u))
		case 4<<3 | fixed64:
			r.Datapath = f.u
		case 5<<3 | varint:
			r.Group = flowtable.GroupID(f.u)
		case 6<<3 | bytes:
			if c.room("words to match", len(r.Match), matchMax) {
				r.Match = append(r.Match, flowtable.Masked{})
				ok = c.masked(&r.Match[len(r.Match)-1], f.b)
			}
		case 7<<3 | bytes:
			if c.room("predicates", len(r.Preds), predsMax) {
				r.Preds = append(r.Preds, flowtable.Pred{})
				ok = c.readPred(&r.Preds[len(r.Preds)-1], f.b)
			}
		case 8<<3 | bytes:
			if c.oneAction(1) {
				r.Actions = append(r.Actions, flowtable.Action{})
				ok = c.readAction(&r.Actions[len(r.Actions)-1], f.b, 1)
			}
		case 9<<3 | fixed64:
			r.Cookie = f.u
		}
		if !ok {
			return false
		}
	}
	return !f.bad
}

// masked reads a FlowMasked.
func (c *checker) masked(m *flowtable.Masked, b []byte) bool {
	f := fields{rest: b}
	for f.next() {
		switch f.tag {
		case 1<<3 | varint:
			m.Word = c.byte("match: word", uint32(f.u), flowtable.ContextWords-1)
		case 2<<3 | fixed64:
			m.Value = f.u
		case 3<<3 | fixed64:
			m.Mask = f.u
		}
	}
	return !f.bad
}

// readPred reads a FlowPredicate.
func (c *checker) readPred(p *flowtable.Pred, b []byte) bool {
	f := fields{rest: b}
	kind := uint32(0)
	for f.next() {
		switch f.tag {
		case 1<<3 | varint:
			kind = uint32(f.u)
		case 2<<3 | varint:
			p.Field = c.field("predicate", uint32(f.u))
		case 3<<3 | varint:
			p.Set = flowtable.SetID(f.u)
		case 4<<3 | fixed64:
			p.Low = f.u
		case 5<<3 | fixed64:
			p.High = f.u
		case 6<<3 | fixed64:
			p.LowLow = f.u
		case 7<<3 | fixed64:
			p.Mask = f.u
		case 8<<3 | fixed64:
			p.MaskLow = f.u
		}
	}
	p.Kind = c.kind(kind)
	return !f.bad
}

// readAction reads a FlowAction, which is in depth-1 others.
func (c *checker) readAction(a *flowtable.Action, b []byte, depth int) bool {
	f := fields{rest: b}
	code := uint32(0)
	for f.next() {
		switch f.tag {
		case 1<<3 | varint:
			code = uint32(f.u)
		case 2<<3 | varint:
			a.Table = c.byte("action: table", uint32(f.u), flowtable.TablesMax-1)
		case 3<<3 | varint:
			a.Dst = c.field("action: destination", uint32(f.u))
		case 4<<3 | varint:
			a.Src = c.field("action: source", uint32(f.u))
		case 5<<3 | varint:
			a.Src2 = c.field("action: second source", uint32(f.u))
		case 6<<3 | varint:
			a.Arg = uint32(f.u)
		case 7<<3 | fixed64:
			a.Value = f.u
		case 8<<3 | fixed64:
			a.ValueLow = f.u
		case 9<<3 | bytes:
			if !c.nested(&a.Nested, f.b, depth+1) {
				return false
			}
		}
	}
	a.Code = c.code(code)
	return !f.bad
}

// nested reads one more action of a list. One that is refused for its depth or
// for their number is not looked into.
func (c *checker) nested(list *[]flowtable.Action, b []byte, depth int) bool {
	if !c.oneAction(depth) {
		return true
	}
	var a flowtable.Action
	ok := c.readAction(&a, b, depth)
	*list = append(*list, a)
	return ok
}
