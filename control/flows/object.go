package flows

import "millrace/flowtable"

// Kinds of object.
const (
	kindSet = iota + 1
	kindSelect
	kindMeter
)

// An objectKey says what an object is, whatever its number.
type objectKey struct {
	kind uint8
	text string
}

// An objectID is an object as the dataplane knows it.
type objectID struct {
	kind uint8
	id   uint32
}

// An object is a set, a select group or a meter that rules refer to.
type object struct {
	key     objectKey
	id      uint32
	inForce bool // the dataplane has it, be it in another state
	refused string
	users   map[*flow]struct{}
	row     *plaint // that tells of it; may be nil

	set      flowtable.Set
	members  map[flowtable.Member]int      // how many elements are it
	add, del map[flowtable.Member]struct{} // what of them the dataplane lacks, and has too much

	choice flowtable.Select
	meter  flowtable.Meter
}

// objectOf returns the object of a key, made if need be: fill says what it is.
func (b *Book) objectOf(f *flow, key objectKey, fill func(*object)) *object {
	o := b.objects[key]
	if o == nil {
		o = &object{key: key, id: b.freeID(key), users: map[*flow]struct{}{}}
		b.objects[key] = o
		fill(o)
		b.claim(o)
	}
	o.users[f] = struct{}{}
	if !contains(f.objects, o) {
		f.objects = append(f.objects, o)
	}
	return o
}

// idMax is the largest number of an object: those above are the dataplane's own.
const idMax = 1<<31 - 1

// freeID is the number of a new object: a digest of its key, or the next that is
// free. Numbers are the same in each life of control, unless two keys collide.
func (b *Book) freeID(key objectKey) uint32 {
	for id := b.digest.key(key); ; id++ {
		id &= idMax
		if _, used := b.taken[objectID{key.kind, id}]; !used && id != 0 {
			return id
		}
	}
}

// A stray is what an object of the dataplane is: one of the three, or none if
// that is not known.
type stray struct {
	set    *HaveSet
	choice *flowtable.Select
	meter  *flowtable.Meter
}

// claim makes the number of a new object its own. What the dataplane has by that
// number is compared with it.
func (b *Book) claim(o *object) {
	at := objectID{o.key.kind, o.id}
	b.taken[at] = o
	s, there := b.strays[at]
	delete(b.strays, at)
	if !there {
		b.changed[o] = struct{}{}
		return
	}
	b.meet(o, s)
}

// meet compares an object with what the dataplane has by its number.
func (b *Book) meet(o *object, s stray) {
	o.inForce = true
	same := false
	switch {
	case s.set != nil:
		same = b.meetSet(o, s.set)
	case s.choice != nil:
		same = sameSelect(&o.choice, s.choice)
	case s.meter != nil:
		same = o.meter == *s.meter
	case o.key.kind == kindSet:
		o.inForce = false // is told as a whole
	}
	if !same {
		b.changed[o] = struct{}{}
	}
}

// meetSet compares a set, and reports whether it has the same members.
func (b *Book) meetSet(o *object, have *HaveSet) bool {
	if have.Set != o.set { // two keys of one number: the old set goes first
		b.strays[objectID{kindSet, o.id}] = stray{set: have}
		o.inForce = false
		return false
	}
	o.add, o.del = make(map[flowtable.Member]struct{}, len(o.members)), nil
	for m := range o.members {
		o.add[m] = struct{}{}
	}
	for _, m := range have.Members {
		if o.members[m] > 0 {
			delete(o.add, m)
			continue
		}
		if o.del == nil {
			o.del = map[flowtable.Member]struct{}{}
		}
		o.del[m] = struct{}{}
	}
	return len(o.add)+len(o.del) == 0
}

// release takes an object's user away.
func (b *Book) release(f *flow, o *object) {
	delete(o.users, f)
	if len(o.users) > 0 {
		return
	}
	delete(b.objects, o.key)
	delete(b.changed, o)
	delete(b.refused, o)
	at := objectID{o.key.kind, o.id}
	delete(b.taken, at)
	if o.inForce || o.refused != "" { // perhaps with other members
		b.strays[at] = stray{}
	}
}

// again has an object that was refused tried again.
func (o *object) again(b *Book) {
	o.refused = ""
	b.changed[o] = struct{}{}
}
