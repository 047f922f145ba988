// Package kernel opens connections by the sockets of another network namespace:
// that of a device which is a port of the switch, say.
package kernel

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"millrace/dataplane/sys"
)

// A Dialer opens connections in one network namespace. Its sockets are made by a
// thread of its own, which is in the namespace for as long as the Dialer is open;
// nothing else of the process ever is.
type Dialer struct {
	name   string
	device string // "" is any
	asks   chan ask
	done   chan struct{}

	mu  sync.Mutex
	way way
}

// An ask is for a socket, or for the device if devices says so.
type ask struct {
	family, kind int
	devices      bool
	answer       chan answer
}

type answer struct {
	fd    int
	index int
	err   error
}

// Open returns a Dialer of the namespace called name (below /run/netns), or at
// name if that is a path, such as /proc/PID/ns/net. device is by what targets are
// reached; any if it is empty. The caller closes the Dialer.
func Open(name, device string) (*Dialer, error) {
	path := name
	if !strings.Contains(name, "/") {
		path = "/run/netns/" + name
	}
	ns, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w (`ip netns list` has their names)", name, err)
	}
	d := &Dialer{name: name, device: device, asks: make(chan ask), done: make(chan struct{})}
	defer ns.Close()               //nolint:errcheck // the thread is in it then, or could not be
	entered := make(chan error, 2) // that it is in, and how it ended
	go func() {
		err := sys.InNetwork(ns, func() error {
			entered <- nil
			d.serve()
			return nil
		})
		entered <- err
	}()
	if err := <-entered; err != nil {
		return nil, fmt.Errorf("%w (it takes CAP_SYS_ADMIN)", err)
	}
	if got, err := d.ask(context.Background(), ask{devices: true}); err == nil {
		d.way.index = got.index // whatever routes it has it had before
	}
	return d, nil
}

// Close ends the thread. Connections stay.
func (d *Dialer) Close() { close(d.done) }

// serve makes sockets, on a thread that is in the namespace.
func (d *Dialer) serve() {
	for {
		select {
		case a := <-d.asks:
			var got answer
			if a.devices {
				got.index, got.err = upDevice(d.device)
			} else {
				got.fd, got.err = unix.Socket(a.family, a.kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			}
			a.answer <- got
		case <-d.done:
			return
		}
	}
}

// socket returns a socket of the namespace, which the caller closes.
func (d *Dialer) socket(ctx context.Context, family, kind int) (int, error) {
	got, err := d.ask(ctx, ask{family: family, kind: kind})
	if err != nil {
		return -1, err
	}
	return got.fd, os.NewSyscallError("socket", got.err)
}

// ask has the thread do something.
func (d *Dialer) ask(ctx context.Context, a ask) (answer, error) {
	a.answer = make(chan answer, 1)
	select {
	case d.asks <- a:
	case <-d.done:
		return answer{}, net.ErrClosed
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
	return <-a.answer, nil
}

// DialContext connects to address, which must be one and not a name. network is
// tcp or udp, with or without a 4 or 6. While the device is not there, or has no routes
// yet, it waits until ctx ends: that of a port goes with the switch, and comes with the next.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, d.failed(network, address, err)
	}
	kind := unix.SOCK_STREAM
	if strings.HasPrefix(network, "udp") {
		kind = unix.SOCK_DGRAM
	}
	var met error // while the device was away
	for {
		c, err := d.dial(ctx, kind, to)
		if err == nil {
			return c, nil
		}
		if noWay(err) && d.away(ctx) {
			met = err
			select {
			case <-time.After(awayPause):
			case <-ctx.Done():
			}
		} else if met == nil || ctx.Err() == nil {
			return nil, d.failed(network, address, err)
		}
		if ctx.Err() != nil {
			return nil, d.failed(network, address, fmt.Errorf("%w; is the dataplane running? %w", met, ctx.Err()))
		}
	}
}

// dial tries once.
func (d *Dialer) dial(ctx context.Context, kind int, to netip.AddrPort) (net.Conn, error) {
	family, sockaddr := target(to)
	fd, err := d.socket(ctx, family, kind)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close() //nolint:errcheck // FileConn has its own
	if err := connect(ctx, f, sockaddr); err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

func (d *Dialer) failed(network, address string, err error) error {
	return fmt.Errorf("dial %s %s in network namespace %s: %w", network, address, d.name, err)
}

func target(to netip.AddrPort) (family int, sa unix.Sockaddr) {
	if a := to.Addr().Unmap(); a.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: a.As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}

// connect connects a socket, and waits until it is, has failed, or ctx ends.
func connect(ctx context.Context, f *os.File, to unix.Sockaddr) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := raw.Control(func(fd uintptr) { result = unix.Connect(int(fd), to) }); err != nil {
		return err
	}
	if result != unix.EINPROGRESS {
		return os.NewSyscallError("connect", result)
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) }) // which is over
	defer stop()
	err = raw.Write(func(fd uintptr) (over bool) {
		over, result = outcome(int(fd))
		return over
	})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	}
	return os.NewSyscallError("connect", result)
}

// outcome returns how a connection that was begun has come out, if it has.
func outcome(fd int) (over bool, err error) {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	switch {
	case err != nil:
		return true, err
	case n != 0:
		return true, syscall.Errno(n)
	}
	if _, err = unix.Getpeername(fd); err == unix.ENOTCONN {
		return false, nil
	}
	return true, err
}
