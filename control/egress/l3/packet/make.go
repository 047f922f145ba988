package packet

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// Echo returns an echo request from one address to another of the same version.
func Echo(from, to netip.Addr, id, seq uint16) []byte {
	b := header(from, to, 8)
	icmp := b[len(b)-8:]
	icmp[0] = 128
	if from.Is4() {
		icmp[0] = 8
	}
	binary.BigEndian.PutUint16(icmp[4:], id)
	binary.BigEndian.PutUint16(icmp[6:], seq)
	seal(b, len(b)-8)
	return b
}

// Answer turns an echo request, of which p is the Info, into its reply.
func (p *Info) Answer(b []byte) {
	b = b[:Size(b)]
	if p.Src.Is4() {
		swap(b[12:16], b[16:20])
		b[8] = hops
		b[p.at] = 0
		seal(b, p.at)
		return
	}
	swap(b[8:24], b[24:40])
	b[7] = hops
	b[p.at] = 129
	seal(b, p.at)
}

// Sequence is the number of an echo b.
func (p *Info) Sequence(b []byte) uint16 { return binary.BigEndian.Uint16(b[p.at+6:]) }

// TooBig returns the error that tells the sender of b, a packet that does not fit
// through a link with this MTU, to send smaller ones (RFC 1191 4, RFC 4443 3.2).
// It is nil if the packet may be fragmented or calls for no answer.
func (p *Info) TooBig(b []byte, from netip.Addr, mtu int) []byte {
	if p.Kind == Error || p.Kind == Fragment || from.Is4() != p.Src.Is4() {
		return nil
	}
	quote, typ, code := min(len(b), 1280-40-8), byte(2), byte(0)
	if p.Src.Is4() {
		quote, typ, code = min(len(b), 576-20-8), 3, 4
	}
	e := header(from, p.Src, 8+quote)
	icmp := e[len(e)-8-quote:]
	icmp[0], icmp[1] = typ, code
	binary.BigEndian.PutUint32(icmp[4:], uint32(mtu)) // of IPv4 the lower half
	copy(icmp[8:], b)
	seal(e, len(e)-8-quote)
	return e
}

// hops is how far packets of ours may go.
const hops = 64

// header returns a packet of ICMP or ICMPv6 whose n bytes behind the IP header are
// zero.
func header(from, to netip.Addr, n int) []byte {
	if from.Is4() {
		b := make([]byte, 20+n)
		b[0], b[8], b[9] = 0x45, hops, icmp4
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		copy(b[12:], from.AsSlice())
		copy(b[16:], to.AsSlice())
		return b
	}
	b := make([]byte, 40+n)
	b[0], b[6], b[7] = 0x60, icmp6, hops
	binary.BigEndian.PutUint16(b[4:], uint16(n))
	copy(b[8:], from.AsSlice())
	copy(b[24:], to.AsSlice())
	return b
}

// seal writes the checksums of a packet whose ICMP header is at at.
func seal(b []byte, at int) {
	icmp := b[at:]
	icmp[2], icmp[3] = 0, 0
	sum := checksum.Checksum(icmp, 0)
	if b[0]>>4 == 6 {
		sum = checksum.Combine(checksum.Checksum(b[8:40], sum), checksum.Combine(uint16(len(icmp)), icmp6))
	}
	binary.BigEndian.PutUint16(icmp[2:], ^sum)
	if b[0]>>4 == 4 {
		sealIP(b[:int(b[0]&0xf)*4])
	}
}

// sealIP writes the checksum of an IPv4 header.
func sealIP(h []byte) {
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], ^checksum.Checksum(h, 0))
}

func swap(a, b []byte) {
	for i := range a {
		a[i], b[i] = b[i], a[i]
	}
}
