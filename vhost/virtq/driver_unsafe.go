package virtq

import (
	"unsafe"

	"millrace/dataplane/packet"
)

// view is the n bytes from p.
//
// SAFETY: p and n lie in an Area that the driver was given, in a buffer whose
// number and size were checked. The Area stays mapped while the driver is used.
func view(p uintptr, n uint32) []byte { return unsafe.Slice((*byte)(packet.At(p)), n) }

// storeDesc writes descriptor i of a table (virtio 2.7.5).
func storeDesc(table uintptr, i uint32, d desc) {
	p := table + descSize*uintptr(i)
	store64(p, d.addr)
	store64(p+8, uint64(d.len)|uint64(d.flags)<<32|uint64(d.next)<<48)
}
