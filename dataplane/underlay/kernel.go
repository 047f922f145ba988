package underlay

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"millrace/dataplane"
)

// Times of a Kernel.
const (
	useEvery = 5 * time.Second       // the kernel is told that neighbours are in use
	askEvery = time.Second           // it is told to ask for an address, if there is none
	settle   = 20 * time.Millisecond // what happens together is looked at together
)

// A Kernel is the Underlay of the network namespace of the process. It has a
// goroutine and sockets while there is something to follow. The zero Kernel is ready
// for use.
type Kernel struct {
	mu      sync.Mutex
	hosts   []dataplane.Host
	changed func()
	last    view
	stop    chan struct{} // ends the goroutine; nil: there is none
	news    chan struct{} // capacity 1: look again
}

// A view is what the kernel knew at one time.
type view struct {
	ways      map[dataplane.Host]dataplane.Way
	addresses map[int][]netip.Addr // by index of device
}

// equal reports whether two views are the same.
func (v view) equal(o view) bool {
	return maps.Equal(v.ways, o.ways) && maps.EqualFunc(v.addresses, o.addresses, slices.Equal[[]netip.Addr])
}

// Follow implements dataplane.Underlay.
func (k *Kernel) Follow(hosts []dataplane.Host, changed func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hosts, k.changed = slices.Clone(hosts), changed // nil stays nil
	switch {
	case hosts == nil && k.stop != nil:
		close(k.stop)
		k.stop, k.last = nil, view{}
	case hosts != nil && k.stop == nil:
		k.stop, k.news = make(chan struct{}), make(chan struct{}, 1)
		go k.run(k.stop, k.news)
		fallthrough
	case hosts != nil:
		poke(k.news)
	}
}

// poke has a goroutine look. It does not wait.
func poke(news chan struct{}) {
	select {
	case news <- struct{}{}:
	default:
	}
}

// Way implements dataplane.Underlay.
func (k *Kernel) Way(h dataplane.Host) dataplane.Way {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w, ok := k.last.ways[h]; ok {
		return w
	}
	return dataplane.Way{Reason: "looking for a way to " + h.Remote.String()}
}

// Addresses implements dataplane.Underlay.
func (k *Kernel) Addresses(index int) []netip.Addr {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.last.addresses[index]
}

// Netns implements dataplane.Underlay.
func (k *Kernel) Netns() uint64 {
	info, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		return 0
	}
	st, _ := info.Sys().(*syscall.Stat_t)
	if st == nil {
		return 0
	}
	return st.Ino
}

// run follows the kernel until stop is closed.
func (k *Kernel) run(stop, news chan struct{}) {
	sock := listen(stop, news)
	defer func() {
		if sock != nil {
			sock.Close()
		}
	}()
	use := time.NewTicker(useEvery)
	defer use.Stop()
	again := time.NewTimer(useEvery) // asks once more for what has not answered
	defer again.Stop()
	a := asker{asked: map[neighbour]time.Time{}}
	for {
		inUse := false
		select {
		case <-stop:
			return
		case <-news:
			time.Sleep(settle)
		case <-again.C:
		case <-use.C:
			inUse = true
			if sock == nil {
				sock = listen(stop, news)
			}
		}
		k.look(stop, &a, inUse)
		if a.waiting() {
			again.Reset(askEvery)
		}
	}
}

// listen has poke called for whatever happens to routes, neighbours, devices and
// addresses. Without a socket, ways are looked at every useEvery.
func listen(stop, news chan struct{}) *nl.NetlinkSocket {
	sock, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
	if err != nil {
		return nil
	}
	go func() {
		for {
			_, _, _ = sock.Receive() // an error says that events were lost, or that it is closed
			select {
			case <-stop:
				return
			default:
				poke(news)
			}
		}
	}()
	return sock
}

// look asks the kernel, and tells if anything is different. If it cannot be asked, all is
// left as it was.
func (k *Kernel) look(stop chan struct{}, a *asker, inUse bool) {
	k.mu.Lock()
	hosts := slices.Clone(k.hosts)
	k.mu.Unlock()
	now, err := a.look(hosts, inUse)
	if err != nil {
		return
	}
	k.mu.Lock()
	moved := k.stop == stop && !now.equal(k.last)
	if moved {
		k.last = now
	}
	changed := k.changed
	k.mu.Unlock()
	if moved {
		changed()
	}
}

// addressesOf lists the addresses of all devices.
func addressesOf() (map[int][]netip.Addr, error) {
	const tries = 10 // another change may come while they are listed
	var list []netlink.Addr
	err := error(netlink.ErrDumpInterrupted)
	for n := 0; n < tries && errors.Is(err, netlink.ErrDumpInterrupted); n++ {
		list, err = netlink.AddrList(nil, netlink.FAMILY_ALL)
	}
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	by := map[int][]netip.Addr{}
	for i := range list {
		if a, ok := netip.AddrFromSlice(list[i].IP); ok {
			by[list[i].LinkIndex] = append(by[list[i].LinkIndex], a.Unmap())
		}
	}
	for _, l := range by {
		slices.SortFunc(l, netip.Addr.Compare)
	}
	return by, nil
}

// text is an error of the kernel about a route to a host.
func text(h dataplane.Host, err error) string {
	if err == nil || errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		return fmt.Sprintf("no route to %s", h.Remote)
	}
	return fmt.Sprintf("route to %s: %v", h.Remote, err)
}
