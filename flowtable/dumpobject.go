package flowtable

import (
	"cmp"
	"slices"
)

// A Brief tells a rule from others, without what it says.
type Brief struct {
	ID       RuleID
	Table    uint8
	Datapath uint64 // zero with a group
	Group    GroupID
	Handle   uint32
}

// briefAt returns the brief of the rule at ref.
func (t *Tables) briefAt(ref uint32) Brief {
	w := t.mem.words
	rs := uint32(w[t.cold(uint32(w[ref+ruleSubtable]))+coldRuleset])
	b := Brief{ID: RuleID(w[ref+ruleID]), Table: uint8(w[rs+rulesetTable]), Handle: uint32(w[ref+ruleHandle])}
	if w[rs+rulesetTable]>>8 != 0 {
		b.Group = GroupID(w[rs+rulesetWho])
	} else {
		b.Datapath = w[rs+rulesetWho]
	}
	return b
}

// each calls f with the references of an index until it returns false. The
// writer's lock is held.
func (x index) each(a *arena, f func(ref uint32) bool) {
	b := uint32(a.words[x])
	if b == 0 {
		return
	}
	for i := range uint32(a.words[b]) + 1 {
		ref := uint32(a.words[b+1+i])
		if ref != 0 && ref != grave && !f(ref) {
			return
		}
	}
}

// EachBrief calls f with the brief of every rule in force, in no order, until it
// returns false. Transactions wait meanwhile.
func (t *Tables) EachBrief(f func(Brief) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ids.each(t.mem, func(ref uint32) bool {
		return t.mem.words[ref+ruleGone] != never || f(t.briefAt(ref))
	})
}

// Brief returns the brief of the rule with an id that is in force.
func (t *Tables) Brief(id RuleID) (Brief, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ref := t.findRule(id)
	if ref == 0 {
		return Brief{}, false
	}
	return t.briefAt(ref), true
}

// Sets returns what the sets were declared as, by id.
func (t *Tables) Sets() []Set {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []Set
	t.sets.each(t.mem, func(ref uint32) bool {
		if t.mem.words[ref+setVersion] != never {
			out = append(out, t.declared(ref))
		}
		return true
	})
	slices.SortFunc(out, func(a, b Set) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Set returns what a set was declared as.
func (t *Tables) Set(id SetID) (Set, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ref := t.findSet(id)
	if ref == 0 {
		return Set{}, false
	}
	return t.declared(ref), true
}

// Groups returns the ids of groups that are there, in order.
func (t *Tables) Groups() []GroupID {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []GroupID
	t.groups.each(t.mem, func(ref uint32) bool {
		out = append(out, GroupID(t.mem.words[ref+groupID]))
		return true
	})
	slices.Sort(out)
	return out
}

// Selects returns the ids of select groups, in order.
func (t *Tables) Selects() []SelectID { return idsOf[SelectID](t, objSelect) }

// Meters returns the ids of meters, in order.
func (t *Tables) Meters() []MeterID { return idsOf[MeterID](t, objMeter) }

// idsOf returns the ids of objects of a kind that are in force, in order.
func idsOf[ID ~uint32](t *Tables, kind uint64) []ID {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []ID
	t.objects.each(t.mem, func(obj uint32) bool {
		if key := t.mem.words[obj+objectID]; key>>32 == kind && t.current(obj) != 0 {
			out = append(out, ID(key))
		}
		return true
	})
	slices.Sort(out)
	return out
}

// object returns what an object holds that is in force.
func (t *Tables) object(kind uint64, id uint32) ([]uint64, bool) {
	obj := t.findObject(kind, id)
	if obj == 0 {
		return nil, false
	}
	s := t.current(obj)
	if s == 0 {
		return nil, false
	}
	return t.data(s), true
}

// Select returns a select group that is in force.
func (t *Tables) Select(id SelectID) (Select, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d, ok := t.object(objSelect, uint32(id))
	if !ok {
		return Select{}, false
	}
	return decodeSelect(id, d), true
}

// decodeSelect undoes encodeSelect.
func decodeSelect(id SelectID, d []uint64) Select {
	s := Select{ID: id}
	for _, f := range d[1 : 1+d[0]] {
		s.Fields = append(s.Fields, named(unpack(f)))
	}
	d = d[1+d[0]:]
	n := d[0]
	d = d[1:]
	for range n {
		size := d[0] >> 48
		s.Buckets = append(s.Buckets, Bucket{ID: uint32(d[0]), Weight: uint16(d[0] >> 32), Actions: decodeActions(d[1 : 1+size])})
		d = d[1+size:]
	}
	return s
}

// Meter returns a meter that is in force.
func (t *Tables) Meter(id MeterID) (Meter, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d, ok := t.object(objMeter, uint32(id))
	if !ok {
		return Meter{}, false
	}
	return decodeMeter(id, d), true
}

// Flood returns the ports of a flood list that is in force.
func (t *Tables) Flood(id FloodID) ([]uint32, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d, ok := t.object(objFlood, uint32(id))
	if !ok {
		return nil, false
	}
	out := make([]uint32, len(d))
	for i, p := range d {
		out[i] = uint32(p)
	}
	return out, true
}
