//go:build !race

package flowtable

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugeFrom is how large an arena becomes before it has huge pages: small ones would
// take memory by them, and fit what translates addresses without.
const hugeFrom = commitStep

// commitStep is how much more of a reservation becomes usable at a time.
const commitStep = 4 << 20

// mapping is a range of addresses of which a growing start is memory.
type mapping struct {
	base      unsafe.Pointer
	size      uintptr
	committed uintptr
}

// reserve takes size bytes of addresses, or fewer where a limit (RLIMIT_AS)
// forbids as many, and returns them as words. Nothing of it is memory yet.
func reserve(size uint64) (mapping, []uint64, error) {
	for ; ; size /= 2 {
		// SAFETY: no address is asked for, so the kernel chooses a range that
		// nothing else uses.
		p, err := unix.MmapPtr(-1, 0, nil, uintptr(size), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
		if err == nil {
			// SAFETY: the range is size bytes, and stays until release; grow
			// makes words usable before the allocator gives them out.
			return mapping{base: p, size: uintptr(size)}, unsafe.Slice((*uint64)(p), size/8), nil
		}
		if size <= commitStep {
			return mapping{}, nil, fmt.Errorf("reserve %d bytes of addresses: %w", size, err)
		}
	}
}

// madviseHuge asks for huge pages.
func madviseHuge(p unsafe.Pointer, size uintptr) error {
	// SAFETY: the range is a mapping of ours of that size; it is advice only.
	return unix.Madvise(unsafe.Slice((*byte)(p), size), unix.MADV_HUGEPAGE)
}

// grow makes at least the first want bytes usable.
func (m *mapping) grow(want uint64) error {
	if uintptr(want) <= m.committed {
		return nil
	}
	end := (uintptr(want) + commitStep - 1) &^ (commitStep - 1)
	end = min(end, m.size)
	// SAFETY: committed..end lies inside the reservation.
	more := unsafe.Slice((*byte)(unsafe.Add(m.base, m.committed)), end-m.committed)
	if err := unix.Mprotect(more, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return fmt.Errorf("commit %d bytes of memory: %w", end, err)
	}
	if m.committed <= hugeFrom && end > hugeFrom {
		// Huge pages are a matter of speed only, and may be off.
		_ = madviseHuge(m.base, m.size)
	}
	m.committed = end
	return nil
}

// release gives the addresses back. Nobody may use the words any more.
func (m *mapping) release() error {
	if m.base == nil {
		return nil
	}
	// SAFETY: the mapping is ours, and the owner says that no user is left.
	err := unix.MunmapPtr(m.base, m.size)
	m.base = nil
	return err
}

// base returns the address of the words, for prefetching only.
//
// SAFETY: the address is not turned back into a pointer.
func (a *arena) base() uintptr { return uintptr(a.mem.base) }
