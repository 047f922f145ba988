package edit

import (
	"bytes"
	"encoding/binary"
	"net"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"millrace/dataplane/packet"
	"millrace/dataplane/parse/parsetest"
	"millrace/flowtable"
)

// TestGopacket compares Apply with decoding a frame, changing the fields of its
// layers, and making the frame again with fresh checksums, all by gopacket.
func TestGopacket(t *testing.T) {
	r := parsetest.Seeded(t)
	b := packet.NewBatch()
	done := map[gopacket.LayerType]int{}
	for range 60000 {
		frame := parsetest.Frame(r)
		p := &plain{}
		if !p.decode(frame) {
			continue // gopacket does not make it as it was even without a change
		}
		ops := program(r, len(p.tags) == 1)
		b.Reset()
		parsetest.Add(b, frame)
		Apply(b, 0, ops)
		p.apply(ops)
		got, want := b.AppendTo(nil, 0), p.encode(t)
		if p.zero() {
			continue
		}
		n := min(len(got), len(want)) // the rest is padding
		if !bytes.Equal(got[:n], want[:n]) {
			t.Fatalf("%x\nops  %v\ngot  %x\nwant %x", frame, ops, got, want)
		}
		for _, l := range p.layers {
			done[l.LayerType()]++
		}
	}
	for _, l := range []gopacket.LayerType{
		layers.LayerTypeDot1Q, layers.LayerTypeARP, layers.LayerTypeIPv4, layers.LayerTypeIPv6, layers.LayerTypeTCP, layers.LayerTypeUDP,
		layers.LayerTypeSCTP, layers.LayerTypeICMPv4, layers.LayerTypeICMPv6, layers.LayerTypeICMPv6NeighborAdvertisement,
	} {
		if done[l] < 300 {
			t.Errorf("%d frames with %v were compared, want more", done[l], l)
		}
	}
}

// A layer can be decoded and made again.
type layer interface {
	gopacket.Layer
	gopacket.SerializableLayer
}

// A plain is a frame taken apart.
type plain struct {
	layers  []layer
	tags    []*layers.Dot1Q
	payload []byte
}

// decode takes frame apart. It reports whether encode makes the same of it.
func (p *plain) decode(frame []byte) bool {
	for _, l := range gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default).Layers() {
		switch l := l.(type) {
		case *layers.Ethernet:
			if l.EthernetType < 0x600 || l.EthernetType == 0x8035 {
				return false
			}
			p.add(l)
		case *layers.IPv4, *layers.IPv6, *layers.ARP, *layers.TCP, *layers.UDP, *layers.SCTP, *layers.ICMPv4:
			p.add(l.(layer))
		case *layers.ICMPv6:
			if l.TypeCode.Code() != 0 {
				return false // gopacket does not see that it is no neighbour message
			}
			p.add(l)
		case *layers.ICMPv6NeighborSolicitation, *layers.ICMPv6NeighborAdvertisement:
			p.add(l.(layer))
		case *layers.Dot1Q:
			if l.Type < 0x600 || l.Type == 0x8035 {
				return false // gopacket takes a length for a type, and does not know RARP
			}
			p.tags = append(p.tags, l)
			p.add(l)
		case *gopacket.Fragment:
			return false // gopacket does not look at the ports in it
		}
	}
	if last := p.layers[len(p.layers)-1]; last.LayerType() != layers.LayerTypeICMPv6NeighborSolicitation && last.LayerType() != layers.LayerTypeICMPv6NeighborAdvertisement {
		p.payload = bytes.Clone(last.LayerPayload())
	}
	again, err := p.serialize()
	return err == nil && len(p.tags) < 2 && bytes.Equal(again[:min(len(again), len(frame))], frame[:min(len(again), len(frame))]) && len(again) >= min(len(frame), 60)
}

// add adds a layer, whose checksum will cover the IP layer before it.
func (p *plain) add(l layer) {
	if u, ok := l.(interface {
		SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
	}); ok {
		for _, ip := range p.layers {
			if n, ok := ip.(gopacket.NetworkLayer); ok {
				u.SetNetworkLayerForChecksum(n)
			}
		}
	}
	p.layers = append(p.layers, l)
}

// serialize makes the frame, with fresh lengths and checksums.
func (p *plain) serialize() ([]byte, error) {
	all := []gopacket.SerializableLayer{}
	for _, l := range p.layers {
		all = append(all, l)
	}
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append(all, gopacket.Payload(p.payload))...)
	return buf.Bytes(), err
}

// encode is serialize, where it must not fail.
func (p *plain) encode(t *testing.T) []byte {
	t.Helper()
	b, err := p.serialize()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// zero reports whether encode came to a UDP checksum of zero. gopacket sends it
// as it is; TestUDPChecksum says what is right.
func (p *plain) zero() bool {
	return slices.ContainsFunc(p.layers, func(l layer) bool {
		udp, ok := l.(*layers.UDP)
		return ok && udp.Checksum == 0
	})
}

// apply changes the layers.
func (p *plain) apply(ops []flowtable.Op) {
	for _, op := range ops {
		switch op.Code {
		case flowtable.OpSet:
			p.set(op.Word, op.Value, op.Mask)
		case flowtable.OpDecTTL:
			for _, l := range p.layers {
				switch ip := l.(type) {
				case *layers.IPv4:
					ip.TTL -= min(ip.TTL, 1)
				case *layers.IPv6:
					ip.HopLimit -= min(ip.HopLimit, 1)
				}
			}
		case flowtable.OpPushVLAN:
			ether := p.layers[0].(*layers.Ethernet)
			tag := &layers.Dot1Q{Type: ether.EthernetType}
			ether.EthernetType = layers.EthernetTypeDot1Q
			p.tags = []*layers.Dot1Q{tag}
			p.layers = append([]layer{ether, tag}, p.layers[1:]...)
		case flowtable.OpPopVLAN:
			p.layers[0].(*layers.Ethernet).EthernetType = p.tags[0].Type
			p.layers = append(p.layers[:1:1], p.layers[2:]...)
			p.tags = nil
		}
	}
}

// set changes what lies in a word of the key.
func (p *plain) set(word uint8, value, mask uint64) {
	if word == flowtable.WordIn && len(p.tags) == 1 {
		tag := p.tags[0]
		tag.Priority = tag.Priority&^uint8(mask>>29&7) | uint8(value>>29&7)&uint8(mask>>29&7)
		tag.VLANIdentifier = tag.VLANIdentifier&^uint16(mask>>16&0xfff) | uint16(value>>16&0xfff)&uint16(mask>>16&0xfff)
	}
	for _, l := range p.layers {
		switch l := l.(type) {
		case *layers.Ethernet:
			setEthernet(l, word, value, mask)
		case *layers.ARP:
			setARP(l, word, value, mask)
		case *layers.IPv4:
			setIPv4(l, word, value, mask)
		case *layers.IPv6:
			setIPv6(l, word, value, mask)
		case *layers.TCP:
			ports(word, value, mask, (*uint16)(&l.SrcPort), (*uint16)(&l.DstPort))
		case *layers.UDP:
			ports(word, value, mask, (*uint16)(&l.SrcPort), (*uint16)(&l.DstPort))
		case *layers.SCTP:
			ports(word, value, mask, (*uint16)(&l.SrcPort), (*uint16)(&l.DstPort))
		case *layers.ICMPv4:
			kind, code := uint16(l.TypeCode.Type()), uint16(l.TypeCode.Code())
			ports(word, value, mask, &kind, &code)
			l.TypeCode = layers.CreateICMPv4TypeCode(uint8(kind), uint8(code))
		case *layers.ICMPv6:
			kind, code := uint16(l.TypeCode.Type()), uint16(l.TypeCode.Code())
			ports(word, value, mask, &kind, &code)
			l.TypeCode = layers.CreateICMPv6TypeCode(uint8(kind), uint8(code))
		case *layers.ICMPv6NeighborSolicitation:
			setND(l.TargetAddress, l.Options, word, value, mask)
		case *layers.ICMPv6NeighborAdvertisement:
			setND(l.TargetAddress, l.Options, word, value, mask)
		}
	}
}

// swap changes bits of a number of len(b) bytes; value and mask are as long.
func swap(b []byte, value, mask uint64) {
	for i := range b {
		shift := 8 * (len(b) - 1 - i)
		m := uint8(mask >> shift)
		b[i] = b[i]&^m | uint8(value>>shift)&m
	}
}

func setEthernet(l *layers.Ethernet, word uint8, value, mask uint64) {
	switch word {
	case flowtable.WordDst:
		swap(l.DstMAC, value>>16, mask>>16)
	case flowtable.WordSrc:
		swap(l.SrcMAC, value>>16, mask>>16)
	}
}

func setARP(l *layers.ARP, word uint8, value, mask uint64) {
	switch word {
	case flowtable.WordL4:
		op := binary.BigEndian.AppendUint16(nil, l.Operation)
		swap(op, value>>48, mask>>48)
		l.Operation = binary.BigEndian.Uint16(op)
	case flowtable.WordIP4:
		swap(l.SourceProtAddress, value>>32, mask>>32)
		swap(l.DstProtAddress, value, mask)
	case flowtable.WordSHA:
		swap(l.SourceHwAddress, value, mask)
	case flowtable.WordTHA:
		swap(l.DstHwAddress, value, mask)
	}
}

func setIPv4(l *layers.IPv4, word uint8, value, mask uint64) {
	switch word {
	case flowtable.WordSrc:
		l.TTL = l.TTL&^uint8(mask) | uint8(value&mask)
	case flowtable.WordIP4:
		swap(l.SrcIP, value>>32, mask>>32)
		swap(l.DstIP, value, mask)
	case flowtable.WordL4:
		l.TOS = l.TOS&^uint8(mask>>24) | uint8(value>>24)&uint8(mask>>24)
	}
}

func setIPv6(l *layers.IPv6, word uint8, value, mask uint64) {
	halves := func(a net.IP) map[uint8][]byte {
		return map[uint8][]byte{0: a[:8], 1: a[8:]}
	}
	switch word {
	case flowtable.WordSrc:
		l.HopLimit = l.HopLimit&^uint8(mask) | uint8(value&mask)
	case flowtable.WordIP4:
		l.FlowLabel = l.FlowLabel&^uint32(mask&0xfffff) | uint32(value&mask&0xfffff)
	case flowtable.WordL4:
		l.TrafficClass = l.TrafficClass&^uint8(mask>>24) | uint8(value>>24)&uint8(mask>>24)
	case flowtable.WordIP6Src, flowtable.WordIP6SrcLow:
		swap(halves(l.SrcIP)[word-flowtable.WordIP6Src], value, mask)
	case flowtable.WordIP6Dst, flowtable.WordIP6DstLow:
		swap(halves(l.DstIP)[word-flowtable.WordIP6Dst], value, mask)
	}
}

// ports changes ports, or ICMP's type and code.
func ports(word uint8, value, mask uint64, a, b *uint16) {
	if word != flowtable.WordL4 {
		return
	}
	*a = *a&^uint16(mask>>48) | uint16(value>>48)&uint16(mask>>48)
	*b = *b&^uint16(mask>>32) | uint16(value>>32)&uint16(mask>>32)
}

func setND(target net.IP, options layers.ICMPv6Options, word uint8, value, mask uint64) {
	switch word {
	case flowtable.WordND:
		swap(target[:8], value, mask)
	case flowtable.WordNDLow:
		swap(target[8:], value, mask)
	}
	for _, o := range options {
		if o.Type == layers.ICMPv6OptSourceAddress && word == flowtable.WordSHA || o.Type == layers.ICMPv6OptTargetAddress && word == flowtable.WordTHA {
			swap(o.Data, value, mask)
		}
	}
}
