//go:build amd64 && !race

package conntrack

import (
	"sync/atomic"
	"unsafe"
)

// Words that others only read are stored plainly on purpose: an aligned word is never seen half
// written, the processor keeps the order of stores, and an atomic store is a locked
// instruction, for which all stores before it must have ended. Who then reads what another one stores
// needs a locked instruction between.
//
// SAFETY: an atomic.Uint32 and an atomic.Uint64 are their word, aligned, and nothing else.

func put32(a *atomic.Uint32, v uint32) { *(*uint32)(unsafe.Pointer(a)) = v }
func put64(a *atomic.Uint64, v uint64) { *(*uint64)(unsafe.Pointer(a)) = v }
