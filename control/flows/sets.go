package flows

import (
	"fmt"
	"slices"
	"strings"

	"millrace/control/logical"
	"millrace/control/ovsdb/flowmodel"
	"millrace/flowtable"
)

// fill gives a new set its members.
func (o *object) fill(members []flowtable.Member) {
	o.members = make(map[flowtable.Member]int, len(members))
	for _, m := range members {
		o.members[m]++
	}
}

// put adds an element to a set.
func (o *object) put(b *Book, m flowtable.Member) {
	if o.members[m]++; o.members[m] == 1 {
		o.differs(b, m, &o.add, o.del)
	}
}

// take takes an element away.
func (o *object) take(b *Book, m flowtable.Member) {
	if o.members[m]--; o.members[m] == 0 {
		delete(o.members, m)
		o.differs(b, m, &o.del, o.add)
	}
}

// differs notes that the dataplane has m in another way than the set: in ours,
// unless it is in the opposite.
func (o *object) differs(b *Book, m flowtable.Member, ours *map[flowtable.Member]struct{}, opposite map[flowtable.Member]struct{}) {
	if !o.inForce {
		return // it is told as a whole
	}
	b.changed[o] = struct{}{}
	if _, ok := opposite[m]; ok {
		delete(opposite, m)
		return
	}
	if *ours == nil {
		*ours = map[flowtable.Member]struct{}{}
	}
	(*ours)[m] = struct{}{}
}

// A plaint is the column error of a row.
type plaint struct {
	table, uuid string
	own         string // what is wrong with what it says
	refused     string // why the dataplane has not got it
	told        string // what the column has
}

// now is what the column should have.
func (p *plaint) now() string {
	if p.own != "" && p.refused != "" {
		return p.own + "; " + p.refused
	}
	return p.own + p.refused
}

// complain notes that a row's error may have changed.
func (b *Book) complain(p *plaint) {
	if p.now() != p.told {
		b.errors[p] = struct{}{}
		return
	}
	delete(b.errors, p)
}

// An addressSet is a row of Address_Set.
type addressSet struct {
	plaint
	name    string
	texts   map[string]address // elements that are addresses
	bad     map[string]error   // those that are not
	objects map[uint8]*object  // by width
}

func (s *addressSet) title() string { return s.name }

// SetAddressSet takes a row of Address_Set that is new or has changed.
func (b *Book) SetAddressSet(row *flowmodel.AddressSet, fresh bool) {
	s := b.sets.rows[row.UUID]
	if s == nil || s.name != row.Name {
		b.DropAddressSet(row.UUID)
		s = &addressSet{plaint: plaint{table: flowmodel.AddressSetTable, uuid: row.UUID}, name: row.Name, texts: map[string]address{}, bad: map[string]error{}}
		fresh = true
		b.sets.put(row.UUID, s)
		b.touch(refSet, row.Name)
	}
	if fresh {
		s.told = textOf(row.Error)
	}
	s.update(b, row.Addresses)
	b.complain(&s.plaint)
}

// DropAddressSet forgets a row.
func (b *Book) DropAddressSet(uuid string) {
	if s := b.sets.drop(uuid); s != nil {
		delete(b.errors, &s.plaint)
		b.touch(refSet, s.name)
	}
}

// update gives the set its elements. What it has already costs a look.
func (s *addressSet) update(b *Book, texts []string) {
	now := make(map[string]struct{}, len(texts))
	for _, t := range texts {
		now[t] = struct{}{}
		if _, had := s.texts[t]; had {
			continue
		}
		if s.bad[t] != nil {
			continue
		}
		a, err := parseAddress(t)
		if err != nil {
			s.bad[t] = err
			continue
		}
		s.texts[t] = a
		s.each(b, &a, (*object).put)
	}
	if len(now) < len(s.texts)+len(s.bad) {
		s.forget(b, now)
	}
	s.own = s.problem()
}

// forget takes away all elements but some.
func (s *addressSet) forget(b *Book, but map[string]struct{}) {
	for t, a := range s.texts {
		if _, stays := but[t]; !stays {
			delete(s.texts, t)
			s.each(b, &a, (*object).take)
		}
	}
	for t := range s.bad {
		if _, stays := but[t]; !stays {
			delete(s.bad, t)
		}
	}
}

// each does something with an address in the sets that it goes into.
func (s *addressSet) each(b *Book, a *address, do func(*object, *Book, flowtable.Member)) {
	for width := range s.objects {
		if o := s.live(b, width); o != nil {
			if m, ok := a.member(int(width)); ok {
				do(o, b, m)
			}
		}
	}
}

// live is the set's object of a width, if rules use it.
func (s *addressSet) live(b *Book, width uint8) *object {
	o := s.objects[width]
	if o == nil || b.objects[o.key] != o {
		delete(s.objects, width)
		return nil
	}
	return o
}

// problem says which elements are no addresses, and whether no match can name the set.
func (s *addressSet) problem() string {
	var list []string
	if !logical.IsName(s.name) {
		list = append(list, fmt.Sprintf("no match can name %q: names are letters, digits, _ and ., and begin with no digit", s.name))
	}
	for _, err := range s.bad {
		list = append(list, err.Error())
	}
	slices.Sort(list)
	const few = 5
	if n := len(list); n > few {
		list = append(list[:few], fmt.Sprintf("and %d more", n-few))
	}
	return strings.Join(list, "; ")
}

// fill gives a new object its members.
func (s *addressSet) fill(o *object) {
	if s.objects == nil {
		s.objects = map[uint8]*object{}
	}
	s.objects[o.set.Width], o.row = o, &s.plaint
	o.members = make(map[flowtable.Member]int, len(s.texts))
	for _, a := range s.texts {
		if m, ok := a.member(int(o.set.Width)); ok {
			o.members[m]++
		}
	}
}

// A portGroup is a row of Port_Group.
type portGroup struct {
	name   string
	ports  []string
	object *object // nil if no rule uses it
	uses   []use
}

func (g *portGroup) title() string { return g.name }

// outdated implements user: a port has come, gone, or has another number.
func (g *portGroup) outdated(b *Book) { b.moved[g] = struct{}{} }

// moved implements user.
func (g *portGroup) moved(to *users, from, at int) { moves(g.uses, to, from, at) }

// become makes ports the ones of the group.
func (g *portGroup) become(b *Book, ports []string) {
	for len(g.uses) > 0 {
		last := len(g.uses) - 1
		x := g.uses[last]
		g.uses = g.uses[:last]
		b.forget(x)
	}
	g.ports = ports
	for _, p := range ports {
		g.uses = append(g.uses, b.depend(g, refPort, p))
	}
}

// SetPortGroup takes a row of Port_Group that is new or has changed.
func (b *Book) SetPortGroup(row *flowmodel.PortGroup) {
	g := b.members.rows[row.UUID]
	if g == nil || g.name != row.Name {
		b.DropPortGroup(row.UUID)
		g = &portGroup{name: row.Name}
		b.members.put(row.UUID, g)
		b.touch(refPortGroup, row.Name)
	}
	g.become(b, row.Ports)
	b.moved[g] = struct{}{}
}

// DropPortGroup forgets a row.
func (b *Book) DropPortGroup(uuid string) {
	g := b.members.drop(uuid)
	if g == nil {
		return
	}
	g.become(b, nil)
	delete(b.moved, g)
	b.touch(refPortGroup, g.name)
}

// fill gives a new object its members: the ports that there are.
func (g *portGroup) fill(b *Book, o *object) {
	g.object = o
	o.members = g.numbers(b)
}

// numbers are the numbers of the ports of the group that there are.
func (g *portGroup) numbers(b *Book) map[flowtable.Member]int {
	out := make(map[flowtable.Member]int, len(g.ports))
	for _, name := range g.ports {
		if p, ok := b.ports[name]; ok {
			out[flowtable.Member{Low: uint64(p.number), MaskLow: 1<<32 - 1}] = 1
		}
	}
	return out
}

// resync gives the group's set the ports that there are now.
func (b *Book) resync(g *portGroup) {
	o := g.object
	if o == nil || b.objects[o.key] != o {
		g.object = nil
		return
	}
	now := g.numbers(b)
	for m := range o.members {
		if now[m] == 0 {
			o.take(b, m)
		}
	}
	for m := range now {
		if o.members[m] == 0 {
			o.put(b, m)
		}
	}
}
