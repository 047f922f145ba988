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
	path, leave, err := p.here()
	if err == nil {
		defer leave()
		if err := p.removeStale(path); err != nil {
			return err
		}
		p.listener, err = p.bind(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("listen: make directory %s first: %w", filepath.Dir(p.opts.Path), err)
	}
	if err != nil {
		return fmt.Errorf("listen on %s: %w", p.opts.Path, err)
	}
	if err := p.give(path); err != nil {
		return errors.Join(fmt.Errorf("listen on %s: %w", p.opts.Path, err), p.listener.Close())
	}
	return nil
}

// bind makes the socket at path.
func (p *Port) bind(path string) (*net.UnixListener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctlErr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), uint32(p.opts.Mode.Perm())) })
		return errors.Join(ctlErr, err)
	}}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	u := l.(*net.UnixListener)
	u.SetUnlinkOnClose(false)
	return u, nil
}

// give gives the socket at path its mode and its owner, and keeps in mind which one it is. It may be another one by now, but
// a socket it is: a symbolic link in its place would have a file of the host be given away.
func (p *Port) give(path string) error {
	fd, err := openSocket(path, &p.inode)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// The umask may have taken from the mode; it cannot have added to it.
	if err := os.Chmod(descriptor(fd), p.opts.Mode.Perm()); err != nil {
		return err
	}
	o := p.opts.Owner
	if o == nil {
		return nil
	}
	if err := unix.Fchownat(fd, "", o.UID, o.GID, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("give it to user %d: %w", o.UID, err)
	}
	return nil
}

// removeStale removes a socket at a path of here that nobody answers on.
func (p *Port) removeStale(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%w: %s is no socket (remove it, or choose another path)", ErrInUse, p.opts.Path)
	}
	c, err := p.connect(path)
	if err == nil {
		_ = c.Close()
	}
	switch {
	case err == nil, errors.Is(err, unix.EAGAIN): // it listens, with a queue that is full
		return fmt.Errorf("%w: somebody listens on %s already (end that, or choose another path)", ErrInUse, p.opts.Path)
	case errors.Is(err, unix.ECONNREFUSED):
		return os.Remove(path)
	}
	return fmt.Errorf("is somebody listening on %s? %w", p.opts.Path, err)
}

// unlisten ends listening and removes the socket, unless somebody has put
// another one in its place.
func (p *Port) unlisten() {
	_ = p.listener.Close()
	path, leave, err := p.here()
	if err != nil {
		return // it went with its directory
	}
	defer leave()
	var st unix.Stat_t
	if unix.Lstat(path, &st) == nil && st.Dev == p.inode.Dev && st.Ino == p.inode.Ino {
		_ = os.Remove(path)
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
			p.refused(s) // before the other end can know
			_ = c.Close()
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
