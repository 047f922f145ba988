package acceptance

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"millrace/vhost/message"
)

// Layout of a bad guest's memory: a slot for each ring, and a spare one.
const (
	badGPA    = 0x1000_0000
	badUser   = 0x7f00_0000_0000
	badRing   = 64      // descriptors
	badSlot   = 1 << 18 // bytes
	badAvail  = 0x1000  // in a slot
	badUsed   = 0x2000
	badTables = 0x3000 // indirect tables
	badBufs   = 0x8000
	badBuf    = 2048 // bytes
	badSpare  = 2 * badSlot
	badSize   = 3 * badSlot
)

// Its rings, as the messages number them.
const (
	toGuest   = 0
	fromGuest = 1
)

// Flags of a descriptor (virtio 2.7.5).
const (
	fNext     = 1
	fWrite    = 2
	fIndirect = 4
)

// A badGuest is a front end without scruples: it writes what it likes to its
// memory and to its socket. Its first state is good.
type badGuest struct {
	t     *testing.T
	sock  *net.UnixConn
	conn  *message.Conn
	memfd int
	mem   []byte
	kicks [2]int
	calls [2]int
	idx   [2]uint16 // available indices
}

// errOver is the end of the connection.
var errOver = errors.New("the switch has ended the connection")

// newBad connects to the port at path and sets up one queue pair.
func newBad(t *testing.T, path string, features message.Features) *badGuest {
	t.Helper()
	b := &badGuest{t: t}
	b.memory()
	eventually(t, func() bool { return b.dial(path) == nil }, "connect to %s", path)
	check(t, b.setUp(features))
	return b
}

// memory makes the guest's memory, which has no seals, and its eventfds.
func (b *badGuest) memory() {
	b.t.Helper()
	var err error
	b.memfd, err = unix.MemfdCreate("bad-guest", unix.MFD_CLOEXEC)
	check(b.t, err)
	check(b.t, unix.Ftruncate(b.memfd, badSize))
	b.mem, err = unix.Mmap(b.memfd, 0, badSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	check(b.t, err)
	for i := range b.kicks {
		b.kicks[i], err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		check(b.t, err)
		b.calls[i], err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		check(b.t, err)
	}
}

func (b *badGuest) dial(path string) error {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err == nil {
		b.sock, b.conn = c, message.NewConn(c, message.FrontEnd)
	}
	return err
}

// close gives everything back, once.
func (b *badGuest) close() {
	if b.mem == nil {
		return
	}
	_ = b.conn.Close()
	_ = unix.Munmap(b.mem)
	b.mem = nil
	for _, fd := range []int{b.memfd, b.kicks[0], b.kicks[1], b.calls[0], b.calls[1]} {
		_ = unix.Close(fd)
	}
}

// ask sends a request and returns the payload of the reply. All requests ask
// for one.
func (b *badGuest) ask(r message.Request, payload []byte, fds ...int) ([]byte, error) {
	var files []message.FD
	for _, fd := range fds {
		files = append(files, message.FD(fd))
	}
	if err := b.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if err := b.conn.Write(message.Message{Request: r, Flags: message.FlagNeedReply, Payload: payload}, files...); err != nil {
		return nil, fmt.Errorf("%v: %w: %w", r, errOver, err)
	}
	m, err := b.conn.Read()
	if err != nil {
		return nil, fmt.Errorf("%v: %w: %w", r, errOver, err)
	}
	m.Close()
	return m.Payload, nil
}

// do sends a request that is answered by yes or no, or by the end.
func (b *badGuest) do(r message.Request, payload []byte, fds ...int) error {
	p, err := b.ask(r, payload, fds...)
	if err != nil {
		return err
	}
	if n, err := message.UnmarshalU64(p); err != nil || n != 0 {
		return fmt.Errorf("%v: refused", r)
	}
	return nil
}

func ringState(ring, n uint32) []byte {
	return message.MarshalVringState(message.VringState{Index: ring, Num: n})
}

// table is a memory table of the first size bytes.
func (b *badGuest) table(size uint64) []byte {
	return message.MarshalMemTable(message.MemTable{{GPA: badGPA, Size: size, UserAddr: badUser}})
}

// addr is where ring r is.
func (b *badGuest) addr(r int) message.VringAddr {
	at := uint64(badUser + r*badSlot)
	return message.VringAddr{Index: uint32(r), Desc: at, Avail: at + badAvail, Used: at + badUsed}
}

// setUp does what a good guest does.
func (b *badGuest) setUp(features message.Features) error {
	for i := range uint16(badRing) { // all buffers of the ring to us are given
		b.desc(toGuest, i, b.gpa(toGuest, i), badBuf, fWrite, 0)
		b.entry(toGuest, i, i)
	}
	b.show(toGuest, badRing)
	b.show(fromGuest, 0)
	if _, err := b.ask(message.GetFeatures, nil); err != nil {
		return err
	}
	if _, err := b.ask(message.GetProtocolFeatures, nil); err != nil {
		return err
	}
	// The first is not answered: that is agreed on by it.
	agreed := message.MarshalU64(uint64(message.ProtocolFReplyAck | message.ProtocolFMQ))
	if err := b.conn.Write(message.Message{Request: message.SetProtocolFeatures, Payload: agreed}); err != nil {
		return err
	}
	steps := []error{
		b.do(message.SetFeatures, message.MarshalU64(uint64(features))),
		b.do(message.SetMemTable, b.table(badSize), b.memfd),
	}
	for r := range 2 {
		fd := message.MarshalVringFD(message.VringFD{Index: uint8(r)})
		steps = append(steps,
			b.do(message.SetVringNum, ringState(uint32(r), badRing)),
			b.do(message.SetVringAddr, message.MarshalVringAddr(b.addr(r))),
			b.do(message.SetVringCall, fd, b.calls[r]),
			b.do(message.SetVringKick, fd, b.kicks[r]),
			b.do(message.SetVringEnable, ringState(uint32(r), 1)))
	}
	return errors.Join(steps...)
}

// gpa is the guest address of buffer i of ring r.
func (b *badGuest) gpa(r int, i uint16) uint64 {
	return badGPA + uint64(r*badSlot+badBufs+int(i)*badBuf)
}

// desc writes descriptor i of ring r.
func (b *badGuest) desc(r int, i uint16, addr uint64, n uint32, flags, next uint16) {
	b.descAt(r*badSlot+int(i)*16, addr, n, flags, next)
}

// descAt writes a descriptor at an offset of the memory.
func (b *badGuest) descAt(at int, addr uint64, n uint32, flags, next uint16) {
	d := b.mem[at : at+16]
	binary.LittleEndian.PutUint64(d, addr)
	binary.LittleEndian.PutUint32(d[8:], n)
	binary.LittleEndian.PutUint16(d[12:], flags)
	binary.LittleEndian.PutUint16(d[14:], next)
}

// entry writes the available entry for chain number i.
func (b *badGuest) entry(r int, i, head uint16) {
	binary.LittleEndian.PutUint16(b.mem[r*badSlot+badAvail+4+2*int(i%badRing):], head)
}

// show moves the available index of ring r by n, and kicks.
func (b *badGuest) show(r int, n uint16) {
	b.idx[r] += n
	// SAFETY: the slice is in bounds and the offset a multiple of 4.
	word := (*atomic.Uint32)(unsafe.Pointer(&b.mem[r*badSlot+badAvail : r*badSlot+badAvail+4][0]))
	word.Store(uint32(b.idx[r]) << 16) // flags 0: we want to be called
	b.kick(r)
}

// used is the used index of a ring.
func (b *badGuest) used(r int) uint16 {
	// SAFETY: the slice is in bounds and the offset a multiple of 4.
	word := (*atomic.Uint32)(unsafe.Pointer(&b.mem[r*badSlot+badUsed : r*badSlot+badUsed+4][0]))
	return uint16(word.Load() >> 16)
}

func (b *badGuest) kick(r int) {
	_, _ = unix.Write(b.kicks[r], []byte{1, 0, 0, 0, 0, 0, 0, 0}) // full is as good
}

// offer shows one chain from the guest that begins with descriptor head.
func (b *badGuest) offer(head uint16) {
	b.entry(fromGuest, b.idx[fromGuest], head)
	b.show(fromGuest, 1)
}

// frame writes a good broadcast that carries n to buffer i, and its descriptor.
func (b *badGuest) frame(i uint16, n uint64) {
	at := int(b.gpa(fromGuest, i) - badGPA)
	f := b.mem[at : at+12+60]
	clear(f)
	ethernet(f[12:], toAll, badC)
	copy(f[12:], []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint64(f[12+14:], n)
	b.desc(fromGuest, i, b.gpa(fromGuest, i), uint32(len(f)), 0, 0)
}

// hungUp reports whether the switch has ended the connection.
func (b *badGuest) hungUp() (yes bool) {
	b.t.Helper()
	raw, err := b.sock.SyscallConn()
	check(b.t, err)
	check(b.t, raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		n, _ := unix.Poll(fds, 0)
		yes = n > 0 && fds[0].Revents&unix.POLLHUP != 0
	}))
	return yes
}

// over waits for the end of the connection.
func (b *badGuest) over() error {
	if err := b.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	for {
		m, err := b.conn.Read()
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return errors.New("the switch has not ended the connection")
		}
		if err != nil {
			return nil
		}
		m.Close()
	}
}
