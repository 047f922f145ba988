package packet

import (
	"encoding/binary"
	"math/bits"
)

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

// sum adds up n bytes of frame i from offset skip on, as 16-bit words.
func (b *Batch) sum(i, skip, n int) uint16 {
	total, odd := uint64(0), false
	piece := b.Head(i)
	for segs := b.Tail(i); ; segs = segs[1:] {
		if skip < len(piece) {
			piece = piece[skip:]
			piece = piece[:min(len(piece), n)]
			v := Sum16(piece)
			if odd {
				v = bits.ReverseBytes16(v)
			}
			total += uint64(v)
			odd = odd != (len(piece)%2 == 1)
			n -= len(piece)
			skip = 0
		} else {
			skip -= len(piece)
		}
		if n == 0 || len(segs) == 0 {
			return Fold(total)
		}
		piece = bytesAt(segs[0])
	}
}
