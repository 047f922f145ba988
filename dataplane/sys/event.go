package sys

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// one is what a signal writes: a counter of 1, in the machine's byte order,
// which for this value and eventfd's purpose (not zero) does not matter.
var one = [8]byte{1}

// NewEvent returns a new non-blocking eventfd.
func NewEvent() (FD, error) {
	n, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return NoFD, fmt.Errorf("create eventfd: %w", err)
	}
	return NewFD(n), nil
}

// Signal adds one to the eventfd f. A full counter counts as signalled.
func Signal(f FD) error {
	_, err := unix.Write(f.Int(), one[:])
	if errors.Is(err, unix.EAGAIN) {
		return nil
	}
	return err
}

// Drain sets the eventfd f back to zero.
func Drain(f FD) {
	var b [8]byte
	_, _ = unix.Read(f.Int(), b[:]) // EAGAIN: it was zero
}

// IsEvent reports whether descriptor n is an eventfd, as /proc tells.
func IsEvent(n int) bool {
	var b [64]byte
	l, err := unix.Readlink(fmt.Sprintf("/proc/self/fd/%d", n), b[:])
	return err == nil && string(b[:l]) == "anon_inode:[eventfd]"
}

// A Poller waits for descriptors to become readable. It is edge-triggered:
// nothing has to be read for it to wait again.
type Poller struct {
	fd     FD
	events [16]unix.EpollEvent
}

// NewPoller returns an empty Poller.
func NewPoller() (*Poller, error) {
	n, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	return &Poller{fd: NewFD(n)}, nil
}

// Add makes the poller wait for n too.
func (p *Poller) Add(n int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(n)}
	if err := unix.EpollCtl(p.fd.Int(), unix.EPOLL_CTL_ADD, n, &ev); err != nil {
		return fmt.Errorf("add descriptor %d to epoll: %w", n, err)
	}
	return nil
}

// Wait sleeps until a descriptor is readable or ms milliseconds have gone by
// (-1: for ever), and returns how many are readable.
func (p *Poller) Wait(ms int) int {
	n, err := unix.EpollWait(p.fd.Int(), p.events[:], ms)
	if err != nil {
		return 0
	}
	return n
}

// Close forgets all descriptors, also those that other processes hold open.
func (p *Poller) Close() error { return p.fd.Close() }
