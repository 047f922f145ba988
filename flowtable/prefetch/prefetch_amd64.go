package prefetch

// Lines asks for the cache lines at base + (at[i]&mask)<<shift, for
// i < n <= 64, and waits for none. An address that is not mapped does no harm.
//
//go:noescape
func Lines(base uintptr, at *[Max]uint64, n int, mask, shift uint64)
