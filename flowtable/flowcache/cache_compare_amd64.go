package flowcache

import "golang.org/x/sys/cpu"

// compareLines is compareLinesGeneric with 32-byte registers, for a table of
// narrow entries at base of mask+1 entries.
//
//go:noescape
func compareLines(base uintptr, mask uint64, keys *[BatchMax]NarrowKey, cand *[BatchMax]uint8, hash *[BatchMax]uint64, from, end int, bits *NarrowKey, id, now uint64, found *[BatchMax]uint64) (again int)

// compareFirst compares keys with the entries in the buckets that their hashes name.
func compareFirst(t *table, keys *[BatchMax]NarrowKey, b *scratch, from, end int, bits *NarrowKey, id, now uint16) int {
	if cpu.X86.HasAVX2 {
		return compareLines(t.base(), t.mask, keys, &b.cand, &b.hash, from, min(end, BatchMax), bits, uint64(id), uint64(now), &b.found)
	}
	return compareFirstGeneric(t, keys, b, from, end, bits, id, now)
}
