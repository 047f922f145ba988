package cni

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"millrace/control/cni/attach"
	"millrace/dataplane/sys"
)

// A sandbox is a pod's network namespace.
type sandbox struct {
	file  *os.File
	inode uint64
	h     *netlink.Handle
}

// enter opens a pod's network namespace, which is not ours.
func enter(path string) (*sandbox, error) {
	fail := func(code uint, err error) (*sandbox, error) {
		return nil, types.NewError(code, fmt.Sprintf("network namespace %.200s: %v", path, err), "")
	}
	f, err := os.Open(path)
	if err != nil {
		return fail(types.ErrUnknownContainer, err)
	}
	var theirs, ours unix.Stat_t
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err == nil && kind != unix.CLONE_NEWNET {
		err = errors.New("it is a namespace of another kind")
	}
	if err == nil {
		err = errors.Join(unix.Fstat(int(f.Fd()), &theirs), unix.Stat("/proc/self/ns/net", &ours))
	}
	if err == nil && theirs.Ino == ours.Ino {
		err = errors.New("it is the host's")
	}
	if err != nil {
		_ = f.Close()
		return fail(types.ErrInvalidNetNS, err)
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(f.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		_ = f.Close()
		return fail(types.ErrInvalidNetNS, err)
	}
	return &sandbox{f, theirs.Ino, h}, nil
}

func (s *sandbox) close() {
	s.h.Close()
	_ = s.file.Close()
}

// link returns a device of the pod, or nil.
func (s *sandbox) link(name string) (netlink.Link, error) {
	l, err := s.h.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil, nil
	}
	return l, err
}

// ours reports whether a device is one that ADD makes: of a kind of ours, with the
// attachment's address.
func ours(l netlink.Link, mac string) bool {
	return l != nil && (l.Type() == "tuntap" || l.Type() == "veth") && l.Attrs().HardwareAddr.String() == mac
}

// makeVeth makes a pair of devices: the host's end is called like the port.
func (s *sandbox) makeVeth(at *attach.Attachment) error {
	port := at.Port()
	if err := attach.RemoveVeth(port); err != nil { // of an ADD that was killed
		return err
	}
	mac, err := net.ParseMAC(at.MAC)
	if err != nil {
		return err
	}
	a := netlink.NewLinkAttrs()
	a.Name, a.MTU = port, at.MTU
	a.NumTxQueues, a.NumRxQueues = at.Queues, at.Queues // of both ends; 0: as the kernel likes
	v := netlink.NewVeth(a)
	v.PeerName, v.PeerHardwareAddr, v.PeerNamespace = at.IfName, mac, netlink.NsFd(int(s.file.Fd()))
	if err := netlink.LinkAdd(v); err != nil {
		return fmt.Errorf("make veth %s: %w", at.IfName, err)
	}
	err = mute(port)
	var l netlink.Link
	if err == nil {
		l, err = s.link(at.IfName)
	}
	if err == nil && l == nil {
		err = errors.New("the pod's end is gone")
	}
	if err == nil {
		err = errors.Join(s.h.LinkSetMTU(l, at.MTU), s.h.LinkSetUp(l), netlink.LinkSetUp(v))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("veth %s: %w", at.IfName, err), attach.RemoveVeth(port))
	}
	return nil
}

// mute has the host be nobody at its end of a veth: with an IPv6 address of its own accord the pod would
// reach it past the switch.
func mute(port string) error {
	err := sys.SetSysctl("net/ipv6/conf/"+port+"/disable_ipv6", "1")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no IPv6
	}
	return err
}

// remove removes the pod's device, if it is one of ours.
func (s *sandbox) remove(name, mac string) error {
	l, err := s.link(name)
	if err != nil || !ours(l, mac) {
		return err
	}
	if err := s.h.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove device %s of the pod: %w", name, err)
	}
	return nil
}

// configure gives the pod's device its addresses and routes.
func (s *sandbox) configure(name string, r *types100.Result) error {
	l, err := s.link(name)
	if err == nil && l == nil {
		err = errors.New("it is not there")
	}
	if err != nil {
		return fmt.Errorf("device %s of the pod: %w", name, err)
	}
	if err := s.h.LinkSetUp(l); err != nil {
		return fmt.Errorf("take device %s up: %w", name, err)
	}
	if err := s.address(l, r.IPs); err != nil {
		return err
	}
	for _, route := range r.Routes {
		if err := s.route(l, route, r); err != nil {
			return fmt.Errorf("route %s by device %s: %w", route.Dst.String(), name, err)
		}
	}
	if len(r.IPs) > 0 { // nobody has talked to a pod without
		s.announce(l)
	}
	return nil
}

// address gives a device these addresses, and takes others that an ADD has left which was killed.
func (s *sandbox) address(l netlink.Link, ips []*types100.IPConfig) error {
	name := l.Attrs().Name
	have, err := s.h.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("addresses of device %s: %w", name, err)
	}
	for _, a := range have {
		wanted := slices.ContainsFunc(ips, func(ip *types100.IPConfig) bool { return ip.Address.String() == a.IPNet.String() })
		if wanted || a.Scope != unix.RT_SCOPE_UNIVERSE {
			continue
		}
		if err := s.h.AddrDel(l, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("take address %s from device %s: %w", a.IPNet, name, err)
		}
	}
	for _, ip := range ips {
		a := &netlink.Addr{IPNet: &ip.Address}
		if ip.Address.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD // the IPAM plugin sees to it that nobody else has it
			err = s.allowIPv6(name)
		}
		if err == nil {
			err = s.h.AddrReplace(l, a)
		}
		if err != nil {
			return fmt.Errorf("give device %s address %s: %w", name, ip.Address.String(), err)
		}
	}
	return nil
}

// allowIPv6 turns IPv6 on for a device: some runtimes turn it off in pods.
func (s *sandbox) allowIPv6(name string) error {
	err := sys.InNetwork(s.file, func() error { return sys.SetSysctl("net/ipv6/conf/"+name+"/disable_ipv6", "0") })
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("the kernel has no IPv6 on it (ipv6.disable=1?)")
	}
	return err
}

// route adds a route; one without a gateway goes by that of the first address of its
// family.
func (s *sandbox) route(l netlink.Link, r *types.Route, result *types100.Result) error {
	gw := r.GW
	for _, ip := range result.IPs {
		if gw == nil && ip.Gateway != nil && (ip.Gateway.To4() == nil) == (r.Dst.IP.To4() == nil) {
			gw = ip.Gateway
		}
	}
	k := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: &r.Dst, Gw: gw, MTU: r.MTU, AdvMSS: r.AdvMSS, Priority: r.Priority}
	if r.Table != nil {
		k.Table = *r.Table
	}
	if r.Scope != nil {
		k.Scope = netlink.Scope(*r.Scope)
	}
	return s.h.RouteReplace(k)
}

// verify is an error if the pod's device is not as the result says: ADD's, with what later plugins have
// made of it.
func (s *sandbox) verify(at *attach.Attachment, r *types100.Result) error {
	different := func(format string, a ...any) error {
		return types.NewError(attach.CodeDifferent, fmt.Sprintf("device %s of the pod: ", at.IfName)+fmt.Sprintf(format, a...), "")
	}
	l, err := s.link(at.IfName)
	if err != nil {
		return err
	}
	own := interfaceOf(r, at.IfName)
	mac := cmp.Or(r.Interfaces[own].Mac, at.MAC)
	switch {
	case l == nil:
		return different("it is not there")
	case !ours(l, mac):
		return different("it is another one: %s with address %s, not %s", l.Type(), l.Attrs().HardwareAddr, mac)
	case l.Attrs().RawFlags&unix.IFF_UP == 0:
		return different("it is down: `ip link set dev %s up` in the pod", at.IfName)
	}
	have, err := s.h.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, ip := range r.IPs {
		if ip.Interface != nil && *ip.Interface != own {
			continue
		}
		if !slices.ContainsFunc(have, func(a netlink.Addr) bool { return a.IPNet.String() == ip.Address.String() }) {
			return different("it has no address %s", ip.Address.String())
		}
	}
	routes, err := s.h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return err
	}
	for _, want := range r.Routes {
		if !slices.ContainsFunc(routes, func(have netlink.Route) bool { return is(have, want) }) {
			return different("the pod has no route to %s", want.Dst.String())
		}
	}
	return nil
}

// is reports whether the kernel's route is one of a result.
func is(have netlink.Route, want *types.Route) bool {
	return have.Dst != nil && have.Dst.String() == want.Dst.String() && (want.GW == nil || want.GW.Equal(have.Gw))
}
