package message

import (
	"encoding/binary"
	"fmt"
)

// MaxRegions bounds a MemTable, by the specification.
const MaxRegions = 8

const regionSize = 32

// A MemRegion is memory that the front end shares ("Memory region
// description"). The same bytes have an address in the guest, one in the front
// end's process, and an offset in the file whose descriptor comes with the
// region.
//
//	 0  guest address  uint64
//	 8  size           uint64
//	16  user address   uint64
//	24  mmap offset    uint64
//
// Unmarshalled regions are not empty, and none of their three ranges wraps.
// Whether regions overlap, and whether the file holds them, is the mapper's to
// check.
type MemRegion struct {
	GPA        uint64
	Size       uint64 // bytes
	UserAddr   uint64
	MmapOffset uint64 // bytes
}

// check rejects what no memory can be.
func (r MemRegion) check() error {
	if r.Size == 0 {
		return fmt.Errorf("memory region at guest address %#x: %w: size 0", r.GPA, ErrValue)
	}
	if wraps(r.GPA, r.Size) || wraps(r.UserAddr, r.Size) || wraps(r.MmapOffset, r.Size) {
		return fmt.Errorf("memory region: %w: guest address %#x, user address %#x or offset %#x wraps with size %#x",
			ErrValue, r.GPA, r.UserAddr, r.MmapOffset, r.Size)
	}
	return nil
}

func appendRegion(b []byte, r MemRegion) []byte {
	return appendU64s(b, r.GPA, r.Size, r.UserAddr, r.MmapOffset)
}

// regionAt reads a region from the front of b, which is long enough.
func regionAt(b []byte) MemRegion {
	return MemRegion{
		GPA:        binary.LittleEndian.Uint64(b),
		Size:       binary.LittleEndian.Uint64(b[8:]),
		UserAddr:   binary.LittleEndian.Uint64(b[16:]),
		MmapOffset: binary.LittleEndian.Uint64(b[24:]),
	}
}

// A MemTable is all memory that a front end shares ("Multiple Memory regions
// description"), at most MaxRegions regions; each comes with a descriptor, in
// the same order.
//
//	0  num regions  uint32
//	4  padding      uint32
//	8  regions      32 bytes each
type MemTable []MemRegion

// MarshalMemTable returns the payload of t, without room for regions that it
// does not have.
func MarshalMemTable(t MemTable) []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, 8+len(t)*regionSize), uint32(len(t)))
	b = append(b, 0, 0, 0, 0)
	for _, r := range t {
		b = appendRegion(b, r)
	}
	return b
}

// UnmarshalMemTable reads the payload of SET_MEM_TABLE. The specification's text
// has all eight regions on the wire, QEMU and DPDK send as many as are in use:
// both sizes are taken, no other.
func UnmarshalMemTable(b []byte) (MemTable, error) {
	n, err := memTableLen(b)
	if err != nil {
		return nil, err
	}
	if len(b) != 8+MaxRegions*regionSize {
		if err := exactly("memory table", b, 8+n*regionSize); err != nil {
			return nil, err
		}
	}
	t := make(MemTable, n)
	for i := range t {
		t[i] = regionAt(b[8+i*regionSize:])
		if err := t[i].check(); err != nil {
			return nil, fmt.Errorf("region %d: %w", i, err)
		}
	}
	return t, nil
}

// memTableLen reads how many regions a table has, which is also how many
// descriptors come with it.
func memTableLen(b []byte) (int, error) {
	if len(b) < 8 {
		return 0, exactly("memory table", b, 8)
	}
	n := binary.LittleEndian.Uint32(b)
	if n > MaxRegions {
		return 0, fmt.Errorf("memory table: %w: %d regions, at most %d", ErrValue, n, MaxRegions)
	}
	return int(n), nil
}

// MarshalMemRegion returns the payload of ADD_MEM_REG and REM_MEM_REG ("Single
// memory region description").
//
//	0  padding  uint64
//	8  region   32 bytes
func MarshalMemRegion(r MemRegion) []byte {
	return appendRegion(make([]byte, 8, 8+regionSize), r)
}

// UnmarshalAddMemReg reads the payload of ADD_MEM_REG.
func UnmarshalAddMemReg(b []byte) (MemRegion, error) {
	if err := exactly("memory region", b, 8+regionSize); err != nil {
		return MemRegion{}, err
	}
	r := regionAt(b[8:])
	if err := r.check(); err != nil {
		return MemRegion{}, err
	}
	return r, nil
}

// UnmarshalRemMemReg reads the payload of REM_MEM_REG. A region to remove is
// named by its two addresses and its size: MmapOffset is ignored, as the
// specification asks, and zero in the result.
func UnmarshalRemMemReg(b []byte) (MemRegion, error) {
	if err := exactly("memory region", b, 8+regionSize); err != nil {
		return MemRegion{}, err
	}
	r := regionAt(b[8:])
	r.MmapOffset = 0
	if err := r.check(); err != nil {
		return MemRegion{}, err
	}
	return r, nil
}
