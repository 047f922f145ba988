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
	sum := uint64(sumBytes(h[min(from, end):end]))
	at := len(h)
	for _, s := range b.Tail(i) {
		if at >= to {
			break
		}
		part := bytesAt(s)
		part = part[min(max(from-at, 0), len(part)):min(to-at, len(part))]
		v := sumBytes(part)
		if max(at-from, 0)&1 != 0 {
			v = bits.ReverseBytes16(v)
		}
		sum += uint64(v)
		at += int(s.Len)
	}
	return fold16(sum)
}

// sumBytes adds up s as 16-bit words, eight bytes at a time in the order of this
// machine, which the sum does not mind (RFC 1071 2).
func sumBytes(s []byte) uint16 {
	var sum, carry uint64
	for ; len(s) >= 32; s = s[32:] {
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(s), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(s[8:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(s[16:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(s[24:]), carry)
	}
	for ; len(s) >= 8; s = s[8:] {
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(s), carry)
	}
	var last [8]byte
	copy(last[:], s)
	sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(last[:]), carry)
	sum, carry = bits.Add64(sum, carry, 0)
	sum, carry = bits.Add64(sum&0xffffffff, sum>>32, 0)
	return bits.ReverseBytes16(fold16(sum + carry))
}

// fold16 brings a sum of 16-bit words to 16 bits.
func fold16(sum uint64) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// Pull moves private bytes of frame i, whose head may begin anywhere in its slot, to
// where a received frame's are, and makes as much of the frame private as of a
// received one. Segments that lose bytes are written anew, since others may use those
// that there are: it reports whether there was room for them, and for what is private already. It reads borrowed memory.
func (b *Batch) Pull(i int) bool {
	f := &b.Frames[i]
	if f.HeadLen > HeadMax {
		return false
	}
	slot := &b.heads[i]
	copy(slot[HeadRoom:], slot[f.Off:f.Off+f.HeadLen])
	f.Off = HeadRoom
	want := int(min(f.Len, HeadMax)) - int(f.HeadLen)
	if want <= 0 {
		return true
	}
	if b.NSegs+int(f.NSeg) > SegsMax {
		return false
	}
	first := b.NSegs
	for _, s := range b.Tail(i) {
		n := min(want, int(s.Len))
		copy(slot[HeadRoom+f.HeadLen:], bytesAt(s)[:n])
		f.HeadLen += uint16(n)
		want -= n
		if s.Len > uintptr(n) {
			b.Segs[b.NSegs] = Seg{s.Addr + uintptr(n), s.Len - uintptr(n)}
			b.NSegs++
		}
	}
	f.Seg, f.NSeg = uint32(first), uint32(b.NSegs-first)
	return true
}

// Trim takes off what is behind byte n of frame i: padding. It reports whether
// there was room for the segments of what is left.
func (b *Batch) Trim(i int, n uint32) bool {
	f := &b.Frames[i]
	if n >= f.Len {
		return true
	}
	f.Len = n
	if n <= uint32(f.HeadLen) {
		f.HeadLen, f.NSeg = uint16(n), 0
		return true
	}
	if b.NSegs+int(f.NSeg) > SegsMax {
		return false
	}
	first, left := b.NSegs, uintptr(n)-uintptr(f.HeadLen)
	for _, s := range b.Tail(i) {
		if left == 0 {
			break
		}
		b.Segs[b.NSegs] = Seg{s.Addr, min(s.Len, left)}
		left -= b.Segs[b.NSegs].Len
		b.NSegs++
	}
	f.Seg, f.NSeg = uint32(first), uint32(b.NSegs-first)
	return true
}
