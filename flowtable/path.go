package flowtable

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// A CellBank is where guard cells are. The writer moves them, workers read them
// at each hit.
type CellBank interface {
	// Take gives out n cells that follow one another; the first is returned.
	Take(n int) (Cell, error)
	// Value returns what is in a cell.
	Value(c Cell) uint32
	// Move makes the value of a cell another one.
	Move(c Cell)
}

// flatCells is a CellBank that is an array.
type flatCells struct {
	words []atomic.Uint32
	next  Cell
}

// newFlatCells returns n cells.
func newFlatCells(n int) *flatCells { return &flatCells{words: make([]atomic.Uint32, n)} }

// Take, Value and Move do what CellBank says.
func (f *flatCells) Take(n int) (Cell, error) {
	if int(f.next)+n > len(f.words) {
		return 0, fmt.Errorf("take %d guard cells: %d of %d are taken", n, f.next, len(f.words))
	}
	c := f.next
	f.next += Cell(n)
	return c, nil
}

func (f *flatCells) Value(c Cell) uint32 { return f.words[c].Load() }
func (f *flatCells) Move(c Cell)         { f.words[c].Add(1) }

// A PathID names the regions that a walk came through: number of the path
// (0..31), and how many had the number before it (32..63).
type PathID uint64

// Cells of a path, from its first on.
const (
	cellAny    = iota // moves with every change of a region of the path
	cellGlobal        // moves with changes that concern packets of all buckets
	cellBucket        // and the next: moves with a change of packets of that bucket
)

// A path is a set of regions that some walks came through. Its programs are
// spread over buckets by bits of the key that no rule of its regions writes and that
// most of them match on: a rule that has all these bits concerns one bucket.
// It does not change after it was made.
type path struct {
	id      PathID
	hash    uint64
	cells   Cell
	regions []uint32 // in order, each once
	written Key      // bits that some action may have written
	spread  Key      // bits by which programs are spread; none: no buckets
	spreads bool
	dead    atomic.Bool
}

// regionsMax bounds the regions of all paths together.
const regionsMax = 1 << 20

// pathTable holds the paths. Path 0 is for walks that have none of their own: it
// is concerned by everything.
type pathTable struct {
	mu       sync.Mutex // of what follows but list, which is read without
	cells    CellBank
	moved    moveLog
	version  uint64 // of the transaction that is being put in force
	buckets  int
	list     []atomic.Pointer[path]
	bases    []Cell   // cells of each number, once it was used
	uses     []uint32 // how often a number was given out
	free     []uint32
	byHash   map[uint64]uint32
	byRegion map[uint32][]uint32
	regions  int // of all paths
}

// newPathTable returns a table with path 0 only.
func newPathTable(o Options) (*pathTable, error) {
	if o.PathsMax == 0 {
		o.PathsMax = 4096
	}
	if o.CellsPerPath == 0 {
		o.CellsPerPath = 64
	}
	if o.CellsPerPath&(o.CellsPerPath-1) != 0 {
		return nil, fmt.Errorf("%d cells a path are no power of two", o.CellsPerPath)
	}
	if o.Cells == nil {
		o.Cells = newFlatCells((o.PathsMax + 1) * (o.CellsPerPath + cellBucket))
	}
	p := &pathTable{cells: o.Cells, buckets: o.CellsPerPath, list: make([]atomic.Pointer[path], o.PathsMax+1),
		byHash: map[uint64]uint32{}, byRegion: map[uint32][]uint32{}}
	base, err := p.cells.Take(cellBucket)
	if err != nil {
		return nil, err
	}
	p.bases, p.uses = []Cell{base}, []uint32{0}
	p.list[0].Store(&path{cells: base})
	return p, nil
}

// get returns a path that is alive, or nil.
func (p *pathTable) get(id PathID) *path {
	n := uint32(id)
	if int(n) >= len(p.list) {
		return nil
	}
	q := p.list[n].Load()
	if q == nil || q.id != id || q.dead.Load() {
		return nil
	}
	return q
}

// number takes a free number, or returns 0.
func (p *pathTable) number() uint32 {
	if n := len(p.free); n > 0 {
		i := p.free[n-1]
		p.free = p.free[:n-1]
		return i
	}
	if len(p.bases) == len(p.list) {
		return 0
	}
	base, err := p.cells.Take(p.buckets + cellBucket)
	if err != nil {
		return 0
	}
	p.bases, p.uses = append(p.bases, base), append(p.uses, 0)
	return uint32(len(p.bases) - 1)
}

// intern returns the path with this hash of steps. If there is none yet, it is
// made by expand, which returns its regions and fills in the rest.
func (p *pathTable) intern(hash uint64, expand func(*path)) *path {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n, ok := p.byHash[hash]; ok {
		return p.list[n].Load()
	}
	q := &path{hash: hash}
	expand(q)
	if p.regions+len(q.regions) > regionsMax {
		return p.list[0].Load()
	}
	n := p.number()
	if n == 0 {
		return p.list[0].Load()
	}
	p.uses[n]++
	q.id, q.cells = PathID(n)|PathID(p.uses[n])<<32, p.bases[n]
	p.regions += len(q.regions)
	for _, r := range q.regions {
		p.byRegion[r] = append(p.byRegion[r], n)
	}
	p.byHash[hash] = n
	p.list[n].Store(q)
	return q
}

// kill ends a path: its programs are walked again.
func (p *pathTable) kill(n uint32) {
	q := p.list[n].Load()
	q.dead.Store(true)
	p.moveAll(q)
	for b := range p.buckets {
		p.cells.Move(q.cells + cellBucket + Cell(b))
	}
	delete(p.byHash, q.hash)
	for _, r := range q.regions {
		l := p.byRegion[r]
		if i := slices.Index(l, n); i >= 0 {
			l[i] = l[len(l)-1]
			p.byRegion[r] = l[:len(l)-1]
		}
		if len(p.byRegion[r]) == 0 {
			delete(p.byRegion, r)
		}
	}
	p.regions -= len(q.regions)
	p.free = append(p.free, n)
}

// moveAll moves what every program of the path has as a guard.
func (p *pathTable) moveAll(q *path) {
	p.moveCell(q.cells + cellAny)
	p.moveCell(q.cells + cellGlobal)
}

// apply moves the cells of all paths that changes concern, and kills those that
// cannot stay.
func (p *pathTable) apply(t *Tables, pend *pending) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(pend.list)+len(pend.all)+len(pend.kills) == 0 {
		return
	}
	p.version = t.version.Load()
	p.moveAll(p.list[0].Load())
	for r := range pend.kills {
		for l := p.byRegion[r]; len(l) > 0; l = p.byRegion[r] {
			p.kill(l[0])
		}
	}
	for r := range pend.all {
		for _, n := range p.byRegion[r] {
			p.moveAll(p.list[n].Load())
		}
	}
	for i := range pend.list {
		c := &pend.list[i]
		for _, n := range p.byRegion[c.region] {
			p.move(t, p.list[n].Load(), c)
		}
	}
}

// move moves the cells that a change of a region of the path concerns.
func (p *pathTable) move(t *Tables, q *path, c *change) {
	p.moveCell(q.cells + cellAny)
	if q.spreads {
		if key, ok := c.fixes(&q.spread); ok {
			p.moveCell(p.bucket(t, q, &key))
			return
		}
	}
	p.moveCell(q.cells + cellGlobal)
}

// moveCell moves a cell, and notes with which version its value went.
func (p *pathTable) moveCell(c Cell) {
	p.moved.add(Guard{c, p.cells.Value(c)}, p.version)
	p.cells.Move(c)
}

// bucket returns the cell of the packets like key. It mixes once more than there are words: of
// addresses that are counted up, some seeds would put every few into one bucket.
func (p *pathTable) bucket(t *Tables, q *path, key *Key) Cell {
	h := t.seed.start
	for w, m := range &q.spread {
		if m != 0 {
			h = t.seed.mix(h, key[w]&m)
		}
	}
	return q.cells + cellBucket + Cell(tagOf(t.seed.mix(h, 0))&uint32(p.buckets-1))
}

// guards returns the guards of a program for packets that agree with key in
// mask.
func (p *pathTable) guards(t *Tables, q *path, key, mask *Key) [2]Guard {
	if q.spreads {
		inside := true
		for w, m := range &q.spread {
			inside = inside && m&^mask[w] == 0
		}
		if inside {
			a, b := q.cells+cellGlobal, p.bucket(t, q, key)
			return [2]Guard{{a, p.cells.Value(a)}, {b, p.cells.Value(b)}}
		}
	}
	a := q.cells + cellAny
	g := Guard{a, p.cells.Value(a)}
	return [2]Guard{g, g}
}

// spreads returns the masks by which programs may be spread, the best first.
func spreads() []Key {
	masks := []struct {
		word uint8
		mask uint64
	}{
		{WordDst, 0xffffffffffff << 16}, {WordIP4, 0xffffffff}, {WordIP4, 0xffffffff << 32}, {WordIP6DstLow, ^uint64(0)},
		{WordSrc, 0xffffffffffff << 16}, {WordIP4, 0xffffff00}, {WordIP4, 0xffffff00 << 32}, {WordL4, 0xffff << 32}, {WordIn, 0xffffffff << 32},
	}
	out := make([]Key, len(masks))
	for i, m := range masks {
		out[i][m.word] = m.mask
	}
	return out
}

// expand fills in a path from the steps of a walk.
func (t *Tables) expand(q *path, steps []uint64) {
	q.regions = append(q.regions, regionEntries)
	for _, s := range steps {
		region := uint32(s >> 8)
		q.regions = append(q.regions, region)
		if s>>stepKind != stepTable || region == regionUnknown {
			continue
		}
		list := t.listOf(region, uint8(s))
		if list == 0 {
			continue
		}
		for i := range uint32(t.mem.load(list)) {
			q.regions = append(q.regions, uint32(t.mem.load(list+1+3*i)))
		}
	}
	slices.Sort(q.regions)
	q.regions = slices.Compact(q.regions)
	scores := make([]uint64, len(spreads()))
	for _, s := range steps {
		if region := uint32(s >> 8); s>>stepKind == stepTable && region != regionUnknown {
			t.survey(q, region, uint8(s), scores)
		}
	}
	t.addSelectWritten(&q.written)
	q.choose(scores)
}

// survey adds what the rules of a table write, and how many match fully on
// each of the masks of spreads.
func (t *Tables) survey(q *path, dp uint32, table uint8, scores []uint64) {
	list := t.listOf(dp, table)
	if list == 0 {
		return
	}
	for i := range uint32(t.mem.load(list)) {
		rs := uint32(t.mem.load(list + 1 + 3*i))
		if rs == 0 {
			continue
		}
		if b := uint32(t.mem.load(rs + rulesetWritten)); b != 0 {
			for w := range q.written {
				q.written[w] |= t.mem.load(b + uint32(w))
			}
		}
		subs := uint32(t.mem.load(rs + rulesetList))
		if subs == 0 {
			continue
		}
		for j := range uint32(t.mem.words[subs]) {
			t.surveyMasks(uint32(t.mem.load(subs+1+2*j)), scores)
		}
	}
}

// surveyMasks counts the rules of one subtable.
func (t *Tables) surveyMasks(st uint32, scores []uint64) {
	all, at := uint32(t.mem.words[st+subtableAll]), t.allMasks(st)
	var masks Key
	for w := range masks {
		if all>>w&1 != 0 {
			masks[w] = t.mem.words[at]
			at++
		}
	}
	n := t.mem.load(t.cold(st) + coldCount)
	for i, s := range spreads() {
		if covers(&masks, &s) {
			scores[i] += n
		}
	}
}

// covers reports whether spread lies in masks.
func covers(masks, spread *Key) bool {
	for w := range spread {
		if spread[w]&^masks[w] != 0 {
			return false
		}
	}
	return true
}

// choose takes the best mask that nothing writes.
func (q *path) choose(scores []uint64) {
	best := uint64(0)
	for i, s := range spreads() {
		clean := true
		for w := range s {
			clean = clean && s[w]&q.written[w] == 0
		}
		if clean && scores[i] > best {
			best, q.spread, q.spreads = scores[i], s, true
		}
	}
}

// movesKept is how many moves of cells are remembered.
const movesKept = 1 << 15

// A moveLog knows with which version a cell lost a value. A later move may take
// the place of an earlier one. One writer, any number of readers.
type moveLog [2 * movesKept]uint64 // cell (32..63) and value (0..31); version

// place returns where the move away from what g wants is noted, and as what.
func (l *moveLog) place(g Guard) (at *[2]uint64, tag uint64) {
	tag = uint64(g.Cell)<<32 | uint64(g.Want)
	i := tag * 0x9e3779b97f4a7c15 >> (64 - 15)
	return (*[2]uint64)(l[2*i:]), tag
}

// add notes that a cell loses the value of a guard with a version.
func (l *moveLog) add(g Guard, version uint64) {
	at, tag := l.place(g)
	atomic.StoreUint64(&at[0], 0)
	atomic.StoreUint64(&at[1], version)
	atomic.StoreUint64(&at[0], tag)
}

// until returns the last version in which a guard held that does not hold now;
// ok is false if that is not known.
func (l *moveLog) until(g Guard) (version uint64, ok bool) {
	at, tag := l.place(g)
	if atomic.LoadUint64(&at[0]) != tag {
		return 0, false
	}
	version = atomic.LoadUint64(&at[1])
	return version - 1, atomic.LoadUint64(&at[0]) == tag
}
