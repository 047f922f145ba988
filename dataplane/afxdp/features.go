package afxdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// xdpFeatures are what a driver says that it can do (netdev.h: the generic
// netlink family netdev, since Linux 6.3).
type xdpFeatures struct {
	flags   uint64
	zcChunk uint32 // chunks of a frame in zero-copy mode, since 6.6
}

// Of netdev.h.
const (
	netdevFamily    = "netdev"
	netdevGet       = 1 // NETDEV_CMD_DEV_GET
	netdevIfindex   = 1 // NETDEV_A_DEV_IFINDEX
	netdevFeatures  = 3 // NETDEV_A_DEV_XDP_FEATURES
	netdevZCSegs    = 4 // NETDEV_A_DEV_XDP_ZC_MAX_SEGS
	featureXmit     = 4 // NETDEV_XDP_ACT_NDO_XMIT: the device takes frames that are redirected to it
	featureZeroCopy = 8 // NETDEV_XDP_ACT_XSK_ZEROCOPY
)

// zeroCopy says why the driver cannot do zero-copy with frames of one chunk, or
// of several, or returns nil: it can, or does not say.
func (f xdpFeatures) zeroCopy(multi bool) error {
	switch {
	case f.flags == 0:
		return nil
	case f.flags&featureZeroCopy == 0:
		return errors.New("the driver has none")
	case multi && f.zcChunk == 1:
		return errors.New("the driver has it for frames of one chunk only, and the MTU is larger")
	}
	return nil
}

// askFeatures asks the driver of device index. The zero value says that it does
// not tell.
func askFeatures(index int) (xdpFeatures, error) {
	family, err := netlink.GenlFamilyGet(netdevFamily)
	if err != nil {
		return xdpFeatures{}, fmt.Errorf("ask for what the driver can do: %w", err)
	}
	req := nl.NewNetlinkRequest(int(family.ID), 0)
	req.AddData(genlHeader{netdevGet, 1})
	req.AddData(nl.NewRtAttr(netdevIfindex, nl.Uint32Attr(uint32(index))))
	msgs, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil || len(msgs) == 0 || len(msgs[0]) < nl.SizeofGenlmsg {
		return xdpFeatures{}, fmt.Errorf("ask for what the driver can do: %w", err)
	}
	attrs, err := nl.ParseRouteAttr(msgs[0][nl.SizeofGenlmsg:])
	if err != nil {
		return xdpFeatures{}, fmt.Errorf("ask for what the driver can do: %w", err)
	}
	return readFeatures(attrs), nil
}

// A genlHeader is struct genlmsghdr: a command, a version, and two bytes that the
// kernel wants to be zero, which nl.Genlmsg does not see to.
type genlHeader [nl.SizeofGenlmsg]byte

// Len and Serialize implement nl.NetlinkRequestData.
func (h genlHeader) Len() int          { return len(h) }
func (h genlHeader) Serialize() []byte { return h[:] }

func readFeatures(attrs []syscall.NetlinkRouteAttr) (f xdpFeatures) {
	for _, a := range attrs {
		switch {
		case a.Attr.Type == netdevFeatures && len(a.Value) >= 8:
			f.flags = binary.NativeEndian.Uint64(a.Value)
		case a.Attr.Type == netdevZCSegs && len(a.Value) >= 4:
			f.zcChunk = binary.NativeEndian.Uint32(a.Value)
		}
	}
	return f
}
