package tap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// A Kernel is what all TAP ports of a process share. The zero value is ready for
// use, and opens what it needs with the first port.
type Kernel struct {
	lookout lookout
	watcher watcher
}

// Close gives back what the ports have used. There are no ports any more.
func (k *Kernel) Close() error {
	k.watcher.close()
	return k.lookout.close()
}

// A watcher tells ports that something happened to their device. It reads
// netlink's notes on links, of our network namespace and of all that have a number
// in it (NETLINK_LISTEN_ALL_NSID, netlink(7)), by one socket in ours.
//
// Of a note it believes the index of the device only: that is not unique beyond a
// namespace, and a port that looks for nothing has lost little.
type watcher struct {
	mu    sync.Mutex // held to read or change all
	conn  *os.File   // nil: not begun, or impossible
	tried bool
	all   bool                         // hears of other namespaces
	ports map[int32]map[*Port]struct{} // by index of their device
	ended chan struct{}                // closed when the goroutine has ended
}

// follow notes that p's device has an index, and had another one (0: none).
func (w *watcher) follow(p *Port, index, was int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begin(p)
	if set := w.ports[int32(was)]; set != nil {
		delete(set, p)
		if len(set) == 0 {
			delete(w.ports, int32(was))
		}
	}
	if index == 0 {
		return
	}
	if w.ports == nil {
		w.ports = map[int32]map[*Port]struct{}{}
	}
	if w.ports[int32(index)] == nil {
		w.ports[int32(index)] = map[*Port]struct{}{}
	}
	w.ports[int32(index)][p] = struct{}{}
}

// hears reports whether changes of a device are heard of, in our namespace or in
// another one. If not, ports look from time to time.
func (w *watcher) hears(elsewhere bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.conn != nil && (w.all || !elsewhere)
}

// begin opens the socket, once.
func (w *watcher) begin(p *Port) {
	if w.tried {
		return
	}
	w.tried = true
	conn, all, err := openNotes()
	if err != nil {
		p.opts.Log.Warn("changes of devices are noticed late", zap.Error(err))
		return
	}
	w.conn, w.all, w.ended = conn, all, make(chan struct{})
	go w.run(conn)
}

// notesRoom is how many bytes of notes the kernel keeps for us. If it is not
// enough, all ports look.
const notesRoom = 1 << 20

// openNotes opens the socket, and reports whether it hears of other namespaces.
func openNotes() (conn *os.File, all bool, err error) {
	n, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, false, fmt.Errorf("open netlink socket: %w", err)
	}
	_ = unix.SetsockoptInt(n, unix.SOL_SOCKET, unix.SO_RCVBUF, notesRoom)
	all = unix.SetsockoptInt(n, unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1) == nil // needs CAP_NET_BROADCAST
	if err := unix.Bind(n, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.RTNLGRP_LINK - 1)}); err != nil {
		return nil, false, errors.Join(fmt.Errorf("listen to netlink's notes on links: %w", err), unix.Close(n))
	}
	return os.NewFile(uintptr(n), "netlink"), all, nil
}

// run reads notes until the socket is closed.
func (w *watcher) run(conn *os.File) {
	defer close(w.ended)
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 64<<10)
	for {
		var n int
		var from unix.Sockaddr
		var got error
		err := raw.Read(func(fd uintptr) bool {
			n, from, got = unix.Recvfrom(int(fd), buf, 0)
			return !errors.Is(got, unix.EAGAIN)
		})
		switch {
		case err != nil:
			return // closed
		case errors.Is(got, unix.ENOBUFS):
			w.tell(func(int32) bool { return true })
		case got == nil && fromKernel(from):
			changed := map[int32]bool{}
			eachLink(buf[:n], func(index int32) { changed[index] = true })
			w.tell(func(index int32) bool { return changed[index] })
		}
	}
}

// fromKernel reports whether a message has no process for its sender.
func fromKernel(a unix.Sockaddr) bool {
	nl, ok := a.(*unix.SockaddrNetlink)
	return ok && nl.Pid == 0
}

// tell has ports look whose device has an index that is meant.
func (w *watcher) tell(means func(int32) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for index, set := range w.ports {
		if !means(index) {
			continue
		}
		for p := range set {
			p.wake()
		}
	}
}

// close ends the goroutine.
func (w *watcher) close() {
	w.mu.Lock()
	conn := w.conn
	w.conn, w.tried = nil, false
	w.mu.Unlock()
	if conn != nil {
		_ = conn.Close()
		<-w.ended
	}
}

// Lengths of headers in notes (linux/netlink.h, linux/rtnetlink.h).
const (
	nlHeaderLen = unix.SizeofNlMsghdr
	ifInfoLen   = unix.SizeofIfInfomsg
)

// eachLink calls fn with the index of the device of each note in b that is on a
// link. What is cut short ends it.
func eachLink(b []byte, fn func(index int32)) {
	for len(b) >= nlHeaderLen {
		size := int(binary.NativeEndian.Uint32(b))
		if size < nlHeaderLen || size > len(b) {
			return
		}
		kind, body := binary.NativeEndian.Uint16(b[4:]), b[nlHeaderLen:size]
		if (kind == unix.RTM_NEWLINK || kind == unix.RTM_DELLINK) && len(body) >= ifInfoLen {
			fn(int32(binary.NativeEndian.Uint32(body[4:])))
		}
		b = b[min((size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(b)):]
	}
}
