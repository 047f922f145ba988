//go:build race

package dataplane

// Bounds of the table of connections by default: connections, clients whose backend is
// remembered, and bytes of fragments that wait. With the race detector the table lies in Go's
// heap, all of it.
const (
	connectionsMost = 16 << 10
	affinityMost    = 2 << 10
	heldMost        = 512 << 10
)
