package flowcache

import (
	"errors"
	"fmt"

	"millrace/flowtable"
)

// BatchMax is how many keys one lookup takes.
const BatchMax = 64

// MasksMax is how many wildcard masks a plan may probe for one kind of key, and
// so, with the exact mask, the bound on what any lookup costs. Beyond it flows
// go to the exact cache only.
const MasksMax = 24

// masksTotal bounds the masks of all plans of a cache, exact ones included.
const masksTotal = 1 << 14

// A NarrowKey is the key of a frame whose words from NarrowWords on are zero.
type NarrowKey = [flowtable.NarrowWords]uint64

// Stale is set in a result if a guard of the program does not hold. The other
// bits of a result are the offset of the program, or 0 for a miss.
const Stale = 1 << 31

// CacheOptions are the sizes of a worker's cache. Entries are rounded up to
// powers of two. Half as many flows fit well.
type CacheOptions struct {
	Exact, ExactWide int // entries of 66 and 130 bytes, with their tags
	Wild, WildWide   int // entries of 66 and 130 bytes
	Seen             int // flows that were seen once; 2 bytes each
	ProgramBytes     int // of the programs of all entries, and an eighth more for their counters
	Masks            int // MasksMax, or fewer
	Idle             int // epochs without a hit after which an entry goes
	// Secrets of the hashes. Nil: new ones. Workers may share them.
	Secrets *Secrets
}

// DefaultCacheOptions returns sizes for one of a machine's workers: at most a
// sixteenth of its memory for all workers together. With 24 GiB two million flows with
// programs of their own fit one worker, which are a million connections in both
// directions; and a million each, up to three.
func DefaultCacheOptions(memory uint64, workers int) CacheOptions {
	return CacheOptionsWithin(memory/16, workers)
}

// CacheOptionsWithin returns sizes for one of some workers whose caches take that many
// bytes together, if they are full: the kernel provides what is used. No cache takes
// more than a gigabyte, and none less than 4 MB.
func CacheOptionsWithin(bytes uint64, workers int) CacheOptions {
	share := bytes / uint64(max(workers, 1))
	o := CacheOptions{Exact: 1 << 20, ExactWide: 256 << 10, Wild: 4 << 20, WildWide: 1 << 20, Seen: 4 << 20,
		ProgramBytes: 448 << 20, Masks: MasksMax, Idle: 10}
	for o.bytes() > share && o.ExactWide > 1024 {
		o.Exact, o.ExactWide, o.Wild, o.WildWide, o.Seen = o.Exact/2, o.ExactWide/2, o.Wild/2, o.WildWide/2, o.Seen/2
		o.ProgramBytes /= 2
	}
	return o
}

// bytes returns about how much memory a cache of these sizes takes when full.
func (o *CacheOptions) bytes() uint64 {
	return uint64(66*(o.Exact+o.Wild) + 130*(o.ExactWide+o.WildWide) + 2*o.Seen + o.ProgramBytes*9/8)
}

// A Cache leads from keys to composed programs. One worker owns it; nothing in
// it is for anybody else, except that Usage may be read between two turns, and
// that Supply is for a goroutine beside the worker.
//
// Its tables and programs lie in mapped memory. An entry refers to its program
// by offset and generation and counts as a reference, so the memory of a
// program is not used again before the last entry has let go of it.
type Cache struct {
	cells     *Cells
	secrets   *Secrets
	tables    [kinds]*table
	programs  *programs
	masks     []maskInfo // by id; 0 is none
	plans     []*Plan    // by id; 0 is none
	freeMasks []uint16   // ids without users
	seen      []uint64   // see sighted
	drawn     uint64     // chance, for seen
	seenMem   mapping
	supply    supply
	epoch     uint16
	idle      uint16 // epochs without a hit after which an entry goes; fewer when memory is short
	options   CacheOptions
	short     bool // a program found no room this turn
	tight     bool // and this epoch
	stats     CacheStats
	batch     scratch
	deep      uint16 // mask of the batch's hits furthest back in the list, if they are worth exact entries
	// promote holds the flows that have become worth an exact entry this turn.
	promote    [16]promotion
	promotions int
}

// CacheStats counts what a cache did, in packets but for the installs.
type CacheStats struct {
	ExactHits, WildHits, Misses, Stale, Repeats uint64
	Probes                                      uint64 // of masks, by batches' packets
	Installs, Promotions                        uint64
	Refused                                     [installResults]uint64 // by InstallResult
	Evicted, Expired                            uint64                 // entries
}

// NewCache maps a cache. retired is told, on the worker, what a program has
// counted before it goes; its slice is only lent.
func NewCache(o CacheOptions, cells *Cells, retired func(tag uint64, rules []uint32, packets, bytes uint64)) (*Cache, error) {
	c := &Cache{cells: cells, secrets: o.Secrets, masks: make([]maskInfo, 1, 64), plans: make([]*Plan, 1, 16)}
	o.Masks = min(max(o.Masks, 1), MasksMax)
	o.Idle = min(max(o.Idle, idleForOthers), 1<<14)
	c.options, c.idle = o, uint16(o.Idle)
	if err := c.mapAll(retired); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// mapAll maps the parts of the cache.
func (c *Cache) mapAll(retired func(uint64, []uint32, uint64, uint64)) (err error) {
	if c.secrets == nil {
		if c.secrets, err = NewSecrets(); err != nil {
			return err
		}
	}
	o := &c.options
	for kind, n := range [kinds]int{o.Exact, o.ExactWide, o.Wild, o.WildWide} {
		if c.tables[kind], err = newTable(uint8(kind), n); err != nil {
			return err
		}
	}
	if c.programs, err = newPrograms(o.ProgramBytes, c.secrets, retired); err != nil {
		return err
	}
	n := 1
	for seenTags*n < o.Seen {
		n *= 2
	}
	if c.seenMem, err = newSparse(8 * n); err != nil {
		return fmt.Errorf("make a filter of %d flows: %w", seenTags*n, err)
	}
	c.seen = overlay[uint64](&c.seenMem, n)
	return nil
}

// Close gives the memory back.
func (c *Cache) Close() error {
	var errs []error
	for _, t := range c.tables {
		if t != nil {
			errs = append(errs, t.close())
		}
	}
	if c.programs != nil {
		errs = append(errs, c.programs.close())
	}
	c.seen = nil
	return errors.Join(append(errs, c.seenMem.close())...)
}

// Stats returns what the cache has counted.
func (c *Cache) Stats() CacheStats { return c.stats }

// CacheUsage says how much of a cache is in use, and the bytes that are mapped.
type CacheUsage struct {
	Entries, Capacity [kinds]int // exact, exact wide, wildcard, wildcard wide
	Programs          int
	ProgramBytes      int
	ProgramCapacity   int
	Masks             int
	MappedBytes       int
	TableBytes        [kinds]int // of those, of the tables of entries
}

// Usage returns what is in use.
func (c *Cache) Usage() CacheUsage {
	u := CacheUsage{Programs: c.programs.live, ProgramBytes: c.programs.lines * lineBytes}
	u.ProgramCapacity = (len(c.programs.slabs) - 1) * slabLines * lineBytes
	u.MappedBytes = c.programs.mem.size + c.programs.headMem.size + c.programs.tallied.size + c.seenMem.size
	for kind, t := range c.tables {
		u.Entries[kind], u.Capacity[kind] = t.used, t.size()
		u.MappedBytes += t.mem.size
		u.TableBytes[kind] = t.mem.size
	}
	for i := range c.masks {
		if c.masks[i].users > 0 {
			u.Masks++
		}
	}
	return u
}

// Program returns the header of a result that is not a miss. Results, and all
// that is made of them, are valid until the next Upkeep, Flush or Close.
func (c *Cache) Program(result uint32) *Program { return c.programs.at(result &^ Stale) }

// Ops returns the steps of a result's program, without OpCT. They are lent until the
// next call that installs, or of Ops.
func (c *Cache) Ops(result uint32) []flowtable.Op { return c.programs.allOps(result &^ Stale) }

// Patch returns the patch of a result whose program's code is ProgramPatch.
func (c *Cache) Patch(result uint32) *Patch { return c.programs.patchAt(result &^ Stale) }

// SetPatcher has changes of frames made ready by p. It is called before anything is
// installed.
func (c *Cache) SetPatcher(p Patcher) { c.programs.patcher = p }

// Rules returns the handles of the rules that a result's program counts for.
func (c *Cache) Rules(result uint32) []uint32 {
	off := result &^ Stale
	h := c.programs.at(off)
	return h.rules(c.programs.words(off, h.words()))
}

// Tag returns the tag of a result's program.
func (c *Cache) Tag(result uint32) uint64 {
	off := result &^ Stale
	words := c.programs.at(off).words()
	return c.programs.words(off, words)[words-1]
}

// Guards appends the guards of a result's program to dst.
func (c *Cache) Guards(dst []flowtable.Guard, result uint32) []flowtable.Guard {
	off := result &^ Stale
	h := c.programs.at(off)
	dst = append(dst, h.guards[:min(int(h.guardCount), len(h.guards))]...)
	return append(dst, h.moreGuards(c.programs.words(off, h.words()))...)
}

// InUse reports whether there is a program at an offset that was one's.
func (c *Cache) InUse(program uint32) bool { return c.programs.at(program).flags&inUse != 0 }

// NextProgram returns the first program at or behind from that is in use, and
// where to look on: 0 at the end. It looks at budget slabs of 16 KiB at most,
// and returns program 0 if they have none. Begin with 0.
func (c *Cache) NextProgram(from uint32, budget int) (program, on uint32) {
	return c.programs.nextFrom(from, budget)
}

// Count adds to the counters of the programs of a batch: each a packet of the
// length in lens. Misses are counted in line 0 of the arena, which is no program.
func (c *Cache) Count(out, lens *[BatchMax]uint32, n int) {
	for i := 0; i < n && i < BatchMax; i++ {
		h := c.programs.at(out[i] &^ Stale)
		h.Packets++
		h.Bytes += uint64(lens[i])
	}
}

// A Handle names a program for longer than a turn: a result (0..31) and its
// generation (32..47). Zero names none.
type Handle uint64

// Handle returns what Holds knows a result's program by.
func (c *Cache) Handle(result uint32) Handle {
	off := result &^ Stale
	return Handle(off) | Handle(c.programs.at(off).gen)<<32
}

// Retain is Handle, and keeps the program's memory until LetGo.
func (c *Cache) Retain(result uint32) Handle {
	c.programs.at(result&^Stale).refs++
	return c.Handle(result)
}

// LetGo ends a Retain.
func (c *Cache) LetGo(h Handle) { c.programs.drop(uint32(h)) }

// Holds reports whether the program of a handle is there still, has entries, and
// all its guards hold: then the handle's low half is a result. It is for callers
// that know in another way that the program is right for a packet.
func (c *Cache) Holds(h Handle) bool {
	g := c.programs.at(uint32(h))
	bad := c.cells.now(g.guards[0].Cell) ^ g.guards[0].Want
	bad |= c.cells.now(g.guards[1].Cell) ^ g.guards[1].Want
	bad |= c.cells.now(g.guards[2].Cell) ^ g.guards[2].Want
	bad |= c.cells.now(g.guards[3].Cell) ^ g.guards[3].Want
	return bad|uint32(g.gen^uint16(h>>32)) == 0 && g.guardCount <= guardsInLine && h != 0
}
