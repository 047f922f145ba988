package sys

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// A Mapping is memory outside the Go heap. Whoever holds its bytes must be
// done before Close.
type Mapping struct{ mem []byte }

// MapAnonymous returns size bytes of zeroed private memory, touched by nobody
// yet, so that it costs nothing until it is used.
func MapAnonymous(size int) (*Mapping, error) {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes of memory: %w", size, err)
	}
	return &Mapping{mem}, nil
}

// MapShared maps size bytes of descriptor fd from off, readable and writable.
// The descriptor may be closed afterwards.
func MapShared(fd int, off int64, size int) (*Mapping, error) {
	mem, err := unix.Mmap(fd, off, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes of shared memory at offset %d: %w", size, off, err)
	}
	return &Mapping{mem}, nil
}

// Bytes lends the memory until Close.
func (m *Mapping) Bytes() []byte { return m.mem }

// WantHugePages asks the kernel for transparent huge pages. It is a wish.
func (m *Mapping) WantHugePages() { _ = unix.Madvise(m.mem, unix.MADV_HUGEPAGE) }

// Close gives the memory back.
func (m *Mapping) Close() error {
	if m == nil || m.mem == nil {
		return nil
	}
	mem := m.mem
	m.mem = nil
	if err := unix.Munmap(mem); err != nil {
		return fmt.Errorf("unmap %d bytes: %w", len(mem), err)
	}
	return nil
}

// HugePage is the size of the huge pages that NewHugeMemfd uses, in bytes.
const HugePage = 2 << 20

// NewHugeMemfd is NewMemfd with memory of reserved huge pages
// (/proc/sys/vm/nr_hugepages), and of a size that is a multiple of HugePage.
// It fails if there are not enough of them.
func NewHugeMemfd(name string, size int64) (FD, error) {
	n, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_HUGETLB|unix.MFD_HUGE_2MB)
	if err != nil {
		return NoFD, fmt.Errorf("create memory file %s of huge pages: %w", name, err)
	}
	f := NewFD(n)
	if err := unix.Fallocate(n, 0, 0, size); err != nil {
		_ = f.Close()
		return NoFD, fmt.Errorf("take %d bytes of huge pages for %s (reserve more in /proc/sys/vm/nr_hugepages): %w", size, name, err)
	}
	return sealed(f, name)
}

// sealed makes the file's size final.
func sealed(f FD, name string) (FD, error) {
	if _, err := unix.FcntlInt(uintptr(f.Int()), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW); err != nil {
		_ = f.Close()
		return NoFD, fmt.Errorf("seal memory file %s: %w", name, err)
	}
	return f, nil
}

// NewMemfd returns a memory file of size bytes that can be handed to another
// process. It cannot shrink under those who map it.
func NewMemfd(name string, size int64) (FD, error) {
	n, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return NoFD, fmt.Errorf("create memory file %s: %w", name, err)
	}
	f := NewFD(n)
	if err := unix.Ftruncate(n, size); err != nil {
		_ = f.Close()
		return NoFD, fmt.Errorf("size memory file %s to %d bytes: %w", name, size, err)
	}
	return sealed(f, name)
}
