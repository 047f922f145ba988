package cni

import (
	"encoding/binary"
	"net"
	"net/netip"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"millrace/dataplane/sys"
)

// announce tells others on the network which address of Ethernet the pod's IP addresses have now: who has talked to
// the last pod with one of them would send to that for half a minute. Who does not hear it asks after
// that time, so there is no error.
func (s *sandbox) announce(l netlink.Link, ips []*types100.IPConfig) {
	_ = sys.InNetwork(s.file, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, ip := range ips {
			a, _ := netip.AddrFromSlice(ip.Address.IP)
			if err := unix.Sendto(fd, announcement(l.Attrs().HardwareAddr, a.Unmap()), 0, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index}); err != nil {
				return err
			}
		}
		return nil
	})
}

// announcement is a frame that tells of an address: of ARP (RFC 5227, 2.3), or an unsolicited neighbor advertisement
// (RFC 4861, 7.2.6).
func announcement(mac net.HardwareAddr, ip netip.Addr) []byte {
	if ip.Is4() {
		f := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac...)
		f = append(f, 0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1) // a request of Ethernet and IPv4
		f = append(append(f, mac...), ip.AsSlice()...)
		return append(append(f, make([]byte, 6)...), ip.AsSlice()...)
	}
	all := netip.MustParseAddr("ff02::1")
	message := []byte{136, 0, 0, 0, 0x20, 0, 0, 0} // it overrides what others know
	message = append(append(message, ip.AsSlice()...), 2, 1)
	message = append(message, mac...)
	header := append(append([]byte{0x60, 0, 0, 0, 0, byte(len(message)), unix.IPPROTO_ICMPV6, 255}, ip.AsSlice()...), all.AsSlice()...)
	pseudo := append(append([]byte{}, header[8:]...), 0, 0, 0, byte(len(message)), 0, 0, 0, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(message[2:], checksum(append(pseudo, message...)))
	f := append([]byte{0x33, 0x33, 0, 0, 0, 1}, mac...)
	return append(append(append(f, 0x86, 0xdd), header...), message...)
}

// checksum is that of RFC 1071 of an even number of bytes.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
