package flowtext

import (
	"encoding/binary"
	"math/bits"
	"net"
	"net/netip"
	"strconv"
)

// A value is up to 128 bits.
type value struct{ high, low uint64 }

func (v value) zero() bool        { return v.high|v.low == 0 }
func (v value) and(o value) value { return value{v.high & o.high, v.low & o.low} }
func (v value) shiftRight(n uint8) value {
	switch {
	case n == 0:
		return v
	case n >= 64:
		return value{0, v.high >> (n - 64)}
	}
	return value{v.high >> n, v.low>>n | v.high<<(64-n)}
}

// ones returns the value of n ones.
func ones(n uint8) value {
	if n > 64 {
		return value{^uint64(0) >> (128 - n), ^uint64(0)}
	}
	return value{0, ^uint64(0) >> (64 - n)}
}

// first returns the lowest bit that is set, and length how many there are up to
// the highest. v is not zero.
func (v value) first() uint8 {
	if v.low != 0 {
		return uint8(bits.TrailingZeros64(v.low))
	}
	return uint8(64 + bits.TrailingZeros64(v.high))
}

func (v value) length() uint8 {
	if v.high != 0 {
		return uint8(64 + bits.Len64(v.high))
	}
	return uint8(bits.Len64(v.low))
}

// run reports whether the bits that are set are next to each other, and where.
func (v value) run() (lo, n uint8, ok bool) {
	lo = v.first()
	n = v.length() - lo
	return lo, n, v.shiftRight(lo) == ones(n)
}

// text writes a value of a field in a form.
func (v value) text(f form, names *Names) string {
	switch f {
	case formMAC:
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], v.low)
		return net.HardwareAddr(b[2:]).String()
	case formIP4:
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(v.low))
		return netip.AddrFrom4(b).String()
	case formIP6:
		var b [16]byte
		binary.BigEndian.PutUint64(b[:], v.high)
		binary.BigEndian.PutUint64(b[8:], v.low)
		return netip.AddrFrom16(b).String()
	case formPort:
		return names.port(v.low)
	case formDatapath:
		return names.datapath(v.low)
	}
	return v.number(f)
}

// number writes a value as a number.
func (v value) number(f form) string {
	switch {
	case v.high != 0:
		low := strconv.FormatUint(v.low, 16)
		return "0x" + strconv.FormatUint(v.high, 16) + "0000000000000000"[len(low):] + low
	case f == formHex && v.low > 9, v.low > 0xffff:
		return "0x" + strconv.FormatUint(v.low, 16)
	}
	return strconv.FormatUint(v.low, 10)
}
