package afxdp

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A Watcher tells ports that something has happened to their device: that it is
// there, up, down, gone, has another MTU or other addresses. One serves all
// ports of a process; it has a netlink socket while a port uses it, in the
// network namespace of the process. The zero Watcher is ready for use.
//
// It is an aid, not a promise: ports look for themselves besides, seldom.
type Watcher struct {
	mu   sync.Mutex
	sock *nl.NetlinkSocket // nil while nobody watches
	subs map[*watch]struct{}
}

// A watch is one port's interest in a device.
type watch struct {
	w     *Watcher
	name  string
	index int           // of the device that the port has, 0 for none; guarded by w.mu
	last  int           // of the device that it had last; guarded by w.mu
	moved bool          // that device went to another network namespace; guarded by w.mu
	news  chan struct{} // capacity 1: look again
}

// watch begins to watch device name. w may be nil: there are no news then.
func (w *Watcher) watch(name string) (*watch, error) {
	s := &watch{w: w, name: name, news: make(chan struct{}, 1)}
	if w == nil {
		return s, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sock == nil {
		sock, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
		if err != nil {
			return nil, fmt.Errorf("watch network devices: %w", err)
		}
		w.sock, w.subs = sock, map[*watch]struct{}{}
		go w.run(sock)
	}
	w.subs[s] = struct{}{}
	return s, nil
}

// end ends the interest.
func (s *watch) end() {
	if s.w == nil {
		return
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	delete(s.w.subs, s)
	if len(s.w.subs) == 0 && s.w.sock != nil {
		s.w.sock.Close()
		s.w.sock = nil
	}
}

// follow notes which device the port has, 0 for none.
func (s *watch) follow(index int) {
	if s.w == nil {
		return
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.index = index
	if index != 0 {
		s.last, s.moved = index, false
	}
}

// hasMoved reports whether the device that was there last went to another
// namespace.
func (s *watch) hasMoved() bool {
	if s.w == nil {
		return false
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.moved
}

// poke has the port look.
func (s *watch) poke() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// run reads events until its socket is closed.
func (w *Watcher) run(sock *nl.NetlinkSocket) {
	for {
		msgs, from, err := sock.Receive()
		switch {
		case err != nil: // some events were lost, or nobody watches any more
			if !w.pokeAll(sock) {
				return
			}
		case from.Pid == nl.PidKernel:
			for i := range msgs {
				w.hear(&msgs[i])
			}
		}
	}
}

// pokeAll pokes all, unless sock is not what they are told by any more.
func (w *Watcher) pokeAll(sock *nl.NetlinkSocket) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sock != sock {
		return false
	}
	for s := range w.subs {
		s.poke()
	}
	return true
}

// hear pokes those whom a message concerns.
func (w *Watcher) hear(m *syscall.NetlinkMessage) {
	e, ok := parseEvent(m)
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for s := range w.subs {
		if s.index != e.index && s.last != e.index && s.name != e.name && !e.all {
			continue
		}
		if s.last == e.index && e.moved { // the port may have seen before that it is gone
			s.moved = true
		}
		s.poke()
	}
}

// An event is what a netlink message says.
type event struct {
	index int
	name  string // empty in messages about addresses
	moved bool
	all   bool // it may concern devices that are beneath this one
}

// iflaNewNetNSID is IFLA_NEW_NETNSID: where a device went that is gone.
const iflaNewNetNSID = 45

// parseEvent reads a message about a link or an address of one.
func parseEvent(m *syscall.NetlinkMessage) (event, bool) {
	switch m.Header.Type {
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if len(m.Data) < unix.SizeofIfAddrmsg {
			return event{}, false
		}
		const scope = 3 // ifa_scope
		return event{index: int(binary.NativeEndian.Uint32(m.Data[4:])), all: m.Data[scope] == unix.RT_SCOPE_UNIVERSE}, true
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
	default:
		return event{}, false
	}
	if len(m.Data) < unix.SizeofIfInfomsg {
		return event{}, false
	}
	e := event{index: int(int32(binary.NativeEndian.Uint32(m.Data[4:])))}
	for b := m.Data[unix.SizeofIfInfomsg:]; len(b) >= unix.SizeofRtAttr; {
		size, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if size < unix.SizeofRtAttr || size > len(b) {
			return event{}, false
		}
		switch kind {
		case unix.IFLA_IFNAME:
			e.name = strings.TrimRight(string(b[unix.SizeofRtAttr:size]), "\x00")
		case iflaNewNetNSID:
			e.moved = m.Header.Type == unix.RTM_DELLINK
		}
		b = b[min((size+3)&^3, len(b)):] // attributes begin at multiples of four (netlink(7))
	}
	return e, true
}
