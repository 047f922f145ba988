package virtq

import (
	"sync/atomic"

	"millrace/dataplane/packet"
	"millrace/vhost/guestmem"
)

// A Device is the device's end of a ring.
type Device struct {
	desc  uintptr // descriptor table
	avail uintptr // first entry of the available ring
	used  uintptr // first element of the used ring
	mask  uint32  // size - 1
	hdr   uint32  // bytes of the virtio-net header

	next  uint16          // next chain to take
	seen  uint16          // avail.idx as last read, at most a ring ahead of next
	done  uint16          // used.idx as published
	told  uint16          // used.idx when the driver was last signalled
	taken uint16          // chains dequeued and not yet completed
	idx   shared16        // avail.idx, written by the driver
	event shared16        // avail.used_event, written by the driver
	quiet shared16        // avail.flags, written by the driver
	pub   *atomic.Uint32  // used.flags and used.idx, written by us
	flags uint32          // used.flags: 0 for good with EVENT_IDX (virtio 2.7.10.2)
	win   guestmem.Window // where the last address was found

	staged staged
	walked uint32        // descriptors that the call in hand has walked, the slow way
	super  bool          // it has found a frame longer than packet.FrameMax
	moves  []packet.Copy // of the batch in hand
	pieces []packet.Copy // of the frame in hand, when it takes the slow way

	mem   *guestmem.Map
	cfg   Config
	bad   error // set once; nothing works afterwards
	stats Stats
}

// Stats counts what the ring itself did. One goroutine writes it.
type Stats struct {
	Chains   uint64 // chains that needed the slow way
	Merged   uint64 // frames spread over several chains
	Signals  uint64 // times that the driver asked to be told
	Indirect uint64 // indirect tables
}

// walkMax is how many descriptors one call walks before it begins no other chain
// (Dequeue) or frame (Enqueue), and the most that one frame may be spread over.
// Chains may be as long as the ring and hold nothing: without a limit a driver
// could keep its worker, and all ports of it, busy for seconds. A frame of
// packet.FrameMax in pieces of one byte has less.
const walkMax = 1 << 14

// movesMax is how many moves Enqueue gathers before it makes them: as many as the
// longest frame may take.
const movesMax = rxSuper

// movesStart is how many moves a ring has room for at first: a batch of frames
// in two parts each. Longer chains make more room once.
const movesStart = 2 * packet.BatchMax

// NewDevice takes the device's end of the ring described by cfg. Both of the
// ring's indices start at cfg.Base.
func NewDevice(cfg Config) (*Device, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	d := &Device{
		desc: cfg.Desc, avail: cfg.Avail + 4, used: cfg.Used + 4,
		mask: uint32(cfg.Size) - 1, hdr: HeaderLen,
		next: cfg.Base, seen: cfg.Base, done: cfg.Base, told: cfg.Base,
		mem: cfg.Mem, cfg: cfg,
		idx:   newShared16(cfg.Avail + 2),
		pub:   word(cfg.Used),
		quiet: newShared16(cfg.Avail),
		event: newShared16(cfg.Avail + 4 + 2*uintptr(cfg.Size)),
		moves: make([]packet.Copy, 0, movesStart),
	}
	if cfg.Legacy {
		d.hdr = HeaderLenLegacy
	}
	if !cfg.EventIdx {
		d.flags = usedNoNotify
	}
	return d, nil
}

// Start publishes the ring's first state: it is ours, and the driver need not
// signal what it adds. It touches guest memory.
func (d *Device) Start() { d.publish(0) }

// Base is the index to go on from later (VHOST_USER_GET_VRING_BASE).
func (d *Device) Base() uint16 { return d.next - d.taken }

// Stats returns the ring's own counters.
func (d *Device) Stats() Stats { return d.stats }

// Err is why the ring is broken, or nil.
func (d *Device) Err() error { return d.bad }

// Break stops the ring for good.
func (d *Device) Break(err error) {
	if d.bad == nil {
		d.bad = err
	}
}

// ready returns how many chains the driver has added that were not taken; it
// looks again when those that it knows of are fewer than want. The driver may
// write any index; it is checked here once, for all that follow.
func (d *Device) ready(want uint32) (uint32, error) {
	n := uint32(d.seen - d.next)
	if n >= want {
		return n, nil
	}
	seen := d.idx.load()
	n = uint32(seen - d.next)
	if n > d.mask+1 {
		return 0, broken("available index %d is %d ahead of %d in a ring of %d", seen, n, d.next, d.mask+1)
	}
	d.seen = seen
	return n, nil
}

// head returns the first descriptor of chain number i.
func (d *Device) head(i uint16) uint32 {
	return uint32(load16(d.avail + 2*uintptr(uint32(i)&d.mask)))
}

// putUsed writes the used element for chain number i. The driver sees it when
// it is published.
func (d *Device) putUsed(i uint16, head, n uint32) {
	store64(d.used+usedElemSize*uintptr(uint32(i)&d.mask), uint64(head)|uint64(n)<<32)
}

// publish shows n more used elements to the driver. It is a full barrier: see order.
func (d *Device) publish(n uint16) {
	d.done += n
	order(d.pub, uint32(d.done)<<16|d.flags)
}

// Arm asks the driver to signal the next chain that it adds, and reports
// whether one is there already (virtio 2.7.10).
func (d *Device) Arm() bool {
	if d.bad != nil {
		return false
	}
	if d.cfg.EventIdx {
		store16(d.used+usedElemSize*uintptr(d.mask+1), d.next)
		fence()
	} else {
		d.flags = 0
		d.publish(0)
	}
	return d.idx.load() != d.next
}

// Disarm asks the driver not to signal. It may still, and with EVENT_IDX does
// so once in 65536 chains: the event index is left behind.
func (d *Device) Disarm() {
	if d.bad == nil && !d.cfg.EventIdx && d.flags == 0 {
		d.flags = usedNoNotify
		d.publish(0)
	}
}

// Pending reports whether used elements were published that the driver was not
// asked about yet.
func (d *Device) Pending() bool { return d.done != d.told }

// ShouldSignal reports whether the driver wants to be signalled about what was
// published since the last call (virtio 2.7.7). What was published before is
// visible to the driver, since publish is a barrier.
func (d *Device) ShouldSignal() bool {
	if d.done == d.told || d.bad != nil {
		return false
	}
	was := d.told
	d.told = d.done
	if d.cfg.EventIdx {
		if d.done-d.event.load()-1 >= d.done-was {
			return false
		}
	} else if d.quiet.load()&availNoInterrupt != 0 {
		return false
	}
	d.stats.Signals++
	return true
}

// refocus moves the window to the region of chain number i's first buffer, and
// reports whether it was elsewhere: guests with memory in several regions cost
// one look each time that they change from one to another.
func (d *Device) refocus(i uint16) bool {
	head := d.head(i)
	if head > d.mask {
		return false
	}
	de := loadDesc(d.desc, head)
	if _, ok := d.win.At(de.addr, uint64(de.len)); ok {
		return false
	}
	w, ok := d.mem.Find(de.addr)
	if !ok || w == d.win {
		return false
	}
	d.win = w
	return true
}

// at translates n bytes from gpa, all of them in one region.
func (d *Device) at(gpa, n uint64) (uintptr, bool) {
	if p, ok := d.win.At(gpa, n); ok {
		return p, true
	}
	w, ok := d.mem.Find(gpa)
	if !ok {
		return 0, false
	}
	d.win = w
	return w.At(gpa, n)
}
