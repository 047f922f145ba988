package dataplane

import (
	"math/bits"

	"millrace/dataplane/conntrack"
	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/dataplane/sys"
	"millrace/flowtable"
)

// Packets that begin and end connections change them, so no program is right for the
// next one, and each takes the long way. But they take it as others did before: a retrace
// goes by the stages of their walks (flowtable.Walker.Retrace) and asks connection tracking
// briefly (conntrack.Brief). If it does not come to its end, the frame is walked, and what
// connection tracking has said is said to the walk again.

// answersMax is how many questions a retrace asks at most.
const answersMax = 4

// An answer is one that a retrace was given.
type answer struct {
	zone    uint16
	commit  bool
	settled bool   // verdict is there
	drop    uint32 // the packet ends here, for this reason, unless it is 0
	brief   conntrack.Brief
	verdict conntrack.Verdict
}

// answers are those that the frame in hand was given.
type answers struct {
	list     [answersMax]answer
	n        int
	replayed int  // how many of them its walk was given
	passing  bool // one is for this packet only
	expected int  // number of the frame
	flags    uint16
	bytes    uint32
}

// of says which frame is retraced: the one that was expected as number n.
func (a *answers) of(n int, flags uint16, bytes uint32) {
	a.n, a.replayed, a.passing, a.expected, a.flags, a.bytes = 0, 0, false, n, flags, bytes
}

// briefly answers a question of a retrace. It returns nil if the frame is to be walked.
func (c *connector) briefly(ask *flowtable.Connect) *conntrack.Brief {
	a := &c.given
	e, before := &a.list[a.n&(answersMax-1)], &a.list[(a.n-1)&(answersMax-1)]
	again := a.n > 0 && before.zone == ask.Zone
	e.zone, e.commit, e.drop, e.settled = ask.Zone, ask.Flags&flowtable.CTCommit != 0, 0, again && before.settled
	if a.n == answersMax || e.commit && e.settled {
		return nil // what a commit behind a commit is, a walk knows
	}
	switch {
	case e.settled:
		e.brief, e.verdict = before.brief, before.verdict
	case again:
		e.brief = before.brief
	default:
		c.worker.Brief(a.expected, ask.Zone, a.flags, a.bytes, c.now, &e.brief)
	}
	if c.zones++; c.zones == 1 {
		c.zoneOf = ask.Zone
	}
	if a.n++; e.commit {
		c.prepare(ask)
		result, brief := c.worker.CommitBrief(&e.brief, &c.terms, c.now, &e.verdict)
		e.drop, e.settled = refusal(result), !brief
	}
	if e.drop != 0 || e.brief.Translated && ask.Flags&flowtable.CTTranslate != 0 {
		return nil
	}
	a.passing = a.passing || !e.brief.Cacheable
	return &e.brief
}

// settle makes verdicts of the answers, for a walk.
func (a *answers) settle(w *conntrack.Worker) {
	for i := range a.list[:a.n] {
		if e := &a.list[i]; !e.settled {
			w.Verdict(&e.brief, &e.verdict)
			e.settled = true
		}
	}
}

// replay answers a question of a walk as that of its retrace was answered. It returns nil if
// there was none like it: rules have changed.
func (c *connector) replay(ask *flowtable.Connect) *answer {
	a := &c.given
	if a.replayed >= a.n {
		return nil
	}
	e := &a.list[a.replayed&(answersMax-1)]
	if e.zone != ask.Zone || e.commit != (ask.Flags&flowtable.CTCommit != 0) || !c.worker.Expected(a.expected, &c.packet.Tuple) {
		a.n = 0
		return nil
	}
	a.replayed++
	return e
}

// A port that retraces fail for goes without them for a while: each that fails adds
// doubtMore, and from doubtMany on none is tried. One that succeeds takes one off, and so does a
// batch without any.
const (
	doubtMore = 1
	doubtMany = 64
)

// lookAhead asks for what will be read for the next frames that have missed, and says which
// of them are to be retraced.
func (w *worker) lookAhead() {
	c, n, walks := w.flow.ct, 0, 0
	c.clock(sys.TSC())
	for ; w.unasked != 0 && n < aheadGroup; w.unasked &= w.unasked - 1 {
		i := bits.TrailingZeros64(w.unasked)
		wide := w.wide.Frames>>i&1 != 0
		if w.expect(i, n, wide); w.retraces && parse.Plain(w.batch.Head(i), w.batch.Frames[i].Len) {
			w.retraced |= 1 << i
			w.numbers[i] = uint8(n)
			n++
			continue
		}
		key := &w.ahead[walks&(packet.BatchMax-1)]
		if wide {
			*key = w.wide.Keys[i]
		} else {
			*key = flowtable.Key{}
			copy(key[:], w.keys[i][:])
		}
		key[flowtable.WordL4] &^= ownBits
		n++
		walks++
	}
	if walks != 0 {
		w.flow.walker.Ahead(&w.ahead, walks, w.flow.counters)
	}
	if w.retraces || c.zones != 0 {
		c.worker.Ahead(n, c.zoneOf)
	}
}

// mayRetrace reports whether frames of p that have missed are to be retraced.
func (w *worker) mayRetrace(p *workerPort) bool {
	if p.level != parse.Full || p.isTunnel || w.trace != nil || !w.flow.walker.Retraces(p.number) || !w.flow.ct.table.Briefs() {
		return false
	}
	if p.doubt >= doubtMany {
		p.doubt--
		return false
	}
	return true
}

// expect says that frame i, as number n, will be looked up in a zone.
func (w *worker) expect(i, n int, wide bool) {
	key := &w.keys[i]
	l4, proto, ct := key[flowtable.WordL4], uint8(key[flowtable.WordSrc]>>8), w.flow.ct.worker
	if wide {
		six := &w.wide.Keys[i]
		ct.Expect(n, six[flowtable.WordIP6Src], six[flowtable.WordIP6SrcLow], six[flowtable.WordIP6Dst], six[flowtable.WordIP6DstLow], l4, proto, true)
		return
	}
	ct.Expect(n, 0, key[flowtable.WordIP4]>>32, 0, key[flowtable.WordIP4]&0xffffffff, l4, proto, false)
}

// retrace decides about received frame i of p, if it was looked ahead for. It reports false if
// the frame is to be walked.
func (w *worker) retrace(p *workerPort, i int) bool {
	if w.retraced>>i&1 == 0 || w.visited > visitedMax {
		return false
	}
	walker, c := w.flow.walker, w.flow.ct
	key, whole := &w.keys[i], w.keys[i][:]
	if w.wide.Frames>>i&1 != 0 {
		whole = w.wide.Keys[i][:]
	}
	if w.kept {
		if at, bit := sightOf(whole); w.sighted[at]&bit != 0 {
			return false // the program may be its own
		}
	}
	if !walker.Retrace(whole) {
		return false
	}
	n := w.batch.Frames[i].Len
	c.given.of(int(w.numbers[i]), uint16(key[flowtable.WordDst]&0xfff), n)
	c.zones = 0
	for {
		switch what := walker.Next(); {
		case what == flowtable.RetraceAsk:
			if b := c.briefly(walker.RetraceAsks()); b != nil {
				walker.Answer(uint32(b.State), b.Mark, b.Label)
				continue
			}
		case what != flowtable.RetraceUnknown && c.given.passing:
			w.endRetrace(p, i, what)
			return true
		}
		c.given.settle(c.worker)
		p.doubt += doubtMore
		return false
	}
}

// endRetrace counts frame i, whose retrace has come to its end, and does what it says.
func (w *worker) endRetrace(p *workerPort, i int, what flowtable.Retraced) {
	p.doubt -= min(p.doubt, 1)
	w.missed++
	w.stats.Walks++
	w.retracings++
	w.flow.ct.took++
	w.flow.ct.given.n = 0
	walker, n := w.flow.walker, w.batch.Frames[i].Len
	w.visited += walker.CountRetrace(uint64(n))
	arg := walker.RetraceArg()
	if o := w.port(arg); what == flowtable.RetraceOutput && o != nil && o.plain && o.n < len(o.own) {
		w.sendAs(p, o, i)
		return
	}
	w.firstRun, w.passed = w.runs, 0
	t := transit{in: p, slot: i, rx: i, fdbSlot: -1}
	if what == flowtable.RetraceDrop {
		w.perform(&t, nil, arg)
		return
	}
	w.ops[0] = append(w.ops[0][:0], flowtable.Op{Code: flowtable.OpOutput, Arg: arg})
	w.perform(&t, w.ops[0], 0)
}
