package dataplane

import (
	"encoding/binary"

	"millrace/dataplane/conntrack"
	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/dataplane/sys"
	"millrace/flowtable"
)

// A connector takes packets that are walked through connection tracking, for one
// worker. What a walk needs of the frame is read when the walk comes to the first zone.
type connector struct {
	*crossing
	number int
	worker *conntrack.Worker
	trace  bool // takes note of nothing

	holding
	head   []byte // of the frame that is walked
	length uint32
	read   bool   // packet is this frame's
	took   uint64 // frames that took the long way
	zoneOf uint16 // the first zone that the last frame came through
	zones  int    // how many it came through
	isIP   bool
	layout parse.Layout
	packet conntrack.Packet
	now    uint64 // in nanoseconds

	verdict conntrack.Verdict
	tracked bool // verdict is of this frame, in zone, with tuple
	zone    uint16
	tuple   conntrack.Tuple
	terms   conntrack.Terms
	nat     conntrack.NAT
	looked  conntrack.Verdict
	asked   conntrack.Packet // that the reply in hand is about
	given   answers

	used   bool // programs count for connections
	untold bool // some may have counted since they were last told of
	place  int  // where to go on telling of programs
	second uint32
	swept  uint64 // ticks when connections were last looked over

	sweptFragments uint64 // ticks when some fragments were
}

// begin takes note of the frame that is about to be walked.
func (c *connector) begin(head []byte, length uint32) {
	c.head, c.length, c.read, c.tracked, c.waits, c.zones = head, length, false, false, false, 0
}

// clock says what time it is, in ticks, for the frames that are walked from now on.
func (c *connector) clock(ticks uint64) { c.now = c.nanos(ticks) }

// connect is flowtable.SideTables.Connect.
func (c *connector) connect(ctx *flowtable.Context, ask *flowtable.Connect, got *flowtable.Connected) {
	c.readFrame()
	p, v := &c.packet, &c.verdict
	if !c.isIP {
		got.State, got.Cacheable = uint32(conntrack.StateTracked|conntrack.StateInvalid), true
		got.Mask[flowtable.WordIn] = 0xffff
		return
	}
	tupleOf(p, ctx)
	if c.zones++; c.zones == 1 {
		c.zoneOf = ask.Zone
	}
	if ask.Flags&flowtable.CTLook != 0 {
		c.look(ask.Zone, got)
		return
	}
	known := c.tracked && c.zone == ask.Zone && c.tuple == p.Tuple
	if !c.visit(ask, got, known) {
		return
	}
	if ask.Flags&flowtable.CTTranslate != 0 {
		v.Translate(p)
		rewrite(p, v, got)
		c.tuple = p.Tuple // it is still this connection's if it comes to the zone again
	}
	c.tell(got)
	if known {
		got.Ref = 0 // it is counted
	}
}

// readFrame reads what a walk needs of the frame, once.
func (c *connector) readFrame() {
	if c.read {
		return
	}
	if c.read = true; c.trace {
		c.clock(sys.TSC())
	}
	c.took++
	c.layout.Find(c.head, c.length)
	c.isIP = c.packet.Read(c.head, &c.layout, c.length)
}

// visit has the packet looked up, unless the verdict is known already from the visit
// before, and committed. It reports false if the packet ends here.
func (c *connector) visit(ask *flowtable.Connect, got *flowtable.Connected, known bool) bool {
	p, v := &c.packet, &c.verdict
	if e := c.replay(ask); e != nil {
		*v, got.Drop = e.verdict, e.drop
		c.tracked, c.zone, c.tuple = true, ask.Zone, p.Tuple
		return got.Drop == 0
	}
	commit := ask.Flags&flowtable.CTCommit != 0
	if commit {
		c.prepare(ask)
	}
	if c.trace {
		terms := &c.terms
		if !commit {
			terms = nil
		}
		c.table.Peek(ask.Zone, p, terms, v)
		return true
	}
	if !known {
		c.tracked, c.zone, c.tuple = true, ask.Zone, p.Tuple
		c.worker.Track(ask.Zone, p, c.now, v)
	}
	if v.Wait {
		c.waits, c.waitZone, c.waitFor = true, ask.Zone, *p
		got.Drop = dropFragment
		return false
	}
	c.released = c.released || v.Released
	if commit {
		got.Drop = refusal(c.worker.Commit(ask.Zone, p, &c.terms, c.now, v))
	}
	return got.Drop == 0
}

// refusal is the reason of a drop when nothing was committed, or 0.
func refusal(r conntrack.Result) uint32 {
	switch r {
	case conntrack.Full, conntrack.BucketFull:
		return ownDrop | uint32(packet.ReasonCTFull)
	case conntrack.Limited:
		return ownDrop | uint32(packet.ReasonCTLimit)
	case conntrack.Clash, conntrack.NoPort:
		return ownDrop | uint32(packet.ReasonCTClash)
	}
	return 0
}

// prepare makes the terms of a commit.
func (c *connector) prepare(ask *flowtable.Connect) {
	c.terms = conntrack.Terms{Mark: ask.Mark, MarkMask: ask.MarkMask, Label: ask.Label, LabelMask: ask.LabelMask, Force: ask.Flags&flowtable.CTForce != 0}
	c.nat = conntrack.NAT{Persistent: ask.Persistent, Random: ask.Random}
	six := c.packet.Six
	setRange(&c.nat.Src, &ask.Src, six)
	setRange(&c.nat.Dst, &ask.Dst, six)
	if c.nat.Src.Set || c.nat.Dst.Set {
		c.terms.NAT = &c.nat
	}
}

// setRange makes a range of a translation that is for packets of a family.
func setRange(r *conntrack.Range, t *flowtable.Translation, six bool) {
	if t.Set && (t.Six == six || t.Max == [2]uint64{}) {
		*r = conntrack.Range{Set: true, Min: t.Min, Max: t.Max, PortMin: t.PortMin, PortMax: t.PortMax}
	}
}

// tell writes a verdict into the answer.
func (c *connector) tell(got *flowtable.Connected) {
	p, v := &c.packet, &c.verdict
	got.State, got.Mark, got.Label = uint32(v.State), v.Mark, v.Label
	original(&v.Original, got)
	depends(p, v, &got.Mask)
	if c.trace {
		return
	}
	if v.Cacheable {
		got.Cacheable = v.Uses&conntrack.UsesICMP == 0
		got.Guard = flowtable.Guard{Cell: c.first + flowtable.Cell(v.Cell), Want: v.Want}
	}
	got.Ref, got.Reply = uint64(v.Ref), v.Reply
}

// portWords are the bits of flowtable.WordL4 that are ports or, of ICMP, type, code
// and, in walks, the identifier.
const (
	srcPortBits = 0xffff << 48
	dstPortBits = 0xffff << 32
	identBits   = 0xffff
	fragBits    = 3 << 16
)

// isICMP tells the ICMP of either family.
func isICMP(proto uint8, six bool) bool {
	return proto == conntrack.ProtoICMPv6 && six || proto == conntrack.ProtoICMP && !six
}

// tupleOf brings a packet's tuple up to what the pipeline has made of it.
func tupleOf(p *conntrack.Packet, ctx *flowtable.Context) {
	if p.Six {
		p.Src = conntrack.Addr{ctx[flowtable.WordIP6Src], ctx[flowtable.WordIP6SrcLow]}
		p.Dst = conntrack.Addr{ctx[flowtable.WordIP6Dst], ctx[flowtable.WordIP6DstLow]}
	} else {
		p.Src, p.Dst = conntrack.Addr{1: ctx[flowtable.WordIP4] >> 32}, conntrack.Addr{1: ctx[flowtable.WordIP4] & 0xffffffff}
	}
	if p.Fragment == conntrack.LaterFragment || p.Error || p.Bad {
		return
	}
	l4 := ctx[flowtable.WordL4]
	switch {
	case p.Proto == conntrack.ProtoTCP, p.Proto == conntrack.ProtoUDP, p.Proto == conntrack.ProtoSCTP:
		p.SrcPort, p.DstPort = uint16(l4>>48), uint16(l4>>32)
	case isICMP(p.Proto, p.Six):
		p.SrcPort, p.DstPort = uint16(l4), uint16(l4>>48)<<8|uint16(l4>>32)&0xff
	}
}

// rewrite notes what translation has made of a packet.
func rewrite(p *conntrack.Packet, v *conntrack.Verdict, got *flowtable.Connected) {
	set := v.Rewrite.Set
	if set == 0 {
		return
	}
	ports := uint64(0)
	if p.Six {
		if set&conntrack.RewriteSrc != 0 {
			got.Write(flowtable.WordIP6Src, p.Src[0], ^uint64(0))
			got.Write(flowtable.WordIP6SrcLow, p.Src[1], ^uint64(0))
			ports |= srcPortBits
		}
		if set&conntrack.RewriteDst != 0 {
			got.Write(flowtable.WordIP6Dst, p.Dst[0], ^uint64(0))
			got.Write(flowtable.WordIP6DstLow, p.Dst[1], ^uint64(0))
			ports |= dstPortBits
		}
	} else {
		mask := uint64(0)
		if set&conntrack.RewriteSrc != 0 {
			mask |= 0xffffffff << 32
			ports |= srcPortBits
		}
		if set&conntrack.RewriteDst != 0 {
			mask |= 0xffffffff
			ports |= dstPortBits
		}
		if mask != 0 {
			got.Write(flowtable.WordIP4, p.Src[1]<<32|p.Dst[1], mask)
		}
	}
	if set&conntrack.RewriteInner != 0 {
		rewriteInner(&p.Inner, got)
	}
	switch {
	case ports == 0 || p.Error || p.Fragment == conntrack.LaterFragment:
	case isICMP(p.Proto, p.Six):
		got.Write(flowtable.WordL4, uint64(p.SrcPort), identBits)
	case p.Proto == conntrack.ProtoTCP, p.Proto == conntrack.ProtoUDP, p.Proto == conntrack.ProtoSCTP:
		got.Write(flowtable.WordL4, uint64(p.SrcPort)<<48|uint64(p.DstPort)<<32, ports)
	}
}

// rewriteInner notes what translation makes of the packet that an ICMP error quotes.
func rewriteInner(t *conntrack.Tuple, got *flowtable.Connected) {
	if t.Six {
		for i, v := range [...]uint64{t.Src[0], t.Src[1], t.Dst[0], t.Dst[1]} {
			got.WriteInner(flowtable.WordIP6Src+uint8(i), v, ^uint64(0))
		}
	} else {
		got.WriteInner(flowtable.WordIP4, t.Src[1]<<32|t.Dst[1], ^uint64(0))
	}
	if isICMP(t.Proto, t.Six) {
		got.WriteInner(flowtable.WordL4, uint64(t.SrcPort), identBits)
		return
	}
	got.WriteInner(flowtable.WordL4, uint64(t.SrcPort)<<48|uint64(t.DstPort)<<32, srcPortBits|dstPortBits)
}

// original writes the tuple of a connection's first packet. Of ICMP, ports are type and
// code, as in OVS.
func original(t *conntrack.Tuple, got *flowtable.Connected) {
	src, dst := t.SrcPort, t.DstPort
	if isICMP(t.Proto, t.Six) {
		src, dst = dst>>8, dst&0xff
	}
	o := &got.Original
	o[0] = uint64(src)<<48 | uint64(dst)<<32 | uint64(t.Proto)
	if t.Six {
		o[flowtable.WordCTIP6Src-flowtable.WordCTL4], o[flowtable.WordCTIP6SrcLow-flowtable.WordCTL4] = t.Src[0], t.Src[1]
		o[flowtable.WordCTIP6Dst-flowtable.WordCTL4], o[flowtable.WordCTIP6DstLow-flowtable.WordCTL4] = t.Dst[0], t.Dst[1]
		return
	}
	o[flowtable.WordCTIP4-flowtable.WordCTL4] = t.Src[1]<<32 | t.Dst[1]
}

// depends adds to mask the bits of the key on which a verdict depends.
func depends(p *conntrack.Packet, v *conntrack.Verdict, mask *flowtable.Key) {
	mask[flowtable.WordIn] |= 0xffff
	mask[flowtable.WordSrc] |= 0xff00
	mask[flowtable.WordL4] |= fragBits
	if p.Six {
		for w := flowtable.WordIP6Src; w <= flowtable.WordIP6DstLow; w++ {
			mask[w] = ^uint64(0)
		}
	} else {
		mask[flowtable.WordIP4] = ^uint64(0)
	}
	if v.Uses&(conntrack.UsesPorts|conntrack.UsesICMP) != 0 {
		mask[flowtable.WordL4] |= srcPortBits | dstPortBits
	}
	if v.Uses&conntrack.UsesFlags != 0 {
		mask[flowtable.WordDst] |= conntrack.TCPFlags
	}
}

// identifier is the identifier of an ICMP query as walks have it in the key, and 0 of
// all else.
func identifier(head []byte, length uint32, key *flowtable.Key) uint64 {
	if proto := uint8(key[flowtable.WordSrc] >> 8); proto != conntrack.ProtoICMP && proto != conntrack.ProtoICMPv6 {
		return 0
	}
	var l parse.Layout
	l.Find(head, length)
	if l.L4 == 0 || int(l.L4)+6 > len(head) || !isICMP(l.Proto, l.Type == 0x86dd) {
		return 0
	}
	return uint64(binary.BigEndian.Uint16(head[l.L4+4:]))
}
