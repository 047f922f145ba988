package pktgen

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/asavie/xdp"
	bpflink "github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Sizes of an AF_XDP end: there are chunks for all that can be in its rings.
const (
	afxdpRx     = 1024
	afxdpTx     = 512
	afxdpChunks = 2 * (afxdpRx + afxdpTx)
	// afxdpMost is the longest frame: a page without what the kernel leaves free
	// before it (XDP_PACKET_HEADROOM).
	afxdpMost = 4096 - 256
)

// errLost says that a link is gone, for now or for ever.
var errLost = errors.New("link is lost")

// An afxdpLink is an AF_XDP socket by asavie/xdp. Its program is attached by a BPF
// link of ours, which goes with the process: the library's own way leaves it.
type afxdpLink struct {
	prog *xdp.Program
	link bpflink.Link
	sock *xdp.Socket
	idle int // times that nothing has come
}

func openAFXDP(device string, size int) (link, error) {
	dev, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	chunk := 2048
	if size > chunk-256 {
		chunk = 4096
	}
	a := &afxdpLink{}
	if err := a.open(dev.Index, chunk); err != nil {
		return nil, errors.Join(err, a.close())
	}
	return a, nil
}

func (a *afxdpLink) open(index, chunk int) (err error) {
	if a.prog, err = xdp.NewProgram(1); err != nil {
		return err
	}
	if a.sock, err = xdp.NewSocket(index, 0, &xdp.SocketOptions{
		NumFrames: afxdpChunks, FrameSize: chunk, FillRingNumDescs: afxdpRx, CompletionRingNumDescs: afxdpTx, RxRingNumDescs: afxdpRx, TxRingNumDescs: afxdpTx,
	}); err != nil {
		return err
	}
	a.fill()
	if err = a.prog.Register(0, a.sock.FD()); err != nil {
		return err
	}
	if a.link, err = bpflink.AttachXDP(bpflink.XDPOptions{Program: a.prog.Program, Interface: index}); err != nil {
		return fmt.Errorf("attach a program (has the device one already?): %w", err)
	}
	_ = unix.SetsockoptInt(a.sock.FD(), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20) // it bounds frames on their way
	return nil
}

// fill gives the kernel all chunks to receive into that it has room for.
func (a *afxdpLink) fill() {
	if n := a.sock.NumFreeFillSlots(); n > 0 {
		a.sock.Fill(a.sock.GetDescs(n))
	}
}

// survive makes an error of the library's panic when a system call fails, which it
// does when the device is down or gone.
func survive(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: %v", errLost, r)
	}
}

func (a *afxdpLink) send(list [][]byte) (n int, err error) {
	defer survive(&err)
	if done := a.sock.NumCompleted(); done > 0 {
		a.sock.Complete(done)
	}
	n = min(len(list), a.sock.NumFreeTxSlots(), afxdpTx-a.sock.NumTransmitted()) // more could overflow the completion ring
	if n <= 0 {
		if a.sock.NumTransmitted() > 0 {
			a.sock.Transmit(nil) // the kernel sends 32 a call
		}
		return 0, nil
	}
	descs := a.sock.GetDescs(n)
	for i := range descs {
		descs[i].Len = uint32(copy(a.sock.GetFrame(descs[i]), list[i]))
	}
	a.sock.Transmit(descs)
	return len(descs), nil
}

func (a *afxdpLink) receive(list [][]byte) (n int, err error) {
	defer survive(&err)
	a.fill() // with what was lent last, too
	for _, d := range a.sock.Receive(min(len(list), a.sock.NumReceived())) {
		list[n] = a.sock.GetFrame(d)
		n++
	}
	if n > 0 {
		return n, nil
	}
	if a.idle++; a.idle%lookEvery != 0 {
		return 0, nil
	}
	return 0, a.state()
}

// lookEvery is the number of times that nothing has come between two looks at whether
// something can.
const lookEvery = 64

// state is why nothing can come any more: the kernel unbinds the socket of a device
// that is gone.
func (a *afxdpLink) state() error {
	n, err := unix.GetsockoptInt(a.sock.FD(), unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && n != 0 {
		err = unix.Errno(n)
	}
	if err != nil {
		return errors.Join(errLost, err)
	}
	return nil
}

func (a *afxdpLink) close() error {
	var errs []error
	if a.link != nil {
		errs = append(errs, a.link.Close())
	}
	if a.sock != nil {
		var st unix.Stat_t
		err := unix.Fstat(a.sock.FD(), &st)
		errs = append(errs, err, a.sock.Close())
		if err == nil {
			errs = append(errs, unmapAll(st.Ino))
		}
	}
	if a.prog != nil {
		errs = append(errs, a.prog.Close())
	}
	return errors.Join(errs...)
}

// unmapAll unmaps what of a file, by its inode, is in memory. The library leaves its
// rings there, and they hold the socket, which holds the queue.
func unmapAll(inode uint64) error {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	var errs []error
	for line := range strings.Lines(string(maps)) {
		var from, to uintptr
		var mode, offset, device string
		var ino uint64
		if n, _ := fmt.Sscanf(line, "%x-%x %s %s %s %d", &from, &to, &mode, &offset, &device, &ino); n < 6 || ino != inode || mode[3] != 's' {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MUNMAP, from, to-from, 0); errno != 0 {
			errs = append(errs, fmt.Errorf("unmap a ring: %w", errno))
		}
	}
	return errors.Join(errs...)
}
