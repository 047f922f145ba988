//go:build !amd64 || race

package conntrack

import "sync/atomic"

// put32 and put64 store words that others only read.

func put32(a *atomic.Uint32, v uint32) { a.Store(v) }
func put64(a *atomic.Uint64, v uint64) { a.Store(v) }
