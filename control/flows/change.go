package flows

import (
	"cmp"
	"maps"
	"math"
	"slices"

	"millrace/flowtable"
)

// A Kind is what a Change does.
type Kind uint8

// The kinds.
const (
	AddRule Kind = iota + 1
	RemoveRule
	SetSet     // a set, with these members only
	AddMembers // to a set
	DelMembers // from a set
	RemoveSet
	SetSelect
	RemoveSelect
	SetMeter
	RemoveMeter
)

// A Change is one change of what the dataplane has. What it has depends on Kind.
type Change struct {
	Kind    Kind
	Rule    *flowtable.Rule  // to add; not changed any more
	Removed flowtable.RuleID // rule to remove
	ID      uint32           // set, select group or meter to remove
	Set     flowtable.Set    // also of members
	Members []flowtable.Member
	Select  flowtable.Select
	Meter   flowtable.Meter

	rule   *rule   // Done is about
	object *object // Done is about
}

// Have is what the dataplane has of clients.
type Have struct {
	Rules   []flowtable.RuleID
	Sets    []HaveSet
	Selects []flowtable.Select
	Meters  []flowtable.Meter
}

// A HaveSet is a set that the dataplane has.
type HaveSet struct {
	flowtable.Set
	Members []flowtable.Member
}

// Begin compares the book with what a dataplane has: Changes are the difference,
// from now on.
func (b *Book) Begin(have Have) {
	clear(b.leaving)
	clear(b.refused)
	clear(b.changed)
	clear(b.strays)
	clear(b.stuck)
	for _, r := range b.rules {
		r.inForce, r.refused, r.adding.set = false, "", false
		r.packets, r.bytes = 0, 0
	}
	for _, o := range b.objects {
		o.inForce, o.refused, o.add, o.del = false, "", nil, nil
	}
	for _, id := range have.Rules {
		if r := b.rules[id]; r != nil {
			r.inForce = true
		} else {
			b.leaving[id] = struct{}{}
		}
	}
	b.beginObjects(have)
	for _, r := range b.rules {
		if !r.inForce {
			b.adding.add(r, &r.adding)
		}
	}
	for _, o := range b.objects {
		if !o.inForce {
			b.changed[o] = struct{}{}
		}
	}
	for _, f := range b.flows {
		b.unsettled.add(f, &f.unsettled)
	}
}

// beginObjects compares objects.
func (b *Book) beginObjects(have Have) {
	meet := func(kind uint8, id uint32, s stray) {
		at := objectID{kind, id}
		if o := b.taken[at]; o != nil {
			b.meet(o, s)
		} else {
			b.strays[at] = s
		}
	}
	for i := range have.Sets {
		meet(kindSet, uint32(have.Sets[i].ID), stray{set: &have.Sets[i]})
	}
	for i := range have.Selects {
		meet(kindSelect, uint32(have.Selects[i].ID), stray{choice: &have.Selects[i]})
	}
	for i := range have.Meters {
		meet(kindMeter, uint32(have.Meters[i].ID), stray{meter: &have.Meters[i]})
	}
}

// sameSelect reports whether two select groups are the same, but for names of
// fields.
func sameSelect(a, c *flowtable.Select) bool {
	var x, y digester
	x.choice(a)
	y.choice(c)
	return slices.Equal(x.b, y.b)
}

// Changes are what has to happen to the dataplane, in an order in which it can, as
// one transaction. Done says what came of it, before anything else changes in the
// book.
func (b *Book) Changes() []Change {
	adding := b.adding.some(math.MaxInt, func(r *rule) *mark { return &r.adding })
	out := make([]Change, 0, len(b.leaving)+len(adding)+2*len(b.changed))
	for _, id := range slices.Sorted(maps.Keys(b.leaving)) {
		out = append(out, Change{Kind: RemoveRule, Removed: id})
	}
	objects := slices.SortedFunc(maps.Keys(b.changed), func(x, y *object) int {
		return cmp.Or(cmp.Compare(order(x.key.kind), order(y.key.kind)), cmp.Compare(x.id, y.id))
	})
	for _, o := range objects {
		out = b.objectChanges(out, o)
	}
	slices.SortFunc(adding, func(x, y *rule) int { return cmp.Compare(x.ID, y.ID) })
	for _, r := range adding {
		out = append(out, Change{Kind: AddRule, Rule: &r.Rule, rule: r})
	}
	return b.removals(out)
}

// order is the order in which objects come: select groups refer to meters.
func order(kind uint8) int {
	return [...]int{kindSet: 0, kindMeter: 1, kindSelect: 2}[kind]
}

// objectChanges are those that bring one object to what it shall be.
func (b *Book) objectChanges(out []Change, o *object) []Change {
	switch o.key.kind {
	case kindSelect:
		return append(out, Change{Kind: SetSelect, Select: o.choice, object: o})
	case kindMeter:
		return append(out, Change{Kind: SetMeter, Meter: o.meter, object: o})
	}
	if !o.inForce {
		if _, other := b.strays[objectID{kindSet, o.id}]; other {
			out = append(out, Change{Kind: RemoveSet, ID: o.id, object: o})
		}
		all := inOrder(o.members)
		n := min(len(all), membersMax)
		out = append(out, Change{Kind: SetSet, Set: o.set, Members: all[:n], object: o})
		return memberChanges(out, o, AddMembers, all[n:])
	}
	out = memberChanges(out, o, DelMembers, inOrder(o.del))
	return memberChanges(out, o, AddMembers, inOrder(o.add))
}

// membersMax is how many members one change has: a change is part of one message,
// which has its bounds.
const membersMax = 1 << 15

// memberChanges adds members to a set, or takes them away, in pieces.
func memberChanges(out []Change, o *object, kind Kind, members []flowtable.Member) []Change {
	for part := range slices.Chunk(members, membersMax) {
		out = append(out, Change{Kind: kind, Set: o.set, Members: part, object: o})
	}
	return out
}

func inOrder[V any](members map[flowtable.Member]V) []flowtable.Member {
	return slices.SortedFunc(maps.Keys(members), compareMembers)
}

// removals are those of objects that nothing needs any more.
func (b *Book) removals(out []Change) []Change {
	strays := slices.SortedFunc(maps.Keys(b.strays), func(x, y objectID) int {
		return cmp.Or(-cmp.Compare(order(x.kind), order(y.kind)), cmp.Compare(x.kind, y.kind), cmp.Compare(x.id, y.id))
	})
	for _, s := range strays {
		if b.taken[s] != nil {
			continue // is in the way of one that comes, and has gone before it
		}
		out = append(out, Change{Kind: map[uint8]Kind{kindSet: RemoveSet, kindSelect: RemoveSelect, kindMeter: RemoveMeter}[s.kind], ID: s.id})
	}
	return out
}

// Done says that a transaction of changes is in force, but for those that were
// refused: reasons by place.
func (b *Book) Done(changes []Change, refused map[int]string) {
	for i := range changes {
		c := &changes[i]
		why, not := refused[i]
		switch {
		case c.rule != nil:
			b.doneRule(c.rule, why)
		case c.object != nil && not:
			b.doneObject(c.object, why)
		case c.object != nil:
			if c.object.refused == "" {
				b.doneObject(c.object, "")
			}
		case c.Kind == RemoveRule:
			delete(b.leaving, c.Removed) // one that is not there is gone as well
		default:
			at := objectID{map[Kind]uint8{RemoveSet: kindSet, RemoveSelect: kindSelect, RemoveMeter: kindMeter}[c.Kind], c.ID}
			delete(b.strays, at)
			if not {
				b.stuck[at] = struct{}{}
			}
		}
	}
}

// doneRule notes that a rule is in force, or why it is not.
func (b *Book) doneRule(r *rule, why string) {
	r.adding.set = false
	r.inForce, r.refused = why == "", why
	if why != "" {
		b.refused[r] = struct{}{}
	}
	for _, f := range r.flows {
		b.unsettled.add(f, &f.unsettled)
	}
}

// doneObject notes that an object is as it shall be, or why it is not.
func (b *Book) doneObject(o *object, why string) {
	delete(b.changed, o)
	o.refused = why
	if why == "" {
		delete(b.strays, objectID{o.key.kind, o.id})
		o.inForce, o.add, o.del = true, nil, nil
	} else {
		o.inForce, o.add, o.del = o.inForce && o.key.kind != kindSet, nil, nil
		b.refused[o] = struct{}{}
	}
	if o.row != nil {
		o.row.refused = why
		b.complain(o.row)
	}
	for f := range o.users {
		b.unsettled.add(f, &f.unsettled)
	}
}

// Retry has what was refused tried again, and reports whether there is any.
func (b *Book) Retry() bool {
	some := len(b.refused)+len(b.stuck) > 0
	for at := range b.stuck {
		if b.taken[at] == nil {
			b.strays[at] = stray{}
		}
	}
	clear(b.stuck)
	for x := range b.refused {
		x.again(b)
	}
	clear(b.refused)
	return some
}
