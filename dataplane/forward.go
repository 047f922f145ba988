package dataplane

import (
	"math/bits"

	"millrace/dataplane/edit"
	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/flowtable"
	"millrace/flowtable/flowcache"
)

// The way of a batch, as far as it is decided:
//
//	classify   all frames at once, if they all go one way (directAll); else forward
//	decideAll  ports of learning bridges: what decisions of this second say
//	lookup     keys of the rest, and their programs in the cache
//	carryOut   frame by frame: the program, or the slow path (slow.go)
//	perform    a program of more than one output (perform.go)

// A direct is what becomes of all frames of a port whose program depends on
// nothing but the port.
type direct struct {
	program flowcache.Handle
	moves   uint64 // of guard cells, when the program's guards were last seen to hold
	lost    bool   // there was one, and it is no longer good
}

// classify decides where each frame of the batch goes.
func (w *worker) classify(p *workerPort) {
	switch h := w.directOf(p); {
	case h != nil:
		w.directAll(p, h)
	case p.ends != nil && p.ends.arriving:
		w.arrive(p)
	default:
		w.forward(p)
	}
	if len(w.popped) != 0 {
		w.forwardPopped()
	}
}

// directOf is the program of all frames of p, or nil.
func (w *worker) directOf(p *workerPort) *flowcache.Program {
	if p.direct.program == 0 {
		return nil
	}
	moves := w.engine.cells.Changes()
	if p.direct.moves != moves && !w.flow.cache.Holds(p.direct.program) {
		w.undirect(p)
		p.direct.lost = true
		return nil
	}
	p.direct.moves = moves
	return w.flow.cache.Program(uint32(p.direct.program))
}

// undirect forgets what becomes of all frames of a port.
func (w *worker) undirect(p *workerPort) {
	if p.direct.program != 0 {
		w.flow.cache.LetGo(p.direct.program)
	}
	p.direct = direct{}
}

// directAll does with the whole batch what program h says.
func (w *worker) directAll(p *workerPort, h *flowcache.Program) {
	b := w.batch
	n := uint64(b.N)
	if n == 0 {
		return
	}
	h.Packets += n
	h.Bytes += b.Bytes
	if h.Code == flowcache.ProgramDrop {
		p.rxDrops[dropReason(h.Arg)] += n
		return
	}
	o := w.port(h.Arg)
	if o == nil {
		p.rxDrops[packet.ReasonNoPort] += n
		return
	}
	if o.isTunnel {
		w.directTunnel(p, o)
		return
	}
	p.outputs += n
	o.list, o.n = w.all[:], b.N
	w.fl.out = append(w.fl.out, o)
}

// port returns the port of a number, which may be gone: then nil.
func (w *worker) port(number uint32) *workerPort {
	if int(number) < len(w.ports) {
		return w.ports[number]
	}
	return nil
}

// forward decides about each frame by its headers.
func (w *worker) forward(p *workerPort) {
	b := w.batch
	w.learned = 0
	all := ^uint64(0) >> (packet.BatchMax - b.N)
	if b.N == 0 {
		return
	}
	if p.level == parse.L2 {
		if all = w.decideAll(p); all == 0 {
			return
		}
	}
	w.decideSome(p, all)
}

// decideSome decides about the frames in set, which is not empty, by their headers.
func (w *worker) decideSome(p *workerPort, set uint64) {
	missed, retraced := w.flow.cache.Missed(), w.retracings
	w.lookup(p, set)
	w.unasked, w.retraced, w.kept = 0, 0, false
	if missed = w.flow.cache.Missed() - missed; p.plan == nil {
		missed = uint64(bits.OnesCount64(set))
	}
	if w.retraces = missed > 0 && w.mayRetrace(p); w.retraces || missed >= aheadFrom {
		w.unasked = w.notFound(set)
	}
	w.wide.Bad &= set
	w.carryOut(p, set)
	if missed > 0 {
		w.flow.walker.TellRetraces(w.flow.counters)
		if p.plan != nil {
			p.plan.Still = w.retraces && w.retracings-retraced == missed
		}
	}
}

// aheadFrom is how many frames of a batch must miss before what their walks will
// read is asked for ahead, and aheadGroup for how many that is done at once: it is to be
// near the core still when they are walked, with all that walks have in common.
const (
	aheadFrom  = 4
	aheadGroup = 32
)

// notFound is those of set that the cache knows nothing of.
func (w *worker) notFound(set uint64) (none uint64) {
	for rest := set; rest != 0; rest &= rest - 1 {
		if i := bits.TrailingZeros64(rest); w.found[i] == 0 {
			none |= 1 << i
		}
	}
	return none
}

// lookup finds the programs of the frames in set, which is not empty.
func (w *worker) lookup(p *workerPort, set uint64) {
	b := w.batch
	parse.Narrow(b, p.number, p.level, &w.keys, &w.wide)
	if p.isTunnel {
		w.markTunnel(p, set)
	}
	if p.plan == nil {
		w.found = [packet.BatchMax]uint32{}
		return
	}
	if len(p.steps) > 0 {
		w.markLengths(p)
	}
	if w.wide.Frames == 0 && set == ^uint64(0)>>(packet.BatchMax-b.N) {
		w.flow.cache.Lookup((*[packet.BatchMax]flowcache.NarrowKey)(&w.keys), b.N, p.plan, &w.found)
		return
	}
	w.lookupNarrow(p, set&^w.wide.Frames)
	w.lookupWide(p, set&w.wide.Frames)
}

// lookupNarrow is lookup for some frames with narrow keys.
func (w *worker) lookupNarrow(p *workerPort, set uint64) {
	n := 0
	for rest := set; rest != 0; rest &= rest - 1 {
		i := bits.TrailingZeros64(rest)
		w.narrow[n&(packet.BatchMax-1)], w.at[n&(packet.BatchMax-1)] = w.keys[i], uint8(i)
		n++
	}
	if n == 0 {
		return
	}
	w.flow.cache.Lookup(&w.narrow, n, p.plan, &w.some)
	w.scatter(n)
}

// lookupWide is lookup for frames with wide keys.
func (w *worker) lookupWide(p *workerPort, set uint64) {
	n := 0
	for rest := set; rest != 0; rest &= rest - 1 {
		i := bits.TrailingZeros64(rest)
		if n != i {
			w.wide.Keys[n&(packet.BatchMax-1)] = w.wide.Keys[i] // n < i: its frame has been here
		}
		w.at[n&(packet.BatchMax-1)] = uint8(i)
		n++
	}
	if n == 0 {
		return
	}
	w.flow.cache.LookupWide(&w.wide.Keys, n, p.plan, &w.some)
	w.scatter(n)
	for n--; n >= 0; n-- { // back to their places, the last first
		w.wide.Keys[w.at[n&(packet.BatchMax-1)]&(packet.BatchMax-1)] = w.wide.Keys[n&(packet.BatchMax-1)]
	}
}

// scatter puts results to the frames that they are about.
func (w *worker) scatter(n int) {
	for j, i := range w.at[:n] {
		w.found[i&(packet.BatchMax-1)] = w.some[j]
	}
}

// markLengths puts into the keys between which of the lengths that matter to
// the port's programs their frames are: bits of the key that no frame sets.
func (w *worker) markLengths(p *workerPort) {
	for i := range w.batch.N {
		c := p.lengthClass(w.batch.WireLen(i))
		w.keys[i][flowtable.WordL4] |= c
		if w.wide.Frames>>i&1 != 0 {
			w.wide.Keys[i][flowtable.WordL4] |= c
		}
	}
}

// ownBits are the bits of WordL4 that are the worker's own in keys of its cache, lengthBits
// those where the length's class is, and stepsMax how many lengths they can tell apart.
const (
	ownBits    = 0xffff
	lengthBits = 0xf
	stepsMax   = lengthBits
)

// lengthClass is how many of the port's steps a frame of n bytes is beyond.
func (p *workerPort) lengthClass(n uint32) (c uint64) {
	for _, s := range p.steps {
		if n >= s {
			c++
		}
	}
	return c
}

// carryOut does with the frames in set what their programs say.
func (w *worker) carryOut(p *workerPort, set uint64) {
	b, c := w.batch, w.flow.cache
	outputs := uint64(0)
	if p.level == parse.L2 {
		if set &^= w.wide.Bad; w.wide.Bad != 0 {
			p.rxDrops[packet.ReasonRxTooShort] += uint64(bits.OnesCount64(w.wide.Bad))
		}
	}
	for ; set != 0; set &= set - 1 {
		i := bits.TrailingZeros64(set)
		off := w.found[i]
		if off-1 >= flowcache.Stale-1 || p.direct.lost {
			if w.unasked>>i&1 != 0 {
				w.lookAhead()
			}
			if w.retrace(p, i) {
				continue
			}
			w.slow(p, i, off, set&(set-1))
			continue
		}
		h := c.Program(off)
		h.Packets++
		h.Bytes += uint64(b.Frames[i].Len)
		if h.Code == flowcache.ProgramOutput || h.Code == flowcache.ProgramPatch {
			if o := w.port(h.Arg); o != nil && o.plain && o.n < len(o.own) {
				if h.Code == flowcache.ProgramPatch {
					(*edit.Patch)(c.Patch(off)).Apply(b, i)
				}
				if o.n == 0 {
					w.fl.out = append(w.fl.out, o)
				}
				o.own[o.n] = packet.Ref{Frame: uint16(i)}
				o.n++
				outputs++
				continue
			} else if o != nil && o.isTunnel && h.Code == flowcache.ProgramOutput && w.wrapQuick(p, o, i) {
				outputs++
				continue
			}
		}
		w.execute(p, i, off)
	}
	p.outputs += outputs
}

// A patcher makes the changes of programs ready for edit.Patch.Apply, for the cache.
type patcher struct{}

func (patcher) Compile(ops []flowtable.Op, to *flowcache.Patch) bool {
	p, ok := edit.Compile(ops)
	*to = flowcache.Patch(p)
	return ok
}

func (patcher) Ops(p *flowcache.Patch, ops []flowtable.Op) []flowtable.Op {
	return (*edit.Patch)(p).Ops(ops)
}

// execute carries out program off on received frame i.
func (w *worker) execute(p *workerPort, i int, off uint32) {
	h := w.flow.cache.Program(off)
	w.firstRun, w.passed = w.runs, 0
	if h.Code == flowcache.ProgramDrop {
		p.rxDrops[dropReason(h.Arg)]++
		return
	}
	t := transit{in: p, slot: i, rx: i, fdbSlot: -1, tun: w.tunnelWord(p, i), came: w.cameBy(p, i)}
	a := w.addresses(i) // before a tunnel's headers go
	w.perform(&t, w.flow.cache.Ops(off), dropArg(h))
	w.decide(p, a, off, &t)
}

// dropArg is the reason of a program that outputs nothing.
func dropArg(h *flowcache.Program) uint32 {
	if h.Code == flowcache.ProgramOutput || h.Code == flowcache.ProgramPatch {
		return 0
	}
	return h.Arg
}
