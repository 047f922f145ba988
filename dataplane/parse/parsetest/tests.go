package parsetest

import (
	"math/rand/v2"
	"testing"

	"millrace/dataplane/packet"
)

// Seeded returns a generator whose seed the test shows when it fails.
func Seeded(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}

// Add puts a frame into b as a receive queue does: its first bytes private, the rest of it borrowed.
// It reports whether there was room.
func Add(b *packet.Batch, frame []byte) bool {
	if len(frame) <= packet.HeadMax {
		return b.Add(frame)
	}
	tail := frame[packet.HeadMax:]
	return b.Add(frame[:packet.HeadMax], packet.Seg{Addr: packet.Addr(tail), Len: uintptr(len(tail))})
}
