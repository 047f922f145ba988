package flowcache

import (
	"unsafe"

	"millrace/flowtable"
)

// lineBytes is the size of a cache line, the unit of the arena's offsets.
const lineBytes = 64

// A Patch fills the second line.
var _ [2 * lineBytes]byte = [8 * (headerWords + PatchWords)]byte{}

// A Program is headerWords long.
var _ [8 * headerWords]byte = [unsafe.Sizeof(Program{})]byte{}

// An Op is three words, a Guard one, in a program's image.
var (
	_ [8 * opWords]byte = [unsafe.Sizeof(flowtable.Op{})]byte{}
	_ [8]byte           = [unsafe.Sizeof(flowtable.Guard{})]byte{}
)

// at returns the header at offset off, in lines. Anything that is no offset of
// this arena is the business of the caller.
//
// SAFETY: off comes from an entry or from alloc, so it is less than lines, and
// the arena maps lines of them; nothing unmaps the arena while its worker runs.
func (a *programs) at(off uint32) *Program {
	return (*Program)(unsafe.Add(a.mem.base, uintptr(off)*lineBytes))
}

// patchAt returns the patch of the program at offset off, which has one.
//
// SAFETY: as at; a program is two lines at least, and the patch ends with the second.
func (a *programs) patchAt(off uint32) *Patch {
	return (*Patch)(unsafe.Add(a.mem.base, uintptr(off)*lineBytes+8*headerWords))
}

// words returns the n words at offset off, in lines.
//
// SAFETY: the slice of overlay checks the bounds.
func (a *programs) words(off uint32, n int) []uint64 {
	return overlay[uint64](&a.mem, a.mem.size/8)[int(off)*lineBytes/8:][:n]
}

// wordsAs lays values of T, which has no pointers, over words from word i.
//
// SAFETY: n values of T from word i on lie within words: checked by slicing.
// Words are aligned for every T that is used.
func wordsAs[T any](words []uint64, i, n int) []T {
	var t T
	part := words[i : i+(n*int(unsafe.Sizeof(t))+7)/8]
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(part))), n)
}

// base returns the address of the arena, for prefetching only.
//
// SAFETY: the address is not turned back into a pointer.
func (a *programs) base() uintptr { return uintptr(a.mem.base) }
