package conntrack

import (
	"iter"
	"sync/atomic"
)

// A Connection is a row of Dump.
type Connection struct {
	Ref                Ref
	Zone               uint16
	Original, Answer   Tuple // Answer is what replies look like
	State              string
	SeenReply, Assured bool
	SrcNAT, DstNAT     bool
	Mark               uint32
	Label              [2]uint64
	Age, Timeout       uint32    // seconds since it began, and until it ends if nothing comes
	Packets, Bytes     [2]uint64 // original direction, replies; without those that Touch has not told of
}

// tcpStateNames and sctpStateNames are in the order of the states.
var (
	tcpStateNames  = [...]string{"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"}
	sctpStateNames = [...]string{"NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT", "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT"}
)

// dumpStep is how many records Dump looks at while it is inside.
const dumpStep = 256

// Dump yields the connections in no useful order. It holds nothing while the
// caller works: those that come and go meanwhile may be missing, none is
// half old and half new.
func (t *Table) Dump(now uint64) iter.Seq[Connection] { return t.Select(&Filter{}, now) }

// Select is Dump for the connections that a filter has.
func (t *Table) Select(f *Filter, now uint64) iter.Seq[Connection] {
	return func(yield func(Connection) bool) {
		part := make([]Connection, 0, dumpStep)
		for from := uint32(1); from < t.stock.touched.Load(); from += dumpStep {
			part = part[:0]
			t.inside(func() {
				for i := from; i < min(from+dumpStep, t.stock.touched.Load()); i++ {
					if c, ok := t.chosen(f, i, tickOf(now)); ok {
						part = append(part, c)
					}
				}
			})
			for i := range part {
				if !yield(part[i]) {
					return
				}
			}
		}
	}
}

// chosen returns record i, if it is a connection that a filter has.
func (t *Table) chosen(f *Filter, i, now uint32) (c Connection, ok bool) {
	if t.deadlines[i].Load() == 0 || !f.mayHave(&t.records[i].original) {
		return c, false
	}
	c, ok = t.connection(i, now)
	return c, ok && f.Has(&c)
}

// At returns the connection that ref names, if it is there still.
func (t *Table) At(ref Ref, now uint64) (c Connection, ok bool) {
	i := ref.index()
	if i == 0 || i >= t.stock.touched.Load() {
		return c, false
	}
	t.inside(func() { c, ok = t.connection(i, tickOf(now)) })
	return c, ok && c.Ref == ref
}

// Lookup returns the connection of which tuple is a direction. It takes note of
// nothing.
func (t *Table) Lookup(zone uint16, tuple Tuple, now uint64) (c Connection, ok bool) {
	k := tuple.key(zone)
	t.inside(func() {
		if i, _ := t.find(&k, t.index.seed.hash(&k)); i != 0 {
			c, ok = t.connection(i, tickOf(now))
		}
	})
	return c, ok
}

// connection returns record i, if it is one.
func (t *Table) connection(i, now uint32) (c Connection, ok bool) {
	r := &t.records[i]
	d, s := t.deadlines[i].Load(), status(r.state.Load())
	if d == 0 || s&dead != 0 {
		return c, false
	}
	ident := r.ident.Load()
	c = Connection{
		Ref: Ref(ident>>32<<32 | uint64(i)), Zone: r.original.zone(), Original: r.original.tuple(), Answer: r.reply.tuple(),
		SeenReply: s&seenReply != 0, Assured: s&assured != 0, SrcNAT: s&srcNAT != 0, DstNAT: s&dstNAT != 0,
		Mark: atomic.LoadUint32(&r.mark), Label: t.readLabel(r),
	}
	for dir := range 2 {
		c.Packets[dir], c.Bytes[dir] = atomic.LoadUint64(&r.packets[dir]), atomic.LoadUint64(&r.bytes[dir])
	}
	c.State = stateName(s, r.original.proto())
	if past := int32(now - uint32(ident)); past > 0 {
		c.Age = secondsOf(uint32(past))
	}
	if left := int32(d&^staysBit - now<<1); left > 0 {
		c.Timeout = secondsOf(uint32(left) >> 1)
	}
	return c, true
}

// stateName names a protocol's state.
func stateName(s status, proto uint8) string {
	state := int(s & protoState)
	switch {
	case proto == ProtoTCP && state < len(tcpStateNames):
		return tcpStateNames[state]
	case proto == ProtoSCTP && state < len(sctpStateNames):
		return sctpStateNames[state]
	case s&seenReply != 0:
		return "REPLIED"
	}
	return "UNREPLIED"
}
