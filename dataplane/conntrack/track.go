package conntrack

import "sync/atomic"

// What a verdict depends on beyond addresses, protocol and the guard.
const (
	UsesPorts   = 1 << iota // source and destination port
	UsesFlags               // the TCP flags in TCPFlags
	UsesICMP                // type, code and identifier
	UsesUnkeyed             // what is not in the flow table's key: inner headers, fragments, chunks, sequence numbers
)

// A Rewrite is what address translation changes in a packet.
type Rewrite struct {
	Set              uint8 // which of the others hold
	Src, Dst         Addr
	SrcPort, DstPort uint16 // for ICMP queries SrcPort is the identifier
	Inner            Tuple  // what the packet within an ICMP error becomes
}

// Bits of Rewrite.Set.
const (
	RewriteSrc = 1 << iota // source address and port
	RewriteDst             // destination address and port
	RewriteInner
)

// A Verdict is what conntrack says about a packet in one zone.
//
// A program may keep it, for packets that agree in what Uses says, if Cacheable
// is true and for as long as cell Cell has the value Want.
type Verdict struct {
	State     State
	Uses      uint8
	Cacheable bool
	Reply     bool // in the reply direction, as State says; for Touch
	// Wait says that the packet is a later fragment whose first has not been
	// seen: it has no state yet. See Hold.
	Wait bool
	// Released says that fragments which waited for this packet can go on.
	Released bool
	Ref      Ref // of the connection; zero if there is none
	Cell     uint32
	Want     uint32
	Mark     uint32
	Label    [2]uint64
	Original Tuple // of the connection's first packet: ct_nw_src and its kin
	// Rewrite is the connection's translation of this packet. It is done where
	// the pipeline says so: by Translate, which also sets the bits of State.
	Rewrite Rewrite
}

// Translate does to p what NAT does, and notes it in State.
func (v *Verdict) Translate(p *Packet) {
	r := &v.Rewrite
	if r.Set&RewriteSrc != 0 {
		v.State |= StateSrcNAT
		p.Src = r.Src
		if p.hasPorts() {
			p.SrcPort = r.SrcPort
		}
	}
	if r.Set&RewriteDst != 0 {
		v.State |= StateDstNAT
		p.Dst = r.Dst
		if p.hasPorts() && !p.icmp() {
			p.DstPort = r.DstPort
		} else if p.hasPorts() {
			p.SrcPort = r.SrcPort
		}
	}
	if r.Set&RewriteInner != 0 {
		p.Inner = r.Inner
	}
}

// hasPorts reports whether a packet has ports that belong to its connection.
func (p *Packet) hasPorts() bool { return !p.Error }

// Track looks a packet up in a zone, takes note of it, and says what it is. It
// makes no connection: that is for Commit. now is in nanoseconds of any clock
// that does not go back, and not 0.
func (w *Worker) Track(zone uint16, p *Packet, now uint64, v *Verdict) {
	*v = Verdict{Original: p.Tuple, Uses: usesOf(p)}
	if p.Fragment != Whole && !p.Bad && !w.assemble(zone, p, now, v) {
		return
	}
	if p.Bad {
		v.Uses |= UsesUnkeyed
		w.refuse(v)
		return
	}
	if p.Error {
		w.trackError(zone, p, v)
		return
	}
	k := p.key(zone)
	h := w.t.index.seed.hash(&k)
	v.Original = p.Tuple
	for range lookTries {
		v.Cell = w.t.absence(h)
		v.Want = w.t.cell(v.Cell)
		i, dir := w.t.find(&k, h)
		if i == 0 {
			break
		}
		if w.known(i, dir, p, now, v) {
			return
		}
	}
	w.unknown(p, v)
}

// lookTries bounds how often a packet is looked up whose connection goes
// meanwhile.
const lookTries = 4

// usesOf returns what the verdict on a packet depends on.
func usesOf(p *Packet) uint8 {
	switch {
	case p.Fragment != Whole || p.Error:
		return UsesUnkeyed
	case p.Proto == ProtoTCP:
		return UsesPorts | UsesFlags
	case p.Proto == ProtoSCTP:
		return UsesPorts | UsesUnkeyed
	case p.Proto == ProtoUDP:
		return UsesPorts
	case p.icmp():
		return UsesICMP
	}
	return 0
}

// refuse makes v the verdict on an invalid packet.
func (w *Worker) refuse(v *Verdict) {
	v.State = StateTracked | StateInvalid
	v.Cacheable = v.Uses&UsesUnkeyed == 0
	w.counts.invalid.Add(1)
}

// unknown says of a packet without a connection whether it may begin one. The
// guard is the absence of such a connection.
func (w *Worker) unknown(p *Packet, v *Verdict) {
	if _, _, ok := w.t.begin(p); !ok {
		w.refuse(v)
		return
	}
	v.State = StateTracked | StateNew
	v.Cacheable = v.Uses&UsesUnkeyed == 0
}

// begin returns the status with which a packet begins a connection, SCTP's
// tags, and whether it can.
func (t *Table) begin(p *Packet) (s status, tags [2]uint32, ok bool) {
	switch {
	case p.Proto == ProtoTCP:
		s, ok = tcpBegin(p.Flags, !t.options.Strict)
		return s, tags, ok
	case p.Proto == ProtoSCTP:
		return sctpBegin(p)
	case p.icmp():
		return 0, tags, asks(uint8(p.DstPort>>8), p.Six)
	}
	return 0, tags, true
}

// known takes note of a packet of connection i. It reports false if the
// connection is over, so that the packet must be looked up again.
func (w *Worker) known(i uint32, dir int, p *Packet, now uint64, v *Verdict) bool {
	var a advance
	if !w.advance(i, dir, p, now, &a) {
		return false
	}
	v.Cell, v.Want = i, a.want
	if a.what == invalid {
		w.refuse(v)
		v.Cacheable = v.Cacheable && !w.t.options.Windows
		return true
	}
	w.t.describe(i, dir, a.status, v)
	if w.t.options.Windows && p.Proto == ProtoTCP {
		v.Uses |= UsesUnkeyed
	}
	v.Cacheable = a.steady && v.Uses&UsesUnkeyed == 0
	if a.what == ended {
		w.t.remove(w.t.ref(i), &w.counts.ended)
		v.Ref = 0
	}
	return true
}

// An advance is what a packet has done to its connection.
type advance struct {
	status status
	what   outcome
	want   uint32 // of the connection's cell
	steady bool   // the next packet like it does the same: nothing
}

// advance takes note of a packet of connection i. It reports false if the connection is
// over. If it ended with the packet, it is yet to be removed.
func (w *Worker) advance(i uint32, dir int, p *Packet, now uint64, a *advance) bool {
	t, r := w.t, &w.t.records[i]
	for {
		a.want = t.cell(i)
		old := status(r.state.Load())
		if old&dead != 0 {
			return false
		}
		next, what := w.step(r, old, dir, p, now)
		a.what = what
		switch what {
		case invalid:
			if !r.watch(old) {
				continue
			}
			return true
		case reopened:
			t.remove(t.ref(i), &w.counts.reopened)
			return false
		}
		if what != ignored {
			next &^= dying
		}
		a.steady = next == old && what == accepted && !(p.Proto == ProtoTCP && (t.options.Windows || r.isYoung(dir)))
		if a.steady {
			next |= watched
		}
		if next != old {
			if !r.state.CompareAndSwap(uint64(old), uint64(next)) {
				continue
			}
			if (next^old)&classBits != 0 && old&watched != 0 {
				t.move(i)
			}
		}
		if what == accepted {
			put32(&t.deadlines[i], t.until(tickOf(now), next, &r.original))
		}
		r.count(dir, 1, uint64(p.Len))
		t.recheck(i)
		a.status = next
		return true
	}
}

// isYoung reports whether a TCP connection has had no packet of data in a direction before this
// one. Many have no more: to keep a program for it would cost more than to walk once more.
func (r *record) isYoung(dir int) bool {
	return atomic.LoadUint64(&r.packets[dir]) < uint64(3-dir) // SYN and ACK, or SYN+ACK, and one
}

// extend gives a record a deadline. What is free or dead has no deadline,
// also if it dies meanwhile.
func (t *Table) extend(i, until uint32) {
	if t.deadlines[i].Load() == until {
		return
	}
	t.deadlines[i].Store(until)
	t.recheck(i)
}

// recheck takes the deadline of a dead record away. A locked instruction is between it and the store of the
// deadline, so either it sees that the record is dead, or who made it dead sees the deadline.
func (t *Table) recheck(i uint32) {
	if status(t.records[i].state.Load())&dead != 0 {
		t.deadlines[i].Store(0)
	}
}

// describe writes into v what a connection is for packets in a direction.
func (t *Table) describe(i uint32, dir int, s status, v *Verdict) {
	r := &t.records[i]
	v.State, v.Reply = s.stateOf(dir), dir == 1
	v.Ref = t.ref(i)
	v.Original = r.original.tuple()
	v.Mark = atomic.LoadUint32(&r.mark)
	v.Label = t.readLabel(r)
	if s&(srcNAT|dstNAT) != 0 {
		v.Rewrite = rewriteOf(r, dir, s)
	}
}

// rewriteOf returns what translation does to packets in a direction: they become
// what the other direction looks like, turned round.
func rewriteOf(r *record, dir int, s status) (w Rewrite) {
	o := r.key(1 - dir).tuple()
	o = o.Inverse()
	w.Src, w.Dst, w.SrcPort, w.DstPort = o.Src, o.Dst, o.SrcPort, o.DstPort
	source, destination := srcNAT, dstNAT
	if dir == 1 {
		source, destination = destination, source
	}
	if s&source != 0 {
		w.Set |= RewriteSrc
	}
	if s&destination != 0 {
		w.Set |= RewriteDst
	}
	return w
}

// step returns what a packet makes of a connection's status. If more than the
// status changes it takes the shard's lock.
func (w *Worker) step(r *record, s status, dir int, p *Packet, now uint64) (status, outcome) {
	switch p.Proto {
	case ProtoTCP:
		if p.Fragment == LaterFragment {
			return s, ignored // its flags are the first one's
		}
		if w.t.options.Windows {
			return w.stepWindow(r, s, dir, p)
		}
		return tcpStep(s, dir, p.Flags)
	case ProtoSCTP:
		if p.Fragment == LaterFragment {
			return s, ignored
		}
		return w.stepTags(r, s, dir, p)
	}
	return talk(s, dir, p.Proto, uint32(r.ident.Load()), tickOf(now)), accepted
}

// streamAfter is when a UDP exchange is a stream, in ticks: two seconds, as in Linux.
const streamAfter = 30

// talk is what a packet makes of a connection of a protocol without states.
func talk(s status, dir int, proto uint8, created, now uint32) status {
	if proto == ProtoUDP && s&seenReply != 0 && int32(now-created) > streamAfter {
		s |= assured
	}
	if dir == 1 {
		s |= seenReply
	}
	return s
}

// stepWindow is step for TCP with window checks.
func (w *Worker) stepWindow(r *record, s status, dir int, p *Packet) (status, outcome) {
	l := w.t.lockOf(r)
	l.Lock()
	defer l.Unlock()
	next, what := tcpStep(s, dir, p.Flags)
	if what == ignored {
		r.doubt(s, dir, p)
	}
	if what != accepted && what != ended {
		return next, what
	}
	seq := r.seq
	n, fits := windowStep(next, uint8(s&protoState), &seq, dir, p)
	switch fits {
	case invalid:
		return s, invalid
	case ignored:
		what, n = ignored, s&^windowBits|n&windowBits
		if dir == 1 {
			n |= seenReply
		}
	}
	r.seq = seq
	return n, what
}

// stepTags is step for SCTP.
func (w *Worker) stepTags(r *record, s status, dir int, p *Packet) (status, outcome) {
	l := w.t.lockOf(r)
	l.Lock()
	defer l.Unlock()
	tags := [2]uint32{r.seq[0].end, r.seq[1].end}
	next, what := sctpStep(s, dir, p, &tags)
	if what != invalid {
		r.seq[0].end, r.seq[1].end = tags[0], tags[1]
	}
	return next, what
}

// lockOf returns the lock of a record's shard.
func (t *Table) lockOf(r *record) *lock {
	return &t.index.locks[t.index.lockOf(t.index.seed.hash(&r.original))]
}

// trackError finds the connection that an ICMP error is about.
func (w *Worker) trackError(zone uint16, p *Packet, v *Verdict) {
	if !w.t.about(zone, p, v) {
		w.refuse(v)
		return
	}
	w.counts.related.Add(1)
}

// about describes the connection that an ICMP error is about, and reports whether
// there is one.
func (t *Table) about(zone uint16, p *Packet, v *Verdict) bool {
	if p.Inner.Proto == 0 {
		return false
	}
	inverse := p.Inner.Inverse()
	k := inverse.key(zone)
	i, dir := t.find(&k, t.index.seed.hash(&k))
	if i == 0 || p.Dst != inverse.Dst {
		return false
	}
	r := &t.records[i]
	s := status(r.state.Load())
	t.describe(i, dir, s, v)
	v.State = v.State&^(StateNew|StateEstablished) | StateRelated
	if v.Rewrite.Set != 0 {
		v.Rewrite.Set |= RewriteInner
		v.Rewrite.Inner = r.key(1 - dir).tuple()
	}
	return true
}
