package flowcache

import "unsafe"

// An entry's head is two words; a narrow entry is a line, a wide one two.
var (
	_ [16]byte            = [unsafe.Sizeof(entry{})]byte{}
	_ [lineBytes]byte     = [unsafe.Sizeof(narrowEntry{})]byte{}
	_ [2 * lineBytes]byte = [unsafe.Sizeof(wideEntry{})]byte{}
)

// at returns the head of entry i, whose high bits are masked off.
//
// SAFETY: i&mask is less than the number of entries that the table maps, each
// of 1<<shift bytes; nothing unmaps the table while its worker runs.
func (t *table) at(i uint64) *entry {
	return (*entry)(unsafe.Add(t.mem.base, uintptr(i&t.mask)<<t.shift))
}

// narrow returns entry i of a table of narrow entries.
//
// SAFETY: as at; the table was made with entries of a line.
func (t *table) narrow(i uint64) *narrowEntry {
	return (*narrowEntry)(unsafe.Add(t.mem.base, uintptr(i&t.mask)<<narrowShift))
}

// wide returns entry i of a table of wide entries.
//
// SAFETY: as at; the table was made with entries of two lines.
func (t *table) wide(i uint64) *wideEntry {
	return (*wideEntry)(unsafe.Add(t.mem.base, uintptr(i&t.mask)<<wideShift))
}

// key returns the masked words of entry i.
//
// SAFETY: the words lie in the entry behind its head: 16 + 8*words is 1<<shift.
func (t *table) key(i uint64) []uint64 {
	return unsafe.Slice((*uint64)(unsafe.Add(unsafe.Pointer(t.at(i)), unsafe.Sizeof(entry{}))), t.words)
}

// tag returns the tag of bucket i.
//
// SAFETY: as at; behind the entries the mapping has a tag for each.
func (t *table) tag(i uint64) *uint16 {
	return (*uint16)(unsafe.Add(t.tags, uintptr(i&t.mask)*2))
}

// setTags says that the tags begin behind the entries.
//
// SAFETY: the mapping has size() entries and as many tags: see newTable.
func (t *table) setTags() { t.tags = unsafe.Add(t.mem.base, uintptr(t.size())<<t.shift) }

// base returns the address of the table, for prefetching only.
//
// SAFETY: the address is not turned back into a pointer.
func (t *table) base() uintptr { return uintptr(t.mem.base) }

// seenBase returns the address of the flows seen once, for prefetching only.
//
// SAFETY: the address is not turned back into a pointer.
func (c *Cache) seenBase() uintptr { return uintptr(c.seenMem.base) }
