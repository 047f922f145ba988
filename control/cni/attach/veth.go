package attach

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// RemoveVeth removes a veth by its end in this network namespace, which is named for the attachment's port, if there
// is one. A device of another type stays.
func RemoveVeth(port string) error {
	l, err := netlink.LinkByName(port)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) || err == nil && l.Type() != "veth" {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove device %s: %w", port, err)
	}
	return nil
}
