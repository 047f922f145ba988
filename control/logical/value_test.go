package logical

import (
	"math/big"
	"math/rand/v2"
	"testing"
)

// bigOf returns v as a big.Int, which is too slow to be wrong.
func bigOf(v Value) *big.Int {
	b := new(big.Int).SetUint64(v.Hi)
	return b.Or(b.Lsh(b, 64), new(big.Int).SetUint64(v.Lo))
}

// randValue returns a value of any length up to 128 bits.
func randValue(r *rand.Rand) Value {
	return Value{r.Uint64(), r.Uint64()}.And(Ones(r.IntN(129)))
}

func TestValue(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	top := new(big.Int).Lsh(big.NewInt(1), 128)
	for range 10000 {
		v, w, n := randValue(r), randValue(r), r.IntN(128)
		x, y := bigOf(v), bigOf(w)
		checks := []struct {
			name string
			got  Value
			want *big.Int
		}{
			{"and", v.And(w), new(big.Int).And(x, y)},
			{"or", v.Or(w), new(big.Int).Or(x, y)},
			{"andnot", v.AndNot(w), new(big.Int).AndNot(x, y)},
			{"xor", v.Xor(w), new(big.Int).Xor(x, y)},
			{"shr", v.Shr(n), new(big.Int).Rsh(x, uint(n))},
			{"shl", v.Shl(n), new(big.Int).Mod(new(big.Int).Lsh(x, uint(n)), top)},
			{"next", v.next(), new(big.Int).Mod(new(big.Int).Add(x, big.NewInt(1)), top)},
			{"prev", v.prev(), new(big.Int).Mod(new(big.Int).Sub(x, big.NewInt(1)), top)},
			{"ones", Ones(n), new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), uint(n)), big.NewInt(1))},
		}
		for _, c := range checks {
			if bigOf(c.got).Cmp(c.want) != 0 {
				t.Fatalf("%s of %x, %x, %d: %x, want %x", c.name, x, y, n, bigOf(c.got), c.want)
			}
		}
		if v.Len() != x.BitLen() || v.Less(w) != (x.Cmp(y) < 0) || v.Bit(n) != (x.Bit(n) == 1) || v.IsZero() != (x.Sign() == 0) {
			t.Fatalf("length, order or bit %d of %x, %x", n, x, y)
		}
	}
}
