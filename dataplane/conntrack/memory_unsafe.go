//go:build !race

package conntrack

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugePage is the size of a transparent huge page on amd64 and arm64.
const hugePage = 2 << 20

// memory owns what the arrays of a table are laid over.
type memory struct {
	maps [][]byte
	size int // bytes mapped
}

// close gives all of it back.
func (m *memory) close() error {
	var first error
	for _, b := range m.maps {
		if err := unix.Munmap(b); err != nil && first == nil {
			first = fmt.Errorf("unmap %d bytes: %w", len(b), err)
		}
	}
	m.maps, m.size = nil, 0
	return first
}

// array maps n zeroed values of T outside the Go heap, on a cache line or, if
// there are many, on a huge page. The kernel provides pages when they are first
// touched. T has no pointers and is valid for any bits.
//
// SAFETY: pad is less than a huge page, and that much more is mapped than n
// values take, so all of them lie within the mapping. It is no Go memory:
// nothing moves it, and nothing frees it before close.
func array[T any](m *memory, n int) ([]T, error) {
	var t T
	size := n * int(unsafe.Sizeof(t))
	room := size + hugePage
	if size < hugePage {
		room = max(size, 1)
	}
	b, err := unix.Mmap(-1, 0, room, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", room, err)
	}
	m.maps = append(m.maps, b)
	m.size += size
	base := unsafe.Pointer(unsafe.SliceData(b))
	if size >= hugePage {
		pad := -uintptr(base) & (hugePage - 1)
		base = unsafe.Add(base, pad)
		// A kernel without transparent huge pages refuses; then it is slower.
		_ = unix.Madvise(b[pad:int(pad)+size&^4095], unix.MADV_HUGEPAGE)
	}
	return unsafe.Slice((*T)(base), n), nil
}
