package logical

// Field is a place that a packet or its metadata keeps a value in. Symbols are
// names for fields or for bits of them; no two fields overlap, so that masks on
// one can be joined: reg0 is bits 96 to 127 of FieldXXReg0.
type Field uint8

// The fields. tcp, udp and sctp ports, and the ARP and RARP fields, are told
// apart by their prerequisites; a flow table may keep them in one word.
const (
	FieldInport        Field = iota // port key; a string in the language
	FieldOutport                    // port key; a string in the language
	FieldXXReg0                     // reg0 (high) to reg3
	FieldXXReg1                     // reg4 (high) to reg7
	FieldXReg4                      // reg8 (high) and reg9
	FieldFlags                      // reg10
	FieldPktMark                    // skb mark
	FieldCTState                    // ct_state, 0 when untracked
	FieldCTMark                     // ct_mark
	FieldCTLabel                    // ct_label
	FieldCTProto                    // protocol of the connection's original direction
	FieldCTTPSrc                    // its source port
	FieldCTTPDst                    // its destination port
	FieldEthSrc                     // eth.src
	FieldEthDst                     // eth.dst
	FieldEthType                    // eth.type, after VLAN tags
	FieldVLANTCI                    // vlan.tci, bit 12 set if there is a tag, 0 if not
	FieldIPProto                    // ip.proto
	FieldIPDSCP                     // ip.dscp
	FieldIPECN                      // ip.ecn
	FieldIPTTL                      // ip.ttl
	FieldIPFrag                     // bit 0: a fragment, bit 1: not the first
	FieldIP4Src                     // ip4.src
	FieldIP4Dst                     // ip4.dst
	FieldIP6Src                     // ip6.src
	FieldIP6Dst                     // ip6.dst
	FieldIP6Label                   // ip6.label
	FieldICMP4Type                  // icmp4.type
	FieldICMP4Code                  // icmp4.code
	FieldICMP6Type                  // icmp6.type
	FieldICMP6Code                  // icmp6.code
	FieldARPOp                      // arp.op, rarp.op
	FieldARPSPA                     // arp.spa, rarp.spa
	FieldARPTPA                     // arp.tpa, rarp.tpa
	FieldARPSHA                     // arp.sha, rarp.sha
	FieldARPTHA                     // arp.tha, rarp.tha
	FieldNDTarget                   // nd.target
	FieldNDSLL                      // nd.sll
	FieldNDTLL                      // nd.tll
	FieldTCPSrc                     // tcp.src
	FieldTCPDst                     // tcp.dst
	FieldTCPFlags                   // tcp.flags
	FieldUDPSrc                     // udp.src
	FieldUDPDst                     // udp.dst
	FieldSCTPSrc                    // sctp.src
	FieldSCTPDst                    // sctp.dst
	FieldTunID                      // network identifier of the tunnel by which the packet came or goes
	FieldTunFlags                   // bit 0: there is FieldTunData
	FieldTunData                    // data of the Geneve option of OVN
	FieldTunSrc                     // outer source of that tunnel: IPv6, or IPv4 in the low 32 bits
	FieldTunDst                     // outer destination
	FieldICMP4FragMTU               // write-only, in icmp4 blocks
	FieldICMP6FragMTU               // write-only, in icmp6 blocks
	FieldICMP4InnerSrc              // write-only, in icmp4 blocks
	NumFields                       // not a field
)

// fieldWidths returns the width of each field in bits.
func fieldWidths() [NumFields]uint8 {
	return [NumFields]uint8{
		FieldInport: 32, FieldOutport: 32, FieldXXReg0: 128, FieldXXReg1: 128, FieldXReg4: 64, FieldFlags: 32,
		FieldPktMark: 32, FieldCTState: 32, FieldCTMark: 32, FieldCTLabel: 128, FieldCTProto: 8, FieldCTTPSrc: 16,
		FieldCTTPDst: 16, FieldEthSrc: 48, FieldEthDst: 48, FieldEthType: 16, FieldVLANTCI: 16, FieldIPProto: 8,
		FieldIPDSCP: 6, FieldIPECN: 2, FieldIPTTL: 8, FieldIPFrag: 2, FieldIP4Src: 32, FieldIP4Dst: 32,
		FieldIP6Src: 128, FieldIP6Dst: 128, FieldIP6Label: 20, FieldICMP4Type: 8, FieldICMP4Code: 8,
		FieldICMP6Type: 8, FieldICMP6Code: 8, FieldARPOp: 16, FieldARPSPA: 32, FieldARPTPA: 32, FieldARPSHA: 48,
		FieldARPTHA: 48, FieldNDTarget: 128, FieldNDSLL: 48, FieldNDTLL: 48, FieldTCPSrc: 16, FieldTCPDst: 16,
		FieldTCPFlags: 12, FieldUDPSrc: 16, FieldUDPDst: 16, FieldSCTPSrc: 16, FieldSCTPDst: 16,
		FieldTunID: 24, FieldTunFlags: 8, FieldTunData: 32, FieldTunSrc: 128, FieldTunDst: 128,
		FieldICMP4FragMTU: 16, FieldICMP6FragMTU: 32, FieldICMP4InnerSrc: 32,
	}
}

// Width returns the number of bits of f.
func (f Field) Width() int { return int(fieldWidths()[f]) }

// String returns the name of the symbol that stands for all of f.
func (f Field) String() string {
	names := [NumFields]string{
		FieldInport: "inport", FieldOutport: "outport", FieldXXReg0: "xxreg0", FieldXXReg1: "xxreg1", FieldXReg4: "xreg4",
		FieldFlags: "flags", FieldPktMark: "pkt.mark", FieldCTState: "ct_state", FieldCTMark: "ct_mark",
		FieldCTLabel: "ct_label", FieldCTProto: "ct_proto", FieldCTTPSrc: "ct_tp_src", FieldCTTPDst: "ct_tp_dst",
		FieldEthSrc: "eth.src", FieldEthDst: "eth.dst", FieldEthType: "eth.type", FieldVLANTCI: "vlan.tci",
		FieldIPProto: "ip.proto", FieldIPDSCP: "ip.dscp", FieldIPECN: "ip.ecn", FieldIPTTL: "ip.ttl", FieldIPFrag: "ip.frag",
		FieldIP4Src: "ip4.src", FieldIP4Dst: "ip4.dst", FieldIP6Src: "ip6.src", FieldIP6Dst: "ip6.dst",
		FieldIP6Label: "ip6.label", FieldICMP4Type: "icmp4.type", FieldICMP4Code: "icmp4.code",
		FieldICMP6Type: "icmp6.type", FieldICMP6Code: "icmp6.code", FieldARPOp: "arp.op", FieldARPSPA: "arp.spa",
		FieldARPTPA: "arp.tpa", FieldARPSHA: "arp.sha", FieldARPTHA: "arp.tha", FieldNDTarget: "nd.target",
		FieldNDSLL: "nd.sll", FieldNDTLL: "nd.tll", FieldTCPSrc: "tcp.src", FieldTCPDst: "tcp.dst",
		FieldTCPFlags: "tcp.flags", FieldUDPSrc: "udp.src", FieldUDPDst: "udp.dst", FieldSCTPSrc: "sctp.src",
		FieldTunID: "tun.id", FieldTunFlags: "tun.flags", FieldTunData: "tun.data", FieldTunSrc: "tun.src", FieldTunDst: "tun.dst",
		FieldSCTPDst: "sctp.dst", FieldICMP4FragMTU: "icmp4.frag_mtu", FieldICMP6FragMTU: "icmp6.frag_mtu",
		FieldICMP4InnerSrc: "icmp4.inner_ip4.src",
	}
	if f >= NumFields {
		return "?"
	}
	return names[f]
}
