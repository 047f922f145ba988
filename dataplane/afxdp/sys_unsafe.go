package afxdp

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// getsockopt reads option opt of AF_XDP socket fd into v, and returns how many
// bytes the kernel wrote.
//
// SAFETY: v is a plain struct of the kernel's ABI and outlives the call; the
// kernel writes at most its size.
func getsockopt[T any](fd, opt int, v *T) (int, error) {
	n := uint32(unsafe.Sizeof(*v))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(opt),
		uintptr(unsafe.Pointer(v)), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// setsockopt sets option opt of AF_XDP socket fd to v.
//
// SAFETY: as in getsockopt; the kernel reads only.
func setsockopt[T any](fd, opt int, v *T) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(opt),
		uintptr(unsafe.Pointer(v)), unsafe.Sizeof(*v), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// wakeTx has the kernel send what is in the transmit ring of fd, and wakeRx has
// the driver receive into the chunks of the fill ring. Neither sleeps, but both
// may take long enough for the runtime to want to know: a collection does not
// wait for them.
//
// SAFETY: no memory is passed.
func wakeTx(fd int) unix.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	return errno
}

func wakeRx(fd int) {
	_, _, _ = unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
}

// bpfRun runs a program (BPF_PROG_TEST_RUN).
//
// SAFETY: a has the layout of union bpf_attr for that command. The kernel reads it and the frame in
// it, which is in memory that outlives the call, and writes the result and the time, which a has room for.
func bpfRun(a *runAttr) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(a)), unsafe.Sizeof(*a))
	return errno
}

// An ifreq is struct ifreq for ethtool: a name and the address of a request.
type ifreq struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [16]byte
}

// ethtool makes an ethtool request for device name on any socket fd. v begins
// with the number of the request.
//
// SAFETY: the kernel reads and writes at most the struct that the request is
// defined with, which v is; r and v outlive the call.
func ethtool[T any](fd int, name string, v *T) error {
	var r ifreq
	if len(name) >= len(r.name) {
		return fmt.Errorf("device name %q is too long", name)
	}
	copy(r.name[:], name)
	r.data = unsafe.Pointer(v)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r)))
	if errno != 0 {
		return errno
	}
	return nil
}

// sizeofOffsets is the size of struct xdp_mmap_offsets since Linux 5.4.
const sizeofOffsets = unsafe.Sizeof(unix.XDPMmapOffsets{})
