package conntrack

import "unsafe"

// baseOf returns the address of an array, for prefetching only.
//
// SAFETY: the address is not turned back into a pointer.
func baseOf[T any](a []T) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(a))) }
