package logical

import "math/bits"

// Value is an unsigned number of up to 128 bits, the width of the widest
// fields (ip6.src, xxreg0, ct_label). Narrower fields use the low bits and
// keep the others zero. Two values are equal exactly when == says so.
type Value struct {
	Hi uint64 // bits 127 to 64
	Lo uint64 // bits 63 to 0
}

// U64 returns v as a Value.
func U64(v uint64) Value { return Value{Lo: v} }

// Ones returns the value whose low n bits are set, for 0 <= n <= 128.
func Ones(n int) Value {
	switch {
	case n >= 128:
		return Value{^uint64(0), ^uint64(0)}
	case n >= 64:
		return Value{1<<(n-64) - 1, ^uint64(0)}
	}
	return Value{0, 1<<n - 1}
}

// And returns the bitwise and of v and w.
func (v Value) And(w Value) Value { return Value{v.Hi & w.Hi, v.Lo & w.Lo} }

// Or returns the bitwise or of v and w.
func (v Value) Or(w Value) Value { return Value{v.Hi | w.Hi, v.Lo | w.Lo} }

// AndNot returns the bits of v that are not in w.
func (v Value) AndNot(w Value) Value { return Value{v.Hi &^ w.Hi, v.Lo &^ w.Lo} }

// Xor returns the bits in which v and w differ.
func (v Value) Xor(w Value) Value { return Value{v.Hi ^ w.Hi, v.Lo ^ w.Lo} }

// Shl returns v shifted left by n bits, 0 <= n < 128; what leaves the top is lost.
func (v Value) Shl(n int) Value {
	switch {
	case n == 0:
		return v
	case n >= 64:
		return Value{v.Lo << (n - 64), 0}
	}
	return Value{v.Hi<<n | v.Lo>>(64-n), v.Lo << n}
}

// Shr returns v shifted right by n bits, 0 <= n < 128.
func (v Value) Shr(n int) Value {
	switch {
	case n == 0:
		return v
	case n >= 64:
		return Value{0, v.Hi >> (n - 64)}
	}
	return Value{v.Hi >> n, v.Lo>>n | v.Hi<<(64-n)}
}

// IsZero reports whether no bit of v is set.
func (v Value) IsZero() bool { return v.Hi|v.Lo == 0 }

// Bit reports whether bit n of v is set.
func (v Value) Bit(n int) bool { return v.Shr(n).Lo&1 != 0 }

// Len returns the number of bits that v needs: 0 for zero.
func (v Value) Len() int {
	if v.Hi != 0 {
		return 64 + bits.Len64(v.Hi)
	}
	return bits.Len64(v.Lo)
}

// Less reports whether v < w.
func (v Value) Less(w Value) bool {
	return v.Hi < w.Hi || v.Hi == w.Hi && v.Lo < w.Lo
}

// next returns v+1, wrapping at 2^128.
func (v Value) next() Value {
	lo, carry := bits.Add64(v.Lo, 1, 0)
	return Value{v.Hi + carry, lo}
}

// prev returns v-1, wrapping at 0.
func (v Value) prev() Value {
	lo, borrow := bits.Sub64(v.Lo, 1, 0)
	return Value{v.Hi - borrow, lo}
}
