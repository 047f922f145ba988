package tunnel

import (
	"encoding/binary"
	"net/netip"

	"millrace/dataplane/packet"
)

// Lengths in bytes.
const (
	etherLen  = 14
	tagLen    = 4
	ip4Len    = 20
	ip6Len    = 40
	udpLen    = 8
	baseLen   = 8 // VXLAN header, or Geneve header without options
	optionLen = 8 // OVN's option

	// HeaderMax is the most that Push puts before a frame.
	HeaderMax = etherLen + ip6Len + udpLen + baseLen + optionLen
)

// Numbers of protocols.
const (
	typeIPv4   = 0x0800
	typeIPv6   = 0x86dd
	typeVLAN   = 0x8100
	typeQinQ   = 0x88a8
	typeBridge = 0x6558 // Ethernet in Geneve (RFC 8926 3.4)
	protoTCP   = 6
	protoUDP   = 17
	protoSCTP  = 132

	vxlanFlags = 0x08 // I: there is an identifier

	// OVN's Geneve option: class, type with its critical bit, length in words.
	ovnClass, ovnType, ovnWords = 0x0102, 0x80, 1
	criticalType                = 0x80 // bit of an option's type
	criticalFlag                = 0x40 // there are critical options
	controlFlag                 = 0x80 // the packet is not for a guest
)

// ECN, the low two bits of TOS (RFC 3168).
const (
	ecnMask = 3
	ecnCE   = 3 // congestion experienced
)

// Parts of a tunnel word.
const (
	keyShift   = 40
	flagsShift = 32

	// HasData is the flag which says that the word has data, that of OVN's option.
	HasData = 1
)

// Source ports are the range of Linux: what firewalls take for a client's.
const (
	sourceFirst = 32768
	sourceCount = 61000 - sourceFirst
)

// A Path is how the other end is reached.
type Path struct {
	Local  netip.Addr
	MTU    int     // of the way there, in bytes of IP; 0: as large as frames get
	Source [6]byte // Ethernet addresses
	Next   [6]byte
}

// A Header is the outer headers of all frames of one port by one path, made
// ready. It never changes.
type Header struct {
	bytes [HeaderMax]byte // without the option
	l3    int             // length of the IP header
	n     int             // length of all, without the option
	sum   uint32          // of the IPv4 header, but for total length, TTL, TOS; or of the pseudo header's addresses
	most  uint32          // bytes of the longest inner frame
	c     Config
}

// NewHeader makes the outer headers of port c by path p.
func NewHeader(c Config, p Path) *Header {
	h := &Header{c: c, l3: ip4Len}
	if !c.Remote.Is4() {
		h.l3, h.c.Checksum = ip6Len, true
	}
	h.n = etherLen + h.l3 + udpLen + baseLen
	b := h.bytes[:]
	copy(b, p.Next[:])
	copy(b[6:], p.Source[:])
	ip := b[etherLen:]
	if h.l3 == ip4Len {
		binary.BigEndian.PutUint16(b[12:], typeIPv4)
		h.put4(ip, p.Local)
	} else {
		binary.BigEndian.PutUint16(b[12:], typeIPv6)
		h.put6(ip, p.Local)
	}
	binary.BigEndian.PutUint16(ip[h.l3+2:], c.Port)
	h.putTunnel(ip[h.l3+udpLen:])
	if h.most = packet.FrameMax - uint32(h.n) - optionLen; p.MTU != 0 {
		h.most = min(h.most, uint32(max(p.MTU-(h.n-etherLen), 0)))
	}
	return h
}

// put4 writes the IPv4 header (RFC 791 3.1).
func (h *Header) put4(ip []byte, local netip.Addr) {
	ip[0], ip[9] = 0x45, protoUDP
	if h.c.DF {
		ip[6] = 0x40
	}
	from, to := local.As4(), h.c.Remote.As4()
	copy(ip[12:], from[:])
	copy(ip[16:], to[:])
	h.sum = uint32(sumWords(ip[:ip4Len]))
}

// put6 writes the IPv6 header (RFC 8200 3).
func (h *Header) put6(ip []byte, local netip.Addr) {
	ip[0], ip[6] = 0x60, protoUDP
	from, to := local.As16(), h.c.Remote.As16()
	copy(ip[8:], from[:])
	copy(ip[24:], to[:])
}

// putTunnel writes the header behind UDP.
func (h *Header) putTunnel(t []byte) {
	if h.c.Kind == VXLAN {
		t[0] = vxlanFlags
	} else {
		binary.BigEndian.PutUint16(t[2:], typeBridge)
	}
	binary.BigEndian.PutUint32(t[4:], h.c.Out.ID<<8)
}

// Config is what the header was made for.
func (h *Header) Config() Config { return h.c }

// Addresses are the first 16 bytes that Push writes, as a little-endian machine reads them.
func (h *Header) Addresses() [2]uint64 {
	return [2]uint64{binary.LittleEndian.Uint64(h.bytes[:]), binary.LittleEndian.Uint64(h.bytes[8:])}
}

// Len is how many bytes Push puts before a frame whose tunnel word asks for no option.
func (h *Header) Len() int { return h.n }

// Most is the longest inner frame in bytes that the path carries with a tunnel
// word.
func (h *Header) Most(word uint64) uint32 { return h.most - min(uint32(h.option(word)), h.most) }

// Room reports whether there is room before frame i for the headers.
func (h *Header) Room(b *packet.Batch, i int) bool { return b.Frames[i].Off >= HeaderMax }

// Fits reports whether frame i fits into the path with a tunnel word.
func (h *Header) Fits(b *packet.Batch, i int, word uint64) bool {
	return b.Frames[i].Len <= h.Most(word)
}

// option is the length of the option that a tunnel word asks for.
func (h *Header) option(word uint64) int {
	if word>>flagsShift&HasData != 0 && h.c.Kind == Geneve {
		return optionLen
	}
	return 0
}

// Push puts the headers before frame i, which Fits and has Room. It does not
// touch the payload, so there is no UDP checksum yet if Checksum says that
// there is to be one.
func (h *Header) Push(b *packet.Batch, i int, word uint64) {
	in := look(b.Head(i))
	n := h.n + h.option(word)
	f := b.Grow(i, uint16(n))
	copy(f, h.bytes[:h.n])
	ip, length := f[etherLen:], b.Frames[i].Len-etherLen
	udp := ip[h.l3:]
	tos, ttl := h.tos(&in), h.ttl(&in)
	if h.l3 == ip4Len {
		ip[1], ip[8] = tos, ttl
		binary.BigEndian.PutUint16(ip[2:], uint16(length))
		binary.BigEndian.PutUint16(ip[10:], ^fold(uint64(h.sum)+uint64(tos)+uint64(ttl)<<8+uint64(length)))
	} else {
		binary.BigEndian.PutUint16(ip, 6<<12|uint16(tos)<<4)
		binary.BigEndian.PutUint16(ip[4:], uint16(length-ip6Len))
		ip[7] = ttl
	}
	binary.BigEndian.PutUint16(udp, sourceFirst+uint16(uint64(in.hash)*sourceCount>>32))
	binary.BigEndian.PutUint16(udp[4:], uint16(length-uint32(h.l3)))
	if h.c.Out.Flow {
		binary.BigEndian.PutUint32(udp[udpLen+4:], uint32(word>>keyShift)<<8)
	}
	if n != h.n {
		putOption(udp[udpLen:], uint32(word))
	}
}

// tos is the outer TOS: ECN is always the inner one (RFC 6040 4.1).
func (h *Header) tos(in *inner) uint8 {
	if h.c.InheritTOS {
		return in.tos
	}
	return h.c.TOS | in.tos&ecnMask
}

// ttl is the outer TTL.
func (h *Header) ttl(in *inner) uint8 {
	if h.c.InheritTTL && in.ttl != 0 {
		return in.ttl
	}
	return h.c.TTL
}

// putOption writes OVN's option behind the Geneve header t (RFC 8926 3.5).
func putOption(t []byte, data uint32) {
	t[0], t[1] = optionLen/4, criticalFlag
	binary.BigEndian.PutUint16(t[8:], ovnClass)
	t[10], t[11] = ovnType, ovnWords
	binary.BigEndian.PutUint32(t[12:], data)
}

// Checksum reports whether frames are to have a UDP checksum.
func (h *Header) Checksum() bool { return h.c.Checksum }

// PutChecksum writes the UDP checksum of frame i, which Push was called for. It
// reads the payload.
func (h *Header) PutChecksum(b *packet.Batch, i int) {
	f := b.Head(i)
	at := etherLen + h.l3
	sum := uint64(b.Sum(i, at)) + pseudo(f[etherLen:], h.l3 == ip4Len, b.Frames[i].Len-uint32(at))
	c := ^fold(sum)
	if c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(f[at+6:], c)
}

// pseudo is the sum of the pseudo header of n bytes of UDP.
func pseudo(ip []byte, four bool, n uint32) uint64 {
	if four {
		return sumWords(ip[12:20]) + protoUDP + uint64(n)
	}
	return sumWords(ip[8:40]) + protoUDP + uint64(n)
}

// sumWords adds up the 16-bit words of b, which has an even number of bytes.
func sumWords(b []byte) (sum uint64) {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint64(binary.BigEndian.Uint16(b))
	}
	return sum
}

// fold brings a sum of 16-bit words to 16 bits.
func fold(sum uint64) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
