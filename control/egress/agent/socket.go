package agent

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How a dead link is noticed: by probes on an idle connection (5 + 3 x 2 s), by
// unanswered data (10 s) on a busy one. gRPC's own pings would do, but servers
// take more than one in 30 seconds for an attack.
const (
	probeIdle     = 5 * time.Second
	probeInterval = 2 * time.Second
	probes        = 3
	userTimeout   = 10 * time.Second
	roundTripMost = 10 * time.Second // since the last sign of life of a link that is ready
)

// dialServer opens the TCP connection of a link.
func dialServer(ctx context.Context, address string) (*net.TCPConn, error) {
	d := net.Dialer{
		Timeout:         2 * time.Second,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: probeIdle, Interval: probeInterval, Count: probes},
		Control: func(_, _ string, c syscall.RawConn) (err error) {
			cerr := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
			})
			return errors.Join(cerr, err)
		},
	}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// lastSeen returns how long ago the peer acknowledged anything: data, or a
// probe on an idle connection (tcp(7), TCP_INFO).
func lastSeen(c *net.TCPConn) (time.Duration, bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	var info *unix.TCPInfo
	if cerr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); cerr != nil || err != nil {
		return 0, false
	}
	return time.Duration(info.Last_ack_recv) * time.Millisecond, true
}
