package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How a dead link is noticed: by probes on an idle connection (1 + 10 x 1 s), by
// unanswered data (10 s) on a busy one. gRPC's own pings would do, but servers
// take more than one in 30 seconds for an attack.
const (
	probeEvery    = time.Second
	probes        = 10
	userTimeout   = 10 * time.Second
	retryMost     = time.Second      // between two attempts to send what was not acknowledged
	roundTripMost = 10 * time.Second // since the last sign of life of a link that is ready
)

// A serverConn is the TCP connection of a link.
type serverConn struct {
	*net.TCPConn
	raw      *rawSocket
	vanished atomic.Bool // the server's machine has gone without a word
}

func newServerConn(c *net.TCPConn) *serverConn {
	return &serverConn{TCPConn: c, raw: newRawSocket(c)}
}

func (c *serverConn) Read(b []byte) (int, error) {
	n, err := c.raw.Read(b)
	c.note(err)
	return n, err
}

func (c *serverConn) Write(b []byte) (int, error) {
	n, err := c.raw.Write(b)
	c.note(err)
	return n, err
}

// note tells an end of which the server knows from one of which it may not.
func (c *serverConn) note(err error) {
	for _, known := range []error{nil, io.EOF, net.ErrClosed, os.ErrDeadlineExceeded, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, known) {
			return
		}
	}
	c.vanished.Store(true)
}

// leave has a connection end at once that nothing has come through for a time:
// its end would wait for an answer.
func (c *serverConn) leave() {
	if c == nil {
		return
	}
	if i, ok := infoOf(c.TCPConn); ok && i.seen > silence {
		c.vanished.Store(true)
		_ = c.SetLinger(0)
	}
}

// dialServer opens the TCP connection of a link.
func dialServer(ctx context.Context, address string) (*serverConn, error) {
	d := net.Dialer{
		Timeout:         2 * time.Second,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: probeEvery, Interval: probeEvery, Count: probes},
		Control: func(_, _ string, c syscall.RawConn) (err error) {
			cerr := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
				// Linux 6.15 and later: pauses do not grow longer while a link is out.
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_RTO_MAX_MS, int(retryMost.Milliseconds()))
			})
			return errors.Join(cerr, err)
		},
	}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return newServerConn(c.(*net.TCPConn)), nil
}

// farCongestion is the congestion control of links that are long. One that takes each
// lost segment for congestion has 4 Mbit/s where a segment in 200 is lost in 50 ms.
const farCongestion = "bbr"

// goFar has the kernel send by farCongestion, if it has that and lets us.
func (c *serverConn) goFar() {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, farCongestion) // another one does, too
	})
}

// A socketInfo is what the kernel knows of a connection (tcp(7), TCP_INFO).
type socketInfo struct {
	seen        time.Duration // since the peer acknowledged anything: data, or a probe
	rtt         time.Duration // the shortest round trip
	retransmits uint64        // segments sent again
	carried     uint64        // bytes, both ways
}

// infoOf asks the kernel. ok is false for what is no socket of it.
func infoOf(c any) (i socketInfo, ok bool) {
	s, ok := c.(syscall.Conn)
	if !ok {
		return i, false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return i, false
	}
	var info *unix.TCPInfo
	if cerr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); cerr != nil || err != nil {
		return i, false
	}
	return socketInfo{
		seen: time.Duration(info.Last_ack_recv) * time.Millisecond, rtt: time.Duration(info.Min_rtt) * time.Microsecond, retransmits: uint64(info.Total_retrans),
		carried: info.Bytes_acked + info.Bytes_received,
	}, true
}
