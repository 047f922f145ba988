package parse

import (
	"encoding/binary"
	"math/bits"

	"millrace/dataplane/packet"
	"millrace/flowtable"
)

// A Level says how much of a frame is wanted.
type Level uint8

const (
	// L2 is port, addresses, tag and Ethernet type, for learning bridges. All
	// else is zero. An 802.1ad tag is payload here: bridges between customers
	// carry it as it is.
	L2 Level = iota
	// Full is everything.
	Full
)

// quickMax is how many bytes of the slot the common case looks at: a tag, and
// IPv4 and TCP without options.
const quickMax = etherLen + tagLen + ip4Len + tcpLen

// NarrowKeys are the narrow keys of a batch, by frame.
type NarrowKeys [packet.BatchMax][flowtable.NarrowWords]uint64

// Wide is what Narrow says of frames that are not of the common kind. Bit i
// of each set stands for frame i.
type Wide struct {
	Frames uint64 // frames that have an entry in Keys: sound IPv6, ARP and RARP
	Bad    uint64 // see Bad
	Deep   uint64 // see Deep

	// Keys are the whole keys of the frames in Frames. Others are left over
	// from earlier batches.
	Keys [packet.BatchMax]flowtable.Key
}

// Narrow writes the narrow keys of all frames of b, which came in by port, and
// the whole keys of those that have more. Keys of frames beyond b.N are left alone.
//
// TCP and UDP in IPv4 without options, with or without a tag, are read by
// common: fixed loads behind one test. All else, and all that is odd, goes to whole.
//
// At level L2 no frame is wide or flawed but those with too short a head.
func Narrow(b *packet.Batch, port uint32, level Level, keys *NarrowKeys, wide *Wide) {
	wide.Frames, wide.Bad, wide.Deep = 0, 0, 0
	if level == L2 {
		ethernet(b, port, keys, wide)
		return
	}
	base := uint64(port) << 32
	for rest := common(b, base, keys); rest != 0; rest &= rest - 1 {
		i := bits.TrailingZeros64(rest)
		if !six(b, i, base, &keys[i], wide) {
			whole(b, i, port, &keys[i], wide)
		}
	}
}

// common writes the keys of frames of the common kind, and returns the set of
// all others, whose keys are written again. It is a loop without calls and with
// few branches, which stores each word as soon as it can, so that little has to
// leave the registers.
func common(b *packet.Batch, base uint64, keys *NarrowKeys) (rest uint64) {
	for i := range min(b.N, packet.BatchMax) {
		f, k := &b.Frames[i], &keys[i]
		if f.Off > packet.SlotSize-quickMax {
			rest |= 1 << i
			continue
		}
		eth := (*[quickMax]byte)(b.Slot(i)[f.Off:])
		src := binary.BigEndian.Uint64(eth[6:])
		in, ip, room := src&0xffff, (*ipHead)(eth[etherLen:]), uint32(etherLen)
		if IsTag(uint16(src)) {
			in = uint64(binary.BigEndian.Uint32(eth[etherLen:])) | flowtable.TagPresent<<16
			ip, room = (*ipHead)(eth[etherLen+tagLen:]), etherLen+tagLen
		}
		k[flowtable.WordIn] = base | in
		flags, need, odd := ip.tail()
		k[flowtable.WordDst] = binary.BigEndian.Uint64(eth[:])&^0xffff | flags
		ip.store(k, src)
		if total := ip.total(); odd|ip.odd(in) != 0 || total < need || room+need > uint32(f.HeadLen) || room+total > f.Len {
			rest |= 1 << i
		}
	}
	return rest
}

// An ipHead is what the common kind of frame has behind its Ethernet type: IPv4
// without options, and UDP or TCP.
type ipHead [ip4Len + tcpLen]byte

// total is the total length.
func (ip *ipHead) total() uint32 { return uint32(binary.BigEndian.Uint16(ip[2:])) }

// tail returns TCP's flags, or zero, how long the packet must be for its
// header, and zero if it is TCP or UDP.
func (ip *ipHead) tail() (flags uint64, need uint32, odd uint64) {
	if ip[9] == protoTCP {
		return uint64(binary.BigEndian.Uint16(ip[ip4Len+12:]) & 0xfff), ip4Len + tcpLen, 0
	}
	return 0, ip4Len + udpLen, uint64(ip[9] ^ protoUDP)
}

// store writes the words that follow from ip; src is the Ethernet source.
func (ip *ipHead) store(k *[flowtable.NarrowWords]uint64, src uint64) {
	k[flowtable.WordSrc] = src&^0xffff | uint64(binary.LittleEndian.Uint16(ip[8:]))
	k[flowtable.WordIP4] = binary.BigEndian.Uint64(ip[12:])
	k[flowtable.WordL4] = uint64(binary.BigEndian.Uint32(ip[ip4Len:]))<<32 | uint64(ip[1])<<24
	k[flowtable.WordTunnel] = 0
}

// odd is zero for IPv4 without options that is no fragment. typ is the Ethernet
// type, in the low 16 bits.
func (ip *ipHead) odd(typ uint64) uint64 {
	first := binary.BigEndian.Uint64(ip[:]) // version, header length, TOS, total length, id, fragment
	return (first^0x45<<56)&(0xff<<56|0x3fff) | (typ^typeIPv4)&0xffff
}

// sixMax is how many bytes of the slot six may look at.
const sixMax = etherLen + tagLen + ip6Len + tcpLen

// six writes the keys of a frame that is TCP or UDP in IPv6 without extension
// headers, and reports whether it is one.
func six(b *packet.Batch, i int, base uint64, k *[flowtable.NarrowWords]uint64, wide *Wide) bool {
	f := &b.Frames[i]
	if f.Off > packet.SlotSize-sixMax {
		return false
	}
	eth := (*[sixMax]byte)(b.Slot(i)[f.Off:])
	src := binary.BigEndian.Uint64(eth[6:])
	in, ip, room := src&0xffff, (*[ip6Len + tcpLen]byte)(eth[etherLen:]), uint32(etherLen+ip6Len)
	if IsTag(uint16(src)) {
		in = uint64(binary.BigEndian.Uint32(eth[etherLen:])) | flowtable.TagPresent<<16
		ip, room = (*[ip6Len + tcpLen]byte)(eth[etherLen+tagLen:]), etherLen+tagLen+ip6Len
	}
	flags, need := uint64(0), uint32(udpLen)
	switch ip[6] {
	case protoTCP:
		flags, need = uint64(binary.BigEndian.Uint16(ip[ip6Len+12:])&0xfff), tcpLen
	case protoUDP:
	default:
		return false
	}
	size, first := uint32(binary.BigEndian.Uint16(ip[4:])), uint64(binary.BigEndian.Uint32(ip[:]))
	if uint16(in) != typeIPv6 || first>>28 != 6 || size < need || room+need > uint32(f.HeadLen) || room+size > f.Len {
		return false
	}
	full := &wide.Keys[i]
	*full = flowtable.Key{}
	full[flowtable.WordIn] = base | in
	full[flowtable.WordDst] = binary.BigEndian.Uint64(eth[:])&^0xffff | flags
	full[flowtable.WordSrc] = src&^0xffff | uint64(ip[6])<<8 | uint64(ip[7])
	full[flowtable.WordIP4] = first & 0xfffff
	full[flowtable.WordL4] = uint64(binary.BigEndian.Uint32(ip[ip6Len:]))<<32 | first>>20&0xff<<24
	full[flowtable.WordIP6Src] = binary.BigEndian.Uint64(ip[8:])
	full[flowtable.WordIP6SrcLow] = binary.BigEndian.Uint64(ip[16:])
	full[flowtable.WordIP6Dst] = binary.BigEndian.Uint64(ip[24:])
	full[flowtable.WordIP6DstLow] = binary.BigEndian.Uint64(ip[32:])
	for w := range k { // word by word, as they were stored
		k[w] = full[w]
	}
	wide.Frames |= 1 << i
	return true
}

// whole writes the key of any frame.
func whole(b *packet.Batch, i int, port uint32, k *[flowtable.NarrowWords]uint64, wide *Wide) {
	head := b.Head(i)
	var l Layout
	l.Find(head, b.Frames[i].Len)
	full := &wide.Keys[i]
	*full = flowtable.Key{}
	l.fill(full, head, port)
	for w := range k { // word by word, as they were stored
		k[w] = full[w]
	}
	bit := uint64(1) << i
	if l.L3 != 0 && l.Type != typeIPv4 {
		wide.Frames |= bit
	}
	wide.flag(bit, l.Flaw)
}

// flag notes a flaw.
func (w *Wide) flag(bit uint64, f Flaw) {
	switch f {
	case Bad:
		w.Bad |= bit
	case Deep:
		w.Deep |= bit
	}
}

// ethernet is Narrow at level L2.
func ethernet(b *packet.Batch, port uint32, keys *NarrowKeys, wide *Wide) {
	for i := range min(b.N, packet.BatchMax) {
		f, k := &b.Frames[i], &keys[i]
		if f.Off > packet.SlotSize-quickMax || f.HeadLen < etherLen+tagLen+snapLen {
			short(b, i, port, k, wide)
			continue
		}
		eth := (*[quickMax]byte)(b.Slot(i)[f.Off:])
		src := binary.BigEndian.Uint64(eth[6:])
		in, llc := src&0xffff, (*[snapLen]byte)(eth[etherLen:])
		if uint16(in) == typeVLAN {
			in = uint64(binary.BigEndian.Uint32(eth[etherLen:])) | flowtable.TagPresent<<16
			llc = (*[snapLen]byte)(eth[etherLen+tagLen:])
		}
		if uint16(in) < typeMin {
			in = in&^0xffff | uint64(snapType(llc[:]))
		}
		*k = [flowtable.NarrowWords]uint64{
			flowtable.WordIn:  uint64(port)<<32 | in,
			flowtable.WordDst: binary.BigEndian.Uint64(eth[:]) &^ 0xffff,
			flowtable.WordSrc: src &^ 0xffff,
		}
	}
}

// short is what ethernet does with frames of few bytes.
func short(b *packet.Batch, i int, port uint32, k *[flowtable.NarrowWords]uint64, wide *Wide) {
	full, flaw := layer2(b.Head(i), b.Frames[i].Len, port)
	copy(k[:], full[:flowtable.NarrowWords])
	wide.flag(1<<i, flaw)
}

// layer2 is the key of any frame at level L2.
func layer2(head []byte, length, port uint32) (k flowtable.Key, flaw Flaw) {
	k[flowtable.WordIn] = uint64(port) << 32
	if len(head) < etherLen {
		return k, Bad
	}
	k[flowtable.WordDst] = binary.BigEndian.Uint64(head) &^ 0xffff
	src := binary.BigEndian.Uint64(head[6:])
	k[flowtable.WordSrc] = src &^ 0xffff
	in, llc := src&0xffff, head[etherLen:]
	if in == typeVLAN {
		if len(head) < etherLen+tagLen {
			k[flowtable.WordIn] |= in
			if uint32(len(head)) < length {
				return k, Deep
			}
			return k, Bad
		}
		in = uint64(binary.BigEndian.Uint32(head[etherLen:])) | flowtable.TagPresent<<16
		llc = head[etherLen+tagLen:]
	}
	if uint16(in) < typeMin {
		in = in&^0xffff | uint64(snapType(llc))
	}
	k[flowtable.WordIn] |= in
	return k, 0
}
