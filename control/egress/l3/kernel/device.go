// Package kernel gives a tunnel a network device of the kernel (TUN) as its inner
// end.
package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"millrace/dataplane/sys"
)

// Options say which device.
type Options struct {
	Name      string
	Netns     string // network namespace: a name below /run/netns, or a path; empty: ours
	MTU       int
	Addresses []netip.Addr
	Forward   bool // have the namespace forward packets. It should be one for this alone
}

// A Device is a TUN device, which is gone when it is closed.
type Device struct {
	tun.Device
	mtu    int
	handle *netlink.Handle
	index  int
	events chan tun.Event
	close  func() error

	mu     sync.Mutex
	routes []netip.Prefix // by mu
}

// Open makes the device.
func Open(o Options) (*Device, error) {
	d := &Device{mtu: o.MTU, events: make(chan tun.Event)}
	err := within(o.Netns, func() (err error) {
		if d.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("open a netlink socket: %w", err)
		}
		if o.Forward {
			if err := forward(); err != nil {
				return err
			}
		}
		if d.Device, err = create(o.Name); err != nil {
			return err
		}
		return nil
	})
	if err == nil {
		err = d.setUp(o)
	}
	if err != nil {
		if d.Device != nil {
			_ = d.Device.Close()
		}
		if d.handle != nil {
			d.handle.Close()
		}
		return nil, fmt.Errorf("make network device %s: %w", o.Name, err)
	}
	d.close = sync.OnceValue(func() error {
		close(d.events)
		d.handle.Close()
		return d.Device.Close()
	})
	return d, nil
}

// addrGenNone is IN6_ADDR_GEN_MODE_NONE (linux/if_link.h).
const addrGenNone = 1

// within calls fn on a thread that is in a network namespace.
func within(name string, fn func() error) error {
	if name == "" {
		return fn()
	}
	path := name
	if !strings.Contains(name, "/") {
		path = "/run/netns/" + name
	}
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w (`ip netns list` has their names)", name, err)
	}
	defer ns.Close()
	return sys.InNetwork(ns, fn)
}

// forward has the namespace that the thread is in forward packets.
func forward() error {
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		err := sys.SetSysctl(name, "1")
		if err != nil && !(errors.Is(err, os.ErrNotExist) && strings.HasPrefix(name, "net/ipv6")) {
			return fmt.Errorf("turn on forwarding: %w", err)
		}
	}
	return nil
}

// create opens a TUN device with offloads in the namespace that the thread is in.
func create(name string) (tun.Device, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("%w (it takes CAP_NET_ADMIN, and a name that no other device has)", err)
	}
	d, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
	return d, err
}

func (d *Device) setUp(o Options) error {
	link, err := d.handle.LinkByName(o.Name)
	if err != nil {
		return err
	}
	d.index = link.Attrs().Index
	// No address of its own accord: the tunnel carries none. Where there is no IPv6, there is none to turn off.
	_ = d.handle.LinkSetIP6AddrGenMode(link, addrGenNone)
	if err := d.handle.LinkSetMTU(link, o.MTU); err != nil {
		return fmt.Errorf("set MTU: %w", err)
	}
	for _, a := range o.Addresses {
		addr := &netlink.Addr{IPNet: network(netip.PrefixFrom(a, a.BitLen())), Flags: unix.IFA_F_NODAD}
		if err := d.handle.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add address %s: %w", a, err)
		}
	}
	if err := d.handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}

func network(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Route has the kernel send packets to these prefixes, and to no others, by the
// device. If one cannot be had, those of before stay and no other comes.
func (d *Device) Route(prefixes []netip.Prefix) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := slices.Clone(d.routes)
	if err := d.add(prefixes); err != nil {
		return errors.Join(err, d.keep(before))
	}
	return d.keep(prefixes)
}

// add adds the routes that there are not. The caller holds mu.
func (d *Device) add(prefixes []netip.Prefix) error {
	for _, p := range prefixes {
		if slices.Contains(d.routes, p) {
			continue
		}
		if err := d.handle.RouteAdd(d.route(p)); err != nil {
			return fmt.Errorf("add the route to %s: %w (another device may have one)", p, err)
		}
		d.routes = append(d.routes, p)
	}
	return nil
}

// keep deletes the routes to others than prefixes. The caller holds mu.
func (d *Device) keep(prefixes []netip.Prefix) error {
	for _, p := range slices.Clone(d.routes) {
		if slices.Contains(prefixes, p) {
			continue
		}
		if err := d.handle.RouteDel(d.route(p)); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("delete the route to %s: %w", p, err)
		}
		d.routes = slices.DeleteFunc(d.routes, func(q netip.Prefix) bool { return q == p })
	}
	return nil
}

func (d *Device) route(p netip.Prefix) *netlink.Route {
	return &netlink.Route{LinkIndex: d.index, Dst: network(p), Scope: netlink.SCOPE_LINK}
}

// MTU is that which the device was made with.
func (d *Device) MTU() (int, error) { return d.mtu, nil }

// Events never has any: the device is up from the beginning.
func (d *Device) Events() <-chan tun.Event { return d.events }

// Close deletes the device.
func (d *Device) Close() error { return d.close() }
