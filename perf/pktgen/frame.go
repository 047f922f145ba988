package pktgen

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// A frame of ours:
//
//	Ethernet | 802.1Q, if any | IPv4 | UDP | tag | filler
//
// Flow f has IPv4 source 10.stream.f>>8.f and UDP source port 1024 + f mod
// 60000, unless the traffic says otherwise; the destination is 10.255.stream.1, port 7787. The UDP checksum is 0, "not computed" (RFC 768).
const (
	headerMax = 14 + 4 + 20 + 8 // bytes before the tag, with a VLAN tag

	udpPort       = 7787   // destination port of our frames
	announceType  = 0x88b5 // EtherType of frames that tell our address (IEEE 802, local experiment)
	firstSrcPort  = 1024
	srcPorts      = 60000
	announceBytes = 60
)

// The tag is what tells our frames apart, little endian and unaligned:
//
//	 0  check   uint16  see tag.check
//	 2  flow    uint32  stream << 24 | flow
//	 6  seq     uint32  of the flow, wraps
//	10  time    uint32  TSC / 8, wraps
const (
	tagLen    = 14
	tagMagic  = 0x6d72
	timeShift = 3
)

type tag struct{ flow, seq, time uint32 }

// check changes with every single bit of the tag.
func (t tag) check() uint16 {
	x := t.flow ^ t.seq ^ t.time
	return uint16(x) ^ uint16(x>>16) ^ tagMagic
}

func (t tag) put(b []byte) {
	_ = b[tagLen-1]
	binary.LittleEndian.PutUint16(b, t.check())
	binary.LittleEndian.PutUint64(b[2:], uint64(t.flow)|uint64(t.seq)<<32)
	binary.LittleEndian.PutUint32(b[10:], t.time)
}

// readTag returns the tag in b, and whether it is one.
func readTag(b []byte) (tag, bool) {
	_ = b[tagLen-1]
	w := binary.LittleEndian.Uint64(b[2:])
	t := tag{uint32(w), uint32(w >> 32), binary.LittleEndian.Uint32(b[10:])}
	return t, t.check() == binary.LittleEndian.Uint16(b)
}

// filler is what follows the tag.
func filler(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*37 + i>>8)
	}
	return b
}

// A template is a frame of one size with room for a flow and a tag.
type template struct {
	frame []byte
	ip    int    // offset of the IPv4 header
	tag   int    // offset of the tag
	sum   uint32 // IPv4 header sum without the low half of the source address
	bare  uint32 // IPv4 header sum without both addresses

	look  look
	given []packed // by flow, for givenLook
	first uint32   // of new flows
}

// frameSpec says what a stream's frames look like at one of its ends.
type frameSpec struct {
	src, dst net.HardwareAddr
	vlan     uint16
	stream   int
	traffic  Traffic
	given    []packed // the traffic's headers
}

// newTemplate builds a frame of size bytes.
func newTemplate(s frameSpec, size int) (template, error) {
	eth := &layers.Ethernet{SrcMAC: s.src, DstMAC: s.dst, EthernetType: layers.EthernetTypeIPv4}
	ip := &layers.IPv4{
		Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, Flags: layers.IPv4DontFragment,
		SrcIP: net.IPv4(10, byte(s.stream), 0, 0), DstIP: net.IPv4(10, 255, byte(s.stream), 1),
	}
	udp := &layers.UDP{DstPort: udpPort, SrcPort: firstSrcPort}
	stack := []gopacket.SerializableLayer{eth, ip, udp}
	t := template{ip: 14, look: s.traffic.look(), given: s.given, first: s.traffic.First}
	if s.vlan != 0 {
		eth.EthernetType = layers.EthernetTypeDot1Q
		stack = []gopacket.SerializableLayer{eth, &layers.Dot1Q{VLANIdentifier: s.vlan, Type: layers.EthernetTypeIPv4}, ip, udp}
		t.ip = 18
	}
	t.tag = t.ip + 28
	fill := filler(size - t.tag - tagLen)
	stack = append(stack, gopacket.Payload(append(make([]byte, tagLen), fill...)))
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true}, stack...); err != nil {
		return template{}, fmt.Errorf("build frame of %d bytes: %w", size, err)
	}
	t.frame = bytes.Clone(buf.Bytes())
	for i := t.ip; i < t.ip+20; i += 2 {
		half := uint32(binary.BigEndian.Uint16(t.frame[i:]))
		if t.sum += half; i < t.ip+12 {
			t.bare += half
		}
	}
	t.dress(t.frame, 0, 0)
	t.wrap(s.traffic.Wrap)
	return t, nil
}

// wrap puts the template into another frame, if there is a way to.
func (t *template) wrap(wrap func([]byte) []byte) {
	if wrap == nil {
		return
	}
	outer := wrap(t.frame)
	before := len(outer) - len(t.frame)
	t.frame, t.ip, t.tag = outer, t.ip+before, t.tag+before
}

// dress gives b, which begins as the template does, the headers of frame seq of
// a flow.
func (t *template) dress(b []byte, flow, seq uint32) {
	switch t.look {
	case givenLook:
		t.setGiven(b, &t.given[flow])
	case freshLook:
		t.setFresh(b, t.first+seq)
	default:
		t.setFlow(b, flow)
	}
}

// setFlow writes what differs from flow to flow into b, which begins as the
// template does.
func (t *template) setFlow(b []byte, flow uint32) {
	t.setLow(b, flow&0xffff, uint16(firstSrcPort+flow%srcPorts))
}

// setLow writes the low half of the source address, and the source port.
func (t *template) setLow(b []byte, low uint32, port uint16) {
	h := b[t.ip : t.ip+22]
	binary.BigEndian.PutUint16(h[10:], fold(t.sum+low))
	binary.BigEndian.PutUint16(h[14:], uint16(low))
	binary.BigEndian.PutUint16(h[20:], port)
}

// same reports whether b is the template's frame seq of flow, but for its tag.
// It writes the flow into the template.
func (t *template) same(b []byte, flow, seq uint32) bool {
	t.dress(t.frame, flow, seq)
	return bytes.Equal(b[:t.tag], t.frame[:t.tag]) && bytes.Equal(b[t.tag+tagLen:], t.frame[t.tag+tagLen:])
}

// announce is a frame that tells a learning switch where src is.
func announce(src net.HardwareAddr, vlan uint16) []byte {
	b := bytes.Repeat([]byte{0xff}, 6)
	b = append(b, src...)
	if vlan != 0 {
		b = binary.BigEndian.AppendUint16(b, 0x8100)
		b = binary.BigEndian.AppendUint16(b, vlan)
	}
	b = binary.BigEndian.AppendUint16(b, announceType)
	return append(b, make([]byte, announceBytes-len(b))...)
}

// Frame is a frame of size bytes as a generator sends it: flow 0, number 0.
func Frame(src, dst net.HardwareAddr, size int) ([]byte, error) {
	t, err := newTemplate(frameSpec{src: src, dst: dst}, size)
	if err != nil {
		return nil, err
	}
	tag{}.put(t.frame[t.tag:])
	return t.frame, nil
}
