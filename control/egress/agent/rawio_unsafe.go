package agent

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawRead reads from a socket that does not block, without telling the Go scheduler.
//
// SAFETY: b is memory of the Go heap that the caller references; the kernel writes at most
// len(b) bytes.
func rawRead(fd uintptr, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), errno
}

// rawWrite writes as rawRead reads.
//
// SAFETY: as rawRead. b is only read.
func rawWrite(fd uintptr, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), errno
}
