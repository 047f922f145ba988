package afxdp

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
)

// SAFETY: (whole file) addresses lie in rings that their maker has checked, at
// indices that were masked. The memory stays mapped until no worker uses the
// ring. Only the kernel writes to the rings that it fills, and each value is
// loaded once and judged in a register.

func load64(p uintptr) uint64     { return *(*uint64)(packet.At(p)) }
func store64(p uintptr, v uint64) { *(*uint64)(packet.At(p)) = v }

// word is an aligned 32-bit word of shared memory, for ordered access.
func word(p uintptr) *atomic.Uint32 { return (*atomic.Uint32)(packet.At(p)) }

const (
	flagNeedWakeup = unix.XDP_RING_NEED_WAKEUP

	// optionMore is set in the descriptors of a frame but in its last one.
	optionMore = unix.XDP_PKT_CONTD

	descSize = unsafe.Sizeof(unix.XDPDesc{})
	addrSize = unsafe.Sizeof(uint64(0))
)

var _ [16]byte = [descSize]byte{}

// A desc is a descriptor in registers (struct xdp_desc).
type desc struct {
	addr    uint64
	len     uint32
	options uint32
}

// addr reads or writes an entry of a ring of addresses.
func (r *ring) addr(at uint32) uint64 { return load64(r.entries + addrSize*uintptr(at&r.mask)) }

func (r *ring) setAddr(at uint32, a uint64) { store64(r.entries+addrSize*uintptr(at&r.mask), a) }

// desc reads or writes an entry of a ring of descriptors.
func (r *ring) desc(at uint32) desc {
	p := r.entries + descSize*uintptr(at&r.mask)
	v := load64(p + 8)
	return desc{load64(p), uint32(v), uint32(v >> 32)}
}

func (r *ring) setDesc(at uint32, d desc) {
	p := r.entries + descSize*uintptr(at&r.mask)
	store64(p, d.addr)
	store64(p+8, uint64(d.len)|uint64(d.options)<<32)
}

// bytesAt views n bytes at p as a slice, for as long as their owner keeps them.
func bytesAt(p, n uintptr) []byte { return unsafe.Slice((*byte)(packet.At(p)), n) }
