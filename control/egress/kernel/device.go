package kernel

import (
	"context"
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// What a dial does while the device of the port is away.
const (
	awayPause = 20 * time.Millisecond // between two attempts
	// settles is how long a device that has come may take to have its addresses and routes:
	// the kernel looks for a second whether another one has an IPv6 address (RFC 4862, 5.4),
	// and whoever sets routes by gateways looks for a new device twice a second.
	settles = 2 * time.Second
)

// A way is the device that was seen last.
type way struct {
	index int       // 0: none was up
	since time.Time // when that was seen first, if there was another before; else zero
}

// noWay reports whether a dial has failed as it does where the device is away.
func noWay(err error) bool {
	for _, e := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN, unix.EADDRNOTAVAIL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// away reports whether the device is not there, or has not been there for long enough to
// have routes. If ctx ends before that is known it may be.
func (d *Dialer) away(ctx context.Context) bool {
	got, err := d.ask(ctx, ask{devices: true})
	if err != nil || got.err != nil {
		return ctx.Err() != nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if got.index != d.way.index {
		d.way = way{got.index, time.Now()}
	}
	return got.index == 0 || time.Since(d.way.since) < settles
}

// upDevice returns the index of a device of the thread's namespace that is up, but for the
// loopback; of the one called name if that is not empty. 0: there is none.
func upDevice(name string) (int, error) {
	all, err := net.Interfaces()
	if err != nil {
		return 0, err
	}
	for _, i := range all {
		if i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0 && i.Flags&net.FlagRunning != 0 && (name == "" || i.Name == name) {
			return i.Index, nil
		}
	}
	return 0, nil
}
