package conntrack

import "unsafe"

// SAFETY: only sizes are taken here. A record is three cache lines, a bucket of
// the index one, and so is a datagram whose fragments are tracked.
var (
	_ [3 * 64]byte = [unsafe.Sizeof(record{})]byte{}
	_ [64]byte     = [unsafe.Sizeof(bucket{})]byte{}
	_ [64]byte     = [unsafe.Sizeof(datagram{})]byte{}
	_ [32]byte     = [unsafe.Sizeof(zone{})]byte{}
)
