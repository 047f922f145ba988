package parse

import (
	"encoding/binary"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"millrace/dataplane/packet"
	"millrace/dataplane/parse/parsetest"
	"millrace/flowtable"
)

// TestGopacket finds One to read sound frames as gopacket does.
func TestGopacket(t *testing.T) {
	r := parsetest.Seeded(t)
	deep, wide := 0, 0
	for range 20000 {
		frame := parsetest.Frame(r)
		got, flaw := one(frame, 0)
		if flaw == Deep {
			deep++
			continue
		}
		if got[flowtable.WordIP6Src] != 0 {
			wide++
		}
		if want := decoded(frame); got != want || flaw != 0 {
			t.Fatalf("%x\ngot  %x, flaw %v\nwant %x\n%v", frame[:min(len(frame), packet.HeadMax)], got, flaw, want,
				gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default))
		}
	}
	if deep > 2000 || wide < 2000 {
		t.Errorf("%d of 20000 frames were not compared, %d were IPv6", deep, wide)
	}
}

// decoded is the key of a sound frame as gopacket's layers tell it.
func decoded(frame []byte) flowtable.Key {
	k := flowtable.Key{flowtable.WordIn: NoType}
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
	tags := 0
	for _, l := range p.Layers() {
		if tag, ok := l.(*layers.Dot1Q); ok {
			if tags++; tags > 1 {
				break
			}
			tci := uint64(tag.Priority)<<13 | flowtable.TagPresent | uint64(tag.VLANIdentifier)
			k[flowtable.WordIn] = tci<<16 | typeOr(tag.Type)
			if tag.Type < typeMin && binary.BigEndian.Uint16(tag.Contents[2:]) == uint16(tag.Type) {
				decodedLLC(&k, tag.Payload) // gopacket takes the length for a type
			}
			decodedRARP(&k, tag.Type, tag.Payload)
			continue
		}
		decodedLayer(&k, l)
		if _, ok := l.(gopacket.TransportLayer); ok {
			break // what is in it is a tunnel's business, for some ports
		}
	}
	return k
}

// typeOr is t if it is a type.
func typeOr(t layers.EthernetType) uint64 {
	if t < typeMin {
		return NoType
	}
	return uint64(t)
}

// decodedLLC reads an 802.3 payload.
func decodedLLC(k *flowtable.Key, llc []byte) {
	for _, l := range gopacket.NewPacket(llc, layers.LayerTypeLLC, gopacket.NoCopy).Layers() {
		decodedLayer(k, l)
	}
}

// decodedLayer adds what l says to k.
func decodedLayer(k *flowtable.Key, l gopacket.Layer) {
	proto := func(p layers.IPProtocol) {
		k[flowtable.WordSrc] = k[flowtable.WordSrc]&^0xff00 | uint64(p)<<8
	}
	ports := func(a, b uint64) { k[flowtable.WordL4] |= a<<48 | b<<32 }
	switch l := l.(type) {
	case *layers.Ethernet:
		k[flowtable.WordDst], k[flowtable.WordSrc] = mac(l.DstMAC)<<16, mac(l.SrcMAC)<<16
		k[flowtable.WordIn] = typeOr(l.EthernetType)
		decodedRARP(k, l.EthernetType, l.Payload)
	case *layers.SNAP:
		if [3]byte(l.OrganizationalCode) == [3]byte{} {
			k[flowtable.WordIn] = k[flowtable.WordIn]&^0xffff | typeOr(l.Type)
			decodedRARP(k, l.Type, l.Payload)
		}
	case *layers.ARP:
		decodedARP(k, l)
	case *layers.IPv4:
		proto(l.Protocol)
		k[flowtable.WordSrc] |= uint64(l.TTL)
		k[flowtable.WordIP4] = uint64(binary.BigEndian.Uint32(l.SrcIP))<<32 | uint64(binary.BigEndian.Uint32(l.DstIP))
		k[flowtable.WordL4] = uint64(l.TOS) << 24
		if more := l.Flags&layers.IPv4MoreFragments != 0; more || l.FragOffset != 0 {
			decodedFragment(k, l.FragOffset != 0, l.Protocol, l.Payload)
		}
	case *layers.IPv6:
		proto(l.NextHeader)
		k[flowtable.WordSrc] |= uint64(l.HopLimit)
		k[flowtable.WordIP4] = uint64(l.FlowLabel)
		k[flowtable.WordL4] = uint64(l.TrafficClass) << 24
		k[flowtable.WordIP6Src], k[flowtable.WordIP6SrcLow] = binary.BigEndian.Uint64(l.SrcIP), binary.BigEndian.Uint64(l.SrcIP[8:])
		k[flowtable.WordIP6Dst], k[flowtable.WordIP6DstLow] = binary.BigEndian.Uint64(l.DstIP), binary.BigEndian.Uint64(l.DstIP[8:])
	case *layers.IPv6HopByHop:
		proto(l.NextHeader)
	case *layers.IPv6Destination:
		proto(l.NextHeader)
	case *layers.IPv6Routing:
		proto(l.NextHeader)
	case *layers.IPSecAH:
		if k[flowtable.WordSrc]>>8&0xff == protoAH && uint16(k[flowtable.WordIn]) == typeIPv6 {
			proto(l.NextHeader)
		}
	case *layers.IPv6Fragment:
		if l.FragmentOffset != 0 {
			decodedFragment(k, true, 0, nil)
			return
		}
		proto(l.NextHeader)
		if l.MoreFragments {
			decodedFragment(k, false, l.NextHeader, l.Payload)
			return
		}
		decodedUpper(k, l.NextHeader, l.Payload)
	case *layers.TCP:
		ports(uint64(l.SrcPort), uint64(l.DstPort))
		k[flowtable.WordDst] |= uint64(binary.BigEndian.Uint16(l.Contents[12:]) & 0xfff)
	case *layers.UDP:
		ports(uint64(l.SrcPort), uint64(l.DstPort))
	case *layers.SCTP:
		ports(uint64(l.SrcPort), uint64(l.DstPort))
	case *layers.ICMPv4:
		ports(uint64(l.TypeCode.Type()), uint64(l.TypeCode.Code()))
	case *layers.ICMPv6:
		ports(uint64(l.TypeCode.Type()), uint64(l.TypeCode.Code()))
		if l.TypeCode.Code() == 0 {
			decodedND(k, l)
		}
	}
}

// decodedFragment adds that the packet is a fragment. gopacket does not look
// into the first one either.
func decodedFragment(k *flowtable.Key, later bool, proto layers.IPProtocol, payload []byte) {
	k[flowtable.WordL4] |= fragAny << 16
	if later {
		k[flowtable.WordL4] |= fragLater << 16
		return
	}
	decodedUpper(k, proto, payload)
}

// decodedUpper reads what a fragment header hides.
func decodedUpper(k *flowtable.Key, proto layers.IPProtocol, payload []byte) {
	for _, l := range gopacket.NewPacket(payload, proto.LayerType(), gopacket.NoCopy).Layers() {
		decodedLayer(k, l)
	}
}

// decodedARP adds an ARP packet.
func decodedARP(k *flowtable.Key, l *layers.ARP) {
	k[flowtable.WordL4] = uint64(l.Operation) << 48
	k[flowtable.WordSHA], k[flowtable.WordTHA] = mac(l.SourceHwAddress), mac(l.DstHwAddress)
	k[flowtable.WordIP4] = uint64(binary.BigEndian.Uint32(l.SourceProtAddress))<<32 | uint64(binary.BigEndian.Uint32(l.DstProtAddress))
}

// decodedRARP adds an RARP packet, which gopacket does not know, if t says that it is one.
func decodedRARP(k *flowtable.Key, t layers.EthernetType, packet []byte) {
	var l layers.ARP
	if t == typeRARP && l.DecodeFromBytes(packet, gopacket.NilDecodeFeedback) == nil {
		decodedARP(k, &l)
	}
}

// decodedND adds a neighbour message.
func decodedND(k *flowtable.Key, icmp *layers.ICMPv6) {
	var target []byte
	var options layers.ICMPv6Options
	switch icmp.TypeCode.Type() {
	case layers.ICMPv6TypeNeighborSolicitation:
		var l layers.ICMPv6NeighborSolicitation
		if l.DecodeFromBytes(icmp.Payload, gopacket.NilDecodeFeedback) != nil {
			return
		}
		target, options = l.TargetAddress, l.Options
	case layers.ICMPv6TypeNeighborAdvertisement:
		var l layers.ICMPv6NeighborAdvertisement
		if l.DecodeFromBytes(icmp.Payload, gopacket.NilDecodeFeedback) != nil {
			return
		}
		target, options = l.TargetAddress, l.Options
	default:
		return
	}
	k[flowtable.WordND], k[flowtable.WordNDLow] = binary.BigEndian.Uint64(target), binary.BigEndian.Uint64(target[8:])
	for _, o := range options {
		switch o.Type {
		case layers.ICMPv6OptSourceAddress:
			k[flowtable.WordSHA] = mac(o.Data)
		case layers.ICMPv6OptTargetAddress:
			k[flowtable.WordTHA] = mac(o.Data)
		}
	}
}

// mac is an Ethernet address as a number.
func mac(a []byte) (v uint64) {
	for _, b := range a {
		v = v<<8 | uint64(b)
	}
	return v
}
