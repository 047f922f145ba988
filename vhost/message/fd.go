package message

import "syscall"

// FD is a file descriptor with one owner, who closes it. There is no finalizer:
// a descriptor that is forgotten leaks, and the tests count them.
type FD int

// NoFD is no descriptor.
const NoFD FD = -1

// Close closes f unless it is NoFD. The number is free for reuse afterwards,
// whatever the error, so Close must not be called again.
func (f FD) Close() error {
	if f < 0 {
		return nil
	}
	return syscall.Close(int(f))
}

func closeAll(fds []FD) {
	for _, fd := range fds {
		fd.Close()
	}
}
