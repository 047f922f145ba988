package taptest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// icmpHeader is the length of an ICMP echo's header in bytes.
const icmpHeader = 8

// Ping sends an echo request to an address from the namespace, as an IP packet of
// size bytes that nobody may cut, and waits for its answer, again and again for
// limit. The first ones may be lost while addresses are looked for.
func (ns *Namespace) Ping(t testing.TB, to netip.Addr, size int, limit time.Duration) error {
	t.Helper()
	p := &pinger{to: to, id: uint16(os.Getpid())}
	ns.Do(t, p.open)
	defer p.close()
	header := 20 + icmpHeader
	if to.Is6() {
		header = 40 + icmpHeader
	}
	err := fmt.Errorf("ping %s with %d bytes: never sent", to, size)
	for end := time.Now().Add(limit); time.Now().Before(end); {
		if err = p.once(max(size-header, 0)); err == nil {
			return nil
		}
	}
	return fmt.Errorf("ping %s with %d bytes: %w", to, size, err)
}

// A pinger is a raw socket for echo requests.
type pinger struct {
	to  netip.Addr
	fd  int
	id  uint16
	seq uint16
}

func (p *pinger) open() (err error) {
	if p.to.Is6() {
		p.fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err == nil {
			err = unix.SetsockoptInt(p.fd, unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1)
		}
	} else {
		p.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		if err == nil {
			err = unix.SetsockoptInt(p.fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		}
	}
	if err != nil {
		return err
	}
	return unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000})
}

func (p *pinger) close() { _ = unix.Close(p.fd) }

// once sends a request with n bytes of payload and waits for its answer.
func (p *pinger) once(n int) error {
	p.seq++
	req := make([]byte, icmpHeader+n)
	for i := range req[icmpHeader:] {
		req[icmpHeader+i] = byte(i * 3)
	}
	binary.BigEndian.PutUint16(req[4:], p.id)
	binary.BigEndian.PutUint16(req[6:], p.seq)
	var to unix.Sockaddr
	if p.to.Is6() {
		req[0] = 128 // echo request, RFC 4443; the kernel puts the checksum in
		to = &unix.SockaddrInet6{Addr: p.to.As16()}
	} else {
		req[0] = 8 // RFC 792
		binary.BigEndian.PutUint16(req[2:], checksum(req))
		to = &unix.SockaddrInet4{Addr: p.to.As4()}
	}
	if err := unix.Sendto(p.fd, req, 0, to); err != nil {
		time.Sleep(10 * time.Millisecond) // an address that is not there yet, say
		return err
	}
	buf := make([]byte, 1<<16)
	for {
		got, _, err := unix.Recvfrom(p.fd, buf, 0)
		if err != nil {
			return fmt.Errorf("no answer: %w", err)
		}
		if p.answers(buf[:got], req) {
			return nil
		}
	}
}

// answers reports whether packet b answers req.
func (p *pinger) answers(b, req []byte) bool {
	kind := byte(129)
	if p.to.Is4() {
		kind = 0
		b = b[min(len(b), 4*int(b[0]&15)):]
	}
	return len(b) == len(req) && b[0] == kind && bytes.Equal(b[4:], req[4:])
}

// checksum is RFC 1071's.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
