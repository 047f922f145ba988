package flows

import (
	"maps"

	"millrace/control/logical"
	"millrace/flowtable"
)

// A Book has the rows, what they make together with bridges and ports, and what
// of that the dataplane has already. One goroutine owns it.
type Book struct {
	at      [logical.NumFields]flowtable.Field
	symbols *logical.Symbols
	clauses *logical.Compiler
	parsed  map[string]list                   // some texts come again and again
	lowered map[loweredKey][]flowtable.Action // as of the bridges
	digest  digester

	bridges map[string]*Bridge
	ports   map[string]port
	flows   map[string]*flow // by UUID, as all rows
	sets    index[*addressSet]
	members index[*portGroup]
	meters  index[*meterRow]
	groups  index[*groupRow]
	buckets map[string]*bucketRow
	holders map[string][]*groupRow // of each bucket, whether it is there or not

	users     map[ref]*users
	pass      uint64         // counts rows that were compiled
	dirty     pending[*flow] // to be compiled
	moved     map[*portGroup]struct{}
	ungrouped map[*groupRow]struct{} // groups whose buckets are to be read

	rules   map[flowtable.RuleID]*rule
	adding  pending[*rule]                         // wanted, and neither in force nor refused
	leaving map[flowtable.RuleID]struct{}          // in force, and not wanted
	objects map[objectKey]*object                  // wanted
	taken   map[objectID]*object                   // objects by number
	changed map[*object]struct{}                   // the dataplane has something else, or nothing
	strays  map[objectID]stray                     // in the dataplane, and not wanted
	stuck   map[objectID]struct{}                  // those that could not be removed
	refused map[interface{ again(*Book) }]struct{} // what the dataplane has refused

	unsettled pending[*flow] // whose status may be another
	news      pending[*flow] // whose row does not say what it should
	errors    map[*plaint]struct{}
	tally     Tally
	assume    *Checker // whatever rows refer to is there; nil: it is looked up
}

// A Bridge is what rows of Flow can refer to, of a bridge that the dataplane has
// and that runs them.
type Bridge struct {
	FDB   uint32            // number of its forwarding database
	Flood uint32            // number of the list of all its ports
	Ports map[string]uint32 // numbers
}

// A port is where a port is.
type port struct {
	bridge string
	number uint32
}

// NewBook returns a book without rows, for a dataplane that has nothing.
func NewBook() *Book {
	return &Book{
		at: places(), symbols: logical.NewSymbols(), clauses: logical.NewCompiler(logical.Options{MaxClauses: rulesMax, SplitSets: splitMax}),
		parsed: map[string]list{}, lowered: map[loweredKey][]flowtable.Action{}, bridges: map[string]*Bridge{}, ports: map[string]port{}, flows: map[string]*flow{},
		sets: newIndex[*addressSet](), members: newIndex[*portGroup](), meters: newIndex[*meterRow](), groups: newIndex[*groupRow](),
		buckets: map[string]*bucketRow{}, holders: map[string][]*groupRow{}, users: map[ref]*users{}, moved: map[*portGroup]struct{}{},
		rules: map[flowtable.RuleID]*rule{}, leaving: map[flowtable.RuleID]struct{}{},
		objects: map[objectKey]*object{}, taken: map[objectID]*object{}, changed: map[*object]struct{}{}, strays: map[objectID]stray{}, stuck: map[objectID]struct{}{},
		refused: map[interface{ again(*Book) }]struct{}{}, errors: map[*plaint]struct{}{}, ungrouped: map[*groupRow]struct{}{},
	}
}

// Kinds of ref.
const (
	refPort = iota
	refSet
	refPortGroup
	refMeter
	refGroup
)

// A ref is a name that a row depends on.
type ref struct {
	kind uint8
	name string
}

// A user depends on names.
type user interface {
	// outdated notes that a name has come, gone or changed.
	outdated(b *Book)
	// moved notes that the user is at another place of a list.
	moved(to *users, from, at int)
}

// users are those of one name, in no order.
type users struct {
	ref  ref
	list []user
}

// A use is a place in a list of users.
type use struct {
	of *users
	at int
}

// depend notes that u depends on a name, and returns where.
func (b *Book) depend(u user, kind uint8, name string) use {
	r := ref{kind, name}
	l := b.users[r]
	if l == nil {
		l = &users{ref: r}
		b.users[r] = l
	}
	l.list = append(l.list, u)
	return use{l, len(l.list) - 1}
}

// forget takes that back: the last of the list takes the place.
func (b *Book) forget(x use) {
	l := x.of
	last := len(l.list) - 1
	if x.at != last {
		l.list[x.at] = l.list[last]
		l.list[x.at].moved(l, last, x.at)
	}
	l.list[last] = nil
	l.list = l.list[:last]
	if last == 0 {
		delete(b.users, l.ref)
	}
}

// moves corrects the uses of a user of whom one has moved.
func moves(uses []use, to *users, from, at int) {
	for i := range uses {
		if uses[i].of == to && uses[i].at == from {
			uses[i].at = at
			return
		}
	}
}

// touch has all users of a name look again.
func (b *Book) touch(kind uint8, name string) {
	if l := b.users[ref{kind, name}]; l != nil {
		for _, u := range l.list {
			u.outdated(b)
		}
	}
}

// touchBridge has all rows of a bridge look again.
func (b *Book) touchBridge(name string) {
	for _, f := range b.flows {
		if f.row.Bridge == name {
			f.outdated(b)
		}
	}
}

// SetBridges says which bridges there are that run rows of Flow. The book keeps
// the map.
func (b *Book) SetBridges(bridges map[string]*Bridge) {
	clear(b.lowered)
	for name, old := range b.bridges {
		if now := bridges[name]; now == nil || now.FDB != old.FDB || now.Flood != old.Flood {
			b.touchBridge(name)
		}
	}
	ports := make(map[string]port, len(b.ports))
	for name, now := range bridges {
		if b.bridges[name] == nil {
			b.touchBridge(name)
		}
		for p, n := range now.Ports {
			ports[p] = port{name, n}
		}
	}
	b.bridges = bridges
	if maps.Equal(ports, b.ports) {
		return
	}
	for name, old := range b.ports {
		if ports[name] != old {
			b.touch(refPort, name)
		}
	}
	for name := range ports {
		if _, had := b.ports[name]; !had {
			b.touch(refPort, name)
		}
	}
	b.ports = ports
}

// An index has rows by UUID and by name. A row that comes and one of the same
// name that goes may be told of in any order.
type index[T interface {
	comparable
	title() string
}] struct {
	rows   map[string]T
	byName map[string]T
}

func newIndex[T interface {
	comparable
	title() string
}]() index[T] {
	return index[T]{map[string]T{}, map[string]T{}}
}

// put notes a row, in place of old if that is not zero.
func (x *index[T]) put(uuid string, row T) {
	x.rows[uuid] = row
	x.byName[row.title()] = row
}

// drop forgets the row of a UUID and returns it; it is zero if there was none.
func (x *index[T]) drop(uuid string) T {
	row, ok := x.rows[uuid]
	if !ok {
		return row
	}
	delete(x.rows, uuid)
	if x.byName[row.title()] == row {
		delete(x.byName, row.title())
	}
	return row
}

// Empty reports whether the book has no rows.
func (b *Book) Empty() bool {
	return len(b.flows)+len(b.sets.rows)+len(b.members.rows)+len(b.meters.rows)+len(b.groups.rows)+len(b.buckets) == 0
}

// Retain forgets all rows but those that has says there are: after a lost
// connection, when those that there are have been taken.
func (b *Book) Retain(has func(uuid string) bool) {
	drop := func(uuid string, forget func(string)) {
		if !has(uuid) {
			forget(uuid)
		}
	}
	for uuid := range b.flows {
		drop(uuid, b.DropFlow)
	}
	for uuid := range b.sets.rows {
		drop(uuid, b.DropAddressSet)
	}
	for uuid := range b.members.rows {
		drop(uuid, b.DropPortGroup)
	}
	for uuid := range b.meters.rows {
		drop(uuid, b.DropMeter)
	}
	for uuid := range b.groups.rows {
		drop(uuid, b.DropGroup)
	}
	for uuid := range b.buckets {
		drop(uuid, b.DropBucket)
	}
}
