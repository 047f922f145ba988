package flowtable

import (
	"math"
	"slices"
	"sync/atomic"
)

// SideTables are tables that learn by themselves, which walks ask.
type SideTables struct {
	// Lookup returns the port behind an Ethernet address in a forwarding
	// database. The guard, whose value was read before the table was, holds as
	// long as the answer does.
	Lookup func(fdb uint32, address, now uint64) (port uint32, guard Guard, ok bool)
	// Learn notes at once that an address is behind a port: what the same walk
	// looks up later finds it. Trace calls it too. May be nil.
	Learn func(fdb uint32, address uint64, port uint32)
	// Connect takes a packet, as the context has it, through connection
	// tracking. The guard's value was read before what it stands for was. Nil:
	// packets have no state.
	Connect func(c *Context, ask *Connect, got *Connected)
	// Reply says that the packet which Connect is asked about next is a reply, and takes
	// a token of its meter; nil, that it is the packet before again. It reports whether there was a
	// token; if not, nothing has changed. May be nil.
	Reply func(r *Replying) bool
	// Recall asks which backend a client was given, and fills c.Backend and
	// c.BackendPort. Nil: none is known.
	Recall func(c *Client) Recalled
	// Stick notes at once which backend a client was given. May be nil.
	Stick func(c *Client) Recalled
}

// offline is the epoch of a walker that does not walk.
const offline = ^uint64(0)

// What the steps of a walk are, in the bits from stepKind on; a region (8..39)
// and a table (0..7) below.
const (
	stepKind   = 62
	stepTable  = 0
	stepSelect = 1
)

// A Walker takes packets through the tables, for one worker. It does not
// allocate once its arrays have grown.
type Walker struct {
	epoch atomic.Uint64 // grace period that it is in, or offline; read by the writer
	_     [15]uint64    // the rest is not shared

	t       *Tables
	words   []uint64 // of the tables' arena
	side    SideTables
	version uint64 // of this walk
	changes uint64 // Tables.changes before this walk
	now     uint64
	length  uint32
	inPort  uint32

	key     *Key
	ctx     Context
	touched Key // bits of the key that the pipeline wrote
	done    Key // bits of the frame that ops wrote
	frame   Key // words of the frame after the ops so far

	first   firstStage
	dp      uint32 // block of the datapath that it is in, or 0
	ended   bool   // this copy of the packet goes no further
	failed  bool   // the whole walk is given up
	passing bool   // what was found is for this packet only
	made    bool   // the packet is a reply, not what came
	pushed  bool   // tags have been put on
	below   bool   // also on others, of which rules do not see
	ask     Connect
	got     Connected
	depth   int
	visited int // tables
	outputs int
	clones  int // OpSave so far
	last    uint32
	edges   []uint64 // steps, for the path
	out     Composed
	saves   [DepthMax]saved
	marks   []mark
	known   [pathSlots]atomic.Pointer[path]
	ahead   ahead
	stages  stages
	retrace retrace
	trace   *Trace

	client   Client
	replying reply

	// Came is WordTunSrc and the next three for the packet that is walked next, all
	// zero if it came by no tunnel. It is no part of the key: what is composed may depend
	// on all of it.
	Came [4]uint64
}

// saved is what a copy of a packet changes.
type saved struct {
	ctx                  Context
	touched, done, frame Key
	dp                   uint32
	made, pushed, below  bool
}

// pathSlots is how many paths a walker remembers by their hash.
const pathSlots = 512

// NewWalker returns a walker, which is registered with the tables until Close.
func (t *Tables) NewWalker(side SideTables) *Walker {
	w := &Walker{t: t, words: t.mem.words, side: side, stages: newStages()}
	w.out.Ops = make([]Op, 0, 64)
	w.out.Guards = make([]Guard, 0, 16)
	w.out.Rules = make([]uint32, 0, 128)
	w.edges = make([]uint64, 0, 256)
	w.ahead.words = make([]aheadWord, 0, 2*KeyWords)
	t.mu.Lock()
	defer t.mu.Unlock()
	w.epoch.Store(t.epoch.Load())
	t.walkers = append(t.walkers, w)
	return w
}

// Close ends the walker.
func (w *Walker) Close() {
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	if i := slices.Index(w.t.walkers, w); i >= 0 {
		w.t.walkers = slices.Delete(w.t.walkers, i, i+1)
	}
	w.words = nil
}

// Quiet says that nothing of earlier walks is used any more: neither a Composed
// nor a flood list. A worker calls it once a turn; it costs a load, and a store
// when a transaction has passed. It also ends Offline.
func (w *Walker) Quiet() {
	if e := w.t.epoch.Load(); e != w.epoch.Load() {
		w.ahead.n = 0 // they may be freed now
		w.epoch.Store(e)
	}
}

// Offline says that the walker does not walk until Quiet is called, so that
// memory is freed while the worker sleeps.
func (w *Walker) Offline() { w.epoch.Store(offline) }

// Walk takes a packet through the pipeline, and returns what becomes of it. The
// result belongs to the walker and holds until the next walk. Length is the
// frame's, in bytes; now is passed to side tables.
func (w *Walker) Walk(key *Key, length uint32, now uint64) *Composed {
	w.Follow(key, length, now)
	w.Seal()
	return &w.out
}

// Follow is Walk for one packet: the result is not yet what may be kept. Cacheable says
// that it could be, and Seal makes it so.
func (w *Walker) Follow(key *Key, length uint32, now uint64) *Composed {
	w.changes = w.t.changes.Load()
	w.begin(key, length, now)
	w.enter(w.recalls(w.changes))
	w.noteEnd()
	w.finish()
	w.out.Cacheable = !w.passing
	return &w.out
}

// begin prepares a walk. The version is read after the change counter.
func (w *Walker) begin(key *Key, length uint32, now uint64) {
	w.version = w.t.version.Load()
	w.key, w.length, w.now = key, length, now
	w.inPort = uint32(key[WordIn] >> 32)
	w.ctx = Context{}
	*(*Key)(w.ctx[:KeyWords]) = *key
	copy(w.ctx[WordTunSrc:], w.Came[:])
	w.frame = *key
	w.touched, w.done = Key{}, Key{}
	w.ended, w.failed, w.passing, w.made, w.pushed, w.below = false, false, false, false, false, false
	w.depth, w.visited, w.outputs, w.clones, w.last = 0, 0, 0, 0, DropNoOutput
	w.edges = w.edges[:0]
	w.ahead.n = 0
	o := &w.out
	o.Mask = Key{WordIn: 0xffffffff << 32} // the entry depends on the port
	o.Ops, o.Rules, o.Guards = o.Ops[:0], o.Rules[:0], append(o.Guards[:0], Guard{}, Guard{})
	o.Drop, o.Tag, o.LenMin, o.LenMax, o.Version = 0, 0, 0, math.MaxUint32, w.version
}

// enter goes in by the entry of the port. Recall says whether stages are used.
func (w *Walker) enter(recall bool) {
	if at := w.stages.root(w.inPort); recall && at != 0 {
		w.redo(&w.stages.list[at])
		w.dp = w.stages.list[at].dp
		w.follow(at)
		return
	}
	t := w.t
	s := uint32(0)
	if obj := t.findObject(objEntry, w.inPort); obj != 0 {
		s = t.stateAt(obj, w.version)
	}
	if s == 0 {
		w.last = DropNoEntry
		return
	}
	d := t.data(s)
	for i := 2; i < len(d); i += 2 {
		w.ctx[d[i]&(ContextWords-1)] = d[i+1]
	}
	w.place(d[0], uint32(d[1]))
	if recall {
		w.noteRoot(uint8(d[1]>>32), d)
	}
	w.table(uint8(d[1] >> 32))
}

// place puts the packet at a logical port of a datapath.
func (w *Walker) place(datapath uint64, inport uint32) {
	w.ctx[WordDatapath] = datapath
	w.ctx[WordPorts] = uint64(inport)<<32 | w.ctx[WordPorts]&0xffffffff
	w.dp = w.t.findDatapath(datapath)
}

// finish makes the program whole: without outputs it is a drop.
func (w *Walker) finish() {
	o := &w.out
	if w.failed {
		o.Ops = o.Ops[:0]
		w.outputs = 0
	}
	if w.clones > 0 {
		w.prune()
	}
	if w.outputs == 0 {
		o.Drop = w.last
		learns := slices.ContainsFunc(o.Ops, func(op Op) bool { return op.Code == OpLearn })
		o.Ops = slices.DeleteFunc(o.Ops, func(op Op) bool {
			return op.Code <= OpPopVLAN || op.Code == OpInner || op.Code == OpReply || op.Code != OpCT && !learns
		})
	}
}

// Seal gives what Follow has found its path and guards, and says whether it may be
// kept: not if a transaction took effect meanwhile. The key that was followed is as it was.
// The guards are sound if no transaction took effect since the change counter was read.
func (w *Walker) Seal() {
	t, o := w.t, &w.out
	q := w.stages.path
	if q == nil || q.dead.Load() {
		q = w.pathTaken()
	}
	g := t.paths.guards(t, q, w.key, &o.Mask)
	o.Guards[0], o.Guards[1] = g[0], g[1]
	o.Path = q.id
	o.Cacheable = o.Cacheable && w.changes&1 == 0 && t.changes.Load() == w.changes && !q.dead.Load()
}

// pathTaken returns the path of the walk.
func (w *Walker) pathTaken() *path {
	h := w.t.seed.start
	for _, s := range w.edges {
		h = w.t.seed.mix(h, s)
	}
	q := w.pathOf(h)
	if at := w.stages.last; at != 0 {
		w.stages.list[at].path = q
	}
	return q
}

// pathOf returns the path of the steps whose hash is h.
func (w *Walker) pathOf(h uint64) *path {
	slot := &w.known[h%pathSlots]
	if q := slot.Load(); q != nil && q.hash == h && !q.dead.Load() {
		return q
	}
	q := w.t.paths.intern(h, func(q *path) { w.t.expand(q, w.edges) })
	slot.Store(q)
	return q
}

// StillGood reports whether a program is right in the version that is in force
// now, although the first two of its guards, those of its path, do not hold:
// because no change since they did concerns packets that agree with key in mask.
// If so, these are its guards from now on. If not, or if that is not known any more,
// walk again.
func (w *Walker) StillGood(key, mask *Key, id PathID, had [2]Guard) (guards [2]Guard, ok bool) {
	t := w.t
	changes := t.changes.Load()
	q := t.paths.get(id)
	if q == nil || id == 0 || changes&1 != 0 {
		return guards, false
	}
	version := t.version.Load()
	for _, g := range had {
		if t.paths.cells.Value(g.Cell) == g.Want {
			continue
		}
		until, known := t.paths.moved.until(g)
		if !known {
			return guards, false
		}
		version = min(version, until)
	}
	guards = t.paths.guards(t, q, key, mask)
	if !t.log.unconcerned(q, key, mask, version) {
		return guards, false
	}
	return guards, !q.dead.Load() && t.changes.Load() == changes
}

// unconcerned reports whether no change after version concerns packets of a
// path that agree with key in mask. It says no when it does not know.
func (l *changeLog) unconcerned(q *path, key, mask *Key, version uint64) bool {
	head := l.head.Load()
	var c change
	for n := range uint64(logScan) {
		if n == head {
			return true
		}
		v, ok := l.read(head-1-n, &c)
		if !ok {
			return false
		}
		if v <= version {
			return true
		}
		if c.concerns(key, mask, &q.written) {
			if _, in := slices.BinarySearch(q.regions, c.region); in {
				return false
			}
		}
	}
	return false
}
