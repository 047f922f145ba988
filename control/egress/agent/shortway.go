package agent

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A shortWay writes to a target's socket what it takes at once, and never waits.
// Small packets go that way, which spares waking the goroutine that waits for the queue.
// It is for the stream's goroutine alone.
type shortWay struct {
	conn  syscall.RawConn
	write func(fd uintptr) bool // made once: it is called for each packet

	bytes   []byte
	written int
	err     error
}

// newShortWay returns the short way of a connection, or nil if it is no socket.
func newShortWay(c net.Conn) *shortWay {
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	w := &shortWay{conn: raw}
	w.write = func(fd uintptr) bool {
		w.written, w.err = unix.Write(int(fd), w.bytes) // sockets of net do not block
		return true
	}
	return w
}

// send returns how much of b was written. There is no error if the target takes
// nothing now, or the connection is closed: the queue is for both.
func (w *shortWay) send(b []byte) (n int, err error) {
	w.bytes, w.written, w.err = b, 0, nil
	_ = w.conn.Write(w.write) // fails if the connection is closed, or its deadline over
	w.bytes = nil
	switch w.err {
	case nil:
		return w.written, nil
	case unix.EAGAIN, unix.EINTR: //nolint:errorlint // as the system call left it
		return 0, nil
	}
	return 0, os.NewSyscallError("write", w.err)
}

// smallPacket is the size of packets up to which the short way is the better one. With
// larger ones it is of use that they are read from the stream and written at the same time.
const smallPacket = 8 << 10

// atOnce carries what the target takes at once, and returns the rest: all, if
// something waits already, or it is much.
func (r *request) atOnce(b []byte) []byte {
	if r.now == nil || len(b) == 0 || len(b) > smallPacket || !r.queue.idle() {
		return b
	}
	n, err := r.now.send(b)
	r.toward.Add(int64(n))
	if err != nil {
		r.close(byTarget, err)
	}
	return b[n:]
}
