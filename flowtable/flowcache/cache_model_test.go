package flowcache

import (
	"math/rand/v2"
	"slices"
	"testing"

	"millrace/flowtable"
)

// A cacheModel drives a cache with operations made from bytes, and holds its
// answers against a list of what was ever said to be true. It is too simple to
// be wrong: a cache may forget, but what it answers must have been installed
// for a key that agrees in all bits of the mask, and not have been taken back.
type cacheModel struct {
	t       testing.TB
	c       *Cache
	cells   *Cells
	plans   []*Plan
	facts   []fact
	counted [2]uint64 // packets and bytes counted
	retired [2]uint64 // packets and bytes that the cache has told of
	lookups int
	hits    int
	data    []byte
	epoch   uint16
	spread  int // keys come from spread * spread values
}

// A fact is a composed program that was installed, for all keys of a plan that
// agree with key in the bits of mask.
type fact struct {
	plan int
	wide bool
	mask flowtable.Key
	key  flowtable.Key
	comp flowtable.Composed
}

// modelPlans is how many ports a model has.
const modelPlans = 3

// newCacheModel makes a model over a cache of about size entries of each kind.
func newCacheModel(t testing.TB, size int, data []byte) *cacheModel {
	m := &cacheModel{t: t, data: data, spread: 16}
	if size <= 64 {
		m.spread = 6
	}
	o := CacheOptions{Exact: size, ExactWide: size, Wild: size, WildWide: size, Seen: size, ProgramBytes: 128 * size, Masks: 3, Idle: 4,
		Secrets: testSecrets()}
	m.c, m.cells = newTestCache(t, o, func(_ uint64, _ []uint32, packets, bytes uint64) {
		m.retired[0] += packets
		m.retired[1] += bytes
	})
	m.c.SetPatcher(onePatch{})
	if _, err := m.cells.AllocRun(8); err != nil {
		t.Fatal(err)
	}
	for range modelPlans {
		m.plans = append(m.plans, newTestPlan(t, m.c))
	}
	return m
}

// testSecrets returns secrets that are the same in each run.
func testSecrets() *Secrets {
	r := rand.New(rand.NewPCG(3, 4))
	s := &Secrets{}
	for i := range s {
		s[i] = r.Uint64()
	}
	return s
}

// next returns the next byte modulo n, 0 at the end.
func (m *cacheModel) next(n int) int {
	if len(m.data) == 0 {
		return 0
	}
	b := m.data[0]
	m.data = m.data[1:]
	return int(b) % n
}

// run does all operations, checking the cache's books now and then and at the end.
func (m *cacheModel) run() {
	for i := 0; len(m.data) > 0; i++ {
		m.step()
		if i%64 == 0 {
			checkCache(m.t, m.c)
		}
	}
	checkCache(m.t, m.c)
	m.c.Flush()
	checkCache(m.t, m.c)
	if u := m.c.Usage(); u.Programs != 0 || u.Entries != [kinds]int{} {
		m.t.Errorf("after a flush: %+v", u)
	}
	if m.retired != m.counted {
		m.t.Errorf("rules were told of %v packets and bytes, counted were %v", m.retired, m.counted)
	}
}

// step does one operation.
func (m *cacheModel) step() {
	switch op := m.next(16); {
	case op < 7:
		m.lookup()
	case op < 12:
		m.install(op == 11)
	case op == 12:
		m.cells.Move(flowtable.Cell(1 + m.next(8)))
	case op == 13:
		m.epoch += uint16(m.next(2))
		m.c.Upkeep(m.epoch, m.next(64))
	case op == 14:
		m.remove()
	default:
		m.rare()
	}
}

// rare does what happens seldom.
func (m *cacheModel) rare() {
	switch i := m.next(modelPlans); m.next(8) {
	case 0:
		full := fullMask()
		if err := m.c.SetExact(m.plans[i], &full); err != nil {
			m.t.Fatal(err)
		}
	case 1:
		m.c.ClosePlan(m.plans[i])
		m.facts = slices.DeleteFunc(m.facts, func(f fact) bool { return f.plan == i })
		m.plans[i] = newTestPlan(m.t, m.c)
	case 2:
		m.plans[i].narrow.exactFirst, m.plans[i].wide.exactFirst = true, true
	}
}

// key makes one of a few keys, which agree with others in many words.
func (m *cacheModel) key(plan int, wide bool) (k flowtable.Key) {
	a, b := m.next(m.spread), m.next(m.spread)
	k[flowtable.WordIn] = uint64(plan+1)<<32 | 0x0800
	k[flowtable.WordSrc] = uint64(a & 3)
	k[flowtable.WordIP4] = uint64(a >> 2)
	k[flowtable.WordL4] = uint64(b&3) << 48
	k[flowtable.WordTunnel] = uint64(b >> 2)
	if wide {
		k[flowtable.WordIP6Src], k[flowtable.WordNDLow] = uint64(a), uint64(b)
	}
	return k
}

// mask makes one of 64 masks.
func (m *cacheModel) mask() (k flowtable.Key) {
	bits := m.next(64)
	for i, word := range [6]int{flowtable.WordSrc, flowtable.WordIP4, flowtable.WordL4, flowtable.WordTunnel, flowtable.WordIP6Src, flowtable.WordNDLow} {
		if bits>>i&1 != 0 {
			k[word] = ^uint64(0)
		}
	}
	return k
}

// composed makes a program.
func (m *cacheModel) composed() flowtable.Composed {
	comp := flowtable.Composed{Mask: m.mask(), Drop: uint32(m.next(3))}
	ops := m.next(5)
	if m.next(16) == 0 {
		ops = 40 * ops
	}
	for range m.next(3) {
		comp.Ops = append(comp.Ops, flowtable.Op{Code: flowtable.OpCT, Value: 1<<40 | 1<<31, Arg: uint32(m.next(3))})
	}
	if m.next(3) == 0 {
		comp.Ops = append(comp.Ops, flowtable.Op{Code: flowtable.OpSet, Word: uint8(m.next(2)), Value: 1, Mask: uint64(m.next(8))})
		ops = min(ops, m.next(3))
	}
	for i := range ops {
		comp.Ops = append(comp.Ops, flowtable.Op{Code: flowtable.OpOutput, Arg: uint32(i + m.next(2))})
	}
	for range m.next(8) {
		cell := flowtable.Cell(1 + m.next(8))
		comp.Guards = append(comp.Guards, flowtable.Guard{Cell: cell, Want: m.cells.Load(cell)})
	}
	for range m.next(4) {
		comp.Rules = append(comp.Rules, uint32(m.next(8)))
	}
	return comp
}

// look looks up up to 64 keys, all of which were made before.
func (m *cacheModel) look(plan int, wide bool, keys []flowtable.Key) [BatchMax]uint32 {
	var out [BatchMax]uint32
	var narrow [BatchMax]NarrowKey
	var full [BatchMax]flowtable.Key
	for i := range keys {
		full[i] = keys[i]
		copy(narrow[i][:], keys[i][:flowtable.NarrowWords])
	}
	before := m.c.Stats().Probes
	if wide {
		m.c.LookupWide(&full, len(keys), m.plans[plan], &out)
	} else {
		m.c.Lookup(&narrow, len(keys), m.plans[plan], &out)
	}
	if probes := m.c.Stats().Probes - before; probes > uint64(len(keys)*(m.c.options.Masks+1)) {
		m.t.Errorf("%d probes for %d keys with %d masks", probes, len(keys), m.c.options.Masks)
	}
	return out
}

// lookup looks up some keys and checks each answer.
func (m *cacheModel) lookup() {
	plan, wide := m.next(modelPlans), m.next(3) == 0
	keys := make([]flowtable.Key, m.next(BatchMax+1))
	if len(keys) > 8 && m.next(4) != 0 {
		keys = keys[:8]
	}
	for i := range keys {
		if i > 0 && m.next(4) == 0 {
			keys[i] = keys[i-1]
			continue
		}
		keys[i] = m.key(plan, wide)
	}
	out := m.look(plan, wide, keys)
	var lens [BatchMax]uint32
	for i := range keys {
		m.lookups++
		lens[i] = uint32(60 + i)
		if m.check(plan, wide, &keys[i], out[i]) {
			m.hits++
			m.counted[0]++
			m.counted[1] += uint64(lens[i])
		}
	}
	if m.next(2) == 0 {
		m.install(false) // a miss of the same turn, whose entry may take the place of a hit's
	}
	for i := range keys {
		if out[i] != 0 && m.c.programs.at(out[i]&^Stale).flags&inUse == 0 {
			m.t.Fatalf("program %d was freed under the batch that found it", out[i])
		}
	}
	m.c.Count(&out, &lens, len(keys))
	h := m.c.programs.at(0)
	h.Packets, h.Bytes = 0, 0
}

// check holds an answer against the facts, and reports whether it was a hit.
func (m *cacheModel) check(plan int, wide bool, key *flowtable.Key, result uint32) bool {
	if result == 0 {
		return false
	}
	stale := false
	guards := m.c.Guards(nil, result)
	for _, g := range guards {
		stale = stale || m.cells.Load(g.Cell) != g.Want
	}
	if stale != (result&Stale != 0) {
		m.t.Errorf("result %#x: guards %v, stale %v", result, guards, stale)
	}
	for i := range m.facts {
		f := &m.facts[i]
		if f.plan == plan && f.wide == wide && f.agrees(key) && m.same(&f.comp, result) {
			return true
		}
	}
	m.t.Fatalf("key %x of plan %d, wide %v: program %+v %v was never installed for it", key, plan, wide, m.c.Program(result), m.c.Ops(result))
	return false
}

// agrees reports whether a key is one of those that a fact is about.
func (f *fact) agrees(key *flowtable.Key) bool {
	for i := range key {
		if (key[i]^f.key[i])&f.mask[i] != 0 {
			return false
		}
	}
	return true
}

// onePatch makes programs ready whose only change is to word 1.
type onePatch struct{}

func (onePatch) Compile(ops []flowtable.Op, to *Patch) bool {
	*to = Patch{ops[0].Value, PatchWords - 1: ops[0].Mask}
	return len(ops) == 1 && ops[0].Code == flowtable.OpSet && ops[0].Word == 1
}

func (onePatch) Ops(p *Patch, ops []flowtable.Op) []flowtable.Op {
	return append(ops, flowtable.Op{Code: flowtable.OpSet, Word: 1, Value: p[0], Mask: p[PatchWords-1]})
}

// kindOf says what is to be the code and argument of a program.
func kindOf(comp *flowtable.Composed) (code uint8, arg uint32) {
	ops := slices.DeleteFunc(slices.Clone(comp.Ops), func(op flowtable.Op) bool { return op.Code == flowtable.OpCT })
	switch n := len(ops); {
	case n == 0:
		return ProgramDrop, comp.Drop
	case n == 1 && ops[0].Code == flowtable.OpOutput:
		return ProgramOutput, ops[0].Arg
	case n == 2 && ops[0].Code == flowtable.OpSet && ops[0].Word == 1 && ops[1].Code == flowtable.OpOutput:
		return ProgramPatch, ops[1].Arg
	}
	return ProgramOps, comp.Drop
}

// same reports whether a result's program has comp's content.
func (m *cacheModel) same(comp *flowtable.Composed, result uint32) bool {
	h := m.c.Program(result)
	code, arg := kindOf(comp)
	return h.Code == code && h.Arg == arg && slices.Equal(comp.Ops, m.c.recompose(result&^Stale).Ops) &&
		slices.Equal(comp.Rules, m.c.Rules(result)) && slices.Equal(comp.Guards, m.c.Guards(nil, result))
}

// install installs a program for a key, and looks whether it is found at once.
func (m *cacheModel) install(replace bool) {
	plan, wide := m.next(modelPlans), m.next(3) == 0
	key := m.key(plan, wide)
	since := m.cells.Changes()
	comp := m.composed()
	if !wide {
		clear(comp.Mask[flowtable.NarrowWords:])
	}
	if m.next(16) == 0 {
		m.cells.Move(1)
	}
	do := m.c.Install
	if replace {
		do = m.c.Replace
	}
	off, result := do(m.plans[plan], &key, wide, &comp, since)
	if (off != 0) != (result == Installed) || (result == Changed) != (since != m.cells.Changes()) {
		m.t.Fatalf("installed as %d: %v", off, result)
	}
	if result != Installed {
		return
	}
	mask := comp.Mask
	mask[flowtable.WordIn] |= inPortBits
	m.facts = append(m.facts, fact{plan, wide, mask, key, comp})
	if out := m.look(plan, wide, []flowtable.Key{key}); !m.check(plan, wide, &key, out[0]) {
		m.t.Fatalf("a key that was installed a moment ago is not found: program %d of %+v, result %#x, plan %+v", off, comp, out[0], m.plans[plan])
	}
	if n := max(m.plans[plan].narrow.n, m.plans[plan].wide.n); n > m.c.options.Masks {
		m.t.Fatalf("%d masks, at most %d are allowed", n, m.c.options.Masks)
	}
}

// remove takes a key out: by Remove, by Kill, or by Refresh if it is stale.
func (m *cacheModel) remove() {
	plan, wide := m.next(modelPlans), m.next(3) == 0
	key := m.key(plan, wide)
	result := m.look(plan, wide, []flowtable.Key{key})[0]
	switch how := m.next(3); {
	case result&Stale != 0 && how != 0:
		m.refresh(plan, wide, &key, result)
	case result != 0 && how == 1:
		m.facts = slices.DeleteFunc(m.facts, func(f fact) bool { return m.same(&f.comp, result) })
		m.c.Kill(result)
	default:
		m.c.Remove(m.plans[plan], &key, wide)
		if out := m.look(plan, wide, []flowtable.Key{key}); out[0] != 0 {
			m.t.Errorf("a key that was removed is found")
		}
	}
}

// refresh says that a stale result is right after all.
func (m *cacheModel) refresh(plan int, wide bool, key *flowtable.Key, result uint32) {
	guards := m.c.Guards(nil, result)
	wants := make([]uint32, len(guards))
	for i := range guards {
		wants[i] = m.cells.Load(guards[i].Cell)
		guards[i].Want = wants[i]
	}
	for _, f := range slices.Clone(m.facts) {
		if f.plan == plan && f.wide == wide && f.agrees(key) && m.same(&f.comp, result) {
			f.comp.Guards = guards
			m.facts = append(m.facts, f)
		}
	}
	off := m.c.Refresh(m.plans[plan], key, wide, result, wants)
	if off == 0 {
		return
	}
	if out := m.look(plan, wide, []flowtable.Key{*key}); out[0] == 0 {
		m.t.Errorf("a key that was refreshed is not found")
	}
}

// checkCache counts everything anew and compares with the cache's books.
func checkCache(t testing.TB, c *Cache) {
	t.Helper()
	refs := map[uint32]uint32{}
	users := make([]int, len(c.masks))
	for kind, tab := range c.tables {
		checkTable(t, c, tab, refs, users)
		active := 0
		for _, p := range c.plans {
			if p != nil && p.counts[kind] > 0 {
				active++
			}
		}
		if active != tab.active {
			t.Errorf("table %d: %d plans have entries, counted were %d", kind, active, tab.active)
		}
	}
	for _, p := range c.plans {
		if p == nil {
			continue
		}
		for _, l := range [2]*probes{&p.narrow, &p.wide} {
			for i := range l.list[:l.n] {
				users[l.list[i].mask]++
				if l.list[i].entries == 0 {
					t.Errorf("plan %d probes mask %d, which has no entries", p.id, l.list[i].mask)
				}
			}
		}
		if !p.closed {
			users[p.exact[0]]++
			users[p.exact[1]]++
		}
	}
	for id := 1; id < len(users); id++ {
		if users[id] != c.masks[id].users {
			t.Errorf("mask %d has %d users, counted were %d", id, users[id], c.masks[id].users)
		}
	}
	checkPrograms(t, c.programs, refs)
}

// checkTable checks one table, and counts who refers to programs and masks.
func checkTable(t testing.TB, c *Cache, tab *table, refs map[uint32]uint32, users []int) {
	t.Helper()
	used := 0
	displaced := make([]uint16, tab.size())
	counts := map[uint16]int{}
	for b := range uint64(tab.size()) {
		e := tab.at(b)
		if e.id == 0 {
			if *tab.tag(b)&tagUsed != 0 {
				t.Errorf("table %d: free bucket %d has tag %#x", tab.kind, b, *tab.tag(b))
			}
			continue
		}
		used++
		refs[e.program()]++
		users[e.mask()]++
		counts[e.plan]++
		hash := c.hashAt(tab, b)
		if (*tab.tag(b)^tagOf(hash))&^tagDisplaced != 0 {
			t.Errorf("table %d: bucket %d has tag %#x, want %#x", tab.kind, b, *tab.tag(b), tagOf(hash))
		}
		switch first, second := tab.buckets(hash); b {
		case first:
		case second:
			displaced[first]++
		default:
			t.Errorf("table %d: entry of buckets %d and %d lies in %d", tab.kind, first, second, b)
		}
	}
	for b, n := range displaced {
		if tab.at(uint64(b)).displaced != n || (*tab.tag(uint64(b))&tagDisplaced != 0) != (n > 0) {
			t.Errorf("table %d: bucket %d says that %d are displaced (tag %#x), counted were %d", tab.kind, b, tab.at(uint64(b)).displaced, *tab.tag(uint64(b)), n)
		}
	}
	if used != tab.used {
		t.Errorf("table %d: %d entries, counted were %d", tab.kind, tab.used, used)
	}
	for id, n := range counts {
		if p := c.plans[id]; p == nil || p.counts[tab.kind] != n {
			t.Errorf("table %d: plan %d (%v) has %d entries", tab.kind, id, p != nil, n)
		}
	}
}

// checkPrograms checks that just the programs that entries refer to are in use.
func checkPrograms(t testing.TB, a *programs, refs map[uint32]uint32) {
	t.Helper()
	live := 0
	for from, more := uint32(0), true; more; {
		var off uint32
		off, from = a.nextFrom(from, 1)
		more = from != 0
		if off == 0 {
			continue
		}
		live++
		if a.at(off).refs == 0 && a.at(off).flags&limbo != 0 {
			refs[off] = 0
		}
		if refs[off] != a.at(off).refs {
			t.Errorf("program %d has %d references, counted were %d", off, a.at(off).refs, refs[off])
		}
	}
	if live != len(refs) || live != a.live {
		t.Errorf("%d programs, entries lead to %d, counted were %d", a.live, len(refs), live)
	}
}

// TestCacheDifferential runs random operations on caches from tiny to roomy.
func TestCacheDifferential(t *testing.T) {
	for _, size := range []int{4, 16, 64, 1024} {
		hits, lookups := 0, 0
		for seed := range uint64(6) {
			r := rand.New(rand.NewPCG(uint64(size), seed))
			data := make([]byte, 60000)
			for i := range data {
				data[i] = byte(r.Uint32())
			}
			m := newCacheModel(t, size, data)
			m.run()
			hits, lookups = hits+m.hits, lookups+m.lookups
			if t.Failed() {
				t.Fatalf("size %d, seed %d", size, seed)
			}
		}
		if hits*20 < lookups {
			t.Errorf("size %d: %d of %d lookups hit: too few to show anything", size, hits, lookups)
		}
		t.Logf("size %d: %d of %d lookups hit", size, hits, lookups)
	}
}

// FuzzCache makes operations of bytes.
func FuzzCache(f *testing.F) {
	f.Add(uint8(4), []byte{7, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 1, 2})
	r := rand.New(rand.NewPCG(1, 2))
	for _, size := range []uint8{4, 200} {
		data := make([]byte, 4000)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		f.Add(size, data)
	}
	f.Fuzz(func(t *testing.T, size uint8, data []byte) {
		if len(data) > 1<<16 {
			t.Skip("longer than what one execution can do in time")
		}
		newCacheModel(t, int(size), data).run()
	})
}
