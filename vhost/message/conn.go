package message

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// Side is an end of the protocol, not of the socket: either may listen.
type Side uint8

const (
	// BackEnd reads requests and writes replies.
	BackEnd Side = iota

	// FrontEnd reads replies and writes requests.
	FrontEnd
)

// A Conn carries messages over a connected Unix stream socket.
//
// One goroutine at a time may be in Read and one in Write; the two may differ.
// Close and the deadlines may be called by any, at any time.
//
// A stream has no marks between messages, so after an error in the middle of one
// there is no way back: Read (or Write) returns that error from then on. A
// deadline that passes while Read has not seen a byte of the next message does
// no harm.
type Conn struct {
	sock *net.UnixConn
	side Side

	oob     []byte // the reader's: room for the control message of MaxFDs descriptors
	readErr error  // the reader's: what broke the stream

	writeErr error // the writer's: what broke the stream
}

// NewConn makes the caller that end of the protocol which side says. Close
// closes sock.
func NewConn(sock *net.UnixConn, side Side) *Conn {
	return &Conn{sock: sock, side: side, oob: make([]byte, syscall.CmsgSpace(MaxFDs*4))}
}

// Close closes the socket. A Read or Write that waits returns net.ErrClosed.
func (c *Conn) Close() error { return c.sock.Close() }

// SetDeadline bounds waiting Reads and Writes, and those to come, as
// net.Conn's does. They return os.ErrDeadlineExceeded.
func (c *Conn) SetDeadline(t time.Time) error { return c.sock.SetDeadline(t) }

// SetReadDeadline is SetDeadline for Read alone.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.sock.SetReadDeadline(t) }

// SetWriteDeadline is SetDeadline for Write alone.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.sock.SetWriteDeadline(t) }

// Read waits for the next message. The caller owns its descriptors, which are
// closed on exec. On an error every descriptor that came is closed.
//
// The error is ErrPeerClosed if the peer ended between messages. Read checks
// header, direction and number of descriptors; the payload is checked by the
// Unmarshal functions.
func (c *Conn) Read() (Message, error) {
	if c.readErr != nil {
		return Message{}, c.readErr
	}
	var head [HeaderSize]byte
	n, files, err := c.recv(head[:])
	if n == 0 {
		closeAll(files)
		return Message{}, fmt.Errorf("read vhost-user message: %w", boundary(err))
	}
	m := Message{files: files}
	if err == nil {
		err = c.finish(&m, &head, n)
	}
	if err != nil {
		m.Close()
		c.readErr = fmt.Errorf("read vhost-user message: %w", err)
		return Message{}, c.readErr
	}
	return m, nil
}

// finish reads the rest of the message of which head holds n bytes, and checks
// the whole.
func (c *Conn) finish(m *Message, head *[HeaderSize]byte, n int) error {
	if err := c.recvAll(head[n:]); err != nil {
		return err
	}
	h, err := UnmarshalHeader(head[:])
	if err != nil {
		return err
	}
	m.Request, m.Flags = h.Request, h.Flags
	if isReply := h.Flags&FlagReply != 0; isReply != (c.side == FrontEnd) {
		return fmt.Errorf("%v: %w: flags %#x", h.Request, ErrDirection, h.Flags)
	}
	m.Payload = make([]byte, h.Size)
	if err := c.recvAll(m.Payload); err != nil {
		return fmt.Errorf("%v: %w", h.Request, err)
	}
	return checkFDs(*m)
}

// recvAll fills b. Descriptors belong to the first byte of a message, which is
// not in b, so none may come.
func (c *Conn) recvAll(b []byte) error {
	for len(b) > 0 {
		n, files, err := c.recv(b)
		if len(files) > 0 {
			closeAll(files)
			return fmt.Errorf("%w: %d after the first byte", ErrFDCount, len(files))
		}
		if err != nil {
			return midMessage(err)
		}
		b = b[n:]
	}
	return nil
}

// recv reads once, at least a byte unless there is an error, and returns the
// descriptors that came with what it read. They may come with an error. The
// kernel ends a read where descriptors of another write begin, and never
// installs more than c.oob has room for.
func (c *Conn) recv(b []byte) (int, []FD, error) {
	n, oobn, flags, _, err := c.sock.ReadMsgUnix(b, c.oob)
	n, oobn = max(n, 0), max(oobn, 0) // package net passes on the kernel's -1
	files, ctlErr := rights(c.oob[:oobn])
	switch {
	case err != nil:
		return n, files, err
	case ctlErr != nil:
		return n, files, fmt.Errorf("%w: %w", ErrFDCount, ctlErr)
	case flags&syscall.MSG_CTRUNC != 0:
		return n, files, fmt.Errorf("%w: over %d, or this process may open no more files (raise ulimit -n)", ErrFDCount, MaxFDs)
	}
	return n, files, nil
}

// rights returns the descriptors in control messages as the kernel made them.
func rights(oob []byte) ([]FD, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	controls, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("control message: %w", err)
	}
	var files []FD
	for i := range controls {
		fds, err := syscall.ParseUnixRights(&controls[i])
		if err != nil {
			continue // not SCM_RIGHTS: credentials, if someone asked for them
		}
		for _, fd := range fds {
			files = append(files, FD(fd))
		}
	}
	return files, nil
}

// boundary turns an end between messages into ErrPeerClosed. A peer that closes
// with our last reply unread resets the connection, which is no worse an end.
func boundary(err error) error {
	if errors.Is(err, io.EOF) || gone(err) {
		return fmt.Errorf("%w: %w", ErrPeerClosed, err)
	}
	return err
}

// midMessage turns an end inside a message into ErrTruncated.
func midMessage(err error) error {
	if errors.Is(err, io.EOF) || gone(err) {
		return fmt.Errorf("%w: %w", ErrTruncated, err)
	}
	return err
}

// gone reports whether err says that the peer's end of the socket is closed.
func gone(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// Write sends m, with fds attached to its first byte. It lends the descriptors:
// they stay the caller's, open or not, and those that m owns are not sent.
//
// Write makes the flags those of its side: a reply's are always the same, a
// request keeps FlagNeedReply. It does not hold m against the rules for its
// request. Its error is ErrPeerClosed if the peer is gone.
func (c *Conn) Write(m Message, fds ...FD) error {
	if c.writeErr != nil {
		return c.writeErr
	}
	if len(m.Payload) > MaxPayload {
		return fmt.Errorf("write %v: %w: %d bytes, at most %d", m.Request, ErrOversize, len(m.Payload), MaxPayload)
	}
	if len(fds) > MaxFDs {
		return fmt.Errorf("write %v: %w: %d, at most %d", m.Request, ErrFDCount, len(fds), MaxFDs)
	}
	sent, err := c.send(c.encode(m), fds)
	if err == nil {
		return nil
	}
	if gone(err) {
		err = fmt.Errorf("%w: %w", ErrPeerClosed, err)
	}
	err = fmt.Errorf("write %v: %w", m.Request, err)
	if sent > 0 {
		c.writeErr = err
	}
	return err
}

// encode returns m as the wire has it.
func (c *Conn) encode(m Message) []byte {
	flags := Version | FlagReply
	if c.side == FrontEnd {
		flags = m.Flags&^(VersionMask|FlagReply) | Version
	}
	b := MarshalHeader(Header{Request: m.Request, Flags: flags, Size: uint32(len(m.Payload))})
	return append(b, m.Payload...)
}

// send writes b whole, in one system call if the socket has room: DPDK's front
// end does not put pieces together. It returns how many bytes went.
func (c *Conn) send(b []byte, fds []FD) (int, error) {
	sent, _, err := c.sock.WriteMsgUnix(b, control(fds), nil)
	if err != nil || sent == len(b) {
		return sent, err
	}
	n, err := c.sock.Write(b[sent:])
	return sent + n, err
}

// control returns the control message that carries fds, or nil for none.
func control(fds []FD) []byte {
	if len(fds) == 0 {
		return nil
	}
	raw := make([]int, len(fds))
	for i, fd := range fds {
		raw[i] = int(fd)
	}
	return syscall.UnixRights(raw...)
}
