package packet

import "unsafe"

// At turns the address of memory outside the Go heap into a pointer.
//
// SAFETY: addresses come from mappings that their owner keeps until no worker
// uses them; the collector neither moves nor frees them.
//
//go:nocheckptr
func At(addr uintptr) unsafe.Pointer { return unsafe.Add(unsafe.Pointer(nil), addr) }

// Addr is the address of the first byte of b, which lies outside the Go heap
// or stays referenced for as long as the address is used.
//
// SAFETY: the result is only a number.
func Addr(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// SlotAddr is the address of byte off in the private memory of frame i. It is
// good for as long as b is referenced.
//
// SAFETY: off is an offset in the slot; heap objects do not move.
func (b *Batch) SlotAddr(i int, off uint16) uintptr {
	return uintptr(unsafe.Pointer(&b.heads[i][off&(SlotSize-1)]))
}

// bytesAt views s as a slice.
//
// SAFETY: s was made from a range that was checked against its mapping.
func bytesAt(s Seg) []byte { return unsafe.Slice((*byte)(At(s.Addr)), s.Len) }

// A Copy is one move of N bytes from Src to Dst, which do not overlap. Both are
// outside the Go heap, or in memory that the caller keeps referenced.
type Copy struct {
	Dst, Src, N uintptr
}

// Move makes all copies, in order, each of exactly N bytes: not a byte more is
// read or written, so that nothing of one guest reaches another.
//
// Frames are mostly 60 to 128 bytes long, where a call of memmove for each
// costs more than the copy itself. One call here moves a batch.
//
// SAFETY: the caller has checked all ranges. A range whose memory has been
// taken away faults like any other access (debug.SetPanicOnFault).
func Move(copies []Copy) {
	if len(copies) > 0 {
		move(unsafe.SliceData(copies), len(copies))
	}
}

// moveGeneric is Move for machines without a faster one, and its test's
// reference.
//
// SAFETY: see Move.
func moveGeneric(c *Copy, n int) {
	for _, c := range unsafe.Slice(c, n) {
		copy(unsafe.Slice((*byte)(At(c.Dst)), c.N), unsafe.Slice((*byte)(At(c.Src)), c.N))
	}
}
