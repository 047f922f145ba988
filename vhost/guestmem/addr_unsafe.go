package guestmem

import "unsafe"

// addr is the address of b's first byte.
//
// SAFETY: b is a mapping outside the Go heap; the result is only a number.
func addr(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }
