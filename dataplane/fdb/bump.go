//go:build !race

package fdb

// bump adds one to a count that only the caller writes and Dump reads with an
// atomic load. It is a plain add on purpose: an aligned word is never seen half
// written (Go memory model, "Implementation restrictions"), and an atomic
// store would cost 5 ns for each frame.
func bump(n *uint64) { *n++ }

// bumpBy adds more than one.
func bumpBy(n *uint64, by uint64) { *n += by }
