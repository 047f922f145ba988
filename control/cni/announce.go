package cni

import (
	"errors"

	"github.com/vishvananda/netlink"

	"millrace/dataplane/sys"
)

// announce has the pod's kernel tell others on the network which address of Ethernet its IP addresses have now: who has
// talked to the last pod with one of them would send to that for half a minute. Who does not hear it asks after
// that time, so there is no error. The kernel does so when a device is given an address, also the one that it has; to close
// a socket for frames of our own takes it longer than all of ADD.
func (s *sandbox) announce(l netlink.Link) {
	conf := "/conf/" + l.Attrs().Name
	err := sys.InNetwork(s.file, func() error {
		return errors.Join(sys.SetSysctl("net/ipv4"+conf+"/arp_notify", "1"), sys.SetSysctl("net/ipv6"+conf+"/ndisc_notify", "1"))
	})
	_ = errors.Join(err, s.h.LinkSetHardwareAddr(l, l.Attrs().HardwareAddr))
}
