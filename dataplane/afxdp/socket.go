package afxdp

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
)

// Sizes of a socket.
const (
	rxEntries = 2048 // of the receive ring; the fill ring has twice as many
	txEntries = 1024 // of the transmit ring and of the completion ring

	chunkSmall = 2048
	chunkLarge = 4096 // the largest that the kernel takes: a page
)

// A binding says how a socket is bound to its queue.
type binding struct {
	zeroCopy   bool // the driver uses the memory itself, instead of the kernel's copying
	multi      bool // frames may take several chunks
	needWakeup bool
	busyPoll   bool // the worker drives the driver's receiving, instead of interrupts
}

// String is the binding in words.
func (b binding) String() string {
	s := "copy"
	if b.zeroCopy {
		s = "zero-copy"
	}
	if b.multi {
		s += ", multi-buffer"
	}
	return s
}

func (b binding) flags() uint16 {
	f := uint16(unix.XDP_COPY)
	if b.zeroCopy {
		f = unix.XDP_ZEROCOPY
	}
	if b.multi {
		f |= unix.XDP_USE_SG
	}
	if b.needWakeup {
		f |= unix.XDP_USE_NEED_WAKEUP
	}
	return f
}

// chunkFor returns the size of chunks for frames of up to frame bytes, and
// whether they fit one. Small chunks are better for the caches.
func chunkFor(frame int, multi bool) (size uint32, fits bool) {
	switch {
	case frame <= chunkSmall-headroom:
		return chunkSmall, true
	case frame <= chunkLarge-headroom:
		return chunkLarge, true
	}
	return chunkLarge, multi
}

// A socket is an AF_XDP socket that is bound to one queue of a device, with its
// memory and its rings.
type socket struct {
	fd    sys.FD
	index int // of the device
	queue uint32
	binding
	umem *umem
	maps []*sys.Mapping
	rx   *receiver
	tx   *sender
	run  *runner // nil: tx sends all

	pending atomic.Bool // something was committed since the last kick
	stuck   atomic.Bool // the device did not take all at the last kick
	lane    lane

	stats  unix.XDPStatistics // as last told of
	broken atomic.Bool
	fail   func(*socket, error) // tells the port, once
}

// openSocket binds a new socket to a queue, with chunks of a size. It is not in
// the map of any program yet.
func openSocket(index int, queue uint32, b binding, chunk uint32, fail func(*socket, error)) (*socket, error) {
	n, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("create AF_XDP socket: %w", err)
	}
	s := &socket{fd: sys.NewFD(n), index: index, queue: queue, binding: b, fail: fail}
	if err = s.prepare(chunk); err == nil {
		err = s.bind()
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// prepare gives the socket memory and rings.
func (s *socket) prepare(chunk uint32) (err error) {
	rx := uint32(rxEntries)
	if s.zeroCopy {
		rx *= 2 // the device's own ring holds some, too
	}
	if s.umem, err = newUmem(chunk, rx, txEntries); err != nil {
		return err
	}
	reg := unix.XDPUmemReg{Addr: uint64(s.umem.base), Len: s.umem.size(), Size: chunk}
	if err := setsockopt(s.fd.Int(), unix.XDP_UMEM_REG, &reg); err != nil {
		return fmt.Errorf("register %d bytes of memory (limited by `ulimit -l` without CAP_IPC_LOCK): %w", s.umem.size(), err)
	}
	for _, r := range []struct {
		option  int
		entries uint32
	}{
		{unix.XDP_UMEM_FILL_RING, 2 * rxEntries}, {unix.XDP_UMEM_COMPLETION_RING, txEntries},
		{unix.XDP_RX_RING, rxEntries}, {unix.XDP_TX_RING, txEntries},
	} {
		if err := setsockopt(s.fd.Int(), r.option, &r.entries); err != nil {
			return fmt.Errorf("make ring of %d entries: %w", r.entries, err)
		}
	}
	return s.mapRings()
}

// mapRings maps the rings, and gives the kernel all chunks for receiving.
func (s *socket) mapRings() error {
	var off unix.XDPMmapOffsets
	n, err := getsockopt(s.fd.Int(), unix.XDP_MMAP_OFFSETS, &off)
	if err != nil {
		return fmt.Errorf("ask for the layout of rings: %w", err)
	}
	if n < int(sizeofOffsets) {
		return errors.New("the kernel is older than 5.4: it has no need-wakeup")
	}
	rx, err1 := s.mapRing(off.Rx, unix.XDP_PGOFF_RX_RING, rxEntries, descSize)
	tx, err2 := s.mapRing(off.Tx, unix.XDP_PGOFF_TX_RING, txEntries, descSize)
	fill, err3 := s.mapRing(off.Fr, unix.XDP_UMEM_PGOFF_FILL_RING, 2*rxEntries, addrSize)
	done, err4 := s.mapRing(off.Cr, unix.XDP_UMEM_PGOFF_COMPLETION_RING, txEntries, addrSize)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return err
	}
	s.rx = newReceiver(s.umem, rx, fill)
	s.tx = newSender(s.umem, tx, done, s.multi, s.kick)
	return s.rx.stock()
}

// mapRing maps one ring of so many entries of size bytes at pgoff; the kernel has said where its
// parts lie. The mapping is the socket's, which unmaps it at its end.
func (s *socket) mapRing(off unix.XDPRingOffset, pgoff int64, entries uint32, size uintptr) (ring, error) {
	length := off.Desc + uint64(entries)*uint64(size)
	m, err := sys.MapShared(s.fd.Int(), pgoff, int(length))
	if err != nil {
		return ring{}, err
	}
	s.maps = append(s.maps, m)
	if max(off.Producer, off.Consumer, off.Flags)+4 > length {
		return ring{}, broken("kernel places a ring's indices behind its end")
	}
	base := packet.Addr(m.Bytes())
	return ring{
		producer: word(base + uintptr(off.Producer)), consumer: word(base + uintptr(off.Consumer)), flags: word(base + uintptr(off.Flags)),
		entries: base + uintptr(off.Desc), mask: entries - 1,
	}, nil
}

// bindWithin is how long a queue may be busy: the kernel lets go of a socket
// that was closed some time afterwards, on a busy machine some hundred milliseconds.
const bindWithin = 2 * time.Second

// bind binds the socket to its queue.
func (s *socket) bind() error {
	addr := &unix.SockaddrXDP{Flags: s.flags(), Ifindex: uint32(s.index), QueueID: s.queue}
	deadline := time.Now().Add(bindWithin)
	for {
		err := unix.Bind(s.fd.Int(), addr)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return bindError{s.queue, err}
		}
		time.Sleep(5 * time.Millisecond)
	}
	budget := uint32(txEntries)
	_ = setsockopt(s.fd.Int(), unix.XDP_MAX_TX_SKB_BUDGET, &budget)                                  // since 6.17; 32 frames a call before
	_ = unix.SetsockoptInt(s.fd.Int(), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, txEntries*2*chunkLarge) // it bounds frames on their way
	return s.preferBusyPoll()
}

// preferBusyPoll has the kernel leave receiving to the worker's calls, as long as
// they come. It takes effect with napi_defer_hard_irqs and gro_flush_timeout of
// the device; without them interrupts go on besides.
func (s *socket) preferBusyPoll() error {
	if !s.busyPoll {
		return nil
	}
	for _, o := range []struct{ option, value int }{
		{unix.SO_PREFER_BUSY_POLL, 1}, {unix.SO_BUSY_POLL, 20}, {unix.SO_BUSY_POLL_BUDGET, packet.BatchMax},
	} {
		if err := unix.SetsockoptInt(s.fd.Int(), unix.SOL_SOCKET, o.option, o.value); err != nil {
			return fmt.Errorf("ask for busy polling: %w", err)
		}
	}
	return nil
}

// A bindError says why a queue cannot be had.
type bindError struct {
	queue uint32
	err   error
}

func (e bindError) Unwrap() error { return e.err }

func (e bindError) Error() string {
	if errors.Is(e.err, unix.EBUSY) {
		return fmt.Sprintf("queue %d has an AF_XDP socket of another program: end that program", e.queue)
	}
	return fmt.Sprintf("bind to queue %d: %v", e.queue, e.err)
}

// close gives everything back. No worker has the socket any more.
func (s *socket) close() error {
	errs := []error{s.fd.Close()}
	for _, m := range s.maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(append(errs, s.umem.close())...)
}

// broke tells the port of an error, the first time.
func (s *socket) broke(err error) {
	if s.broken.CompareAndSwap(false, true) {
		s.fail(s, err)
	}
}

// kicksMax bounds the calls of one kick: kernels before 6.17 send 32 frames a
// call.
const kicksMax = txEntries/32 + 1

// kick has the kernel send what it was shown, as far as the device takes it.
func (s *socket) kick() {
	if s.needWakeup && !s.tx.ring.needWakeup() {
		return // the driver is at it
	}
	for range kicksMax {
		before := s.tx.ring.consumer.Load()
		errno := wakeTx(s.fd.Int())
		if s.tx.ring.idle() {
			return
		}
		switch errno {
		case 0, unix.EAGAIN, unix.EBUSY, unix.ENOBUFS, unix.EINTR:
		default:
			return // the device is down or gone: the port hears of that
		}
		if s.zeroCopy {
			return
		}
		if errno != 0 && s.tx.ring.consumer.Load() == before {
			break
		}
	}
	s.stuck.Store(true)
}

// unstick tries again to send what the device did not take.
func (s *socket) unstick() {
	if s.stuck.Load() && s.stuck.CompareAndSwap(true, false) {
		s.kick()
	}
}

// collect asks the kernel what it has dropped since the last time, and has the
// next batch tell of it. It reports whether there is something to tell.
func (s *socket) collect() bool {
	var now unix.XDPStatistics
	if _, err := getsockopt(s.fd.Int(), unix.XDP_STATISTICS, &now); err != nil {
		return false
	}
	dropped, full, empty := now.Rx_dropped-s.stats.Rx_dropped, now.Rx_ring_full-s.stats.Rx_ring_full, now.Rx_fill_ring_empty_descs-s.stats.Rx_fill_ring_empty_descs
	s.stats = now
	s.rx.miss(packet.ReasonRxRingFull, uint32(full))
	short := min(dropped, empty)
	s.rx.miss(packet.ReasonRxNoBuffer, uint32(short))
	s.rx.miss(packet.ReasonRxTooLong, uint32(dropped-short))
	return full+dropped > 0
}
