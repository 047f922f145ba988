// Package guestmem maps the memory that a vhost-user front-end shares, and
// translates its addresses.
//
// A [Map] is never changed: adding or removing a region makes a new Map, and
// the old one's regions are unmapped when their last owner is done. An address
// range is translated as a whole: its first byte being mapped says nothing
// about its last (CVE-2018-1059).
//
// The file behind a region belongs to the guest, who can truncate it at any
// time. Every access may then fault; the goroutine that makes it runs with
// debug.SetPanicOnFault and asks Owns whose fault it was.
package guestmem

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"millrace/dataplane/sys"
)

// RegionsMax is how many regions a map may have: the memory slots that the
// back-end offers (VHOST_USER_GET_MAX_MEM_SLOTS).
const RegionsMax = 509

// SizeMax is the most memory that a Map holds, in bytes. Sparse files cost
// nothing, but address space ends at 2^47: a front-end must not use it up, for
// the process's heap needs some too.
const SizeMax = 1 << 40

// ErrRegion is the error of a region that cannot be taken.
var ErrRegion = errors.New("bad memory region")

// A Region is one piece of guest memory, as the front-end describes it.
type Region struct {
	GPA    uint64 // guest physical address, which descriptors use
	Size   uint64 // bytes
	User   uint64 // address in the front-end, which vring addresses use
	Offset uint64 // of the first byte in the file
}

func (r Region) String() string {
	return fmt.Sprintf("guest %#x size %#x user %#x offset %#x", r.GPA, r.Size, r.User, r.Offset)
}

// A mapped region is shared by all Maps that contain it.
type mapped struct {
	Region
	mapping *sys.Mapping
	base    uintptr // address of the byte at GPA
	refs    *atomic.Int32
}

// A Map is the memory of one front-end. The zero Map, and nil, hold none.
type Map struct {
	regions []mapped // by GPA, not overlapping
}

// check validates what can be known without looking at the file.
func (r Region) check() error {
	switch {
	case r.Size == 0 || r.Size > SizeMax:
		return fmt.Errorf("%w: %v: size is 0 or over %#x", ErrRegion, r, uint64(SizeMax))
	case r.GPA > math.MaxUint64-r.Size, r.User > math.MaxUint64-r.Size, r.Offset > math.MaxInt64-r.Size:
		return fmt.Errorf("%w: %v: address range wraps around", ErrRegion, r)
	}
	return nil
}

// mapRegion maps r from descriptor fd. The descriptor stays the caller's.
func mapRegion(r Region, fd int) (mapped, error) {
	if err := r.check(); err != nil {
		return mapped{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return mapped{}, fmt.Errorf("%w: %v: %w", ErrRegion, r, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || uint64(st.Size) < r.Offset+r.Size {
		return mapped{}, fmt.Errorf("%w: %v: file has %d bytes (shared memory of the right size needed)", ErrRegion, r, st.Size)
	}
	if err := checkFS(fd); err != nil {
		return mapped{}, fmt.Errorf("%w: %v: %w", ErrRegion, r, err)
	}
	// Mapping from the page that holds the offset; a huge page is the
	// largest unit that the file may want.
	align := max(uint64(st.Blksize), uint64(unix.Getpagesize()))
	start := r.Offset - r.Offset%align
	skip := r.Offset - start
	size := (skip + r.Size + align - 1) / align * align
	m, err := sys.MapShared(fd, int64(start), int(size))
	if err != nil {
		return mapped{}, fmt.Errorf("%w: %v: %w", ErrRegion, r, err)
	}
	m.WantHugePages() // translation misses cost more than anything else here
	refs := &atomic.Int32{}
	refs.Store(1)
	return mapped{Region: r, mapping: m, base: addr(m.Bytes()[skip:]), refs: refs}, nil
}

// checkFS refuses files whose pages do not come from memory. Whoever touches such
// a page waits for a disk, for another machine, or (FUSE) for another process, as
// long as that pleases: a worker must not.
func checkFS(fd int) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return err
	}
	switch st.Type {
	case unix.TMPFS_MAGIC, unix.HUGETLBFS_MAGIC, unix.RAMFS_MAGIC:
		return nil
	}
	return fmt.Errorf("file is not in memory but in a file system of type %#x (use memfd, /dev/shm or hugetlbfs)", st.Type)
}

// With returns a Map that also has r, mapped from descriptor fd, which stays
// the caller's. m keeps its own hold on the regions that both have.
func (m *Map) With(r Region, fd int) (*Map, error) {
	have := m.list()
	if len(have) == RegionsMax {
		return nil, fmt.Errorf("%w: %v: more than %d regions", ErrRegion, r, RegionsMax)
	}
	total := r.Size
	for _, o := range have {
		total += o.Size
		if r.GPA < o.GPA+o.Size && o.GPA < r.GPA+r.Size {
			return nil, fmt.Errorf("%w: %v overlaps %v", ErrRegion, r, o.Region)
		}
	}
	if total > SizeMax {
		return nil, fmt.Errorf("%w: %v: more than %#x bytes in all", ErrRegion, r, uint64(SizeMax))
	}
	n, err := mapRegion(r, fd)
	if err != nil {
		return nil, err
	}
	return m.derive(append(slices.Clip(slices.Clone(have)), n), n.refs), nil
}

// Without returns a Map that lacks the region with r's addresses and size, as
// VHOST_USER_REM_MEM_REG names it.
func (m *Map) Without(r Region) (*Map, error) {
	have := m.list()
	i := slices.IndexFunc(have, func(o mapped) bool { return o.GPA == r.GPA && o.User == r.User && o.Size == r.Size })
	if i < 0 {
		return nil, fmt.Errorf("%w: %v is not mapped", ErrRegion, r)
	}
	return m.derive(slices.Delete(slices.Clone(have), i, i+1), nil), nil
}

// derive makes a Map of regions, and counts itself on each that is not fresh.
func (m *Map) derive(regions []mapped, fresh *atomic.Int32) *Map {
	for _, r := range regions {
		if r.refs != fresh {
			r.refs.Add(1)
		}
	}
	slices.SortFunc(regions, func(a, b mapped) int { return cmp.Compare(a.GPA, b.GPA) })
	return &Map{regions}
}

func (m *Map) list() []mapped {
	if m == nil {
		return nil
	}
	return m.regions
}

// Close drops m's hold on its regions. Those that no other Map has are
// unmapped. Nobody may be using m.
func (m *Map) Close() error {
	var errs []error
	for _, r := range m.list() {
		if r.refs.Add(-1) == 0 {
			errs = append(errs, r.mapping.Close())
		}
	}
	if m != nil {
		m.regions = nil
	}
	return errors.Join(errs...)
}

// Regions returns what is mapped, by guest address.
func (m *Map) Regions() []Region {
	var rs []Region
	for _, r := range m.list() {
		rs = append(rs, r.Region)
	}
	return rs
}

// A Window is a region in the form that a ring keeps at hand: guest addresses
// GPA to GPA+Size are at Base.
type Window struct {
	GPA, Size uint64
	Base      uintptr
}

// At translates n bytes from gpa if all of them are in the window.
func (w *Window) At(gpa, n uint64) (uintptr, bool) {
	off := gpa - w.GPA
	return w.Base + uintptr(off), off < w.Size && n <= w.Size-off
}

// Find returns the window that holds gpa. It halves its way: a guest may have
// hundreds of regions and each descriptor in another one.
func (m *Map) Find(gpa uint64) (Window, bool) {
	have := m.list()
	lo, hi := 0, len(have) // the region is one of lo to hi-1, if any
	for lo+1 < hi {
		if mid := (lo + hi) / 2; have[mid].GPA <= gpa {
			lo = mid
		} else {
			hi = mid
		}
	}
	if lo < hi && gpa-have[lo].GPA < have[lo].Size {
		r := &have[lo]
		return Window{r.GPA, r.Size, r.base}, true
	}
	return Window{}, false
}

// User translates n bytes from an address of the front-end, as
// VHOST_USER_SET_VRING_ADDR has them. The range lies in one region.
func (m *Map) User(user, n uint64) (uintptr, bool) {
	for i := range m.list() {
		r := &m.regions[i]
		if off := user - r.User; off < r.Size && n <= r.Size-off {
			return r.base + uintptr(off), true
		}
	}
	return 0, false
}

// Owns reports whether address a of this process lies in a region of m.
func (m *Map) Owns(a uintptr) bool {
	for i := range m.list() {
		if r := &m.regions[i]; uint64(a-r.base) < r.Size {
			return true
		}
	}
	return false
}
