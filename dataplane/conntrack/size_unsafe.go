package conntrack

import "unsafe"

// SAFETY: only sizes are taken here. A record is three cache lines, a bucket of
// the index one, and so are a datagram whose fragments are tracked and a zone.
var (
	_ [3 * 64]byte = [unsafe.Sizeof(record{})]byte{}
	_ [64]byte     = [unsafe.Sizeof(bucket{})]byte{}
	_ [64]byte     = [unsafe.Sizeof(datagram{})]byte{}
	_ [64]byte     = [unsafe.Sizeof(zone{})]byte{}
)
