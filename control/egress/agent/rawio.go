package agent

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A rawSocket reads and writes a socket without telling Go's scheduler of each system
// call. Where many processes share few cores a thread is often taken off its core in the middle of
// a short call; the scheduler takes that for one that lasts, gives the goroutines to another
// thread, and has a third look 20,000 times a second for more of the kind. One
// goroutine reads and one writes.
type rawSocket struct {
	conn    syscall.RawConn
	stream  bool // nothing to read is the end
	in, out rawCall
}

// A rawCall is a system call as RawConn wants it: a function that is made once.
type rawCall struct {
	do    func(fd uintptr) bool
	bytes []byte
	wait  bool // until something can be moved
	n     int
	errno unix.Errno
}

// newRawSocket returns the socket of a connection, or nil if it has none.
func newRawSocket(c net.Conn) *rawSocket {
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	_, datagrams := c.(net.PacketConn)
	r := &rawSocket{conn: raw, stream: !datagrams}
	r.in.make(rawRead)
	r.out.make(rawWrite)
	return r
}

func (c *rawCall) make(move func(fd uintptr, b []byte) (int, unix.Errno)) {
	c.do = func(fd uintptr) bool {
		for c.errno = unix.EINTR; c.errno == unix.EINTR; {
			c.n, c.errno = move(fd, c.bytes)
		}
		return c.errno != unix.EAGAIN || !c.wait
	}
}

// run makes the call by a function of RawConn. What is moved of b may be less than all.
func (c *rawCall) run(by func(func(uintptr) bool) error, b []byte, wait bool) (int, error) {
	c.bytes, c.wait, c.n, c.errno = b, wait, 0, 0
	err := by(c.do)
	c.bytes = nil
	if err != nil {
		return 0, err
	}
	if c.errno != 0 {
		return 0, c.errno
	}
	return c.n, nil
}

// Read is that of a net.Conn.
func (s *rawSocket) Read(b []byte) (int, error) {
	n, err := s.in.run(s.conn.Read, b, true)
	switch {
	case err != nil:
		return 0, failedCall("read", err)
	case n == 0 && len(b) > 0 && s.stream:
		return 0, io.EOF
	}
	return n, nil
}

// Write is that of a net.Conn.
func (s *rawSocket) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n, err := s.out.run(s.conn.Write, b[done:], true)
		if done += n; err != nil {
			return done, failedCall("write", err)
		}
	}
	return done, nil
}

// writeNow writes what the peer takes at once, and returns how much that is. There is no error if it
// takes nothing now, or the connection is closed: whoever waits finds out.
func (s *rawSocket) writeNow(b []byte) (int, error) {
	n, err := s.out.run(s.conn.Write, b, false)
	if errno, ok := errors.AsType[unix.Errno](err); ok && errno != unix.EAGAIN {
		return n, failedCall("write", err)
	}
	return n, nil
}

func failedCall(call string, err error) error {
	if _, ok := errors.AsType[unix.Errno](err); ok {
		return os.NewSyscallError(call, err)
	}
	return err
}
