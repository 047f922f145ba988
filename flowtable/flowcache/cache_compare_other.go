//go:build !amd64

package flowcache

// compareFirst compares keys with the entries in the buckets that their hashes name.
func compareFirst(t *table, keys *[BatchMax]NarrowKey, b *scratch, from, end int, bits *NarrowKey, id, now uint16) int {
	return compareFirstGeneric(t, keys, b, from, end, bits, id, now)
}
