package afxdp

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
)

// Sending by runs. A socket's frames become packet buffers, which the kernel sends one by one, and
// behind each of which it runs what receives at the other end. A run of the program instead
// (BPF_PROG_RUN with live frames, Linux 5.18) has it make XDP frames of what is in slots that we
// share with it, and redirect them to the device: in bulk, without packet buffers, and the
// other end receives once behind all of them.
//
// A run takes 13 us however few frames it has, so short lists go by the socket's ring. Both
// have sent when their call returns, so frames keep their order.
//
// A frame has a page, which is the run's own, and what the run was made of is there until the last of
// them is given back. So the other end must have an XDP program, which is done with frames at
// once: in the buffers of a pod's sockets each frame would count as a page, and they would be
// full soon.

// What bpf/steer.c has.
const (
	laneSlots = 64                   // SLOTS
	laneSize  = 128                  // struct lane
	laneFirst = 8                    // its member first
	slotSize  = 2048                 // struct slot
	slotBytes = 8                    // its member bytes
	slotMax   = slotSize - slotBytes // the longest frame
	runFirst  = 60                   // FIRST
)

// runLeast is the fewest frames that are worth a run: half again as many as cost by a run what
// they cost by the ring.
const runLeast = 24

// An outbox is what a session sends by runs with. The port's goroutine has it, but for on, and
// for the lanes, which are their sockets'.
type outbox struct {
	prog         int // descriptor of the program
	lanes, slots *sys.Mapping
	on           atomic.Bool // workers may run. Written by the port, and by a worker whose run failed
	why          string      // it is not on
	features     uint64      // of the driver, when the other end was last looked at
	looks        int
}

// lookAgain is how many looks a veth's other end without a program is left alone for: it is
// searched in all network namespaces, and its program may be one more of what the driver tells of already.
const lookAgain = 30

// outbox maps the slots of n lanes. The program was loaded for that.
func (p *program) outbox(n int) (*outbox, error) {
	o := &outbox{prog: p.main().FD()}
	var err1, err2 error
	o.lanes, err1 = sys.MapShared(p.objs.Maps["lanes"].FD(), 0, pages(n*laneSize))
	o.slots, err2 = sys.MapShared(p.objs.Maps["slots"].FD(), 0, pages(n*laneSlots*slotSize))
	if err := errors.Join(err1, err2); err != nil {
		return nil, errors.Join(err, o.close())
	}
	for i := range n {
		o.lanes.Bytes()[i*laneSize+laneFirst] = byte(i)
	}
	if err := o.try(); err != nil {
		return nil, errors.Join(fmt.Errorf("run the program with live frames (Linux 5.18): %w", err), o.close())
	}
	return o, nil
}

// pages rounds a length up to whole pages.
func pages(n int) int { return (n + os.Getpagesize() - 1) &^ (os.Getpagesize() - 1) }

// try makes a run whose frames have no slots.
func (o *outbox) try() error {
	r := o.runner(0)
	r.setNext(laneSlots)
	if errno := r.call(2); errno != 0 {
		return errno
	}
	return nil
}

func (o *outbox) close() error {
	if o == nil {
		return nil
	}
	return errors.Join(o.lanes.Close(), o.slots.Close())
}

// look has workers run, or not, by what the other end of d is now, and reports whether that is
// new.
func (o *outbox) look(d *device) bool {
	f, err := askFeatures(d.index)
	was := o.why
	o.looks++
	switch {
	case err != nil:
		o.why = err.Error()
	case f.flags&featureXmit == 0:
		o.why = "the other end has no XDP program"
	case f.flags != o.features || was != "" && o.looks%lookAgain == 0:
		o.why = d.peerWithout()
	}
	o.features = f.flags
	o.on.Store(o.why == "")
	return o.why != was
}

// peerWithout says why a veth's other end does not take frames at once.
func (d *device) peerWithout() (why string) {
	err := d.inPeersNetwork(func() error {
		what, err := attached(d.peer)
		if err == nil && what == "" {
			err = errors.New("the other end has no XDP program")
		}
		return err
	})
	if err != nil {
		return err.Error()
	}
	return ""
}

// A runner is a lane of an outbox: what one worker at a time sends by.
type runner struct {
	box   *outbox
	attr  runAttr
	lane  uintptr // struct lane
	slots uintptr
	moves []packet.Copy

	// Of the list that stage has taken and commit has not sent:
	list []packet.Ref
	at   [laneSlots]uint8 // where in the list each frame is
	n    int
}

// A runAttr is the part of union bpf_attr that BPF_PROG_TEST_RUN has.
type runAttr struct {
	prog, _      uint32
	inSize, _    uint32
	in, _        uint64
	repeat, _    uint32
	_, _         uint32
	_, _         uint64
	flags, _     uint32
	batch, unset uint32
}

// runner returns lane i.
func (o *outbox) runner(i int) *runner {
	r := &runner{
		box: o, moves: make([]packet.Copy, 0, 4*packet.BatchMax),
		lane:  packet.Addr(o.lanes.Bytes()[i*laneSize:]),
		slots: packet.Addr(o.slots.Bytes()[i*laneSlots*slotSize:]),
	}
	r.attr = runAttr{prog: uint32(o.prog), inSize: runFirst, in: uint64(r.lane + laneFirst), flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES}
	return r
}

// next is how many frames of the last run have got a slot.
func (r *runner) next() int        { return int(word(r.lane).Load()) }
func (r *runner) setNext(n uint32) { word(r.lane).Store(n) }

// call makes a run of n frames, all in one go: the program sees pages that nobody has used
// before.
func (r *runner) call(n int) unix.Errno {
	r.attr.repeat, r.attr.batch = uint32(n), uint32(n)
	return bpfRun(&r.attr)
}

// stage takes list, if it is one for a run, and copies its frames to slots. Nothing is sent
// until commit.
func (r *runner) stage(b *packet.Batch, list []packet.Ref, mtu uint32) bool {
	if len(list) < runLeast || len(list) > laneSlots || !r.box.on.Load() {
		return false
	}
	for i := range list {
		if b.Frames[list[i].Frame&(packet.SlotsMax-1)].Len > slotMax {
			return false
		}
	}
	r.moves = r.moves[:0]
	for i := range list {
		if !fits(b, int(list[i].Frame), mtu) {
			list[i].Why = packet.ReasonTxTooLong
			continue
		}
		r.put(b, int(list[i].Frame&(packet.SlotsMax-1)))
		r.at[r.n] = uint8(i)
		r.n++
		if len(r.moves) > cap(r.moves)-packet.BatchMax {
			packet.Move(r.moves)
			r.moves = r.moves[:0]
		}
	}
	packet.Move(r.moves)
	r.list = list
	return true
}

// put lays frame i into the next slot.
func (r *runner) put(b *packet.Batch, i int) {
	f := &b.Frames[i]
	slot := r.slots + uintptr(r.n)*slotSize
	word(slot).Store(f.Len)
	dst := slot + slotBytes
	r.moves = append(r.moves, packet.Copy{Dst: dst, Src: b.SlotAddr(i, f.Off), N: uintptr(f.HeadLen)})
	dst += uintptr(f.HeadLen)
	for _, seg := range b.Segs[f.Seg : f.Seg+f.NSeg] {
		r.moves = append(r.moves, packet.Copy{Dst: dst, Src: seg.Addr, N: seg.Len})
		dst += seg.Len
	}
}

// commit sends what stage has taken, and counts it in b. What a run leaves, for want of memory,
// has Why set, and the port looks whether there can be others.
func (r *runner) commit(b *packet.Batch) {
	n := r.n
	r.n = 0
	r.setNext(0)
	errno := r.call(n)
	sent := min(r.next(), n)
	for i := range sent {
		b.SentBytes += uint64(word(r.slots + uintptr(i)*slotSize).Load())
	}
	b.Sent += sent
	for i := sent; i < n; i++ {
		r.list[r.at[i]].Why = packet.ReasonTxFull
	}
	r.list = nil
	if errno != 0 {
		r.box.on.Store(false)
	}
}

// abort forgets what stage has taken.
func (r *runner) abort() { r.n, r.list = 0, nil }
