package virtq

import (
	"errors"
	"fmt"
	"sync/atomic"
)

// ErrDevice marks a ring whose device has used what it was not given.
var ErrDevice = errors.New("broken device")

func misused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDevice, fmt.Sprintf(format, args...))
}

// DriverConfig is what the driver's end needs to know of its ring. The avail
// ring is aligned to 4 bytes here, which is more than virtio asks.
type DriverConfig struct {
	Layout
	Base     uint16 // index of the first chain
	EventIdx bool   // VIRTIO_F_EVENT_IDX negotiated
}

// An Area is memory that both ends reach: its first byte is at Addr here and at
// GPA in the guest addresses of descriptors.
type Area struct {
	Addr uintptr
	GPA  uint64
	Size uint64 // bytes
}

// driverEnd is what every driver of a ring does: it shows chains to the device,
// sees what the device has used, and obeys and sets the rules of notification.
//
// One goroutine uses it. The device is believed to keep to its side of the
// bargain in frames' contents only: what it writes to the ring is checked, and
// bad is set for good when it is nonsense.
type driverEnd struct {
	desc  uintptr // descriptor table
	avail uintptr // first entry of the avail ring
	used  uintptr // first element of the used ring
	mask  uint32  // size - 1

	next   uint16         // avail.idx as published
	done   uint16         // used elements taken
	kicked uint16         // next, when ShouldKick was asked last
	pub    *atomic.Uint32 // avail.flags and avail.idx, written by us
	flags  uint32         // avail.flags
	idx    *atomic.Uint32 // used.flags and used.idx, written by the device
	event  shared16       // used.avail_event, written by the device

	eventIdx bool
	bad      error
}

// newDriverEnd writes the ring's first state: indices at cfg.Base, no
// interrupts asked for. No device may be using the ring.
func newDriverEnd(cfg DriverConfig) (driverEnd, error) {
	if err := cfg.Check(); err != nil {
		return driverEnd{}, err
	}
	if cfg.Avail%4 != 0 {
		return driverEnd{}, misused("avail ring at %#x is not aligned to 4 bytes", cfg.Avail)
	}
	d := driverEnd{
		desc: cfg.Desc, avail: cfg.Avail + 4, used: cfg.Used + 4,
		mask: uint32(cfg.Size) - 1,
		next: cfg.Base, done: cfg.Base, kicked: cfg.Base,
		pub: word(cfg.Avail), idx: word(cfg.Used),
		event:    newShared16(cfg.Used + 4 + usedElemSize*uintptr(cfg.Size)),
		eventIdx: cfg.EventIdx,
	}
	d.idx.Store(uint32(cfg.Base) << 16)
	d.Disarm()
	return d, nil
}

// Err is why the device is not to be trusted any more, or nil.
func (d *driverEnd) Err() error { return d.bad }

// Pending is the number of chains that the device has and has not used.
func (d *driverEnd) Pending() int { return int(d.next - d.done) }

// Used is used.idx as the device has it now: where a device that was lost had
// got to (VHOST_USER_SET_VRING_BASE after a reconnect).
func (d *driverEnd) Used() uint16 { return uint16(d.idx.Load() >> 16) }

// publish shows n more avail entries to the device. It is a full barrier: see order.
func (d *driverEnd) publish(n uint16) {
	d.next += n
	order(d.pub, uint32(d.next)<<16|d.flags)
}

// completed returns how many chains the device has used that were not taken.
func (d *driverEnd) completed() uint32 {
	used := d.Used()
	n := used - d.done
	if n > d.next-d.done {
		d.fail(misused("used index %d is %d ahead of %d, with %d chains given", used, n, d.done, d.Pending()))
		return 0
	}
	return uint32(n)
}

func (d *driverEnd) fail(err error) {
	if d.bad == nil {
		d.bad = err
	}
}

// element returns the used element at index i: a head and a length.
func (d *driverEnd) element(i uint16) (head, n uint32) {
	e := load64(d.used + usedElemSize*uintptr(uint32(i)&d.mask))
	return uint32(e), uint32(e >> 32)
}

// ShouldKick reports whether the device wants to be notified of what was
// published since the last call (virtio 2.7.10).
func (d *driverEnd) ShouldKick() bool {
	was := d.kicked
	if d.kicked = d.next; was == d.next {
		return false
	}
	if d.eventIdx {
		return d.next-d.event.load()-1 < d.next-was
	}
	return d.idx.Load()&usedNoNotify == 0
}

// Arm asks the device to signal the next chain that it uses, and reports
// whether one is used already (virtio 2.7.7).
func (d *driverEnd) Arm() bool {
	d.flags = 0
	d.setEvent(d.done)
	d.publish(0)
	return d.Used() != d.done
}

// Disarm asks the device not to signal. It may still, and with EVENT_IDX does
// so once in 65536 chains.
func (d *driverEnd) Disarm() {
	if !d.eventIdx {
		d.flags = availNoInterrupt
	}
	d.setEvent(d.done - 1)
	d.publish(0)
}

// setEvent writes avail.used_event. The caller publishes, as a barrier.
func (d *driverEnd) setEvent(i uint16) {
	if d.eventIdx {
		store16(d.avail+2*uintptr(d.mask+1), i)
	}
}
