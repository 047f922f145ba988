package flowtable

import "slices"

// Flags of ActCT, in the low half of Arg. Its high half is the zone, unless Src
// names a field whose low 16 bits are it.
//
// The packet goes through the zone, and connection state, mark, label and original
// addresses are what the zone says of it. With CTResume a copy with these goes on in
// Table; if that is the last action, the packet itself does. What follows the
// action is done without: there the state is zero, as in OVN.
//
// Nested are ActSet and ActMove for bits of the mark and the label that a commit
// gives the connection, and ActNAT.
const (
	CTResume    = 1 << iota // go on in Table
	CTCommit                // a packet without a connection begins one; one that has one may change its mark and label
	CTForce                 // a connection that the packet is a reply of gives way to one in the packet's direction
	CTTranslate             // the packet gets the connection's translation
	ctFlags     = 1<<iota - 1
)

// CTLook is a flag of Connect only: the packet is looked up, and nothing takes note of it.
const CTLook = 1 << 15

// Flags of ActNAT, in Table. Value and ValueLow are the address (IPv4 in the low
// 32 bits of ValueLow); all zero keeps it, and a port is chosen only if the connection
// would clash with another. Arg is the lowest port (0..15) and the highest (16..31);
// zeros allow any.
const (
	NATSource      = 1 << iota // of the source
	NATDestination             // of the destination; one of the two
	NATLast                    // the address is the last of a range, which the ActNAT before begins
	NATPersistent              // the address is chosen by the client's alone
	NATRandom                  // the port is not kept if it could be
	NATSix                     // the address is IPv6: packets of the other family are not translated
	NATOriginal                // the address is the first destination of the connection that the packet is of
	natFlags       = 1<<iota - 1
)

// Zones of a bridge whose rows of Flow track connections: the number of its FDB
// times ZonesOfBridge, and one of these.
const (
	ZonePlain = 1 + iota // of what only tracks
	ZoneDNAT             // in which destinations are translated
	ZoneSNAT             // in which sources are
	ZonesOfBridge
)

// A Translation is the addresses and ports that one end of a connection may be given.
type Translation struct {
	Set, Six         bool
	Min, Max         [2]uint64 // high half first; IPv4 in the low 32 bits of the second
	PortMin, PortMax uint16
}

// A Connect is what a walk asks of connection tracking about its packet.
type Connect struct {
	Zone               uint16
	Flags              uint32 // CTCommit and its kin
	Mark, MarkMask     uint32 // bits that a commit sets
	Label, LabelMask   [2]uint64
	Src, Dst           Translation // of a new connection
	Persistent, Random bool
}

// Mild reports whether new connections are translated only if they would clash with another: then
// they get another source port.
func (c *Connect) Mild() bool {
	return c.Src == Translation{Set: true, Six: c.Src.Six} && !c.Dst.Set && !c.Random
}

// A Connected is the answer. Its zero value is that of a packet without state, for
// this packet only.
type Connected struct {
	State, Mark uint32 // ct_state, ct_mark
	Label       [2]uint64
	// Original is WordCTL4 to WordCTIP6DstLow.
	Original [ContextWords - WordCTL4]uint64

	Mask      Key    // bits on which the answer depends
	Guard     Guard  // holds as long as the answer does; cell 0: none is needed
	Cacheable bool   // the answer is the same for the next packet
	Drop      uint32 // the packet ends here, for this reason, unless it is 0

	Ref   uint64 // of the connection, for OpCT, with bits 29 and 30 clear; 0: none
	Reply bool   // the packet is in its reply direction

	// Set is what translation makes of the packet, and Inner of the packet
	// that it quotes, in words of the key.
	Set, Inner [translated]Masked
	Sets       int
	Inners     int
}

// translated is how many words a translation changes at most.
const translated = 6

// Write notes what translation makes of bits of a word.
func (c *Connected) Write(word uint8, value, mask uint64) {
	c.Set[c.Sets] = Masked{word, value, mask}
	c.Sets++
}

// WriteInner is Write for the packet that an ICMP error quotes.
func (c *Connected) WriteInner(word uint8, value, mask uint64) {
	c.Inner[c.Inners] = Masked{word, value, mask}
	c.Inners++
}

// connect takes the packet through a zone.
// What follows in the list of actions is rest.
func (w *Walker) connect(s *step, rest []uint64) {
	ask := &w.ask
	*ask = Connect{Zone: uint16(s.arg >> 16), Flags: s.arg & ctFlags}
	if s.src.Width != 0 {
		_, zone := w.read(s.src)
		ask.Zone = uint16(zone)
	}
	w.terms(s.nested)
	w.noteAsk(s, rest)
	w.answered()
}

// answered asks connection tracking, and gives the packet what it says. It reports false if
// the packet ends there.
func (w *Walker) answered() bool {
	got := &w.got
	w.question(&w.ask, got)
	if got.Drop != 0 {
		w.ended, w.last, w.stages.at = true, got.Drop, 0
		return false
	}
	w.connected(got)
	return true
}

// question asks connection tracking, and notes what the answer depends on.
func (w *Walker) question(ask *Connect, got *Connected) {
	*got = Connected{}
	if w.made && !w.tell() {
		got.Drop = DropReplyRate
		return
	}
	if w.side.Connect != nil {
		w.side.Connect(&w.ctx, ask, got)
	}
	for i, m := range &got.Mask {
		if m != 0 {
			w.consult(uint8(i), m)
		}
	}
	if got.Guard.Cell != 0 && !slices.Contains(w.out.Guards, got.Guard) {
		w.out.Guards = append(w.out.Guards, got.Guard) // once, however often the packet comes through the zone
	}
	w.passing = w.passing || !got.Cacheable
}

// connected gives the packet what a zone has said of it.
func (w *Walker) connected(got *Connected) {
	if got.Ref != 0 {
		op := Op{Code: OpCT, Arg: CountOriginal, Value: got.Ref}
		if got.Reply {
			op.Arg = CountReply
		}
		w.emit(op)
	}
	w.ctx[WordCT] = uint64(got.State)<<32 | uint64(got.Mark)
	w.ctx[WordLabel], w.ctx[WordLabelLow] = got.Label[0], got.Label[1]
	copy(w.ctx[WordCTL4:], got.Original[:])
	for _, m := range got.Set[:got.Sets] {
		w.writeWord(m.Word, m.Mask, m.Value)
	}
	for _, m := range got.Inner[:got.Inners] {
		w.emit(Op{Code: OpInner, Word: m.Word, Value: m.Value, Mask: m.Mask})
	}
}

// disconnect makes the packet one without connection state.
func (w *Walker) disconnect() {
	clear(w.ctx[WordCT:])
	for i := range w.stages.fresh[WordCT:] {
		w.stages.fresh[WordCT+i] = ^uint64(0)
	}
}

// terms reads with what a connection is committed. Mark and label pass through the
// context, where the zone's answer takes their place.
func (w *Walker) terms(words []uint64) {
	ask := &w.ask
	var s step
	for len(words) > 0 {
		words = words[decodeStep(&s, words):]
		switch s.code {
		case ActSet:
			w.write(s.dst, s.value, s.valueLow)
		case ActMove:
			high, low := w.read(s.src)
			w.write(s.dst, high, low)
		case ActNAT:
			if s.table&NATOriginal != 0 {
				w.originally(&s)
			}
			ask.translate(&s)
			continue
		}
		high, low := s.dst.Bits()
		switch s.dst.Word {
		case WordCT:
			ask.MarkMask |= uint32(high)
		case WordLabel:
			ask.LabelMask[0] |= high
			ask.LabelMask[1] |= low
		case WordLabelLow:
			ask.LabelMask[1] |= high
		}
	}
	ask.Mark = uint32(w.ctx[WordCT]) & ask.MarkMask
	ask.Label = [2]uint64{w.ctx[WordLabel] & ask.LabelMask[0], w.ctx[WordLabelLow] & ask.LabelMask[1]}
}

// translate adds an ActNAT.
func (c *Connect) translate(s *step) {
	t := &c.Dst
	if s.table&NATSource != 0 {
		t = &c.Src
	}
	if s.table&NATLast != 0 {
		t.Max = [2]uint64{s.value, s.valueLow}
		return
	}
	t.Set, t.Six = true, s.table&NATSix != 0
	t.Min = [2]uint64{s.value, s.valueLow}
	t.Max = t.Min
	t.PortMin, t.PortMax = uint16(s.arg), uint16(s.arg>>16)
	c.Persistent = c.Persistent || s.table&NATPersistent != 0
	c.Random = c.Random || s.table&NATRandom != 0
}

// originally gives a translation the address that the packet's connection had as its
// first destination, which is nothing if that is not known.
func (w *Walker) originally(s *step) {
	w.consult(WordIn, 0xffff)
	s.value, s.valueLow = 0, w.ctx[WordCTIP4]&0xffffffff
	if w.ctx[WordIn]&0xffff == typeIPv6 {
		s.table |= NATSix
		s.value, s.valueLow = w.ctx[WordCTIP6Dst], w.ctx[WordCTIP6DstLow]
	}
}

// original is ActCTOriginal.
func (w *Walker) original(s *step) {
	const known = (1<<1 | 1<<5) << 32 // established, tracked
	if w.ctx[WordCT]&known != known {
		w.write(s.dst, 0, 0)
		return
	}
	high, low := w.read(s.src)
	w.write(s.dst, high, low)
}
