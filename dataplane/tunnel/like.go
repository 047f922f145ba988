package tunnel

import (
	"encoding/binary"

	"millrace/dataplane/packet"
)

// Frames that come by one tunnel have the same outer headers, but for lengths, numbers, checksum, source
// port and data. So it is enough to compare, and to look at those: for IPv4 without options, without UDP checksum, and
// with no option of Geneve but OVN's.

// What is compared, in bytes from the frame's first: all headers, as words.
const (
	LikeWords = 7
	LikeLen   = etherLen + ip4Len + udpLen + baseLen + optionLen + packet.FrameMin

	likeBase = etherLen + ip4Len + udpLen + baseLen // without the option
)

// likeMasks cover what frames have in common, as a little-endian machine reads it, and likeOption and likeBare
// the last word with OVN's option and without.
var likeMasks = [LikeWords - 1]uint64{
	^uint64(0), ^uint64(0),
	^uint64(0xffffffff),   // not total length, identification
	^uint64(0xffff),       // not the header's checksum
	0x0000_ffff_0000_ffff, // not source port, UDP length
	^uint64(0),
}

const (
	likeBare   = 0xffff
	likeOption = 0xffff_ffff_ffff
)

// likeMask covers the last word.
func likeMask(option bool) uint64 {
	if option {
		return likeOption
	}
	return likeBare
}

// Like is what frames like the one that begins with head have in common, whose outer headers o has read. ok is
// false for those that cannot be compared.
func (o *Outer) Like(head []byte) (words [LikeWords]uint64, option, ok bool) {
	option = o.Len == likeBase+optionLen && o.Word>>flagsShift&HasData != 0
	if len(head) < LikeLen || head[etherLen] != 0x45 || o.l4 != etherLen+ip4Len || o.Sum || o.TOS&ecnMask == ecnCE || o.Len != likeBase && !option {
		return words, false, false
	}
	for k := range words {
		words[k] = binary.LittleEndian.Uint64(head[8*k:]) & maskOf(k, option)
	}
	return words, option, true
}

func maskOf(k int, option bool) uint64 {
	if k < len(likeMasks) {
		return likeMasks[k]
	}
	return likeMask(option)
}

// IsLike reports whether a frame of length bytes that begins with h is like those that words are of, and its
// lengths and the IPv4 header's checksum are right: n is the length of the outer headers then, else 0, and end where
// the inner frame ends.
func IsLike(h *[LikeLen]byte, words *[LikeWords]uint64, option bool, length uint32) (n uint16, end uint32) {
	differs := (binary.LittleEndian.Uint64(h[0:]) ^ words[0]) | (binary.LittleEndian.Uint64(h[8:]) ^ words[1]) |
		(binary.LittleEndian.Uint64(h[16:])&likeMasks[2] ^ words[2]) | (binary.LittleEndian.Uint64(h[24:])&likeMasks[3] ^ words[3]) |
		(binary.LittleEndian.Uint64(h[32:])&likeMasks[4] ^ words[4]) | (binary.LittleEndian.Uint64(h[40:]) ^ words[5]) |
		(binary.LittleEndian.Uint64(h[48:])&likeMask(option) ^ words[6])
	if differs != 0 {
		return 0, 0
	}
	if n = likeBase; option {
		n += optionLen
	}
	ipEnd := etherLen + uint32(binary.BigEndian.Uint16(h[16:]))
	end = etherLen + ip4Len + uint32(binary.BigEndian.Uint16(h[38:]))
	if ipEnd > length || end > ipEnd || end < uint32(n)+packet.FrameMin || !rightIP4(h) {
		return 0, 0
	}
	return n, end
}

// rightIP4 reports whether the checksum of an IPv4 header without options is right. Sums do not mind in which
// order the machine reads bytes (RFC 1071, 2).
func rightIP4(h *[LikeLen]byte) bool {
	sum := uint64(binary.LittleEndian.Uint32(h[14:])) + uint64(binary.LittleEndian.Uint32(h[18:])) + uint64(binary.LittleEndian.Uint32(h[22:])) +
		uint64(binary.LittleEndian.Uint32(h[26:])) + uint64(binary.LittleEndian.Uint32(h[30:]))
	return packet.Fold(sum) == 0xffff
}
