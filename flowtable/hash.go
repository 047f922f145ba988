package flowtable

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
)

// A seed makes hashes that nobody outside can foresee.
type seed struct {
	start, a, b uint64
	words       [ContextWords]uint64 // for add
}

// newSeed returns a random seed. crypto/rand does not fail (Go 1.24).
func newSeed() seed {
	var b [8 * (3 + ContextWords)]byte
	rand.Read(b[:])
	s := seed{start: binary.LittleEndian.Uint64(b[:]), a: binary.LittleEndian.Uint64(b[8:]), b: binary.LittleEndian.Uint64(b[16:])}
	for i := range s.words {
		s.words[i] = binary.LittleEndian.Uint64(b[24+8*i:])
	}
	return s
}

// add returns sum with word i of a context, masked, added to it. The words of
// a sum do not wait for each other as those of mix do; its bits are good only
// after mix.
func (s *seed) add(sum, x uint64, i int) uint64 {
	hi, lo := bits.Mul64(x^s.words[i&(ContextWords-1)], s.b)
	return sum + (hi ^ lo)
}

// sumTag returns the tag of a sum, and of the set by which rules are found, or
// zero.
func (s *seed) sumTag(sum uint64, set uint32) uint32 {
	hi, lo := bits.Mul64(sum^uint64(set)<<17^s.a, s.start|1)
	return tagOf(hi ^ lo)
}

// mix returns h with x folded into it.
func (s *seed) mix(h, x uint64) uint64 {
	hi, lo := bits.Mul64(x^s.a, h^s.b)
	return hi ^ lo ^ x
}

// tagOf returns the bits of a hash that an index keeps.
func tagOf(h uint64) uint32 { return uint32(h>>32) ^ uint32(h) }
