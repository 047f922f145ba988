package conntrack

// Checks of TCP's windows, after Guido van Rooij, "Real Stateful TCP Packet
// Filtering in IP Filter" (2000), with the bounds of Linux: a packet must touch
// what its receiver may take, and may acknowledge what its receiver has sent.

// ackSlack is how far behind a receiver's data an acknowledgement may be.
const ackSlack = 66000

// after reports whether sequence number a is behind b.
func after(a, b uint32) bool { return int32(a-b) > 0 }

// A segmentView is a packet as the window check sees it.
type segmentView struct {
	seq, end, ack, sack uint32
	win                 uint32
	p                   *Packet
}

// windowStep checks a packet in direction dir of a connection that was in state
// old, and notes what it says. It returns the status with flags and scales, and whether the packet
// is in the window; one that is ignored is not, and no harm either (as in Linux since 6.2): a
// retransmission of what was acknowledged, an acknowledgement that is very late, a little more than the
// window allows. If the receiver never got what we saw acknowledged, the connection would hang without them.
func windowStep(s status, old uint8, seq *[2]window, dir int, p *Packet) (status, outcome) {
	from, to := &seq[dir], &seq[1-dir]
	v := segmentView{seq: p.Seq, ack: p.Ack, sack: p.Ack, win: p.Window, p: p}
	v.end = p.Seq + p.Data
	if p.Flags&FlagSYN != 0 {
		v.end++
	}
	if p.Flags&FlagFIN != 0 {
		v.end++
	}
	if s.of(sack0, 1-dir) && p.HasSACK && after(p.SACK, v.sack) {
		v.sack = p.SACK
	}
	switch fresh := p.Flags&FlagSYN != 0 && after(v.end, from.end) && (old == tcpSynSent || old == tcpSynRecv); {
	case p.Flags&FlagSYN != 0 && from.maxWin == 0, fresh: // a SYN sent again may be another one
		s = s.opening(from, dir, &v)
		if to.maxWin != 0 && !(s.of(scaled0, 0) && s.of(scaled0, 1)) {
			s &^= 0xff << scaleShift
		}
		if p.Flags&FlagACK == 0 && (!fresh || dir == 1) {
			return s, accepted // both sides open at once
		}
	case from.maxWin == 0:
		pickUp(s, from, to, dir, &v)
	}
	if p.Flags&FlagACK == 0 || p.Flags&FlagRST != 0 && p.Ack == 0 {
		v.ack, v.sack = to.end, to.end
	}
	if p.Flags&FlagRST != 0 && p.Seq == 0 && old == tcpSynSent {
		v.seq, v.end = from.end, from.end // the answer to a SYN
	}
	if p.Flags&FlagRST != 0 {
		if n, what, done := v.reset(s, old, from, to, dir); done {
			return n, what
		}
	}
	if s&liberal == 0 {
		if what := v.judge(from, to); what != accepted {
			return s, what
		}
	}
	return v.note(s, from, to, dir), accepted
}

// reset judges a RST, of which more is known than the window (RFC 5961 3.2). It reports false if the window decides.
func (v *segmentView) reset(s status, old uint8, from, to *window, dir int) (n status, what outcome, done bool) {
	switch acked := s.of(acked0, 1-dir); {
	case status(old).closes(ProtoTCP), old == tcpSynSent && dir == 0 && to.clears(v.p):
		return s, accepted, true // the ends may have gone on to another connection
	case acked && v.p.Seq == to.maxAck:
		return v.note(s, from, to, dir), accepted, true // the very number that the other side waits for
	case !acked || s&liberal != 0:
	case after(to.maxAck, v.p.Seq):
		return s, invalid, true
	case s&assured != 0 && old == tcpEstablished && v.p.Seq != from.end && v.judge(from, to) == accepted:
		return s.in(old), accepted, true // the other side will ask for another one, with the right number
	}
	return s, accepted, false
}

// doubt takes note of an acknowledgement that answers a SYN: the server has another connection
// still, of which it tells the client so that this may end it (RFC 9293 3.5.1). As long as the server has
// sent no SYN, its window holds what it acknowledged and where that segment ended. The shard's lock is held.
func (r *record) doubt(s status, dir int, p *Packet) {
	if w := &r.seq[1]; s&protoState == tcpSynSent && dir == 1 && segment(p.Flags) == segACK && w.maxWin == 0 {
		w.maxAck, w.maxEnd = p.Ack, p.Seq+p.Data
	}
}

// clears reports whether a client's RST is about what doubt has noted in w.
func (w *window) clears(p *Packet) bool {
	return w.maxWin == 0 && w.maxAck != 0 && (p.Seq == w.maxAck || p.Flags&FlagACK != 0 && p.Ack == w.maxEnd)
}

// opening starts a direction with its SYN.
func (s status) opening(from *window, dir int, v *segmentView) status {
	*from = window{end: v.end, maxEnd: v.end, maxWin: max(v.win, 1)}
	s &^= (sack0|scaled0|acked0)<<dir | 0xf<<(scaleShift+4*dir)
	if v.p.SACKPermitted {
		s |= sack0 << dir
	}
	if v.p.Scale >= 0 {
		s |= scaled0<<dir | status(min(v.p.Scale, 14))<<(scaleShift+4*dir)
	}
	return s
}

// scale returns the shift of the windows that a side advertises.
func (s status) scale(dir int) uint32 { return uint32(s>>(scaleShift+4*dir)) & 15 }

// pickUp starts a direction in its middle.
func pickUp(s status, from, to *window, dir int, v *segmentView) {
	win := max(v.win<<s.scale(dir), 1)
	*from = window{end: v.end, maxEnd: v.end + win, maxWin: win}
	if to.maxWin == 0 {
		to.end, to.maxEnd = v.sack, v.sack
	} else if v.sack == to.end+1 {
		to.end++ // it was a SYN only
	}
}

// judge says whether a packet is in the window, by the four bounds: upper and
// lower for data, upper and lower for acknowledgements. Data beyond, by less than a window, is taken
// note of: if the receiver takes it, it will acknowledge it.
func (v *segmentView) judge(from, to *window) outcome {
	recent := to.maxWin == 0 || after(v.end, from.end-to.maxWin-1)
	acksRecent := after(v.sack, to.end-max(from.maxWin, ackSlack)-1)
	acksSent := after(to.end+1, v.sack)
	switch {
	case !after(from.maxEnd+1, v.seq):
		if to.maxWin != 0 && recent && acksRecent && acksSent && v.end-from.maxEnd+1 <= to.maxWin {
			from.end = v.end
			return ignored
		}
		return invalid
	case !acksSent:
		return invalid
	case !recent || !acksRecent:
		return ignored
	}
	return accepted
}

// note takes down what a packet in the window says.
func (v *segmentView) note(s status, from, to *window, dir int) status {
	win := v.win
	if v.p.Flags&FlagSYN == 0 {
		win <<= s.scale(dir)
	}
	from.maxWin = max(from.maxWin, win+v.sack-v.ack)
	if after(v.end, from.end) {
		from.end = v.end
	}
	if v.p.Flags&FlagACK != 0 && (!s.of(acked0, dir) || after(v.ack, from.maxAck)) {
		from.maxAck = v.ack
		s |= acked0 << dir
	}
	if to.maxWin != 0 && after(v.end, from.maxEnd) {
		to.maxWin += v.end - from.maxEnd
	}
	if after(v.sack+win, to.maxEnd-1) {
		to.maxEnd = v.sack + max(win, 1)
	}
	return s
}
