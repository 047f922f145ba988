package afxdp

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"millrace/dataplane/sys"
)

// A device is a network device as it is.
type device struct {
	name    string
	index   int
	kind    string // as rtnetlink says: veth, device, ...
	driver  string
	mtu     int
	mac     [6]byte
	up      bool // by the administrator
	carrier bool
	queues
	peer   int // index of a veth's other end, in its namespace
	peerNS int // id of that namespace, -1 for ours
}

// queues are how many queues a device has, and how many it could have.
type queues struct{ rx, tx, most int }

// veth is a pair of devices of which one receives what the other sends.
const veth = "veth"

// errNoDevice says that there is no device of a name.
var errNoDevice = errors.New("there is no such device in this network namespace")

// look returns the device of a name. The error is errNoDevice if there is none.
func look(name string) (device, error) {
	l, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return device{}, errNoDevice
	}
	if err != nil {
		return device{}, fmt.Errorf("ask for device %s: %w", name, err)
	}
	a := l.Attrs()
	d := device{
		name: a.Name, index: a.Index, kind: l.Type(), mtu: a.MTU,
		up: a.RawFlags&unix.IFF_UP != 0, carrier: a.RawFlags&unix.IFF_RUNNING != 0,
		peer: a.ParentIndex, peerNS: a.NetNsID,
	}
	copy(d.mac[:], a.HardwareAddr)
	c, err := newControl()
	if err != nil {
		return device{}, err
	}
	defer c.close()
	d.queues, d.driver = c.queues(name), c.driver(name)
	return d, nil
}

// report is the device as the port's state tells of it.
func (d *device) report() NetDevice {
	return NetDevice{Index: d.index, MAC: d.mac, MTU: d.mtu, Up: d.up, Carrier: d.carrier, Driver: d.driver}
}

// hosts are the addresses that the host has on the device, and on devices that
// are made of it (VLANs, macvlans): none, or all. Addresses that are good on the
// link only (fe80::/10) count once there is another: every device has one.
func (d *device) hosts() (map[netip.Addr]struct{}, error) {
	list, err := addresses()
	if err != nil {
		return nil, err
	}
	local, all := map[netip.Addr]struct{}{}, map[netip.Addr]struct{}{}
	ours := map[int]bool{d.index: true}
	for _, a := range list {
		ip, _ := netip.AddrFromSlice(a.IP)
		ip = ip.Unmap()
		mine, known := ours[a.LinkIndex]
		switch {
		case !ip.IsValid() || ip.IsLoopback():
			continue
		case ip.IsLinkLocalUnicast():
			if mine {
				local[ip] = struct{}{}
			}
			continue
		case !known:
			mine = d.bears(a.LinkIndex)
			ours[a.LinkIndex] = mine
		}
		if mine {
			all[ip] = struct{}{}
		}
	}
	if len(all) > 0 {
		maps.Copy(all, local)
	}
	return all, nil
}

// addresses are all that there are.
func addresses() (list []netlink.Addr, err error) {
	const tries = 10 // another change may come while they are listed
	for range tries {
		if list, err = netlink.AddrList(nil, netlink.FAMILY_ALL); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return list, nil
}

// bears reports whether the device of an index is made of d.
func (d *device) bears(index int) bool {
	l, err := netlink.LinkByIndex(index)
	if err != nil || l.Type() == veth {
		return false
	}
	a := l.Attrs()
	return a.ParentIndex == d.index && a.NetNsID == -1
}

// setMTU gives a device an MTU.
func setMTU(index, mtu int) error {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return err
	}
	return netlink.LinkSetMTU(l, mtu)
}

// attached describes the XDP program that a device has, if it has one.
func attached(index int) (string, error) {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return "", fmt.Errorf("ask for the device's XDP program: %w", err)
	}
	x := l.Attrs().Xdp
	if x == nil || !x.Attached {
		return "", nil
	}
	what := fmt.Sprintf("program %d", x.ProgId)
	if p, err := ebpf.NewProgramFromID(ebpf.ProgramID(x.ProgId)); err == nil {
		if info, err := p.Info(); err == nil && info.Name != "" {
			what += " " + info.Name
		}
		_ = p.Close()
	}
	return what, nil
}

// A control is a socket to ask drivers by.
type control struct{ fd sys.FD }

func newControl() (control, error) {
	n, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return control{}, fmt.Errorf("open socket for ethtool: %w", err)
	}
	return control{sys.NewFD(n)}, nil
}

func (c *control) close() { _ = c.fd.Close() }

// channels is struct ethtool_channels.
type channels struct {
	cmd                    uint32
	mostRx, _, _, mostBoth uint32 // receive, transmit, other, both
	rx, tx, _, both        uint32
}

// queues asks for the numbers of queues. A driver that cannot tell has one.
func (c *control) queues(name string) queues {
	v := channels{cmd: unix.ETHTOOL_GCHANNELS}
	if err := ethtool(c.fd.Int(), name, &v); err != nil || v.rx+v.both == 0 {
		return queues{1, 1, 1}
	}
	return queues{int(v.rx + v.both), int(v.tx + v.both), int(max(v.mostRx+v.mostBoth, v.rx+v.both))}
}

// drvinfo is struct ethtool_drvinfo.
type drvinfo struct {
	cmd    uint32
	driver [32]byte
	_      [160]byte
}

// driver asks for the driver's name.
func (c *control) driver(name string) string {
	v := drvinfo{cmd: unix.ETHTOOL_GDRVINFO}
	if err := ethtool(c.fd.Int(), name, &v); err != nil {
		return "unknown driver"
	}
	s, _, _ := bytes.Cut(v.driver[:], []byte{0})
	return string(s)
}
