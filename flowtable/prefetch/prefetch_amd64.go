package prefetch

// Harmless says that an address at which nothing may be read does no harm.
const Harmless = true

// Lines asks for the cache lines at base + (at[i]&mask)<<shift, for
// i < n <= 64, and waits for none.
//
//go:noescape
func Lines(base uintptr, at *[Max]uint64, n int, mask, shift uint64)
