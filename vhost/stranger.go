package vhost

import (
	"errors"
	"fmt"
	"net"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// errStranger is the error of a peer that is not the one whom the port is for.
var errStranger = errors.New("the peer is another user's")

// stranger is an error if the process at the other end of c is not the user's
// whom the port is for. The kernel says who it was when it connected or began to
// listen (SO_PEERCRED, unix(7)), as a user of our user namespace.
func (p *Port) stranger(c *net.UnixConn) error {
	if p.opts.Peer == nil {
		return nil
	}
	cred, err := credentials(c)
	if err != nil {
		return fmt.Errorf("%w: nobody knows whose: %w", errStranger, err)
	}
	if cred.Uid != *p.opts.Peer {
		return fmt.Errorf("%w: it is user %d (process %d), and the port is for user %d", errStranger, cred.Uid, cred.Pid, *p.opts.Peer)
	}
	return nil
}

// credentials are those of the process at the other end.
func credentials(c *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	ctlErr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return cred, errors.Join(ctlErr, err)
}

// turnAway closes the connection of a stranger, and says so once for each user.
func (p *Port) turnAway(c *net.UnixConn, why error) {
	text := why.Error()
	p.update(func(st *State) { // before the other end can know
		st.Refused++
		if p.session.Load() == nil {
			st.Reason = text
		}
	})
	_ = c.Close()
	if p.refusedWhy != text {
		p.refusedWhy = text
		p.opts.Log.Warn("connection closed", zap.Error(why))
	}
}
