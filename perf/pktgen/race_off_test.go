//go:build !race

package pktgen

// switchRate is what the switch of these tests carries in frames a second, with
// something to spare.
const switchRate = 100_000
