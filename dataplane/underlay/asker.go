package underlay

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"millrace/dataplane"
)

// An asker asks the kernel. What it has looked up in one go it asks once.
type asker struct {
	asked map[neighbour]time.Time // neighbours without an address that the kernel was told to ask for
	lack  bool                    // there are some, or the kernel could not be asked
	err   error                   // why it could not be

	links      map[int]netlink.Link
	neighbours map[table]map[netip.Addr]netlink.Neigh
}

// A neighbour is a host on the network of a device.
type neighbour struct {
	index int
	ip    netip.Addr
}

// A table is the neighbours of a device of one family.
type table struct{ index, family int }

// waiting reports whether the last look is to be repeated soon.
func (a *asker) waiting() bool { return a.lack }

// look looks for ways to hosts. inUse says that it is time to tell the kernel of
// neighbours in use. An error says that the kernel could not be asked, so nothing of ways.
func (a *asker) look(hosts []dataplane.Host, inUse bool) (view, error) {
	a.links, a.neighbours, a.lack, a.err = map[int]netlink.Link{}, map[table]map[netip.Addr]netlink.Neigh{}, false, nil
	addresses, err := addressesOf()
	if err != nil {
		a.lack = true
		return view{}, err
	}
	v := view{ways: make(map[dataplane.Host]dataplane.Way, len(hosts)), addresses: addresses}
	for _, h := range hosts {
		if h.Local.IsValid() && !v.has(h.Local) {
			v.ways[h] = dataplane.Way{Reason: fmt.Sprintf("local_ip %s is no address of this host", h.Local)}
			continue
		}
		v.ways[h] = a.way(h, inUse)
	}
	if a.err != nil {
		a.lack = true
		return view{}, a.err
	}
	return v, nil
}

// note keeps an error that says that the kernel could not be asked, for want of descriptors or
// memory, rather than what it answers.
func (a *asker) note(what string, err error) {
	for _, want := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS} {
		if errors.Is(err, want) {
			a.err = fmt.Errorf("%s: %w", what, err)
		}
	}
}

// has reports whether some device has an address.
func (v view) has(a netip.Addr) bool {
	for _, l := range v.addresses {
		if slices.Contains(l, a) {
			return true
		}
	}
	return false
}

// way finds the way to one host.
func (a *asker) way(h dataplane.Host, inUse bool) dataplane.Way {
	o := &netlink.RouteGetOptions{}
	if h.Local.IsValid() {
		o.SrcAddr = h.Local.AsSlice()
	}
	routes, err := netlink.RouteGetWithOptions(h.Remote.AsSlice(), o)
	a.note("ask for a route", err)
	if err != nil || len(routes) == 0 {
		return dataplane.Way{Reason: text(h, err)}
	}
	r := &routes[0]
	switch r.Type {
	case unix.RTN_LOCAL:
		return dataplane.Way{Reason: fmt.Sprintf("%s is an address of this host", h.Remote)}
	case unix.RTN_UNICAST:
	default:
		return dataplane.Way{Reason: fmt.Sprintf("the route to %s is none for packets", h.Remote)}
	}
	return a.by(h, r, inUse)
}

// by is the way by a route.
func (a *asker) by(h dataplane.Host, r *netlink.Route, inUse bool) dataplane.Way {
	l := a.link(r.LinkIndex)
	if l == nil {
		return dataplane.Way{Reason: fmt.Sprintf("no route to %s", h.Remote)}
	}
	at := l.Attrs()
	w := dataplane.Way{Device: at.Index, Name: at.Name}
	if len(at.HardwareAddr) != 6 {
		w.Reason = fmt.Sprintf("%s is reached by %s, which is no Ethernet device", h.Remote, at.Name)
		return w
	}
	w.Path.MTU, w.Path.Source = at.MTU, [6]byte(at.HardwareAddr)
	if r.MTU != 0 {
		w.Path.MTU = r.MTU
	}
	if w.Path.Local = h.Local; !w.Path.Local.IsValid() {
		src, ok := netip.AddrFromSlice(r.Src)
		if !ok {
			w.Reason = fmt.Sprintf("%s has no address to send to %s from", at.Name, h.Remote)
			return w
		}
		w.Path.Local = src.Unmap()
	}
	next := h.Remote
	if gw, ok := netip.AddrFromSlice(r.Gw); ok && !gw.IsUnspecified() {
		next = gw.Unmap()
	} else if via, ok := r.Via.(*netlink.Via); ok {
		if gw, ok := netip.AddrFromSlice(via.Addr); ok {
			next = gw.Unmap()
		}
	}
	w.Path.Next, w.Reason = a.next(neighbour{at.Index, next}, at.Name, inUse)
	return w
}

// link returns a device, or nil.
func (a *asker) link(index int) netlink.Link {
	l, ok := a.links[index]
	if !ok {
		var err error
		l, err = netlink.LinkByIndex(index)
		a.note("ask for a device", err)
		a.links[index] = l
	}
	return l
}

// usable are the states of neighbours whose address is good.
const usable = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT | netlink.NUD_NOARP

// next returns a neighbour's Ethernet address, or why there is none.
func (a *asker) next(n neighbour, device string, inUse bool) (mac [6]byte, reason string) {
	e, known := a.entry(n)
	if known && e.State&usable != 0 && len(e.HardwareAddr) == 6 {
		delete(a.asked, n)
		if inUse && e.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) == 0 {
			_ = use(n) // it is seen in what becomes of it
		}
		return [6]byte(e.HardwareAddr), ""
	}
	a.lack = true
	if time.Since(a.asked[n]) >= askEvery {
		a.asked[n] = time.Now()
		err := use(n)
		a.note("have a neighbour asked for", err)
		if err != nil {
			return mac, fmt.Sprintf("have the kernel ask for %s on %s: %v", n.ip, device, err)
		}
	}
	return mac, fmt.Sprintf("%s does not answer on %s (ARP or neighbour discovery)", n.ip, device)
}

// entry looks a neighbour up.
func (a *asker) entry(n neighbour) (netlink.Neigh, bool) {
	t := table{n.index, unix.AF_INET}
	if !n.ip.Is4() {
		t.family = unix.AF_INET6
	}
	list, ok := a.neighbours[t]
	if !ok {
		list = map[netip.Addr]netlink.Neigh{}
		all, err := netlink.NeighList(t.index, t.family)
		a.note("list neighbours", err)
		for _, e := range all {
			if ip, ok := netip.AddrFromSlice(e.IP); ok {
				list[ip.Unmap()] = e
			}
		}
		a.neighbours[t] = list
	}
	e, ok := list[n.ip]
	return e, ok
}

// use tells the kernel that a neighbour is in use, so that it has an address that
// is not old. netlink.NeighSet would send an empty address along.
func use(n neighbour) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_ACK)
	m := &netlink.Ndmsg{Family: unix.AF_INET6, Index: uint32(n.index), Flags: netlink.NTF_USE}
	if n.ip.Is4() {
		m.Family = unix.AF_INET
	}
	req.AddData(m)
	req.AddData(nl.NewRtAttr(unix.NDA_DST, n.ip.AsSlice()))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
