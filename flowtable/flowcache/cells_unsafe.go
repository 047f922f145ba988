package flowcache

import (
	"sync/atomic"
	"unsafe"

	"millrace/flowtable"
)

// now returns the value of a cell that a program of a cache names.
//
// SAFETY: the cache has checked that the cell exists when the program was
// made, and the cells' number never changes. Nothing unmaps them while workers
// run.
func (c *Cells) now(cell flowtable.Cell) uint32 {
	return atomic.LoadUint32((*uint32)(unsafe.Add(c.mem.base, uintptr(cell)*4)))
}
