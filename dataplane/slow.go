package dataplane

import (
	"math"
	"slices"

	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/dataplane/sys"
	"millrace/flowtable"
	"millrace/flowtable/flowcache"
)

// The slow path is for frames whose program is not in the cache, or is stale: the
// worker walks them through the tables itself. How much of its time that may take
// is the business of fair.go.

// slow decides about received frame i of p, of which rest is what comes behind. found is
// what the cache has said: 0, or a program with flowcache.Stale.
func (w *worker) slow(p *workerPort, i int, found uint32, rest uint64) {
	if w.visited > visitedMax {
		p.rxDrops[packet.ReasonSlowPath]++
		if w.slowTo == i {
			w.spent += sys.TSC() - w.slowEnd
			w.slowTo = -1
		}
		return
	}
	spent := w.spent
	if w.slowTo != i {
		w.slowEnd = sys.TSC()
		w.flow.ct.clock(w.slowEnd)
	}
	w.firstRun, w.passed = w.runs, 0
	wide := w.wide.Frames>>i&1 != 0
	key := &w.key[0]
	if wide {
		*key = w.wide.Keys[i]
	} else {
		*key = flowtable.Key{}
		copy(key[:], w.keys[i][:])
	}
	key[flowtable.WordL4] = key[flowtable.WordL4]&^lengthBits | p.lengthClass(w.batch.WireLen(i))
	t := transit{in: p, slot: i, rx: i, fdbSlot: -1, tun: w.tunnelWord(p, i), came: w.cameBy(p, i)}
	w.decideSlowly(&t, key, wide, found)
	w.flow.ct.given.n = 0
	w.slowTo, w.spent = i+1, spent
	if next := (i + 1) & (packet.BatchMax - 1); rest>>next&1 == 0 || w.found[next]-1 < flowcache.Stale-1 {
		end := sys.TSC() // the clock costs as much as a tenth of a walk: only behind the last in a row
		w.spent += end - w.slowEnd
		w.slowEnd = end
	}
	w.missed++
}

// again decides about a frame that comes in by p: the other end of a patch port, a
// tunnel, or the port by which the host would have sent what a tunnel sends.
func (w *worker) again(p *workerPort, t transit) {
	t.in = p
	f := &w.batch.Frames[t.slot]
	key := &w.key[t.hops]
	var wide bool
	var flaw parse.Flaw
	*key, wide, flaw = parse.InspectAt(p.level, w.batch.Head(t.slot), f.Len, p.number)
	if flaw != 0 && p.level == parse.L2 {
		p.rxDrops[packet.ReasonRxTooShort]++
		if w.trace != nil {
			w.trace.short(&t)
		}
		return
	}
	key[flowtable.WordL4] |= p.lengthClass(w.batch.WireLen(t.slot))
	key[flowtable.WordL4] |= uint64(t.came) << pairShift
	key[flowtable.WordTunnel] = t.tun
	found := w.lookupOne(p, key, wide)
	if found-1 < flowcache.Stale-1 {
		w.count(found, f.Len)
		w.performCached(&t, found)
		return
	}
	began, spent := sys.TSC(), w.spent
	w.flow.ct.clock(began)
	w.decideSlowly(&t, key, wide, found)
	w.spent = spent + sys.TSC() - began
	w.missed++
}

// lookupOne looks one key up.
func (w *worker) lookupOne(p *workerPort, key *flowtable.Key, wide bool) uint32 {
	if p.plan == nil {
		return 0
	}
	if wide {
		w.oneWide[0] = *key
		w.flow.cache.LookupWide(&w.oneWide, 1, p.plan, &w.some)
	} else {
		copy(w.narrow[0][:], key[:])
		w.flow.cache.Lookup(&w.narrow, 1, p.plan, &w.some)
	}
	return w.some[0]
}

// count counts a frame of n bytes for a program.
func (w *worker) count(program, n uint32) {
	h := w.flow.cache.Program(program)
	h.Packets++
	h.Bytes += uint64(n)
}

// performCached carries out a program of the cache.
func (w *worker) performCached(t *transit, program uint32) {
	h := w.flow.cache.Program(program)
	w.perform(t, w.flow.cache.Ops(program), dropArg(h))
}

// decideSlowly finds a program for a frame with this key, and carries it out. The
// key has the class of the frame's length in it.
func (w *worker) decideSlowly(t *transit, key *flowtable.Key, wide bool, found uint32) {
	p, n := t.in, w.batch.Frames[t.slot].Len
	program := uint32(0)
	switch {
	case p.direct.lost:
		p.direct.lost = false
	case found != 0:
		program = w.renew(p, key, wide, found)
	case w.seen(key, wide): // a frame before it was of the same flow
		if again := w.lookupOne(p, key, wide); again-1 < flowcache.Stale-1 {
			program = again
		}
	}
	if program == 0 {
		program = w.walk(t, key, wide, n, found != 0)
	}
	if program != 0 {
		w.count(program, n)
		w.performCached(t, program)
	}
}

// seen reports whether a frame with this key may have missed before in the same
// batch, and notes this one.
func (w *worker) seen(key *flowtable.Key, wide bool) bool {
	words := key[:flowtable.NarrowWords]
	if wide {
		words = key[:]
	}
	at, bit := sightOf(words)
	seen := w.sighted[at]&bit != 0
	w.sighted[at] |= bit
	return seen
}

// sightOf is where it is noted that a key has missed, whatever is known of its frame's length.
func sightOf(words []uint64) (at uint8, bit uint64) {
	h := uint64(0)
	for i, v := range words {
		if i == flowtable.WordL4 {
			v &^= ownBits
		}
		h = (h ^ v) * 0x9e3779b97f4a7c15
	}
	return uint8(h >> 61), 1 << (h >> 55 & 63)
}

// renew has a stale program go on if it is still right for the frame: if all
// that changed under it concerns others. It returns 0 if not.
func (w *worker) renew(p *workerPort, key *flowtable.Key, wide bool, found uint32) uint32 {
	c := w.flow.cache
	mask, ok := c.MaskOf(p.plan, key, wide, found)
	if !ok {
		return 0
	}
	w.guards = c.Guards(w.guards[:0], found)
	for _, g := range w.guards[2:] {
		if w.engine.cells.Load(g.Cell) != g.Want {
			return 0
		}
	}
	guards, ok := w.flow.walker.StillGood(key, mask, flowtable.PathID(c.Tag(found)), [2]flowtable.Guard(w.guards))
	if !ok || guards[0].Cell != w.guards[0].Cell || guards[1].Cell != w.guards[1].Cell {
		return 0
	}
	w.wants = w.wants[:0]
	for i, g := range w.guards {
		if i < len(guards) {
			g = guards[i]
		}
		w.wants = append(w.wants, g.Want)
	}
	if program := c.Refresh(p.plan, key, wide, found, w.wants); program != 0 {
		return program
	}
	return found &^ flowcache.Stale // no room for another: it is right for this frame
}

// walk takes a frame through the tables. It returns the program, if the cache has
// it now; otherwise what it says is done already, and it returns 0.
func (w *worker) walk(t *transit, key *flowtable.Key, wide bool, n uint32, stale bool) uint32 {
	p := t.in
	since := w.engine.cells.Changes()
	clean := &w.clean
	*clean = *key
	clean[flowtable.WordL4] &^= ownBits
	w.flow.walker.Came = w.pairs.words(t.came)
	head := w.batch.Head(t.slot)
	w.flow.ct.begin(head, n)
	clean[flowtable.WordL4] |= identifier(head, n, clean)
	if w.trace != nil {
		comp := w.trace.walk(clean, n)
		w.performOnce(t, comp)
		return 0
	}
	wire := w.batch.WireLen(t.slot)
	w.stats.Walks++
	w.flow.walker.TellRetraces(w.flow.counters)
	comp := w.flow.walker.Follow(clean, wire, uint64(w.now))
	w.flow.ct.given.n = 0
	w.visited += len(comp.Rules)
	if w.flow.ct.waits && w.hold(t, comp, n) {
		return 0
	}
	if program := w.keep(p, key, wide, n, wire, comp, since, stale); program != 0 {
		return program
	}
	for _, h := range comp.Rules {
		w.flow.counters.Add(h, 1, uint64(n))
	}
	if !w.sendOnce(t, comp) {
		w.performOnce(t, comp)
	}
	return 0
}

// sendOnce is performOnce for a received frame that only goes out, as it is, by a port that is
// nothing but a port. It reports whether that is so, and done.
func (w *worker) sendOnce(t *transit, comp *flowtable.Composed) bool {
	last := len(comp.Ops) - 1
	if last < 0 || comp.Ops[last].Code != flowtable.OpOutput || t.hops != 0 || t.shared || w.passed != 0 {
		return false
	}
	for i := range comp.Ops[:last] {
		if comp.Ops[i].Code != flowtable.OpCT {
			return false
		}
	}
	o := w.port(comp.Ops[last].Arg)
	if o == nil || !o.plain || o.n >= len(o.own) {
		return false
	}
	w.sendAs(t.in, o, t.slot)
	return true
}

// sendAs sends slot out by port o, which is plain and has room, as it came in by p.
func (w *worker) sendAs(p, o *workerPort, slot int) {
	if o.n == 0 {
		w.fl.out = append(w.fl.out, o)
	}
	o.own[o.n] = packet.Ref{Frame: uint16(slot)}
	o.n++
	p.outputs++
}

// performOnce carries out what a walk has composed and the cache has not kept. A
// walk behind a patch port takes its place, so it is copied first.
func (w *worker) performOnce(t *transit, comp *flowtable.Composed) {
	ops := append(w.ops[t.hops][:0], comp.Ops...)
	w.ops[t.hops] = ops
	w.perform(t, ops, comp.Drop)
}

// keep puts what a walk has found for a frame of n bytes, or wire on the wire, into the cache. It returns the program, or 0.
func (w *worker) keep(p *workerPort, key *flowtable.Key, wide bool, n, wire uint32, comp *flowtable.Composed, since uint64, stale bool) uint32 {
	if !comp.Cacheable || !w.plan(p) {
		return 0
	}
	if comp.Mask[flowtable.WordL4]&identBits != 0 {
		return 0 // keys of the cache have something else there
	}
	if p.named {
		comp.Mask[flowtable.WordL4] |= pairBits
	}
	if comp.LenMin != 0 || comp.LenMax != math.MaxUint32 {
		if !w.divide(p, comp) {
			return 0
		}
		key[flowtable.WordL4] = key[flowtable.WordL4]&^lengthBits | p.lengthClass(wire)
		comp.Mask[flowtable.WordL4] |= lengthBits
	}
	if !w.widen(p, &comp.Mask) || !stale && !w.flow.cache.Sighted(p.plan, key, wide, &comp.Mask) {
		return 0
	}
	if w.flow.walker.Seal(); !comp.Cacheable {
		return 0
	}
	comp.Tag = uint64(comp.Path)
	program := uint32(0)
	if stale {
		program, _ = w.flow.cache.Replace(p.plan, key, wide, comp, since)
	} else {
		program, _ = w.flow.cache.InstallSighted(p.plan, key, wide, comp, since)
	}
	if program != 0 {
		w.kept = true
		w.flow.ct.kept(comp, n)
		w.noteDirect(p, comp, program)
	}
	return program
}

// plan makes sure that p has a plan, and reports whether it has.
func (w *worker) plan(p *workerPort) bool {
	if p.plan != nil {
		return true
	}
	p.exact = flowtable.Key{flowtable.WordIn: 0xffffffff << 32}
	var err error
	p.plan, err = w.flow.cache.NewPlan(&p.exact)
	return err == nil
}

// unplan makes the worker forget all programs of p.
func (w *worker) unplan(p *workerPort) {
	w.undirect(p)
	if p.plan != nil {
		w.flow.cache.ClosePlan(p.plan)
		p.plan, p.steps = nil, nil
	}
}

// widen sees to it that exact entries of p tell apart what programs depend on,
// and reports whether they do. They do not if all masks of the cache are in use.
func (w *worker) widen(p *workerPort, mask *flowtable.Key) bool {
	outside := uint64(0)
	for i := range mask {
		outside |= mask[i] &^ p.exact[i]
	}
	if outside == 0 {
		return true
	}
	wider := p.exact
	for i := range mask {
		wider[i] |= mask[i]
	}
	if w.flow.cache.SetExact(p.plan, &wider) != nil {
		return false
	}
	p.exact = wider
	return true
}

// divide has keys of p tell apart frames that a program is right for from longer
// and shorter ones, and reports whether it could. If classes of lengths change,
// what was kept by them is forgotten.
func (w *worker) divide(p *workerPort, comp *flowtable.Composed) bool {
	var fresh [2]uint32
	n := 0
	for _, step := range [2]uint32{comp.LenMin, comp.LenMax + 1} { // the last but one wraps to 0
		if _, found := slices.BinarySearch(p.steps, step); step != 0 && !found {
			fresh[n] = step
			n++
		}
	}
	switch {
	case n == 0:
		return true
	case len(p.steps)+n > stepsMax:
		return false
	}
	steps := append(p.steps, fresh[:n]...)
	slices.Sort(steps)
	w.unplan(p)
	p.steps = steps
	return w.plan(p)
}

// noteDirect notes that all frames of p have one program, if that is so. It is not where those
// for the ends of tunnels are looked for.
func (w *worker) noteDirect(p *workerPort, comp *flowtable.Composed, program uint32) {
	if p.ends != nil && p.ends.arriving {
		return
	}
	for i, m := range &comp.Mask {
		if i == flowtable.WordIn {
			m &^= 0xffffffff << 32
		}
		if m != 0 {
			return
		}
	}
	h := w.flow.cache.Program(program)
	o := w.port(h.Arg)
	if h.Code == flowcache.ProgramDrop || h.Code == flowcache.ProgramOutput && o != nil && (o.plain || o.isTunnel) {
		w.undirect(p)
		p.direct.program = w.flow.cache.Retain(program)
	}
}

// setLevel has the worker read more or less of what comes in by p.
func (w *worker) setLevel(p *workerPort, fully bool) {
	level := parse.L2
	if fully {
		level = parse.Full
	}
	if p.level != level {
		p.level = level
		w.unplan(p)
		w.endDecisions()
	}
}
