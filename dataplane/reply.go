package dataplane

import (
	"millrace/dataplane/conntrack"
	"millrace/dataplane/edit"
	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/dataplane/reply"
	"millrace/flowtable"
)

// A replier makes packets that answer others, for one worker.
type replier struct {
	about [reply.Quoted]byte // beginning of the frame that is answered
	made  [reply.Max]byte
}

// reply carries out an OpReply: the frame becomes one that answers it. It reports false if the
// program goes on without: the frame cannot be answered, or there is no token.
func (w *worker) reply(t *transit, op *flowtable.Op) bool {
	if t.lost {
		return false
	}
	r := &w.replier
	about := r.about[:w.gather(t.slot, r.about[:])]
	n := reply.Make(r.made[:], about, w.batch.Frames[t.slot].Len, orderOf(op))
	switch {
	case n == 0:
		t.why = packet.ReasonNoReply
		return false
	case op.Arg != 0 && !w.conforms(op.Arg, uint32(n)):
		t.why = packet.ReasonReplyRate
		return false
	}
	slot, ok := w.batch.New(r.made[:n])
	if !ok {
		t.why = packet.ReasonCopies
		return false
	}
	t.slot, t.shared, t.only, t.edit = slot, false, nil, edit.Editor{}
	return true
}

// orderOf is what an OpReply asks for.
func orderOf(op *flowtable.Op) reply.Order {
	return reply.Order{Kind: op.Word, Turned: op.Mask == 1, MTU: uint32(op.Value)}
}

// gather copies the beginning of a frame to dst, and returns how long it is. If the lender has taken
// its memory away, it is the private head, and the lender's port is broken.
func (w *worker) gather(slot int, dst []byte) (n int) {
	defer func() {
		if r := recover(); r != nil {
			w.broken(r)
			n = copy(dst, w.batch.Head(slot))
		}
	}()
	return w.batch.CopyTo(dst, slot)
}

// crossReply is flowtable.SideTables.Reply.
func (w *worker) crossReply(r *flowtable.Replying) bool {
	if r != nil && !w.conforms(r.Meter, 0) {
		return false
	}
	w.flow.ct.reply(r)
	return true
}

// reply has connection tracking go on with a reply to the packet in hand, or, with nil, with
// that packet again.
func (c *connector) reply(r *flowtable.Replying) {
	c.tracked = false
	if r == nil {
		c.packet, c.isIP = c.asked, true
		return
	}
	c.readFrame()
	tupleOf(&c.packet, r.About)
	c.asked = c.packet
	c.packet = replyTo(&c.asked, &c.layout, r.Kind)
}

// replyTo is what connection tracking sees of a reply to a packet that has a layout. Its tuple is brought
// up to date before it is looked up, but for what an error quotes.
func replyTo(p *conntrack.Packet, l *parse.Layout, kind uint8) conntrack.Packet {
	out := conntrack.Packet{Tuple: p.Tuple, Len: reply.Order{Kind: kind}.Length(l), Scale: -1}
	switch kind {
	case flowtable.ReplyTCP:
		out.Flags = conntrack.FlagRST
		if out.Seq = p.Ack; p.Flags&conntrack.FlagACK == 0 {
			out.Flags |= conntrack.FlagACK
			out.Seq, out.Ack = 0, p.Seq+p.Data+uint32(p.Flags>>1&1+p.Flags&1) // SYN and FIN count
		}
	case flowtable.ReplySCTP:
		out.Tag, out.ChunkCount = p.Tag, 1
		if p.InitTag != 0 {
			out.Tag = p.InitTag
		}
		out.Chunks[0].Type = sctpAbort
	default:
		out.Error, out.Inner = true, p.Tuple
		if p.Bad {
			out.Inner.Proto = 0 // it cannot be read
		}
		out.Proto, out.SrcPort, out.DstPort = conntrack.ProtoICMP, 0, 3<<8
		if p.Six {
			out.Proto, out.DstPort = conntrack.ProtoICMPv6, 1<<8
		}
	}
	return out
}

// sctpAbort is the type of the chunk (RFC 9260 3.2).
const sctpAbort = 6
