package virtq

// A Buffer is one element of a chain.
type Buffer struct {
	GPA   uint64
	Len   uint32
	Write bool // the device writes it
}

// A Used is a chain that the device has given back, with the number of bytes
// that it says it has written.
type Used struct {
	Head uint16
	Len  uint32
}

// A Driver is the driver's end of a ring: it gives the device chains of any
// legal shape and takes them back in the order the device has used them. The
// chains' memory is the caller's.
//
// It is for tests and fuzzers, and plain rather than fast: [Sender] and
// [Receiver] are the fast ones.
type Driver struct {
	driverEnd
	tables   Area
	tableLen uint32 // descriptors of an indirect table

	added uint16   // chains added and not yet shown
	free  []uint16 // descriptors in no chain
	chain []link   // private copy of the chains, by descriptor
}

// A link is a descriptor's place in its chain.
type link struct {
	next uint16
	more bool // next belongs to the chain
	head bool // the chain is the device's
}

// NewDriver takes the driver's end of a ring. tables is room for indirect
// tables, one for each descriptor of the ring; it may be empty.
func NewDriver(cfg DriverConfig, tables Area) (*Driver, error) {
	end, err := newDriverEnd(cfg)
	if err != nil {
		return nil, err
	}
	d := &Driver{
		driverEnd: end, tables: tables,
		tableLen: uint32(tables.Size / uint64(cfg.Size) / descSize),
		chain:    make([]link, cfg.Size),
	}
	for i := range cfg.Size {
		d.free = append(d.free, cfg.Size-1-i)
	}
	return d, nil
}

// Add puts a chain of buffers into the ring, the last inner of them in an
// indirect table (virtio 2.7.5.3), and returns its head. It reports false if
// there is no room, now or (table too small) ever. The device sees the chain
// when it is shown.
func (d *Driver) Add(buffers []Buffer, inner int) (head uint16, ok bool) {
	direct := buffers[:len(buffers)-inner]
	need := len(direct)
	if inner > 0 {
		need++
	}
	if need == 0 || need > len(d.free) || uint32(inner) > d.tableLen {
		return 0, false
	}
	own := d.free[len(d.free)-need:]
	head = own[need-1]
	for i := range own {
		d.link(own, need-1-i, direct, buffers[len(direct):])
	}
	d.chain[head].head = true
	d.free = d.free[:len(d.free)-need]
	store16(d.avail+2*uintptr(uint32(d.next+d.added)&d.mask), head)
	d.added++
	return head, true
}

// link writes element i of a chain made of the descriptors own, which are
// taken from the back.
func (d *Driver) link(own []uint16, i int, direct, inner []Buffer) {
	at := own[len(own)-1-i]
	de := desc{}
	if i < len(direct) {
		de = direct[i].desc()
	} else {
		de = d.table(at, inner)
	}
	l := link{}
	if i+1 < len(own) {
		l = link{next: own[len(own)-2-i], more: true}
		de.flags |= descNext
		de.next = l.next
	}
	d.chain[at] = l
	storeDesc(d.desc, uint32(at), de)
}

// table writes an indirect table and returns the descriptor that names it.
func (d *Driver) table(at uint16, inner []Buffer) desc {
	off := uint64(at) * uint64(d.tableLen) * descSize
	for i, b := range inner {
		de := b.desc()
		if i+1 < len(inner) {
			de.flags |= descNext
			de.next = uint16(i + 1)
		}
		storeDesc(d.tables.Addr+uintptr(off), uint32(i), de)
	}
	return desc{addr: d.tables.GPA + off, len: uint32(len(inner)) * descSize, flags: descIndirect}
}

func (b Buffer) desc() desc {
	de := desc{addr: b.GPA, len: b.Len}
	if b.Write {
		de.flags = descWrite
	}
	return de
}

// Show publishes the chains that were added.
func (d *Driver) Show() {
	d.publish(d.added)
	d.added = 0
}

// Reap takes back a chain that the device has used. It reports false if there
// is none, or if the device broke the ring: see Err.
func (d *Driver) Reap() (Used, bool) {
	if d.bad != nil || d.completed() == 0 {
		return Used{}, false
	}
	head, n := d.element(d.done)
	if head > d.mask || !d.chain[head].head {
		d.fail(misused("used element %d names descriptor %d, which heads no chain", d.done, head))
		return Used{}, false
	}
	d.done++
	d.chain[head].head = false
	for at := uint16(head); ; at = d.chain[at].next {
		d.free = append(d.free, at)
		if !d.chain[at].more {
			return Used{uint16(head), n}, true
		}
	}
}
