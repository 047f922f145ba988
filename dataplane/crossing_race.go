//go:build race

package dataplane

// connectionsMost bounds the table of connections by default. With the race
// detector the table lies in Go's heap, all of it.
const connectionsMost = 16 << 10
