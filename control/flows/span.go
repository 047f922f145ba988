package flows

import "millrace/control/logical"

// A span is the numbers from first to last.
type span struct{ first, last logical.Value }

// outside returns the numbers of some bits that are not from first to last.
func outside(first, last logical.Value, bits int) []span {
	var out []span
	if !first.IsZero() {
		out = append(out, span{logical.Value{}, minus1(first)})
	}
	if top := logical.Ones(bits); last != top {
		out = append(out, span{plus1(last), top})
	}
	return out
}

// A prefix is the numbers that have the same upper bits.
type prefix struct{ mask, value logical.Value }

// prefixes returns the fewest prefixes that are the numbers of the span: at most
// two for each bit.
func (s span) prefixes(bits int) []prefix {
	var out []prefix
	for first := s.first; !s.last.Less(first); {
		n := 0 // low bits that are free
		for n < bits && !first.Bit(n) && !s.last.Less(first.Or(logical.Ones(n+1))) {
			n++
		}
		out = append(out, prefix{logical.Ones(bits).AndNot(logical.Ones(n)), first})
		end := first.Or(logical.Ones(n))
		if end == logical.Ones(bits) {
			break
		}
		first = plus1(end)
	}
	return out
}

// plus1 is v+1, which must not be 2^128.
func plus1(v logical.Value) logical.Value {
	if v.Lo++; v.Lo == 0 {
		v.Hi++
	}
	return v
}

// minus1 is v-1; v is not 0.
func minus1(v logical.Value) logical.Value {
	if v.Lo == 0 {
		v.Hi--
	}
	v.Lo--
	return v
}
