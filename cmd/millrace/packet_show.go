package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// describe decodes a frame, and returns a line for each of its headers.
func describe(frame []byte) []string {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.DecodeOptions{NoCopy: true})
	var out []string
	for _, l := range p.Layers() {
		if line := describeLayer(l); line != "" {
			out = append(out, line)
		}
	}
	if e := p.ErrorLayer(); e != nil {
		out = append(out, "the rest cannot be decoded: "+e.Error().Error())
	}
	return out
}

// describeLayer returns a header in one line.
func describeLayer(l gopacket.Layer) string {
	switch l := l.(type) {
	case *layers.Ethernet:
		return fmt.Sprintf("Ethernet %s > %s, %s", l.SrcMAC, l.DstMAC, etherType(l.EthernetType, l.Length))
	case *layers.Dot1Q:
		drop := map[bool]string{true: ", drop eligible"}[l.DropEligible]
		return fmt.Sprintf("VLAN %d, priority %d%s, %s", l.VLANIdentifier, l.Priority, drop, etherType(l.Type, 0))
	case *layers.IPv4:
		return fmt.Sprintf("IPv4 %s > %s, %s, TTL %d, TOS %#x, %d bytes%s", l.SrcIP, l.DstIP, l.Protocol, l.TTL, l.TOS, l.Length, fragment(l))
	case *layers.IPv6:
		return fmt.Sprintf("IPv6 %s > %s, %s, hop limit %d, class %#x, label %#x, %d bytes behind", l.SrcIP, l.DstIP, l.NextHeader, l.HopLimit, l.TrafficClass, l.FlowLabel, l.Length)
	case *layers.ARP:
		return fmt.Sprintf("ARP operation %d, %s at %s, %s at %s", l.Operation, address(l.SourceProtAddress), hardware(l.SourceHwAddress), address(l.DstProtAddress), hardware(l.DstHwAddress))
	case *layers.TCP:
		return fmt.Sprintf("TCP %d > %d, %s", uint16(l.SrcPort), uint16(l.DstPort), tcpFlags(l))
	case *layers.UDP:
		return fmt.Sprintf("UDP %d > %d, %d bytes", uint16(l.SrcPort), uint16(l.DstPort), l.Length)
	case *layers.SCTP:
		return fmt.Sprintf("SCTP %d > %d", uint16(l.SrcPort), uint16(l.DstPort))
	case *layers.ICMPv4:
		return fmt.Sprintf("ICMP %s", l.TypeCode)
	case *layers.ICMPv6:
		return fmt.Sprintf("ICMPv6 %s", l.TypeCode)
	case *layers.ICMPv6NeighborSolicitation:
		return fmt.Sprintf("solicitation of %s", l.TargetAddress)
	case *layers.ICMPv6NeighborAdvertisement:
		return fmt.Sprintf("advertisement of %s", l.TargetAddress)
	case *gopacket.Payload:
		return fmt.Sprintf("payload, %d bytes", len(*l))
	case *gopacket.DecodeFailure:
		return ""
	}
	return fmt.Sprintf("%s, %d bytes", l.LayerType(), len(l.LayerContents()))
}

func etherType(t layers.EthernetType, length uint16) string {
	if t == layers.EthernetTypeLLC {
		return fmt.Sprintf("802.3, %d bytes", length)
	}
	return fmt.Sprintf("type %#04x", uint16(t))
}

func fragment(l *layers.IPv4) string {
	switch {
	case l.FragOffset > 0:
		return fmt.Sprintf(", fragment from byte %d", int(l.FragOffset)*8)
	case l.Flags&layers.IPv4MoreFragments != 0:
		return ", first fragment"
	}
	return ""
}

func tcpFlags(l *layers.TCP) string {
	var out []string
	for _, f := range []struct {
		set  bool
		name string
	}{{l.SYN, "SYN"}, {l.ACK, "ACK"}, {l.FIN, "FIN"}, {l.RST, "RST"}, {l.PSH, "PSH"}, {l.URG, "URG"}, {l.ECE, "ECE"}, {l.CWR, "CWR"}} {
		if f.set {
			out = append(out, f.name)
		}
	}
	if len(out) == 0 {
		return "no flags"
	}
	return strings.Join(out, " ")
}

// address and hardware write what ARP has, which may be of any length.
func address(b []byte) string {
	if len(b) != 4 {
		return fmt.Sprintf("%x", b)
	}
	return fmt.Sprintf("%d.%d.%d.%d", b[0], b[1], b[2], b[3])
}

func hardware(b []byte) string {
	out := make([]string, len(b))
	for i, x := range b {
		out[i] = fmt.Sprintf("%02x", x)
	}
	return strings.Join(out, ":")
}

// readPcap returns frame n, from 1, of a capture file.
func readPcap(path string, n int) (frame []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	defer func() {
		if bad := recover(); bad != nil { // pcapgo's, such as a division by zero for a clock of 2^64 ticks
			frame, err = nil, fmt.Errorf("%s: the file is damaged: %v", path, bad)
		}
	}()
	r, link, err := openPcap(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if link != layers.LinkTypeEthernet {
		return nil, fmt.Errorf("%s: its frames are of type %s, not Ethernet", path, link)
	}
	for i := 1; ; i++ {
		frame, info, err := r.ReadPacketData()
		switch {
		case errors.Is(err, io.EOF):
			return nil, fmt.Errorf("%s: no frame %d: it has %d", path, n, i-1)
		case err != nil:
			return nil, fmt.Errorf("%s: frame %d: %w", path, i, err)
		case i == n && info.CaptureLength < info.Length:
			return nil, fmt.Errorf("%s: frame %d is cut off: %d of its %d bytes were captured", path, i, info.CaptureLength, info.Length)
		case i == n:
			return frame, nil
		}
	}
}

// openPcap reads the head of a capture file: of the old or the new format.
func openPcap(f *os.File) (gopacket.PacketDataSource, layers.LinkType, error) {
	old, err := pcapgo.NewReader(f)
	if err == nil {
		return old, old.LinkType(), nil
	}
	if _, seek := f.Seek(0, io.SeekStart); seek != nil {
		return nil, 0, errors.Join(err, seek)
	}
	ng, err2 := pcapgo.NewNgReader(f, pcapgo.DefaultNgReaderOptions)
	if err2 != nil {
		return nil, 0, fmt.Errorf("no capture file (pcap: %w; pcapng: %w)", err, err2)
	}
	return ng, ng.LinkType(), nil
}
