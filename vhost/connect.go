package vhost

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Pauses between two attempts to connect grow from backoffMin to backoffMax,
// and begin anew when a connection has been good, or when the Finder has news.
// While there is nothing at the path and the Finder would tell, they grow on to
// backoffTold.
const (
	backoffMin  = 10 * time.Millisecond
	backoffMax  = 100 * time.Millisecond
	backoffTold = 2 * time.Second

	// listenWithin is what a peer gets between making its socket, which is the
	// news, and listening on it.
	listenWithin = time.Millisecond
)

// connectLoop connects, and serves each connection to its end, until Close.
func (p *Port) connectLoop() {
	look := p.opts.Finder.find()
	defer look.end()
	wait := backoffMin
	for !p.isClosing() {
		told := look.watch(p.opts.Path) // before dial: what comes after it is news
		if c, err := p.dial(); err != nil {
			p.waiting(p.whyNoPeer(err))
		} else if s := newSession(p, c); s != nil {
			s.run()
			wait = min(wait, backoffMax)
			if s.orderly {
				wait = backoffMin
			}
		}
		most := backoffMax
		if told && !p.isThere() {
			most, wait = backoffTold, max(wait, p.opts.told)
		}
		select {
		case <-p.stop:
			return
		case <-time.After(wait):
			wait = min(2*wait, most)
		case <-look.news:
			wait = backoffMin
			p.pause(listenWithin)
		}
	}
}

// isThere reports whether there is anything at the path, be it a symbolic link
// to nothing.
func (p *Port) isThere() bool {
	var st unix.Stat_t
	return unix.Lstat(p.opts.Path, &st) == nil
}

// dial connects to the peer, if it is one that may be.
func (p *Port) dial() (*net.UnixConn, error) {
	path, leave, err := p.here()
	if err != nil {
		return nil, err
	}
	defer leave()
	c, err := p.connect(path)
	if err != nil {
		return nil, err
	}
	if err := p.stranger(c); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// connect connects to the socket at a path of here.
func (p *Port) connect(path string) (*net.UnixConn, error) {
	if !p.opts.NoFollow {
		return dial(path)
	}
	var st unix.Stat_t
	fd, err := openSocket(path, &st)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return dial(descriptor(fd))
}

// dial connects to path. It costs next to nothing while there is no socket.
func dial(path string) (*net.UnixConn, error) {
	if err := unix.Access(path, unix.F_OK); err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close() // FileConn has a copy of its own
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, err
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

// whyNoPeer explains the error of dial.
func (p *Port) whyNoPeer(err error) string {
	path := p.opts.Path
	switch {
	case errors.Is(err, errStranger):
		return err.Error()
	case errors.Is(err, unix.ENOENT):
		return "no such socket: " + path
	case errors.Is(err, unix.ECONNREFUSED):
		return "nobody listens on the socket " + path
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return "permission denied on the socket " + path
	case errors.Is(err, unix.EAGAIN):
		return "the peer does not accept connections on " + path + " (it may have one)"
	case errors.Is(err, unix.EPROTOTYPE), errors.Is(err, unix.ENOTSOCK):
		return path + " is no stream socket"
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return "the way to " + path + " has a symbolic link in the place of its directory, or a file"
	}
	return fmt.Sprintf("connect to %s: %v", path, err)
}
