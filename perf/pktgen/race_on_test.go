//go:build race

package pktgen

// switchRate is what the switch of these tests carries in frames a second, with
// something to spare, when memory accesses are watched.
const switchRate = 50_000
