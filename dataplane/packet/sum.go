package packet

import (
	"encoding/binary"
	"math/bits"
)

// Sum is the ones' complement sum of frame i from byte from on, as 16-bit words
// in network order; a last odd byte counts as if a zero followed (RFC 1071). It
// reads borrowed memory, so it panics like any access if the lender has taken that away.
func (b *Batch) Sum(i, from int) uint16 { return b.SumTo(i, from, int(b.Frames[i].Len)) }

// SumTo is Sum up to byte to, which is not behind the frame's end.
func (b *Batch) SumTo(i, from, to int) uint16 {
	h := b.Head(i)
	end := min(len(h), to)
	sum := uint64(Sum16(h[min(from, end):end]))
	at := len(h)
	for _, s := range b.Tail(i) {
		if at >= to {
			break
		}
		part := bytesAt(s)
		part = part[min(max(from-at, 0), len(part)):min(to-at, len(part))]
		v := Sum16(part)
		if max(at-from, 0)&1 != 0 {
			v = bits.ReverseBytes16(v)
		}
		sum += uint64(v)
		at += int(s.Len)
	}
	return Fold(sum)
}

// Sum16 adds up s as 16-bit words in ones' complement, eight bytes at a time and
// in the order of this machine, which the sum does not mind (RFC 1071, 2). A last
// odd byte counts as if a zero followed.
func Sum16(s []byte) uint16 {
	var sum, carry uint64
	for ; len(s) >= 64; s = s[64:] {
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(s), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(s[8:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(s[16:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(s[24:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(s[32:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(s[40:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(s[48:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(s[56:]), carry)
	}
	for ; len(s) >= 8; s = s[8:] {
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(s), carry)
	}
	var last [8]byte
	copy(last[:], s)
	sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(last[:]), carry)
	sum, carry = bits.Add64(sum, carry, 0)
	return bits.ReverseBytes16(Fold(sum + carry))
}

// Fold makes a sum one of 16 bits, in ones' complement.
func Fold(sum uint64) uint16 {
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return uint16(sum>>16 + sum&0xffff)
}
