package flowcache

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math/bits"

	"millrace/flowtable"
)

// Secrets are what only this process knows of its hashes. Who does not know
// them cannot choose keys that collide.
type Secrets [flowtable.KeyWords + 2]uint64

// NewSecrets draws secrets from the kernel.
func NewSecrets() (*Secrets, error) {
	var raw [8 * len(Secrets{})]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return nil, fmt.Errorf("draw hash secrets: %w", err)
	}
	s := &Secrets{}
	for i := range s {
		s[i] = binary.LittleEndian.Uint64(raw[8*i:])
	}
	return s, nil
}

// fold multiplies to 128 bits and folds them: every bit of the product's
// middle depends on nearly all bits of both factors (wyhash, Wang Yi 2019).
func fold(a, b uint64) uint64 {
	high, low := bits.Mul64(a, b)
	return high ^ low
}

// The hash of a masked key is a sum of folds of pairs of words, each with
// secrets of its own, and one more fold, which mixes in the seed of the mask.
// The loops of cache_lookup.go and cache_wide.go have it written out; hash is for
// all that is not hot, and the tests hold them to each other.

// hash returns the hash of masked words, NarrowWords or KeyWords of them.
func (s *Secrets) hash(words []uint64, seed uint64) uint64 {
	var h uint64
	for i := 0; i+1 < len(words); i += 2 {
		h ^= fold(words[i]^s[i], words[i+1]^s[i+1])
	}
	return fold(h^seed, s[flowtable.KeyWords])
}

// digest returns the hash of any number of words; the length counts.
func (s *Secrets) digest(words []uint64) uint64 {
	h := s[0] ^ uint64(len(words))
	for _, w := range words {
		h = fold(h^w, s[1]) ^ bits.RotateLeft64(w, 32)
	}
	return fold(h^s[2], s[flowtable.KeyWords+1])
}
