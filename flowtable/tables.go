package flowtable

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// Options of Tables.
type Options struct {
	// Reserve is how many bytes of addresses the tables may fill; memory is
	// taken as it is needed. Zero means 32 GiB, which is also the most.
	Reserve uint64
	// RulesMax is how many rules there can be. Zero means 16 million, the most.
	RulesMax int
	// Cells is where guard cells are. Nil means an array of the tables' own.
	Cells CellBank
	// PathsMax is how many paths are told apart; the programs of further ones
	// are checked again at each change. Zero means 4096.
	PathsMax int
	// CellsPerPath is how many cells the programs of a path are spread over, a
	// power of two. Zero means 64.
	CellsPerPath int
}

// never is the version in which what is in force went.
const never = ^uint64(0)

// Tables are all rules and what belongs to them. One writer at a time changes
// them (Begin); any number of Walkers reads meanwhile, without locks.
//
// What a reader sees carries two versions: added, in which it came, and removed,
// in which it went. A reader at version v sees what has added <= v < removed.
// The writer prepares everything with version v+1 and then stores v+1. What it
// unlinks, it frees only when every walker has been quiet since.
type Tables struct {
	mu      sync.Mutex // held by the transaction, and while Tables are dumped
	mem     *arena
	handles *arena // one word a handle: generation (32..39), next free (0..31)
	freeTop uint32 // head of the free handles
	seed    seed

	version atomic.Uint64
	epoch   atomic.Uint64 // counts grace periods; walkers say which one they are in
	changes atomic.Uint64 // odd while a commit takes effect

	ids     index // rule id -> rule, also removed ones
	sets    index // set id -> set
	members index // set, mask, value -> member
	values  index // domain, mask, value -> members, linked
	uses    index // set, rule set, field -> use
	dps     index // datapath -> datapath
	groups  index // group id -> group
	objects index // kind, id -> object
	domains uint32

	walkers       []*Walker
	dead          queue   // blocks unlinked since the last grace period began
	gone          queue   // what transactions removed since then, still linked
	waiting       []batch // until the walkers were quiet
	log           *changeLog
	paths         *pathTable
	pending       pending
	selectWritten Key // bits that actions of select groups write; changed with atomic stores

	unsorted map[uint32]struct{} // rule sets whose lists of subtables are to be sorted

	rules   int    // in force or prepared
	drawn   uint64 // heights of towers so far
	settled uint64 // no walker uses a version before this one
}

// New returns empty tables. Close gives their memory back.
func New(o Options) (*Tables, error) {
	if o.Reserve == 0 {
		o.Reserve = 32 << 30
	}
	mem, err := newArena(o.Reserve)
	if err != nil {
		return nil, fmt.Errorf("flow table: %w", err)
	}
	handles, err := newArena(uint64(handlesFor(o.RulesMax)) * 8)
	if err != nil {
		return nil, fmt.Errorf("flow table: %w", err)
	}
	t := &Tables{mem: mem, handles: handles, seed: newSeed(), log: newChangeLog(), unsorted: map[uint32]struct{}{}}
	if t.paths, err = newPathTable(o); err != nil {
		return nil, fmt.Errorf("flow table: %w", err)
	}
	for _, x := range []*index{&t.ids, &t.sets, &t.members, &t.values, &t.uses, &t.dps, &t.groups, &t.objects} {
		*x = index(mem.allocZero(memClassifier, rootWords))
	}
	t.domains = mem.allocZero(memSets, domainsMax)
	if t.domains == 0 {
		return nil, fmt.Errorf("flow table: reserve %d bytes: %w", o.Reserve, ErrFull)
	}
	t.version.Store(1)
	return t, nil
}

// Close frees the memory. No walker and no transaction may be left.
func (t *Tables) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range []*arena{t.mem, t.handles} {
		if err := a.mem.release(); err != nil {
			return fmt.Errorf("free flow table: %w", err)
		}
		a.words = nil
	}
	return nil
}

// Version returns the version in force.
func (t *Tables) Version() uint64 { return t.version.Load() }

// Rules returns how many rules are in force.
func (t *Tables) Rules() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rules
}

// Usage returns what the tables take outside the Go heap.
func (t *Tables) Usage() []Usage {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append(t.mem.usage(), Usage{"handles", t.handles.next * 8})
}

// visible reports whether what came in version added and went in removed is
// there in version v.
func visible(v, added, removed uint64) bool { return added <= v && v < removed }
