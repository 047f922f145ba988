package cni

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"millrace/control/cni/attach"
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
	if err := removeHostEnd(port); err != nil { // of an ADD that was killed
		return err
	}
	mac, err := net.ParseMAC(at.MAC)
	if err != nil {
		return err
	}
	a := netlink.NewLinkAttrs()
	a.Name, a.MTU = port, at.MTU
	v := &netlink.Veth{LinkAttrs: a, PeerName: at.IfName, PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(int(s.file.Fd()))}
	if err := netlink.LinkAdd(v); err != nil {
		return fmt.Errorf("make veth %s: %w", at.IfName, err)
	}
	// The host has nothing to say on it.
	_ = os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", port, "disable_ipv6"), []byte("1"), 0)
	l, err := s.link(at.IfName)
	if err == nil && l == nil {
		err = errors.New("the pod's end is gone")
	}
	if err == nil {
		err = errors.Join(s.h.LinkSetMTU(l, at.MTU), s.h.LinkSetUp(l), netlink.LinkSetUp(v))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("veth %s: %w", at.IfName, err), removeHostEnd(port))
	}
	return nil
}

// removeHostEnd removes a veth by its host's end, if there is one.
func removeHostEnd(name string) error {
	l, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) || err == nil && l.Type() != "veth" {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove device %s: %w", name, err)
	}
	return nil
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
	for _, ip := range r.IPs {
		a := &netlink.Addr{IPNet: &ip.Address}
		if ip.Address.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD // the IPAM plugin sees to it that nobody else has it
		}
		if err := s.h.AddrReplace(l, a); err != nil {
			return fmt.Errorf("give device %s address %s: %w", name, ip.Address.String(), err)
		}
	}
	for _, route := range r.Routes {
		if err := s.route(l, route, r); err != nil {
			return fmt.Errorf("route %s by device %s: %w", route.Dst.String(), name, err)
		}
	}
	return nil
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

// verify is an error if the pod's device is not as ADD has left it.
func (s *sandbox) verify(at *attach.Attachment, r *types100.Result) error {
	different := func(format string, a ...any) error {
		return types.NewError(attach.CodeDifferent, fmt.Sprintf("device %s of the pod: ", at.IfName)+fmt.Sprintf(format, a...), "")
	}
	l, err := s.link(at.IfName)
	if err != nil {
		return err
	}
	switch {
	case l == nil:
		return different("it is not there")
	case !ours(l, at.MAC):
		return different("it is another one: %s with address %s, not %s", l.Type(), l.Attrs().HardwareAddr, at.MAC)
	case l.Attrs().RawFlags&unix.IFF_UP == 0:
		return different("it is down")
	}
	have, err := s.h.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, ip := range r.IPs {
		found := false
		for _, a := range have {
			found = found || a.IPNet.String() == ip.Address.String()
		}
		if !found {
			return different("it has no address %s", ip.Address.String())
		}
	}
	return nil
}
