//go:build !race

package dataplane

import "math"

// Bounds of the table of connections by default: connections, clients whose backend is
// remembered, and bytes of fragments that wait.
const (
	connectionsMost = 4 << 20
	affinityMost    = math.MaxInt
	heldMost        = math.MaxInt
)
