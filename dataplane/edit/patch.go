package edit

import (
	"encoding/binary"

	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/flowtable"
)

// A Patch is a list of ops made ready: what routing and address translation change in
// TCP and UDP over IPv4 is written straight, in one pass and with one correction of each
// checksum; other frames are done op by op. It has no pointers, so it can lie
// in a program's memory:
//
//	0  first eight bytes of the frame
//	1  next four (32..63), ports (0..31)
//	2  IPv4 addresses, as in their word
//	3  a bit for each byte that is written: of word 0 (0..7), of the next four (8..11), of
//	   addresses (12..19), of ports (20..23); TTL that is written (32..39), 1 if one is (24),
//	   1 if one is taken off it (25); tagging (40..41), scope (48..49)
//	4  Ethernet type and TCI of the tag that is put on
//	5  nothing
type Patch [6]uint64

// A tagging is what a Patch does with tags.
type tagging uint8

const (
	keepTags tagging = iota
	pushTag
	popTag
)

// A scope is how far into the frame a Patch reaches.
type scope uint8

// Scopes, each with all that is in those before it.
const (
	ethernet  scope = iota // addresses
	route                  // TTL
	translate              // IPv4 addresses and ports
)

// Bits of word 3 of a Patch.
const (
	setsTTL  = 1 << 24
	takesTTL = 1 << 25
)

func (p *Patch) retag() tagging { return tagging(p[3] >> 40 & 3) }
func (p *Patch) scope() scope   { return scope(p[3] >> 48 & 3) }
func (p *Patch) first() uint64  { return wholeBytes[uint8(p[3])] }
func (p *Patch) second() uint32 { return uint32(wholeBytes[p[3]>>8&0xf]) }
func (p *Patch) addrs() uint64  { return wholeBytes[uint8(p[3]>>12)] }
func (p *Patch) ports() uint32  { return uint32(wholeBytes[p[3]>>20&0xf]) }

// wholeBytes are masks of the bytes whose bits are set in the index.
var wholeBytes = func() (masks [256]uint64) {
	for i := range masks {
		for b := range 8 {
			masks[i] |= 0xff << (8 * b) * uint64(i>>b&1)
		}
	}
	return masks
}()

// bytesOf undoes wholeBytes. It reports false of a mask that cuts through a byte.
func bytesOf(mask uint64) (bits uint64, ok bool) {
	for b := range 8 {
		bits |= mask >> (8 * b) & 1 << b
	}
	return bits, wholeBytes[bits] == mask
}

// A draft is a Patch that is being made.
type draft struct {
	Patch
	at                                          scope
	tags                                        tagging
	firstMask, secondMask, addrsMask, portsMask uint64
	ttl                                         bool // the TTL is changed
	lost                                        bool // only ops say it
}

// Compile makes a Patch of ops that all change the frame. It reports false if they
// cannot be made ready.
func Compile(ops []flowtable.Op) (p Patch, ok bool) {
	var d draft
	for i := range ops {
		switch op := &ops[i]; op.Code {
		case flowtable.OpSet:
			d.set(op.Word, op.Value&op.Mask, op.Mask)
		case flowtable.OpDecTTL:
			d.ttlOnce(takesTTL)
		case flowtable.OpPushVLAN:
			d.tag(pushTag, uint64(op.Arg)<<16)
		case flowtable.OpPopVLAN:
			d.tag(popTag, 0)
		default:
			d.lost = true
		}
	}
	return d.finish()
}

// finish packs masks.
func (d *draft) finish() (p Patch, ok bool) {
	if d.lost || d.tags != keepTags && d.at != ethernet {
		return Patch{}, false
	}
	shift := 0
	for _, m := range [...]struct {
		mask uint64
		bits int
	}{{d.firstMask, 8}, {d.secondMask, 4}, {d.addrsMask, 8}, {d.portsMask, 4}} {
		bits, whole := bytesOf(m.mask)
		if !whole {
			return Patch{}, false
		}
		d.Patch[3] |= bits << shift
		shift += m.bits
	}
	d.Patch[3] |= uint64(d.tags)<<40 | uint64(d.at)<<48
	return d.Patch, true
}

// ttlOnce notes that the TTL is changed, which is done straight once.
func (d *draft) ttlOnce(how uint64) {
	d.at = max(d.at, route)
	d.lost = d.lost || d.ttl
	d.ttl = true
	d.Patch[3] |= how
}

// tag adds a push or a pop: one of them is done straight.
func (d *draft) tag(t tagging, tag uint64) {
	d.lost = d.lost || d.tags != keepTags
	d.tags, d.Patch[4] = t, tag
}

// put writes bits of a part of a word, and notes them in its mask.
func put(word *uint64, mask *uint64, shift int, value, bits uint64) {
	*word = *word&^(bits<<shift) | value<<shift
	*mask |= bits
}

// set adds an OpSet; value has no bits outside mask.
func (d *draft) set(word uint8, value, mask uint64) {
	if mask == 0 {
		return
	}
	p := &d.Patch
	switch word {
	case flowtable.WordIn:
		d.setTag(value>>16, mask>>16&priorityAndID)
	case flowtable.WordDst:
		put(&p[0], &d.firstMask, 0, value&^0xffff, mask&^0xffff)
	case flowtable.WordSrc:
		d.setTTL(uint8(value), uint8(mask))
		put(&p[0], &d.firstMask, 0, value>>48, mask>>48)
		put(&p[1], &d.secondMask, 32, value>>16&0xffffffff, mask>>16&0xffffffff)
	case flowtable.WordIP4:
		d.at = translate
		put(&p[2], &d.addrsMask, 0, value, mask)
	case flowtable.WordL4:
		if d.lost = d.lost || uint8(mask>>24) != 0 || uint16(mask) != 0; mask>>32 != 0 {
			d.at = translate
		}
		put(&p[1], &d.portsMask, 0, value>>32, mask>>32)
	default:
		d.lost = true
	}
}

// setTag sets bits of the tag: of one that was put on straight. What the key does not
// say cannot be set.
func (d *draft) setTag(value, mask uint64) {
	switch {
	case mask == 0 || d.tags == popTag:
	case d.tags == pushTag:
		d.Patch[4] = d.Patch[4]&^mask | value&mask
	default:
		d.lost = true
	}
}

// setTTL sets the TTL as a whole.
func (d *draft) setTTL(value, mask uint8) {
	if mask == 0 {
		return
	}
	d.ttlOnce(setsTTL | uint64(value)<<32)
	d.lost = d.lost || mask != 0xff
}

// Ops appends ops that do what p does.
func (p *Patch) Ops(ops []flowtable.Op) []flowtable.Op {
	set := func(word uint8, value, mask uint64) {
		if mask != 0 {
			ops = append(ops, flowtable.Op{Code: flowtable.OpSet, Word: word, Value: value & mask, Mask: mask})
		}
	}
	switch p.retag() {
	case pushTag:
		ops = append(ops, flowtable.Op{Code: flowtable.OpPushVLAN, Arg: uint32(p[4]) >> 16})
		set(flowtable.WordIn, p[4]<<16, priorityAndID<<16)
	case popTag:
		ops = append(ops, flowtable.Op{Code: flowtable.OpPopVLAN})
	}
	first, second, ttl := p.first(), uint64(p.second()), uint64(0)
	if p[3]&setsTTL != 0 {
		ttl = 0xff
	}
	set(flowtable.WordDst, p[0], first&^0xffff)
	set(flowtable.WordSrc, p[0]<<48|p[1]>>32<<16|p[3]>>32&0xff, first<<48|second<<16|ttl)
	if p[3]&takesTTL != 0 {
		ops = append(ops, flowtable.Op{Code: flowtable.OpDecTTL})
	}
	set(flowtable.WordIP4, p[2], p.addrs())
	set(flowtable.WordL4, p[1]<<32, uint64(p.ports())<<32)
	return ops
}

// byOps carries p out op by op.
func (p *Patch) byOps(b *packet.Batch, i int) {
	var room [8]flowtable.Op
	Apply(b, i, p.Ops(room[:0]))
}

// Apply carries p out on frame i of b, as the function Apply does.
func (p *Patch) Apply(b *packet.Batch, i int) {
	f := &b.Frames[i]
	headLen, length := uint32(f.HeadLen), f.Len
	if f.Off > packet.SlotSize-straightMax || headLen < etherLen+ip4Len {
		p.byOps(b, i)
		return
	}
	if p.retag() != keepTags {
		if !p.tagStraight(b, i) {
			p.byOps(b, i)
			return
		}
		if p[3]&0xfff == 0 {
			return
		}
	}
	h := (*[straightMax]byte)(b.Slot(i)[f.Off:])
	if scope := p.scope(); scope != ethernet {
		ip, room := (*[tcpLen]byte)(h[etherLen:]), uint32(etherLen)
		kind := binary.BigEndian.Uint16(h[12:])
		if kind != typeIPv4 && parse.IsTag(kind) {
			kind = binary.BigEndian.Uint16(h[16:])
			ip, room = (*[tcpLen]byte)(h[etherLen+tagLen:]), etherLen+tagLen
		}
		first, ttl := binary.BigEndian.Uint32(ip[:]), binary.BigEndian.Uint32(ip[8:]) // with protocol and checksum
		size := first & 0xffff
		if kind != typeIPv4 || first>>24 != 0x45 || size-ip4Len > length-room-ip4Len || room+ip4Len > headLen || ttl < uint32(p[3]&takesTTL>>1) ||
			scope == translate && !p.translate(ip, min(size, headLen-room)) {
			p.byOps(b, i)
			return
		}
		if scope == route {
			now, delta := p.newTTL(ttl)
			binary.BigEndian.PutUint32(ip[8:], now|uint32(corrected(uint16(ttl), delta)))
		}
	}
	if p[3]&0xfff != 0 {
		binary.BigEndian.PutUint64(h[:], binary.BigEndian.Uint64(h[:])&^p.first()|p[0])
		binary.BigEndian.PutUint32(h[8:], binary.BigEndian.Uint32(h[8:])&^p.second()|uint32(p[1]>>32))
	}
}

// tagStraight puts a tag on or takes one off, and reports whether that was
// possible.
func (p *Patch) tagStraight(b *packet.Batch, i int) bool {
	f, s := &b.Frames[i], b.Slot(i)
	if f.Off < tagLen || f.Off > packet.SlotSize-straightMax-tagLen {
		return false
	}
	h := (*[etherLen + 2*tagLen]byte)(s[f.Off-tagLen:])
	first, second := binary.BigEndian.Uint64(h[tagLen:]), binary.BigEndian.Uint32(h[tagLen+8:])
	if p.retag() == pushTag {
		binary.BigEndian.PutUint64(h[:], first)
		binary.BigEndian.PutUint32(h[8:], second)
		binary.BigEndian.PutUint32(h[addrsLen:], uint32(p[4]))
		b.Grow(i, tagLen)
		return true
	}
	if f.HeadLen < etherLen+tagLen || !parse.IsTag(binary.BigEndian.Uint16(h[tagLen+addrsLen:])) {
		return false
	}
	at := (*[addrsLen]byte)(s[f.Off+tagLen:])
	binary.BigEndian.PutUint64(at[:], first)
	binary.BigEndian.PutUint32(at[8:], second)
	b.Shrink(i, tagLen)
	return true
}

// Lengths in bytes of IPv4 without options, alone and with what p.translate needs.
const (
	ip4Len = 20
	udpLen = ip4Len + 8
	tcpLen = ip4Len + 20
)

// straightMax is how many bytes of the slot a Patch may look at: a tag, IPv4
// and TCP.
const straightMax = etherLen + tagLen + tcpLen

// translate changes addresses, ports and TTL of a packet of which size bytes are
// there. It reports whether it is TCP or UDP, and no fragment; if not, nothing is changed.
func (p *Patch) translate(ip *[tcpLen]byte, size uint32) bool {
	fragment, ttl := binary.BigEndian.Uint16(ip[6:])&0x3fff, binary.BigEndian.Uint32(ip[8:])
	l4 := (*[2]byte)(ip[ip4Len+16:])
	switch proto := ttl >> 16 & 0xff; {
	case fragment != 0:
		return false
	case proto == protoUDP && size >= udpLen:
		l4 = (*[2]byte)(ip[ip4Len+6:])
	case proto != protoTCP || size < tcpLen:
		return false
	}
	addrs, ports := binary.BigEndian.Uint64(ip[12:]), binary.BigEndian.Uint32(ip[ip4Len:])
	newAddrs, newPorts := addrs&^p.addrs()|p[2], ports&^p.ports()|uint32(p[1])
	binary.BigEndian.PutUint64(ip[12:], newAddrs)
	binary.BigEndian.PutUint32(ip[ip4Len:], newPorts)
	delta := halves(^addrs) + halves(newAddrs)
	if p[3]&(0xff<<12|setsTTL|takesTTL) != 0 {
		now, more := p.newTTL(ttl)
		binary.BigEndian.PutUint32(ip[8:], now|uint32(corrected(uint16(ttl), delta+more)))
	}
	if old := binary.BigEndian.Uint16(l4[:]); old != 0 || ip[9] == protoTCP {
		sum := corrected(old, delta+uint64(^ports)+uint64(newPorts))
		if sum == 0 && ip[9] == protoUDP {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(l4[:], sum)
	}
	return true
}

// newTTL returns the word of TTL and protocol as it becomes, without the checksum,
// and what that adds to the sum of 16-bit words.
func (p *Patch) newTTL(ttl uint32) (now uint32, delta uint64) {
	now = (ttl - uint32(p[3]&takesTTL>>1)) &^ 0xffff
	if p[3]&setsTTL != 0 {
		now = now&0xffffff | uint32(p[3]>>32)<<24
	}
	return now, uint64(^uint16(ttl>>16)) + uint64(now>>16)
}

// halves adds the halves of v, which is as good as its four 16-bit words.
func halves(v uint64) uint64 { return v>>32 + v&0xffffffff }
