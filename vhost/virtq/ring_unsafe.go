package virtq

import (
	"sync/atomic"

	"millrace/dataplane/packet"
)

// SAFETY (whole file): addresses lie in rings that Layout's maker has checked,
// at indices that were masked, or in ranges that a guestmem.Window has checked.
// The memory stays mapped until no worker uses the ring. The other end may
// write it at any time: each value is loaded once and judged in a register.

func load16(p uintptr) uint16     { return *(*uint16)(packet.At(p)) }
func load64(p uintptr) uint64     { return *(*uint64)(packet.At(p)) }
func store8(p uintptr, v byte)    { *(*byte)(packet.At(p)) = v }
func store16(p uintptr, v uint16) { *(*uint16)(packet.At(p)) = v }
func store32(p uintptr, v uint32) { *(*uint32)(packet.At(p)) = v }
func store64(p uintptr, v uint64) { *(*uint64)(packet.At(p)) = v }

// word is an aligned 32-bit word of shared memory, for ordered access.
func word(p uintptr) *atomic.Uint32 { return (*atomic.Uint32)(packet.At(p)) }

// A shared16 is a 16-bit value of shared memory that the other end writes.
// Virtio aligns it to two bytes only, and sync/atomic has no 16-bit loads: it
// is read by way of the aligned word around it.
type shared16 struct {
	word  *atomic.Uint32
	shift uint32
}

func newShared16(p uintptr) shared16 {
	return shared16{word(p &^ 3), uint32(p&2) * 8}
}

// load reads the value, and orders what is read after it behind it.
func (s shared16) load() uint16 { return uint16(s.word.Load() >> (s.shift & 31)) }

// A desc is a descriptor in registers (virtio 2.7.5).
type desc struct {
	addr        uint64
	len         uint32
	flags, next uint16
}

func loadDesc(table uintptr, i uint32) desc {
	p := table + descSize*uintptr(i)
	a, b := load64(p), load64(p+8)
	return desc{a, uint32(b), uint16(b >> 32), uint16(b >> 48)}
}

// order writes a word of shared memory, and orders all stores up to this one before the loads after it. It
// swaps, which is the same instruction as an atomic store on amd64: the race detector makes a plain
// one of a store to memory that is not Go's, and then both ends may miss what the other has written.
func order(w *atomic.Uint32, v uint32) { w.Swap(v) }

// fence orders the stores before it before the loads after it.
func fence() {
	var w atomic.Uint32
	order(&w, 1)
}
