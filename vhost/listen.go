package vhost

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// ErrInUse is the error of a path at which somebody else listens, or which is
// no socket.
var ErrInUse = errors.New("path is in use")

// listen makes the socket. It has its mode before anybody can connect.
func (p *Port) listen() error {
	path := p.opts.Path
	if err := removeStale(path); err != nil {
		return err
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctlErr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), uint32(p.opts.Mode.Perm())) })
		return errors.Join(ctlErr, err)
	}}
	l, err := lc.Listen(context.Background(), "unix", path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("listen: make directory %s first: %w", filepath.Dir(path), err)
	}
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	p.listener = l.(*net.UnixListener)
	p.listener.SetUnlinkOnClose(false)
	// The umask may have taken from the mode; it cannot have added to it.
	if err := os.Chmod(path, p.opts.Mode.Perm()); err != nil {
		return errors.Join(fmt.Errorf("listen: %w", err), p.listener.Close())
	}
	if o := p.opts.Owner; o != nil {
		if err := os.Lchown(path, o.UID, o.GID); err != nil {
			return errors.Join(fmt.Errorf("listen: give %s to user %d: %w", path, o.UID, err), p.listener.Close())
		}
	}
	if err := unix.Lstat(path, &p.inode); err != nil {
		return errors.Join(fmt.Errorf("listen: %s: %w", path, err), p.listener.Close())
	}
	return nil
}

// removeStale removes a socket at path that nobody answers on.
func removeStale(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%w: %s is no socket (remove it, or choose another path)", ErrInUse, path)
	}
	c, err := dial(path)
	if err == nil {
		_ = c.Close()
	}
	switch {
	case err == nil, errors.Is(err, unix.EAGAIN): // it listens, with a queue that is full
		return fmt.Errorf("%w: somebody listens on %s already (end that, or choose another path)", ErrInUse, path)
	case errors.Is(err, unix.ECONNREFUSED):
		return os.Remove(path)
	}
	return fmt.Errorf("is somebody listening on %s? %w", path, err)
}

// unlisten ends listening and removes the socket, unless somebody has put
// another one in its place.
func (p *Port) unlisten() {
	_ = p.listener.Close()
	var st unix.Stat_t
	if unix.Lstat(p.opts.Path, &st) == nil && st.Dev == p.inode.Dev && st.Ino == p.inode.Ino {
		_ = os.Remove(p.opts.Path)
	}
}

// acceptLoop takes peers until Close.
func (p *Port) acceptLoop() {
	for failing := false; ; {
		c, err := p.listener.AcceptUnix()
		if err == nil {
			failing = false
			if why := p.stranger(c); why != nil {
				p.turnAway(c, why)
				p.pause(time.Millisecond) // who tries on and on costs no core
				continue
			}
			p.admit(c)
			continue
		}
		if !failing && !p.isClosing() {
			failing = true
			p.opts.Log.Warn("cannot accept connections", zap.Error(err))
		}
		if !p.pause(backoffMax) {
			return
		}
	}
}

// admit starts a session on c, unless there is one that lives.
func (p *Port) admit(c *net.UnixConn) {
	if s := p.session.Load(); s != nil {
		if !s.over() {
			_ = c.Close()
			p.refused(s)
			return
		}
		<-s.done
	}
	if s := newSession(p, c); s != nil {
		p.running.Go(s.run)
	}
}

// refused notes that a second peer was turned away.
func (p *Port) refused(s *session) {
	p.update(func(st *State) { st.Refused++ })
	if !s.refusedOther {
		s.refusedOther = true
		p.opts.Log.Warn("second connection closed: the port has a peer", zap.String("peer", s.peer))
	}
}

// pause waits for d and reports whether the port lives still.
func (p *Port) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.stop:
		return false
	case <-t.C:
		return true
	}
}
