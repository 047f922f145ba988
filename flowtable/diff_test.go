package flowtable

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
)

// twin is tables and the model of them.
type twin struct {
	t       *testing.T
	c       chooser
	tab     *Tables
	w       *Walker
	m       *model
	next    RuleID
	kept    []program
	open    *Txn // that is being made
	full    bool // memory is to run out
	refused int  // calls for want of it
	crowd   bool // rules differ in predicates mostly

	walked, delivered, long int // packets; those delivered; by more than 3 rules
}

// program is a program as a cache keeps it.
type program struct {
	key, mask      Key
	ops            []Op
	lenMin, lenMax uint32
	guards         []Guard
	path           PathID
}

// newTwin returns tables with a first transaction in them.
func newTwin(t *testing.T, c chooser, changes int) *twin {
	tab, err := New(Options{Reserve: 16 << 20, PathsMax: 200})
	if err != nil {
		t.Fatal(err)
	}
	x := &twin{t: t, c: c, tab: tab, m: newModel(), next: 1}
	x.w = tab.NewWalker(SideTables{Lookup: func(fdb uint32, address, _ uint64) (uint32, Guard, bool) {
		port, ok := testFDB(fdb, address)
		return port, Guard{}, ok
	}})
	t.Cleanup(x.end)
	x.transact(true, changes)
	return x
}

// must fails the test on an error of a call that cannot fail.
func (x *twin) must(err error) {
	x.t.Helper()
	if err != nil {
		x.open.Abort() // or the walker's end waits for it
		x.t.Fatal(err)
	}
}

// ok reports whether a call was done. It may be refused if memory is to run
// out, else it fails the test.
func (x *twin) ok(err error) bool {
	x.t.Helper()
	if x.full && errors.Is(err, ErrFull) {
		x.refused++
		return false
	}
	x.must(err)
	return true
}

// end closes the tables, once, and forgets all: the test may have many more.
func (x *twin) end() {
	if x.tab == nil {
		return
	}
	x.w.Close()
	if err := x.tab.Close(); err != nil {
		x.t.Error(err)
	}
	*x = twin{}
}

// transact does a random transaction to both.
func (x *twin) transact(first bool, changes int) {
	m := x.m.clone()
	txn := x.tab.Begin()
	x.open = txn
	if first {
		x.found(txn, m)
	}
	for range changes {
		x.change(txn, m)
	}
	switch {
	case !first && x.c.n(8) == 0:
		txn.Abort()
		return
	case !first && x.c.n(8) == 0:
		_ = txn.Add(&Rule{})
		if _, err := txn.Commit(false); err == nil {
			x.t.Fatal("a transaction with a refused rule was committed")
		}
		return
	}
	if _, err := txn.Commit(true); x.ok(err) {
		x.m = m
	}
}

// found makes what rules refer to.
func (x *twin) found(txn *Txn, m *model) {
	for _, s := range testSets {
		x.must(txn.SetSet(s.Set, nil))
		m.decl[s.ID], m.sets[s.ID] = s.Set, map[Member]bool{}
	}
	x.must(txn.SetFlood(1, []uint32{1, 2}))
	x.must(txn.SetFlood(FloodPort|1, []uint32{1, 3}))
	x.must(txn.SetMeter(&Meter{ID: 1, Rate: 1}))
	for i := range 2 {
		s := randomSelect(x.c, SelectID(i+1))
		x.must(txn.SetSelect(&s))
		m.selects[s.ID] = s
		x.must(txn.SetGroup(GroupID(i+1), []uint64{1, uint64(i + 2)}))
		m.groups[GroupID(i+1)] = []uint64{1, uint64(i + 2)}
	}
	for i := range 3 {
		x.entry(txn, m, uint32(i+1))
	}
}

// entry sets the entry of a port.
func (x *twin) entry(txn *Txn, m *model, port uint32) {
	e := Entry{Port: port, Datapath: uint64(1 + x.c.n(3)), Inport: uint32(x.c.n(3)), Words: []Masked{{WordReg0, uint64(x.c.n(2)), 1}}}
	if x.ok(txn.SetEntry(&e)) {
		m.entries[port] = e
	}
}

// change makes one change in both.
func (x *twin) change(txn *Txn, m *model) {
	switch k := x.c.n(20); {
	case k < 10:
		r := x.rule(x.next * 7919 % 65537)
		x.next++
		if txn.Add(&r) == nil {
			if _, ok := m.rules[r.ID]; ok {
				x.t.Fatalf("rule %d was added twice", r.ID)
			}
			m.rules[r.ID] = r
		}
	case k < 14:
		if id, ok := x.someRule(m); ok {
			if x.ok(txn.Remove(id)) {
				delete(m.rules, id)
			}
		}
	case k < 15:
		if id, ok := x.someRule(m); ok {
			r := x.rule(id)
			if txn.Replace(&r) == nil {
				m.rules[id] = r
			}
		}
	case k < 17:
		s := testSets[x.c.n(len(testSets))].Set
		v := randomMember(x.c, s)
		if x.c.n(2) == 0 {
			if x.ok(txn.AddMembers(s.ID, v)) {
				m.sets[s.ID][v] = true
			}
		} else if x.ok(txn.DelMembers(s.ID, v)) {
			delete(m.sets[s.ID], v)
		}
	case k < 18:
		s := testSets[x.c.n(len(testSets))].Set
		var all []Member
		members := map[Member]bool{}
		for range x.c.n(4) {
			all = append(all, randomMember(x.c, s))
			members[all[len(all)-1]] = true
		}
		if x.ok(txn.SetSet(s, all)) {
			m.sets[s.ID] = members
		}
	case k < 19:
		g := GroupID(1 + x.c.n(2))
		if x.c.n(3) == 0 {
			if err := txn.RemoveGroup(g); err == nil {
				delete(m.groups, g)
				return
			}
		}
		var dps []uint64
		for dp := range uint64(4) {
			if x.c.n(2) == 0 {
				dps = append(dps, dp+1)
			}
		}
		if x.ok(txn.SetGroup(g, dps)) {
			m.groups[g] = dps
		}
	default:
		x.changeObject(txn, m)
	}
}

// rule returns a random rule.
func (x *twin) rule(id RuleID) Rule {
	if x.crowd {
		return crowdRule(x.c, id)
	}
	return randomRule(x.c, id)
}

// changeObject changes a select group or an entry.
func (x *twin) changeObject(txn *Txn, m *model) {
	if x.c.n(2) == 0 {
		s := randomSelect(x.c, SelectID(1+x.c.n(2)))
		if x.ok(txn.SetSelect(&s)) {
			m.selects[s.ID] = s
		}
		return
	}
	port := uint32(1 + x.c.n(4))
	if _, ok := m.entries[port]; ok && x.c.n(3) == 0 {
		if x.ok(txn.RemoveEntry(port)) {
			delete(m.entries, port)
		}
		return
	}
	x.entry(txn, m, port)
}

// someRule returns the id of one of the rules.
func (x *twin) someRule(m *model) (RuleID, bool) {
	ids := make([]RuleID, 0, len(m.rules))
	for id := range m.rules {
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return 0, false
	}
	slices.Sort(ids)
	return ids[x.c.n(len(ids))], true
}

// packet walks one packet, compares, and keeps its program.
func (x *twin) packet() {
	key, length := randomKey(x.c), uint32(x.c.n(4)*90)
	x.w.Ahead(&[AheadMax]Key{key}, 1, testCounters())
	p := x.w.Walk(&key, length, 0)
	got, want := replay(p.Ops, &key), x.m.walk(&key, length)
	if p.Drop == DropOps {
		return // the model does not count ops
	}
	if !slices.Equal(got, want) {
		x.t.Fatalf("packet %x length %d:\n got %s\nwant %s\nops %+v", key, length, show(got), show(want), p.Ops)
	}
	// A drop may still learn; OpLearn is then all that it does to anything.
	changes := slices.ContainsFunc(p.Ops, func(op Op) bool { return op.Code <= OpPopVLAN })
	if len(got) > 0 && p.Drop != 0 || len(got) == 0 && changes {
		x.t.Fatalf("drop reason %d with %d deliveries, ops %+v", p.Drop, len(got), p.Ops)
	}
	if !p.Cacheable {
		x.t.Fatal("a walk beside no transaction cannot be cached")
	}
	x.walked++
	if len(got) > 0 {
		x.delivered++
	}
	if len(p.Rules) > 3 {
		x.long++
	}
	k := program{key: key, mask: p.Mask, ops: slices.Clone(p.Ops), lenMin: p.LenMin, lenMax: p.LenMax,
		guards: slices.Clone(p.Guards), path: p.Path}
	x.siblings(&k, 2)
	if len(x.kept) < 300 {
		x.kept = append(x.kept, k)
		return
	}
	x.kept[x.c.n(len(x.kept))] = k
}

// siblings compares a program to the model for other packets that it stands
// for.
func (x *twin) siblings(p *program, n int) {
	x.t.Helper()
	for range n {
		key, length := randomKey(x.c), uint32(x.c.n(4)*90)
		for i := range key {
			key[i] = key[i]&^p.mask[i] | p.key[i]&p.mask[i]
		}
		if length < p.lenMin || length > p.lenMax {
			continue
		}
		got, want := replay(p.ops, &key), x.m.walk(&key, length)
		if !slices.Equal(got, want) {
			x.t.Fatalf("packet %x\nlike %x\nin   %x length %d:\n got %s\nwant %s\nops %+v", key, p.key, p.mask, length, show(got), show(want), p.ops)
		}
	}
}

// recheck does to kept programs what a cache does at a hit, and compares those
// that stay.
func (x *twin) recheck() (held, renewed, gone int) {
	kept := x.kept[:0]
	for _, p := range x.kept {
		ok := true
		for _, g := range p.guards {
			ok = ok && x.tab.paths.cells.Value(g.Cell) == g.Want
		}
		if ok {
			held++
		} else if guards, good := x.w.StillGood(&p.key, &p.mask, p.path, [2]Guard(p.guards)); good {
			renewed++
			copy(p.guards, guards[:])
		} else {
			gone++
			continue
		}
		x.siblings(&p, 1)
		kept = append(kept, p)
	}
	x.kept = kept
	return held, renewed, gone
}

func show(d []delivery) string {
	s := ""
	for _, v := range d {
		s += fmt.Sprintf("\n  %d flood %v %x %q", v.port, v.flood, v.key, v.tags)
	}
	return s
}

// packets returns how many packets the differential tests send: n, or what
// MILLRACE_DIFF_PACKETS says.
func packets(t *testing.T, n int) int {
	s := os.Getenv("MILLRACE_DIFF_PACKETS")
	if s == "" && raceOn {
		return n / 10
	}
	if s == "" {
		return n
	}
	v, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestDifferential(t *testing.T) {
	n := packets(t, 100_000)
	const perTables, perTxn = 4000, 40
	held, renewed, gone := 0, 0, 0
	walked, delivered, long := 0, 0, 0
	for s := range uint64((n + perTables - 1) / perTables) {
		t.Run(fmt.Sprint(s), func(t *testing.T) {
			x := newTwin(t, randChooser{rand.New(rand.NewPCG(s, 1))}, 120)
			for i := range perTables {
				x.packet()
				if i%perTxn == perTxn-1 {
					x.transact(false, 1+x.c.n(4))
					h, r, g := x.recheck()
					held, renewed, gone = held+h, renewed+r, gone+g
					x.w.Quiet()
				}
			}
			walked, delivered, long = walked+x.walked, delivered+x.delivered, long+x.long
		})
	}
	t.Logf("programs after transactions: %d held, %d renewed, %d gone", held, renewed, gone)
	t.Logf("packets: %d, delivered %d, by more than 3 rules %d", walked, delivered, long)
	if delivered < walked/10 || long < walked/20 {
		t.Errorf("%d of %d packets delivered, %d by more than 3 rules: too few", delivered, walked, long)
	}
	if held == 0 || renewed == 0 || gone == 0 {
		t.Errorf("held %d, renewed %d, gone %d: the test does not test all of them", held, renewed, gone)
	}
}

// FuzzTxn makes transactions and packets of bytes.
func FuzzTxn(f *testing.F) {
	for s := range uint64(8) {
		b := make([]byte, 1200)
		r := rand.New(rand.NewPCG(s, 2))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &byteChooser{b}
		x := newTwin(t, c, 40)
		for range 4 {
			for range 3 {
				x.packet()
			}
			x.transact(false, 1+c.n(6))
			x.recheck()
			x.w.Quiet()
		}
	})
}
