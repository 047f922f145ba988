package tap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"millrace/dataplane/sys"
)

// netnsDir is where `ip netns` keeps network namespaces.
const netnsDir = "/run/netns"

// netnsPath is the path that Options.Netns means.
func netnsPath(s string) string {
	if strings.Contains(s, "/") {
		return s
	}
	return filepath.Join(netnsDir, s)
}

// openNetns opens the network namespace that s names, or none if that is the
// process's own.
func openNetns(s string) (sys.FD, error) {
	if s == "" {
		return sys.NoFD, nil
	}
	path := netnsPath(s)
	n, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0) // whatever it is, it does not block
	if err != nil {
		return sys.NoFD, fmt.Errorf("%w: open %s: %w", errNetns, path, err)
	}
	f := sys.NewFD(n)
	kind, err := unix.IoctlRetInt(n, unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return sys.NoFD, errors.Join(fmt.Errorf("%w: %s is something else", errNetns, path), f.Close())
	}
	inode, err := inodeOf(n)
	if err != nil {
		return sys.NoFD, errors.Join(err, f.Close())
	}
	if own, err := ownNetns(); err != nil || own == inode {
		return sys.NoFD, errors.Join(err, f.Close())
	}
	return f, nil
}

// inodeOf returns the inode number of descriptor n, which tells one namespace
// from another.
func inodeOf(n int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(n, &st); err != nil {
		return 0, fmt.Errorf("identify network namespace: %w", err)
	}
	return st.Ino, nil
}

// ownNetns is the inode number of the process's network namespace: the calling
// thread's, for others may be elsewhere for the moment of a system call.
func ownNetns() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return 0, fmt.Errorf("identify our network namespace: %w", err)
	}
	return st.Ino, nil
}

// handleAt opens a netlink socket in a network namespace; none is ours.
func handleAt(f sys.FD) (*netlink.Handle, error) {
	ns := netns.None()
	if f.Valid() {
		ns = netns.NsHandle(f.Int())
	}
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket in the device's network namespace: %w%s", err, remedy(err))
	}
	return h, nil
}

// within calls fn on a thread in network namespace f, which is thrown away.
func within(f sys.FD, fn func() error) error {
	return sys.OnThread(func() error {
		if err := unix.Setns(f.Int(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w%s", err, remedy(err))
		}
		return fn()
	})
}

// move moves the device, which is in our namespace, to another one and gives it
// its name there, in one step: nobody there sees another name.
func (d *device) move(to sys.FD, name string) error {
	p, err := d.find()
	if err != nil {
		return err
	}
	defer p.close()
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(p.link.Attrs().Index)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_NET_NS_FD, binary.NativeEndian.AppendUint32(nil, uint32(to.Int()))))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	_, err = req.Execute(unix.NETLINK_ROUTE, 0)
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%w: there is another device %s", errTaken, name)
	}
	if err != nil {
		return fmt.Errorf("%w%s", err, remedy(err))
	}
	return nil
}

// beHeard has the device's namespace known to ours by a number. The watcher hears
// of namespaces that have one. The kernel gives one when a device moves there
// from ours, but not if it comes from elsewhere.
func (p *place) beHeard() {
	if !p.netns.Valid() {
		return
	}
	h, err := handleAt(sys.NoFD)
	if err != nil {
		return
	}
	defer h.Close()
	if id, err := h.GetNetNsIdByFd(p.netns.Int()); err == nil && id < 0 {
		_ = h.SetNetNsIdByFd(p.netns.Int(), -1) // any number
	}
}
