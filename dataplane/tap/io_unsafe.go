package tap

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
)

// An iovec is struct iovec of readv(2): memory outside the Go heap, or in a
// batch that the caller keeps referenced.
type iovec struct{ addr, n uintptr }

// readv reads one frame into iov, without telling the Go scheduler: fd does not
// block.
//
// SAFETY: iov lives for the call; what it names is memory of the queue's mapping
// and of the batch in hand, which the caller references, and was sized by the
// constants it was made from.
func readv(fd int32, iov *[2]iovec) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(iov)), uintptr(len(iov)))
	return int(n), errno
}

// writev writes one frame from iov, as readv reads one.
//
// SAFETY: as readv. What iov names is only read.
func writev(fd int32, iov []iovec) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)))
	return errno
}

// ready returns how many events epoll instance fd has now.
//
// SAFETY: the kernel writes at most as many events as there is room for.
func ready(fd int, events *[looksMax]unix.EpollEvent) int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(fd), uintptr(unsafe.Pointer(events)), uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// readable asks whether fd has something to read, or is in a state that only a
// read can tell of.
//
// SAFETY: p and t live for the call.
func readable(fd int32) bool {
	p := unix.PollFd{Fd: fd, Events: unix.POLLIN}
	var t unix.Timespec
	n, _, _ := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&t)), 0, 0, 0)
	return n == 1
}

// laneSize is the size of a lane in bytes.
const laneSize = int(unsafe.Sizeof(lane{}))

// lanesOf lays lanes over mem, as many as it holds.
//
// SAFETY: a lane has no pointers and no alignment beyond that of a page, at which
// mem begins; the slice expression checks the bounds.
func lanesOf(mem []byte) []lane {
	n := len(mem) / laneSize
	return unsafe.Slice((*lane)(unsafe.Pointer(unsafe.SliceData(mem[:n*laneSize]))), n)
}

// addrOf is the address of h, which is in a lane.
//
// SAFETY: the result is only a number.
func addrOf(h *[slotMax]byte) uintptr { return uintptr(unsafe.Pointer(h)) }

// batchID tells one worker's batch from another's.
func batchID(b *packet.Batch) uintptr { return b.SlotAddr(0, 0) }
