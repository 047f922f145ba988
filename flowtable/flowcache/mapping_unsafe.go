package flowcache

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugePage is the size of a transparent huge page on amd64 and arm64.
const hugePage = 2 << 20

// pageSize is that of the smallest pages.
const pageSize = 4 << 10

// pointer is an unsafe.Pointer, for fields of types in files without unsafe.
type pointer = unsafe.Pointer

// A mapping is private zeroed memory outside the Go heap. The kernel provides
// its pages when they are first touched.
type mapping struct {
	whole []byte         // as mapped
	base  unsafe.Pointer // of what is used: on a huge page if that helps
	size  int
}

// newMapping maps size bytes. Those of two megabytes or more are rounded up to
// whole huge pages, and the kernel is asked for huge pages: random accesses to ordinary
// ones miss the TLB.
func newMapping(size int) (mapping, error) {
	m, err := newSparse(size)
	if err == nil && size >= hugePage {
		m.advise()
	}
	return m, err
}

// advise asks the kernel for huge pages. A kernel without transparent ones
// refuses; then it is slower.
//
// SAFETY: the range is base and the size bytes behind it, which are mapped; it is
// advice only.
func (m *mapping) advise() {
	_ = unix.Madvise(unsafe.Slice((*byte)(m.base), m.size), unix.MADV_HUGEPAGE)
}

// collapse asks the kernel to make a huge page of the pages that there are of
// huge page i. Kernels before 6.1 do so by themselves, some time later.
//
// SAFETY: the range lies within the mapping: i is below size / hugePage; its
// content stays.
func (m *mapping) collapse(i int) {
	_ = unix.Madvise(unsafe.Slice((*byte)(unsafe.Add(m.base, i*hugePage)), hugePage), unix.MADV_COLLAPSE)
}

// populate asks the kernel for the memory of bytes from to end, as far as there are such: as if
// each page was written to, without a change. Kernels before 5.14 refuse; then it comes when it
// is used.
//
// SAFETY: the range lies within the mapping, which begins on a page: checked by min and max; its
// content stays.
func (m *mapping) populate(from, end int) {
	from, end = max(from, 0)&^(pageSize-1), min(end, m.size)
	if from < end {
		_ = unix.Madvise(unsafe.Slice((*byte)(unsafe.Add(m.base, from)), end-from), unix.MADV_POPULATE_WRITE)
	}
}

// newSparse is newMapping for memory of which little may be used: every first touch
// takes one ordinary page, until advise is called.
//
// SAFETY: pad < hugePage, and hugePage more bytes are mapped than are used, so
// base and the size bytes behind it lie within whole. It is no Go memory:
// nothing moves it, and nothing frees it before close.
func newSparse(size int) (mapping, error) {
	room := size
	if size >= hugePage {
		size = (size + hugePage - 1) &^ (hugePage - 1)
		room = size + hugePage
	}
	whole, err := unix.Mmap(-1, 0, room, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return mapping{}, fmt.Errorf("map %d bytes: %w", room, err)
	}
	m := mapping{whole: whole, base: unsafe.Pointer(unsafe.SliceData(whole)), size: size}
	if size >= hugePage {
		pad := -uintptr(m.base) & (hugePage - 1)
		m.base = unsafe.Add(m.base, pad)
	}
	return m, nil
}

// close gives the memory back. Nothing may use it afterwards.
func (m *mapping) close() error {
	whole := m.whole
	*m = mapping{}
	if whole == nil {
		return nil
	}
	if err := unix.Munmap(whole); err != nil {
		return fmt.Errorf("unmap %d bytes: %w", len(whole), err)
	}
	return nil
}

// overlay lays n values of T over m from its start. T has no pointers, is
// valid for any bits, and n of them fit: checked.
//
// SAFETY: the bounds are checked here; mappings begin on a page, which aligns
// every T that is used.
func overlay[T any](m *mapping, n int) []T {
	var t T
	if n < 0 || n > m.size/int(unsafe.Sizeof(t)) {
		panic(fmt.Sprintf("flowtable: %d values of %d bytes in a mapping of %d", n, unsafe.Sizeof(t), m.size))
	}
	return unsafe.Slice((*T)(m.base), n)
}
