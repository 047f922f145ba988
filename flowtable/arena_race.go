//go:build race

package flowtable

import "reflect"

// The race detector watches only the Go heap. So that it sees what readers and
// the writer do to an arena, a build with it takes arenas from there.

// raceBytes bounds an arena of such a build.
const raceBytes = 64 << 20

// mapping stands for the mapping that other builds have.
type mapping struct {
	committed uintptr
}

// reserve allocates size bytes, at most raceBytes.
func reserve(size uint64) (mapping, []uint64, error) {
	return mapping{}, make([]uint64, min(size, raceBytes)/8), nil
}

// grow counts only.
func (m *mapping) grow(want uint64) error {
	m.committed = max(m.committed, uintptr(want))
	return nil
}

// release leaves the memory to the collector.
func (m *mapping) release() error { return nil }

// base returns the address of the words, for prefetching only.
func (a *arena) base() uintptr { return reflect.ValueOf(a.words).Pointer() }
