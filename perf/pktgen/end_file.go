package pktgen

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"millrace/dataplane/packet"
)

// A fileLink is a descriptor of which each read and each write is a frame.
type fileLink struct {
	fd    int
	store []byte // of received frames
	size  int    // bytes of store for one
}

func newFileLink(fd, size int) *fileLink {
	size = max(size, 2048) // longer frames of others are cut, and so found damaged
	return &fileLink{fd: fd, store: make([]byte, packet.BatchMax*size), size: size}
}

// openPacket binds a packet socket to a device. It does not hear what it sends.
func openPacket(device string, size int) (link, error) {
	dev, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket (needs CAP_NET_RAW): %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: allProtocols, Ifindex: dev.Index}),
	)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return newFileLink(fd, size), nil
}

// allProtocols is ETH_P_ALL in network byte order.
const allProtocols = unix.ETH_P_ALL << 8

// openTAP makes a TAP device and takes it up. It goes with its descriptor.
func openTAP(device string, size int) (link, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("TAP device (needs CAP_NET_ADMIN, `modprobe tun`): %w", err)
	}
	if err := makeTAP(fd, device, size); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return newFileLink(fd, size), nil
}

func makeTAP(fd int, device string, size int) error {
	req, err := unix.NewIfreq(device)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("make device (is there one of this name?): %w", err)
	}
	l, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	if mtu := size - packet.FrameMin; mtu > l.Attrs().MTU {
		if err := netlink.LinkSetMTU(l, mtu); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(l)
}

func (f *fileLink) send(list [][]byte) (n int, err error) {
	for ; n < len(list); n++ {
		if _, err := unix.Write(f.fd, list[n]); err != nil {
			return n, loss(err)
		}
	}
	return n, nil
}

func (f *fileLink) receive(list [][]byte) (n int, err error) {
	for ; n < len(list); n++ {
		at := f.store[n*f.size : (n+1)*f.size]
		got, err := unix.Read(f.fd, at)
		if err != nil {
			return n, loss(err)
		}
		list[n] = at[:got]
	}
	return n, nil
}

// loss is the error of a read or write that means more than to wait.
func loss(err error) error {
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EINTR):
		return nil
	}
	return errors.Join(errLost, err)
}

func (f *fileLink) close() error { return unix.Close(f.fd) }
