//go:build !race

package flowtable

// raceOn says whether the race detector watches.
const raceOn = false
