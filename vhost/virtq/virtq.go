// Package virtq is the split virtqueue (virtio 2.7), from both ends: [Device]
// takes frames from and puts frames into a ring that somebody else fills, and
// [Driver] is that somebody.
//
// # What the other end writes
//
// Everything in a ring that the guest writes is looked at once, in one place,
// and never again:
//
//   - avail.idx, in ready: more chains than the ring has slots break the ring;
//   - an avail entry, in head: a number outside the descriptor table breaks it;
//   - a descriptor: its 16 bytes are loaded into registers, and address,
//     length and flags are judged there. Memory that the guest rewrites
//     afterwards changes nothing;
//   - a chain is walked with a counter, so that one which loops ends;
//   - frame bytes are copied to private memory before anybody looks at them.
//
// A broken ring returns [ErrBroken] with its reason and does nothing more until
// it is set up anew.
//
// # Invariants
//
// Indices run freely and wrap at 2^16; they are masked where they meet memory.
// next counts chains taken, used counts chains returned; chains are returned in
// the order they were taken. Private state changes when a batch is committed,
// so a fault half-way (a guest that truncates its memory) leaves the state of
// before. A frame is copied, then its source's chain is completed, then it is
// shown to its destination: whoever dies in between, no frame is sent twice.
//
// # Cost
//
// One load of avail.idx and one store of used.idx a batch. A frame in one
// descriptor costs the two loads of the descriptor, two compares for the
// address, its copy and the 8 bytes of a used element. Anything else (chains,
// indirect tables, merged buffers) takes a slower way that is made of the same
// pieces.
//
// One goroutine uses a Device or Driver at a time.
package virtq

import (
	"errors"
	"fmt"

	"millrace/dataplane/packet"
	"millrace/vhost/guestmem"
)

// Descriptor flags (virtio 2.7.5).
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4
)

// Ring flags (virtio 2.7.6 and 2.7.8).
const (
	availNoInterrupt = 1
	usedNoNotify     = 1
)

const (
	descSize     = 16 // bytes of a descriptor
	usedElemSize = 8  // bytes of a used element

	// SizeMax is the largest ring, in descriptors.
	SizeMax = 32768

	// chainMin is the shortest limit on a chain's length: an indirect table
	// may be longer than a small ring.
	chainMin = 1024

	// HeaderLen is struct virtio_net_hdr_v1 in bytes (virtio 5.1.6).
	HeaderLen = 12

	// HeaderLenLegacy is the length without num_buffers.
	HeaderLenLegacy = 10
)

// ErrBroken marks a ring that its driver has filled with nonsense.
var ErrBroken = errors.New("broken virtqueue")

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBroken, fmt.Sprintf(format, args...))
}

// Layout says where a ring of Size descriptors lies in this process. All three
// parts are wholly inside mapped memory, which the caller has checked by the
// sizes of DescBytes, AvailBytes and UsedBytes.
type Layout struct {
	Size              uint16
	Desc, Avail, Used uintptr
}

// DescBytes is the size of a descriptor table of n descriptors.
func DescBytes(n uint16) uint64 { return descSize * uint64(n) }

// AvailBytes is the size of an available ring, with used_event.
func AvailBytes(n uint16) uint64 { return 6 + 2*uint64(n) }

// UsedBytes is the size of a used ring, with avail_event.
func UsedBytes(n uint16) uint64 { return 6 + usedElemSize*uint64(n) }

// Check refuses sizes and alignments that virtio 2.7 does not allow.
func (l Layout) Check() error {
	switch {
	case l.Size == 0 || l.Size&(l.Size-1) != 0 || l.Size > SizeMax:
		return broken("size %d is not a power of two up to %d", l.Size, SizeMax)
	case l.Desc%16 != 0 || l.Avail%2 != 0 || l.Used%4 != 0:
		return broken("rings at %#x, %#x, %#x are not aligned to 16, 2 and 4 bytes", l.Desc, l.Avail, l.Used)
	}
	return nil
}

// Config is what a Device needs to know of its ring.
type Config struct {
	Layout
	Mem       *guestmem.Map // memory that descriptors point into
	Base      uint16        // index of the next chain to take
	EventIdx  bool          // VIRTIO_F_EVENT_IDX negotiated
	Indirect  bool          // VIRTIO_F_INDIRECT_DESC negotiated
	Mergeable bool          // VIRTIO_NET_F_MRG_RXBUF negotiated
	Legacy    bool          // neither VIRTIO_F_VERSION_1 nor MRG_RXBUF: short header

	// Offload is what frames may ask for: by Dequeue as the driver may send them
	// (VIRTIO_NET_F_CSUM, HOST_*), by Enqueue as it takes them (GUEST_*).
	Offload packet.Takes
}
