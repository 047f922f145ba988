package edit

import (
	"encoding/binary"

	"millrace/dataplane/packet"
	"millrace/dataplane/parse"
	"millrace/flowtable"
)

// A Patch is a list of ops made ready. What routing and address translation
// change in TCP and UDP over IPv4, in one pass and with one correction of each checksum,
// is written straight; other lists and other frames are done op by op.
type Patch struct {
	// What becomes of the first twelve bytes of the frame.
	first, firstMask   uint64
	second, secondMask uint32

	ttl            uint32 // how much is taken off the TTL, in bits 24..31
	ttlTo, ttlMask uint32 // what it becomes, in the same bits; not both

	// What becomes of IPv4 addresses and ports, as in their words.
	addrs, addrsMask uint64
	ports, portsMask uint32

	// What becomes of tags, if nothing is changed behind the Ethernet type.
	retag tagging
	tag   uint32 // Ethernet type and TCI of the one that is put on

	scope scope
	ops   []flowtable.Op
}

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
	ethernet   scope = iota // addresses
	route                   // TTL
	translate               // IPv4 addresses and ports
	everything              // what only ops say
)

// Compile makes a Patch of ops, which it keeps.
func Compile(ops []flowtable.Op) Patch {
	p := Patch{ops: ops}
	for i := range ops {
		switch op := &ops[i]; op.Code {
		case flowtable.OpSet:
			p.compileSet(op.Word, op.Value&op.Mask, op.Mask)
		case flowtable.OpDecTTL:
			p.scope = max(p.scope, route)
			if p.ttl += 1 << 24; p.ttl == 0 || p.ttlMask != 0 {
				p.scope = everything
			}
		case flowtable.OpPushVLAN:
			p.compileTag(pushTag, op.Arg<<16)
		case flowtable.OpPopVLAN:
			p.compileTag(popTag, 0)
		case flowtable.OpInner:
			p.scope = everything
		}
	}
	if p.retag != keepTags && p.scope != ethernet {
		p.scope = everything
	}
	return p
}

// compileTag adds a push or a pop: one of them is done straight.
func (p *Patch) compileTag(t tagging, tag uint32) {
	if p.retag != keepTags {
		p.scope = everything
	}
	p.retag, p.tag = t, tag
}

// compileSet adds an OpSet; value has no bits outside mask.
func (p *Patch) compileSet(word uint8, value, mask uint64) {
	if mask == 0 {
		return
	}
	reach := ethernet
	switch word {
	case flowtable.WordIn:
		switch m := uint32(mask>>16) & priorityAndID; {
		case m == 0 || p.retag == popTag: // what the key does not say cannot be set
		case p.retag == pushTag:
			p.tag = p.tag&^m | uint32(value>>16)&m
		default:
			reach = everything
		}
	case flowtable.WordDst:
		mask &^= 0xffff
		p.first = p.first&^mask | value&mask
		p.firstMask |= mask
	case flowtable.WordSrc:
		if ttl := uint32(uint8(mask)) << 24; ttl != 0 {
			reach = route
			p.ttlTo = p.ttlTo&^ttl | uint32(value)<<24
			p.ttlMask |= ttl
			if p.ttl != 0 {
				reach = everything
			}
		}
		high, low := mask>>48, uint32(mask>>16)
		p.first = p.first&^high | value>>48
		p.firstMask |= high
		p.second = p.second&^low | uint32(value>>16)
		p.secondMask |= low
	case flowtable.WordIP4:
		reach = translate
		p.addrs = p.addrs&^mask | value
		p.addrsMask |= mask
	case flowtable.WordL4:
		high := uint32(mask >> 32)
		switch {
		case uint8(mask>>24) != 0, uint16(mask) != 0:
			reach = everything
		case high != 0:
			reach = translate
		}
		p.ports = p.ports&^high | uint32(value>>32)
		p.portsMask |= high
	default:
		reach = everything
	}
	p.scope = max(p.scope, reach)
}

// Apply carries p out on frame i of b, as the function Apply does.
func (p *Patch) Apply(b *packet.Batch, i int) {
	f := &b.Frames[i]
	headLen, length := uint32(f.HeadLen), f.Len
	if p.scope == everything || f.Off > packet.SlotSize-straightMax || headLen < etherLen+ip4Len {
		Apply(b, i, p.ops)
		return
	}
	if p.retag != keepTags {
		if !p.tagStraight(b, i) {
			Apply(b, i, p.ops)
			return
		}
		if p.firstMask == 0 && p.secondMask == 0 {
			return
		}
	}
	h := (*[straightMax]byte)(b.Slot(i)[f.Off:])
	if p.scope != ethernet {
		ip, room := (*[tcpLen]byte)(h[etherLen:]), uint32(etherLen)
		kind := binary.BigEndian.Uint16(h[12:])
		if kind != typeIPv4 && parse.IsTag(kind) {
			kind = binary.BigEndian.Uint16(h[16:])
			ip, room = (*[tcpLen]byte)(h[etherLen+tagLen:]), etherLen+tagLen
		}
		first, ttl := binary.BigEndian.Uint32(ip[:]), binary.BigEndian.Uint32(ip[8:]) // with protocol and checksum
		size := first & 0xffff
		if kind != typeIPv4 || first>>24 != 0x45 || size-ip4Len > length-room-ip4Len || room+ip4Len > headLen || ttl < p.ttl ||
			p.scope == translate && !p.translate(ip, min(size, headLen-room)) {
			Apply(b, i, p.ops)
			return
		}
		if p.scope == route {
			now, delta := p.newTTL(ttl)
			binary.BigEndian.PutUint32(ip[8:], now|uint32(corrected(uint16(ttl), delta)))
		}
	}
	binary.BigEndian.PutUint64(h[:], binary.BigEndian.Uint64(h[:])&^p.firstMask|p.first)
	binary.BigEndian.PutUint32(h[8:], binary.BigEndian.Uint32(h[8:])&^p.secondMask|p.second)
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
	if p.retag == pushTag {
		binary.BigEndian.PutUint64(h[:], first)
		binary.BigEndian.PutUint32(h[8:], second)
		binary.BigEndian.PutUint32(h[addrsLen:], p.tag)
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
	newAddrs, newPorts := addrs&^p.addrsMask|p.addrs, ports&^p.portsMask|p.ports
	binary.BigEndian.PutUint64(ip[12:], newAddrs)
	binary.BigEndian.PutUint32(ip[ip4Len:], newPorts)
	delta := halves(^addrs) + halves(newAddrs)
	if p.addrsMask != 0 || p.ttl|p.ttlMask != 0 {
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
	now = ((ttl-p.ttl)&^p.ttlMask | p.ttlTo) &^ 0xffff
	return now, uint64(^uint16(ttl>>16)) + uint64(now>>16)
}

// halves adds the halves of v, which is as good as its four 16-bit words.
func halves(v uint64) uint64 { return v>>32 + v&0xffffffff }
