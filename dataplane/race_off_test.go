//go:build !race

package dataplane

// raceOn says whether the race detector watches.
const raceOn = false
