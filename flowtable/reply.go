package flowtable

import (
	"errors"
	"fmt"
)

// Kinds of packet that ActReply makes about another, in Table. ICMP errors quote it. All but
// ReplyReject have its addresses as they are; who wants them the other way round exchanges
// them in Nested. Of TCP and SCTP, ports are exchanged.
const (
	ReplyReject     = iota // by protocol: one of those below, with all addresses exchanged
	ReplyICMP4             // destination unreachable: the host, or the port if the packet is of UDP (RFC 792)
	ReplyICMP4Error        // the host, whatever the protocol
	ReplyICMP6             // destination unreachable: prohibited, or the port (RFC 4443 3.1)
	ReplyICMP6Error        // prohibited, whatever the protocol
	ReplyTCP               // a reset (RFC 9293 3.10.7.1)
	ReplySCTP              // an abort (RFC 9260 8.4)
	replyKinds
)

// What replies have for a time to live (hop limit): what the walk puts into the key, and
// whoever makes the frame into its header.
const (
	ReplyTTL     = 63
	ReplyTTLICMP = 255
)

// Ethernet types and IP protocols.
const (
	typeIPv4 = 0x0800
	typeIPv6 = 0x86dd

	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
	protoSCTP   = 132
)

// TCP flags, as in WordDst.
const (
	tcpRST   = 1 << 2
	tcpACK   = 1 << 4
	tcpFlags = 0xfff
)

// groupBit is the bit of WordDst and WordSrc that an Ethernet address of a group has.
const groupBit = 1 << 56

// checkReply checks an ActReply itself.
func checkReply(a *Action) error {
	switch {
	case a.Table >= replyKinds:
		return fmt.Errorf("reply: unknown kind %d", a.Table)
	case a.Arg == 0:
		return errors.New("reply: no meter")
	case a.Value > 1<<32-1 || a.ValueLow != 0:
		return fmt.Errorf("reply: MTU %d", a.Value)
	}
	return nil
}

// A Replying is a reply that is about to go through connection tracking.
type Replying struct {
	About *Context // the packet that it is about
	Kind  uint8    // ReplyICMP4 and its kin
	Meter uint32
}

// A reply is what a walk knows of the one that it is at.
type reply struct {
	Replying
	about Context
	at    int  // its OpReply
	told  bool // connection tracking knows that the packet is another one
}

// reply makes a reply, and does what is nested with it.
func (w *Walker) reply(s *step) {
	kind, turned := w.replyKind(s.table)
	if kind == 0 || w.made || !w.answerable(kind, turned) {
		w.last = DropNoReply
		return
	}
	nested, op := s.nested, Op{Code: OpReply, Word: kind, Arg: s.arg, Value: s.value}
	if turned {
		op.Mask = 1
	}
	w.copied(func() {
		w.flush()
		r := &w.replying
		r.about, r.at, r.told = w.ctx, len(w.out.Ops), false
		r.Replying = Replying{&r.about, kind, s.arg}
		w.emit(op)
		w.disconnect()
		w.ctx[WordFlags] &^= 0xffffffff // the mark is the other packet's
		w.become(kind, turned)
		w.made = true
		w.list(nested)
		if r.told {
			w.side.Reply(nil)
		}
	})
}

// tell has connection tracking go on with the reply, which takes a token for it: the
// connection that it belongs to must not hear of what is not sent. It reports whether there was one.
func (w *Walker) tell() bool {
	r := &w.replying
	if r.told || w.side.Reply == nil {
		return true
	}
	w.passing = true
	if !w.side.Reply(&r.Replying) {
		return false
	}
	w.out.Ops[r.at].Arg, r.told = 0, true
	return true
}

// replyKind returns the kind of reply to the packet, and whether it is turned round; 0
// if there is none to such a packet.
func (w *Walker) replyKind(kind uint8) (uint8, bool) {
	w.consult(WordIn, 0xffff)
	w.consult(WordSrc, 0xff00)
	four, six := w.ctx[WordIn]&0xffff == typeIPv4, w.ctx[WordIn]&0xffff == typeIPv6
	proto, turned := w.ctx[WordSrc]>>8&0xff, kind == ReplyReject
	if turned {
		switch {
		case proto == protoTCP:
			kind = ReplyTCP
		case proto == protoSCTP:
			kind = ReplySCTP
		case four:
			kind = ReplyICMP4
		default:
			kind = ReplyICMP6
		}
	}
	switch kind {
	case ReplyICMP4, ReplyICMP4Error:
		six = false
	case ReplyICMP6, ReplyICMP6Error:
		four = false
	case ReplyTCP:
		four, six = four && proto == protoTCP, six && proto == protoTCP
	case ReplySCTP:
		four, six = four && proto == protoSCTP, six && proto == protoSCTP
	}
	if !four && !six {
		return 0, false
	}
	return kind, turned
}

// answerable reports whether a packet may be answered: not an error, nor what is a
// fragment without a header, nor one to or from more than one host (RFC 1122 3.2.2, RFC 4443 2.4,
// RFC 9293 3.10.7.1). Groups on the wire are told by the frame as it came, too.
func (w *Walker) answerable(kind uint8, turned bool) bool {
	w.out.Mask[WordDst] |= groupBit
	w.consult(WordDst, groupBit)
	w.consult(WordL4, 3<<16)
	group := (w.key[WordDst] | w.ctx[WordDst]) & groupBit
	if turned {
		w.consult(WordSrc, groupBit)
		group |= w.ctx[WordSrc] & groupBit
	}
	if w.pushed {
		w.out.Mask[WordIn] |= TagPresent << 16
		if w.below {
			return false // headers behind a tag that rules do not see are not found
		}
	}
	fragment := w.ctx[WordL4] >> 16 & 3
	if kind < ReplyTCP {
		fragment &= 2
	}
	if group|fragment != 0 || !w.singular() {
		return false
	}
	switch w.ctx[WordSrc] >> 8 & 0xff {
	case protoTCP:
		w.consult(WordDst, tcpFlags)
		return kind != ReplyTCP || w.ctx[WordDst]&tcpRST == 0
	case protoICMP, protoICMPv6:
		w.consult(WordL4, 0xff<<48)
		return !isICMPError(uint8(w.ctx[WordSrc]>>8), uint8(w.ctx[WordL4]>>48))
	}
	return true
}

// isICMPError reports whether a type of ICMP is an error, or a redirect (RFC 1122 3.2.2, RFC
// 4443 2.4 e). What has no type, since its header is not there, has 0, which ICMPv6 has for none.
func isICMPError(proto, kind uint8) bool {
	if proto == protoICMPv6 {
		return kind < 128 || kind == 137
	}
	return kind == 3 || kind == 4 || kind == 5 || kind == 11 || kind == 12
}

// singular reports whether both addresses of a packet can be those of one host.
func (w *Walker) singular() bool {
	c := &w.ctx
	if c[WordIn]&0xffff == typeIPv4 {
		w.consult(WordIP4, ^uint64(0))
		src, dst := c[WordIP4]>>56, c[WordIP4]>>24&0xff
		return src != 0 && src != 127 && src < 224 && dst < 224
	}
	for i := uint8(WordIP6Src); i <= WordIP6DstLow; i++ {
		w.consult(i, ^uint64(0))
	}
	return c[WordIP6Src]|c[WordIP6SrcLow] != 0 && c[WordIP6Src]>>56 != 0xff && c[WordIP6Dst]>>56 != 0xff
}

// become makes the context that of the reply, which the frame is by now.
func (w *Walker) become(kind uint8, turned bool) {
	c := *(*Key)(w.ctx[:KeyWords])
	six := c[WordIn]&0xffff == typeIPv6
	if turned {
		w.turn(&c, six)
	}
	flags, ttl, l4 := uint64(0), uint64(ReplyTTL), c[WordL4]<<16&(0xffff<<48)|c[WordL4]>>16&(0xffff<<32)
	proto := c[WordSrc] >> 8 & 0xff
	switch kind {
	case ReplyTCP:
		w.consult(WordL4, 0xffffffff<<32)
		flags = 5<<12 | tcpRST | tcpACK
		if c[WordDst]&tcpACK != 0 {
			flags = tcpRST
		}
		flags &= tcpFlags
	case ReplySCTP:
		w.consult(WordL4, 0xffffffff<<32)
	default:
		kind, code := replyICMP(kind, proto)
		ttl, l4 = ReplyTTLICMP, uint64(kind)<<48|uint64(code)<<32
		if proto = protoICMP; six {
			proto = protoICMPv6
		}
	}
	w.determine(WordDst, 0xffff, flags)
	w.determine(WordSrc, 0xffff, proto<<8|ttl)
	w.determine(WordL4, ^uint64(0xfc<<24), l4)
	for i := uint8(WordSHA); i <= WordNDLow; i++ {
		w.determine(i, ^uint64(0), 0)
	}
	if six {
		w.determine(WordIP4, ^uint64(0), 0)
	}
}

// replyICMP returns type and code of an ICMP error about a packet of a protocol.
func replyICMP(kind uint8, proto uint64) (icmp, code uint8) {
	switch {
	case kind == ReplyICMP4 && proto == protoUDP:
		return 3, 3
	case kind == ReplyICMP4, kind == ReplyICMP4Error:
		return 3, 1
	case kind == ReplyICMP6 && proto == protoUDP:
		return 1, 4
	}
	return 1, 1
}

// turn exchanges the addresses.
func (w *Walker) turn(c *Key, six bool) {
	const address = ^uint64(0xffff)
	w.consult(WordDst, address)
	w.consult(WordSrc, address)
	w.determine(WordDst, address, c[WordSrc])
	w.determine(WordSrc, address, c[WordDst])
	if !six {
		w.determine(WordIP4, ^uint64(0), c[WordIP4]<<32|c[WordIP4]>>32)
		return
	}
	for i := range uint8(2) {
		w.determine(WordIP6Src+i, ^uint64(0), c[WordIP6Dst+i])
		w.determine(WordIP6Dst+i, ^uint64(0), c[WordIP6Src+i])
	}
}

// determine says that bits of the frame, and of the context, have a value that does not
// come from the same bits of the key.
func (w *Walker) determine(word uint8, mask, value uint64) {
	value &= mask
	w.ctx[word] = w.ctx[word]&^mask | value
	w.frame[word] = w.frame[word]&^mask | value
	w.touched[word] |= mask
	w.done[word] |= mask
}

// addReplied adds what replies write.
func addReplied(k *Key) {
	k[WordDst], k[WordSrc] = ^uint64(0), ^uint64(0)
	for i := WordSHA; i <= WordNDLow; i++ {
		k[i] = ^uint64(0)
	}
	addTranslated(k)
	k[WordL4] |= ^uint64(0xfc << 24)
}
