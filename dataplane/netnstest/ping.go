package netnstest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"millrace/dataplane/sys"
)

// Do calls fn on a thread that is in the pod's namespace. Sockets that fn opens
// stay in it.
func (p *Pod) Do(fn func() error) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	return sys.InNetwork(ns, fn)
}

// ICMP message types (RFC 792, 4443).
const (
	echo4, reply4 = 8, 0
	echo6, reply6 = 128, 129
)

// Ping sends one echo request with size bytes of payload to an address, whole,
// and waits for its reply.
func (p *Pod) Ping(to string, size int, within time.Duration) error {
	addr, err := netip.ParseAddr(to)
	if err != nil {
		return err
	}
	return p.Do(func() error {
		network, request, reply := "ip4:icmp", byte(echo4), byte(reply4)
		if addr.Is6() {
			network, request, reply = "ip6:ipv6-icmp", echo6, reply6
		}
		c, err := net.ListenPacket(network, "")
		if err != nil {
			return err
		}
		defer c.Close()
		if err := whole(c, addr); err != nil {
			return err
		}
		msg := echo(request, size)
		if _, err := c.WriteTo(msg, &net.IPAddr{IP: addr.AsSlice()}); err != nil {
			return err
		}
		return awaitEcho(c, reply, msg, within)
	})
}

// echo is an echo request with a payload of its own.
func echo(kind byte, size int) []byte {
	msg := make([]byte, max(8+size, 12))
	msg[0] = kind
	binary.BigEndian.PutUint64(msg[4:12], uint64(time.Now().UnixNano())) // identity, sequence, and first payload
	for i := 12; i < len(msg); i++ {
		msg[i] = byte(i)
	}
	if kind == echo4 { // the kernel does it for ICMPv6
		binary.BigEndian.PutUint16(msg[2:], checksum(msg))
	}
	return msg
}

// checksum is that of RFC 1071.
func checksum(s []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(s); i += 2 {
		sum += uint32(s[i])<<8 | uint32(s[i+1])
	}
	if len(s)%2 == 1 {
		sum += uint32(s[len(s)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// whole forbids fragments.
func whole(c net.PacketConn, addr netip.Addr) error {
	raw, err := c.(*net.IPConn).SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		if addr.Is6() {
			inner = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
		} else {
			inner = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		}
	})
	if err != nil {
		return err
	}
	return inner
}

func awaitEcho(c net.PacketConn, kind byte, request []byte, within time.Duration) error {
	buf := make([]byte, 1<<16)
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	for {
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			return fmt.Errorf("no echo of %d bytes: %w", len(request)-8, err)
		}
		got := buf[:n]
		if n < 8 || got[0] != kind || !bytes.Equal(got[4:min(12, n)], request[4:min(12, len(request))]) {
			continue
		}
		if !bytes.Equal(got[4:], request[4:]) {
			return fmt.Errorf("echo of %d bytes came back different", len(request)-8)
		}
		return nil
	}
}
