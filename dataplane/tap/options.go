package tap

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
)

const (
	// QueuesMax is the most queues of a device.
	QueuesMax = 64

	// DefaultQueues is how many a device has where Options say nothing: a pod
	// rarely has more than one worker could carry, and each costs a little
	// whether it is used or not.
	DefaultQueues = 1

	// NameMax is the longest name of a device in bytes (IFNAMSIZ, less the
	// final zero).
	NameMax = unix.IFNAMSIZ - 1

	// MTUMax is the largest MTU that Settings may ask for: a frame of FrameMax
	// with a tag.
	MTUMax = packet.FrameMax - packet.FrameMin - tagLen

	mtuMin = 68 // RFC 791
)

// ErrOptions is the error of options that no port can have.
var ErrOptions = errors.New("bad tap port")

// Options say what a port shall be and what surrounds it.
type Options struct {
	Name    string // of the port, and of the device if Device is empty
	Device  string // name of the device
	Netns   string // network namespace of the device: a path, or a name below /run/netns; empty: the process's
	Persist bool   // the device stays when the port is closed or the process ends
	Queues  int    // 0: DefaultQueues
	Plain   bool   // agree with the kernel on no checksum or segmentation offload
	Settings

	// Quiesce returns when every worker has ended the turn it was in and has
	// taken note of WakeFD of all queues. It must not wait for any of the port's
	// methods. Nil: there are no workers.
	Quiesce func()

	// Changed is told that State is different now. It must not wait for any of
	// the port's methods but State. Nil: nobody wants to know.
	Changed func()

	Kernel *Kernel // shared by the ports of the process

	Log *zap.Logger // nil: no log
}

// Settings are what can be changed while the port works. They are given to the
// device when it is made and when they change; what others change afterwards is
// followed, not undone.
type Settings struct {
	MTU       int              // largest payload of a frame in bytes; 0: the kernel's choice
	MAC       net.HardwareAddr // nil: the kernel's choice
	Addresses []netip.Prefix   // of the host on the device
	Up        bool             // take the device up
}

// Equal reports whether two settings are the same.
func (s Settings) Equal(o Settings) bool {
	return s.MTU == o.MTU && s.Up == o.Up && slices.Equal(s.MAC, o.MAC) && slices.Equal(s.Addresses, o.Addresses)
}

func (s Settings) check() error {
	switch {
	case s.MTU != 0 && (s.MTU < mtuMin || s.MTU > MTUMax):
		return fmt.Errorf("%w: MTU %d, must be %d to %d", ErrOptions, s.MTU, mtuMin, MTUMax)
	case s.MAC != nil && (len(s.MAC) != 6 || s.MAC[0]&1 != 0):
		return fmt.Errorf("%w: %s is not the address of one station", ErrOptions, s.MAC)
	case slices.ContainsFunc(s.Addresses, func(p netip.Prefix) bool { return !p.IsValid() }):
		return fmt.Errorf("%w: an address is not valid", ErrOptions)
	}
	return nil
}

// CheckName refuses what cannot be the name of a device. The kernel takes a
// percent sign for a request to choose a number.
func CheckName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("%q is no name of a device", name)
	case len(name) > NameMax:
		return fmt.Errorf("name %q has %d bytes, and a device's at most %d", name, len(name), NameMax)
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r == ':' || r == '%' || r == 0x7f }):
		return fmt.Errorf("name %q has a character that a device's cannot have: a blank, slash, colon or percent sign", name)
	}
	return nil
}

// withDefaults fills in what o leaves open, and refuses what cannot be.
func (o Options) withDefaults() (Options, error) {
	if o.Device == "" {
		o.Device = o.Name
	}
	if err := CheckName(o.Device); err != nil {
		return o, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	if err := o.Settings.check(); err != nil {
		return o, err
	}
	switch {
	case o.Queues < 0 || o.Queues > QueuesMax:
		return o, fmt.Errorf("%w: %d queues, at most %d", ErrOptions, o.Queues, QueuesMax)
	case o.Kernel == nil:
		return o, fmt.Errorf("%w: no Kernel", ErrOptions)
	}
	if o.Queues == 0 {
		o.Queues = DefaultQueues
	}
	if o.Quiesce == nil {
		o.Quiesce = func() {}
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	o.Log = o.Log.With(zap.String("port", o.Name))
	return o, nil
}
