package agent

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"millrace/control/cni/attach"
)

// removeDevice removes what is left of a pod's device when its port is gone. The plugin does the same in DEL; GC, notes and pods
// that are gone have no plugin that could.
func removeDevice(at *attach.Attachment, index int) error {
	switch at.Kind {
	case attach.TAP:
		return removeTAP(at, index)
	case attach.Veth:
		return attach.RemoveVeth(at.Port())
	}
	return nil
}

// removeTAP removes the device of a tap attachment from its pod: it persists, so
// it does not go with its port. The plugin does the same, but the switch makes anew what
// goes before the port does. The device is the one with the port's index, or, where that is not known (0), with the
// attachment's address: somebody in the pod may have given it another one.
func removeTAP(at *attach.Attachment, index int) error {
	here := inodeOf(at.Netns)
	if here == 0 || at.NetnsInode != 0 && here != at.NetnsInode {
		return nil // the pod is gone, and its devices with it
	}
	f, err := os.Open(at.Netns)
	if err != nil {
		return nil // the same
	}
	defer f.Close()
	h, err := netlink.NewHandleAt(netns.NsHandle(f.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("remove device %s of the pod: %w", at.IfName, err)
	}
	defer h.Close()
	l, err := h.LinkByName(at.IfName)
	if err != nil || l.Type() != "tuntap" || l.Attrs().Index != index && l.Attrs().HardwareAddr.String() != at.MAC {
		return nil // there is none, or another one
	}
	if err := h.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove device %s of the pod: %w", at.IfName, err)
	}
	return nil
}
