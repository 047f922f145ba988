package afxdp

import (
	"errors"
	"fmt"
	"math/bits"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
)

// A umem is the memory that a socket's frames are in: chunks of one size, a
// power of two. Those before rx are for frames that are received, the rest for
// frames that are sent; none changes sides.
type umem struct {
	mem   *sys.Mapping
	base  uintptr
	shift uint32 // chunk size as a power of two
	rx    uint32 // chunks for receiving
	tx    uint32 // chunks for sending
}

// newUmem returns memory of rx and tx chunks. It is in transparent huge pages
// where the kernel likes; reserved ones are for guests, who are promised them.
func newUmem(chunk, rx, tx uint32) (*umem, error) {
	size := int(chunk) * int(rx+tx)
	mem, err := sys.MapAnonymous(size)
	if err != nil {
		return nil, fmt.Errorf("memory for frames: %w", err)
	}
	mem.WantHugePages()
	return &umem{mem: mem, base: packet.Addr(mem.Bytes()), shift: uint32(bits.TrailingZeros32(chunk)), rx: rx, tx: tx}, nil
}

// chunk is the size of a chunk in bytes.
func (u *umem) chunk() uint32 { return 1 << u.shift }

// size is what the kernel is told of, in bytes.
func (u *umem) size() uint64 { return uint64(u.rx+u.tx) << u.shift }

// received returns where d is in memory. It reports false unless d lies in one
// chunk for receiving.
func (u *umem) received(d desc) (uintptr, bool) {
	off := uint32(d.addr) & (u.chunk() - 1)
	if d.addr>>u.shift >= uint64(u.rx) || d.len > u.chunk()-off {
		return 0, false
	}
	return u.base + uintptr(d.addr), true
}

// sending returns the number, among those for sending, of the chunk that
// begins at addr.
func (u *umem) sending(addr uint64) (uint32, bool) {
	n := addr>>u.shift - uint64(u.rx)
	return uint32(n), n < uint64(u.tx) && addr&uint64(u.chunk()-1) == 0
}

// addrOf is the address of chunk n of those for sending, as the kernel counts.
func (u *umem) addrOf(n uint32) uint64 { return uint64(u.rx+n) << u.shift }

// close gives the memory back. The kernel keeps what it uses itself.
func (u *umem) close() error {
	if u == nil {
		return nil
	}
	return errors.Join(u.mem.Close())
}
