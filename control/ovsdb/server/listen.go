package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// ErrInUse means that somebody answers at a socket that was to be listened on.
var ErrInUse = errors.New("another server listens there; stop it first")

// CheckListen says what is wrong with an endpoint of Config.Listen, as far as
// can be told without opening it.
func CheckListen(endpoint string) error {
	switch kind, rest, _ := strings.Cut(endpoint, ":"); kind {
	case "punix", "unix":
		return nil
	case "ptcp", "pssl":
		port, _, _ := strings.Cut(rest, ":")
		if _, err := strconv.ParseUint(port, 10, 16); port != "" && err != nil {
			return fmt.Errorf("listen on %q: %q is not a port: %w", endpoint, port, errKind)
		}
		return nil
	}
	return fmt.Errorf("listen on %q: %w", endpoint, errKind)
}

var errKind = errors.New("want punix:PATH, ptcp:PORT[:ADDRESS] or pssl:PORT[:ADDRESS]")

// listen opens an endpoint.
func listen(endpoint string, conf *tls.Config) (net.Listener, error) {
	kind, rest, _ := strings.Cut(endpoint, ":")
	var l net.Listener
	var err error
	switch {
	case kind == "punix" || kind == "unix":
		l, err = listenUnix(rest)
	case kind == "ptcp" || kind == "pssl" && conf != nil:
		port, host, _ := strings.Cut(rest, ":")
		if port == "" {
			port = defaultPort
		}
		l, err = net.Listen("tcp", net.JoinHostPort(strings.Trim(host, "[]"), port))
	case kind == "pssl":
		err = errors.New("no key and certificate given")
	default:
		err = errKind
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", endpoint, err)
	}
	if kind == "pssl" {
		l = tls.NewListener(l, conf)
	}
	return l, nil
}

// listenUnix listens on path for this user only. A socket that a dead server
// left is replaced, and nothing else: only who is refused knows that it is one.
// Others are of another type, or of a server that has no time now.
func listenUnix(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if info, stat := os.Lstat(path); stat != nil || info.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("%w, and it is no socket", err)
		}
		c, dial := net.Dial("unix", path)
		switch {
		case dial == nil:
			c.Close()
			return nil, ErrInUse
		case !errors.Is(dial, syscall.ECONNREFUSED):
			return nil, fmt.Errorf("%w: %w", ErrInUse, dial)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
		l, err = net.Listen("unix", path)
	}
	if err != nil {
		return nil, err
	}
	return ownSocket(l.(*net.UnixListener), path)
}

// A unixListener removes its socket when it is closed, but not what somebody
// else has put in its place since.
type unixListener struct {
	*net.UnixListener
	path string
	mine os.FileInfo
	once sync.Once // who closes it again waits for the first
	err  error     // of Close
}

// ownSocket has l, which listens on path, be for this user only.
func ownSocket(l *net.UnixListener, path string) (net.Listener, error) {
	l.SetUnlinkOnClose(false) // it removes whatever has the name
	err := os.Chmod(path, 0o600)
	var mine os.FileInfo
	if err == nil {
		mine, err = os.Lstat(path)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return &unixListener{UnixListener: l, path: path, mine: mine}, nil
}

// Close implements net.Listener.
func (l *unixListener) Close() error {
	l.once.Do(func() {
		l.err = l.UnixListener.Close()
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.mine) {
			l.err = errors.Join(l.err, os.Remove(l.path))
		}
	})
	return l.err
}
