//go:build !amd64

package prefetch

// Harmless says that an address at which nothing may be read does no harm. Here
// lines are asked for by reading them.
const Harmless = false

// Lines reads a byte of the cache lines at base + (at[i]&mask)<<shift,
// for i < n <= 64. The loads do not depend on each other, so the processor has
// many of them under way at once.
func Lines(base uintptr, at *[Max]uint64, n int, mask, shift uint64) {
	touchLines(base, at, n, mask, shift)
}
