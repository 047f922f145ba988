package tap

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
	"millrace/dataplane/sys"
)

// tunPath is what devices are made by (Documentation/networking/tuntap.rst).
const tunPath = "/dev/net/tun"

// Errors that say how soon it is worth to try again.
var (
	errNetns = errors.New("no such network namespace") // it may come at any moment
	errTaken = errors.New("name is taken")             // it may become free
	errGone  = errors.New("device is gone")
)

// A device is what the kernel has of a port: one descriptor for each queue.
type device struct {
	files []sys.FD
	takes packet.Takes // what frames may ask for, in both directions
}

// A View is a device as it was seen last.
type View struct {
	Name  string // it may have been renamed
	Index int    // in its network namespace
	MAC   string
	MTU   int
	Up    bool   // it was taken up (IFF_UP)
	Netns uint64 // inode number of its network namespace; 0: not known
}

// newDevice makes the device that o describes, in its network namespace, down
// and with the kernel's settings.
func newDevice(o *Options) (*device, error) {
	target, err := openNetns(o.Netns)
	if err != nil {
		return nil, err
	}
	defer target.Close()
	if target.Valid() && o.Persist {
		return newDeviceIn(target, o)
	}
	name := o.Device
	if target.Valid() {
		name = "millrace%d" // for a moment, in ours: the kernel chooses a number
	}
	d, err := makeDevice(name, o)
	if err != nil {
		return nil, err
	}
	if target.Valid() {
		if err := d.move(target, o.Device); err != nil {
			return nil, errors.Join(fmt.Errorf("move to network namespace %s: %w", o.Netns, err), d.close())
		}
	}
	return d, nil
}

// newDeviceIn makes a device in another network namespace, or takes the persistent
// one that is there: the namespace of a tun descriptor is that of the thread that
// opened it.
func newDeviceIn(target sys.FD, o *Options) (d *device, err error) {
	err = within(target, func() error {
		d, err = makeDevice(o.Device, o)
		return err
	})
	return d, err
}

// makeDevice makes a device in the thread's network namespace, or takes a
// persistent one.
func makeDevice(name string, o *Options) (*device, error) {
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if o.Queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE // it costs 256 queues in the kernel
	}
	excl := uint16(unix.IFF_TUN_EXCL)
	if o.Persist && ownable(name, flags) {
		excl = 0
	}
	d := &device{}
	for range o.Queues {
		f, got, err := attach(name, flags|excl)
		if err != nil {
			return nil, errors.Join(err, d.close())
		}
		if d.takes, err = setOffload(f.Int(), o.Plain); err != nil {
			return nil, errors.Join(err, f.Close(), d.close())
		}
		d.files = append(d.files, f)
		name, excl = got, 0
	}
	if o.Persist {
		if err := unix.IoctlSetInt(d.files[0].Int(), unix.TUNSETPERSIST, 1); err != nil {
			return nil, errors.Join(fmt.Errorf("make device %s persistent: %w", name, err), d.close())
		}
	}
	return d, nil
}

// ownable reports whether there is a persistent device of that name and kind that
// nobody has.
func ownable(name string, flags uint16) bool {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return false
	}
	t, ok := l.(*netlink.Tuntap)
	multi := flags&unix.IFF_MULTI_QUEUE != 0
	return ok && !t.NonPersist && t.Mode == netlink.TUNTAP_MODE_TAP && t.Queues == 0 &&
		multi == (t.Flags&netlink.TUNTAP_MULTI_QUEUE != 0)
}

// attach opens one queue of device name, and returns the name that the kernel
// has given it.
func attach(name string, flags uint16) (sys.FD, string, error) {
	n, err := unix.Open(tunPath, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return sys.NoFD, "", fmt.Errorf("open %s: %w%s", tunPath, err, remedy(err))
	}
	f := sys.NewFD(n)
	r, err := unix.NewIfreq(name)
	if err == nil {
		r.SetUint16(flags)
		err = unix.IoctlIfreq(n, unix.TUNSETIFF, r)
	}
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EINVAL) && flags&unix.IFF_TUN_EXCL == 0:
		err = fmt.Errorf("%w: there is another device %s: remove it with `ip link del %s`, or choose another name", errTaken, name, name)
	case err != nil:
		err = fmt.Errorf("make device %s: %w%s", name, err, remedy(err))
	default:
		err = setHeader(n)
	}
	if err != nil {
		_ = f.Close()
		return sys.NoFD, "", err
	}
	return f, r.Name(), nil
}

// setHeader agrees with the kernel on the header of frames.
func setHeader(fd int) error {
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, hdrLen); err != nil {
		return fmt.Errorf("set length of virtio-net header: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, 1); err != nil {
		return fmt.Errorf("set byte order of virtio-net header: %w", err)
	}
	return nil
}

// setOffload agrees with the kernel on what frames may ask for: as much as it knows, or
// nothing.
func setOffload(fd int, plain bool) (packet.Takes, error) {
	for _, o := range tunOffloads {
		if plain && o.flags != 0 {
			continue
		}
		err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, o.flags)
		if err == nil {
			return o.takes, nil
		}
		if !errors.Is(err, unix.EINVAL) || o.flags == 0 {
			return 0, fmt.Errorf("set offloads: %w", err)
		}
	}
	return 0, nil
}

// remedy says what to do about an error of the kernel.
func remedy(err error) string {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return ": the dataplane needs CAP_NET_ADMIN, and in a container the device " + tunPath + "; for other network namespaces CAP_SYS_ADMIN"
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return ": the kernel has no TAP devices: load module tun, or give the container " + tunPath
	}
	return ""
}

// close closes all queues. With the last one a device that is not persistent
// goes.
func (d *device) close() error {
	var errs []error
	for i := range d.files {
		errs = append(errs, d.files[i].Close())
	}
	return errors.Join(errs...)
}

// name is what the device is called now, wherever it is.
func (d *device) name() (string, error) {
	r, err := unix.NewIfreq("")
	if err == nil {
		err = unix.IoctlIfreq(d.files[0].Int(), unix.TUNGETIFF, r)
	}
	if errors.Is(err, unix.EBADFD) {
		return "", errGone
	}
	if err != nil {
		return "", fmt.Errorf("ask for the device's name: %w", err)
	}
	return r.Name(), nil
}

// A place is where a device is, while one deals with it.
type place struct {
	link  netlink.Link
	h     *netlink.Handle
	netns sys.FD // none: ours
	inode uint64
}

func (p *place) close() {
	p.h.Close()
	_ = p.netns.Close()
}

// find finds the device: its name, asked for by descriptor, in the namespace that
// the kernel names. It must be closed soon: what it holds keeps a namespace from
// going.
func (d *device) find() (*place, error) {
	var err error
	for range 3 { // it may be renamed or moved meanwhile
		var name string
		if name, err = d.name(); err != nil {
			return nil, err
		}
		p := &place{}
		if p.netns, p.inode, err = d.whereabouts(); err != nil {
			return nil, err
		}
		if p.h, err = handleAt(p.netns); err != nil {
			return nil, errors.Join(err, p.netns.Close())
		}
		if p.link, err = p.h.LinkByName(name); err == nil {
			return p, nil
		}
		p.close()
		err = fmt.Errorf("look for device %s: %w", name, err)
	}
	return nil, err
}

// whereabouts returns the device's network namespace: none if it is ours, or if
// the kernel cannot tell (before 5.8).
func (d *device) whereabouts() (sys.FD, uint64, error) {
	n, err := unix.IoctlRetInt(d.files[0].Int(), unix.TUNGETDEVNETNS)
	switch {
	case errors.Is(err, unix.EBADFD):
		return sys.NoFD, 0, errGone
	case err != nil:
		return sys.NoFD, 0, nil
	}
	f := sys.NewFD(n)
	inode, err := inodeOf(n)
	if err != nil {
		return sys.NoFD, 0, errors.Join(err, f.Close())
	}
	if own, err := ownNetns(); err != nil || own == inode {
		return sys.NoFD, inode, errors.Join(err, f.Close())
	}
	return f, inode, nil
}

// look says how the device is.
func (d *device) look() (View, error) {
	p, err := d.find()
	if err != nil {
		return View{}, err
	}
	defer p.close()
	p.beHeard()
	a := p.link.Attrs()
	return View{
		Name: a.Name, Index: a.Index, MAC: a.HardwareAddr.String(), MTU: a.MTU,
		Up: a.RawFlags&unix.IFF_UP != 0, Netns: p.inode,
	}, nil
}

// apply gives the device settings that differ from old. All are tried.
func (d *device) apply(s, old Settings) error {
	p, err := d.find()
	if err != nil {
		return err
	}
	defer p.close()
	var errs []error
	try := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	if s.MTU != 0 && s.MTU != old.MTU {
		try(fmt.Sprintf("MTU %d", s.MTU), p.h.LinkSetMTU(p.link, s.MTU))
	}
	if len(s.MAC) > 0 && s.MAC.String() != old.MAC.String() {
		try("address "+s.MAC.String(), p.h.LinkSetHardwareAddr(p.link, s.MAC))
	}
	try("addresses", p.addresses(s, old))
	switch {
	case s.Up && !old.Up:
		try("up", p.h.LinkSetUp(p.link))
	case !s.Up && old.Up:
		try("down", p.h.LinkSetDown(p.link))
	}
	return errors.Join(errs...)
}

// addresses takes those addresses away that only old has, and gives the device those
// of s: in this order, for with the first address of a network the kernel takes away
// the others.
func (p *place) addresses(s, old Settings) error {
	var errs []error
	for _, a := range old.Addresses {
		if slices.Contains(s.Addresses, a) {
			continue
		}
		err := p.h.AddrDel(p.link, &netlink.Addr{IPNet: ipNet(a.String())})
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			errs = append(errs, fmt.Errorf("remove %s: %w", a, err))
		}
	}
	for _, a := range s.Addresses {
		if err := p.h.AddrReplace(p.link, &netlink.Addr{IPNet: ipNet(a.String())}); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a, err))
		}
	}
	return errors.Join(errs...)
}

// ipNet is an address with its prefix, which is valid, as netlink wants it.
func ipNet(s string) *net.IPNet {
	ip, n, err := net.ParseCIDR(s)
	if err != nil {
		return nil
	}
	n.IP = ip
	return n
}
