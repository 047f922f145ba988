package prefetch

import "unsafe"

// touchLines reads a byte at base + (at[i]&mask)<<shift, for i < n, and returns
// a sum of what it read, so that the loads are not left out.
//
// SAFETY: base is the address of a mapping (no Go memory, so it does not move),
// and the caller's mask and shift keep every offset within it.
func touchLines(base uintptr, at *[Max]uint64, n int, mask, shift uint64) (sum byte) {
	p := *(*unsafe.Pointer)(unsafe.Pointer(&base))
	for i := 0; i < n && i < Max; i++ {
		sum += *(*byte)(unsafe.Add(p, uintptr(at[i]&mask<<(shift&63))))
	}
	return sum
}
