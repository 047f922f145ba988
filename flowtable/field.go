package flowtable

import "slices"

// A Field is a run of bits of a Context: of one word, or of one and the next
// for fields over 64 bits, whose high half is in Word.
type Field struct {
	Name  string
	Word  uint8 // first word
	Shift uint8 // of the least significant bit in its (last) word
	Width uint8 // in bits: 1..64, or 128
}

// Bits returns the mask of the field in its words; low is 0 for fields of one
// word.
func (f Field) Bits() (high, low uint64) {
	if f.Width == 128 {
		return ^uint64(0), ^uint64(0)
	}
	return ^uint64(0) >> (64 - f.Width) << f.Shift, 0
}

// Fields returns all fields. Registers overlap as in OVN: xreg0 is reg0 (high
// half) and reg1.
func Fields() []Field { return slices.Clone(fields) }

// fields are all fields. They never change.
var fields = []Field{
	{"in_port", WordIn, 32, 32}, {"vlan.tci", WordIn, 16, 16}, {"eth.type", WordIn, 0, 16},
	{"eth.dst", WordDst, 16, 48}, {"tcp.flags", WordDst, 0, 12},
	{"eth.src", WordSrc, 16, 48}, {"ip.proto", WordSrc, 8, 8}, {"ip.ttl", WordSrc, 0, 8},
	{"ip4.src", WordIP4, 32, 32}, {"ip4.dst", WordIP4, 0, 32}, {"arp.spa", WordIP4, 32, 32}, {"arp.tpa", WordIP4, 0, 32}, {"ip6.label", WordIP4, 0, 20},
	{"tp.src", WordL4, 48, 16}, {"tp.dst", WordL4, 32, 16}, {"arp.op", WordL4, 48, 16}, {"icmp.type", WordL4, 48, 8}, {"icmp.code", WordL4, 32, 8},
	{"ip.dscp", WordL4, 26, 6}, {"ip.ecn", WordL4, 24, 2}, {"ip.frag", WordL4, 16, 2},
	{"tun.id", WordTunnel, 40, 24}, {"tun.flags", WordTunnel, 32, 8}, {"tun.data", WordTunnel, 0, 32},
	{"ip6.src", WordIP6Src, 0, 128}, {"ip6.dst", WordIP6Dst, 0, 128},
	{"arp.sha", WordSHA, 0, 48}, {"nd.sll", WordSHA, 0, 48}, {"arp.tha", WordTHA, 0, 48}, {"nd.tll", WordTHA, 0, 48}, {"nd.target", WordND, 0, 128},
	{"datapath", WordDatapath, 0, 64}, {"inport", WordPorts, 32, 32}, {"outport", WordPorts, 0, 32},
	{"flags", WordFlags, 32, 32}, {"pkt.mark", WordFlags, 0, 32},
	{"reg0", WordReg0, 32, 32}, {"reg1", WordReg0, 0, 32}, {"reg2", WordReg2, 32, 32}, {"reg3", WordReg2, 0, 32}, {"reg4", WordReg4, 32, 32},
	{"reg5", WordReg4, 0, 32}, {"reg6", WordReg6, 32, 32}, {"reg7", WordReg6, 0, 32}, {"reg8", WordReg8, 32, 32}, {"reg9", WordReg8, 0, 32},
	{"xreg0", WordReg0, 0, 64}, {"xreg1", WordReg2, 0, 64}, {"xreg2", WordReg4, 0, 64}, {"xreg3", WordReg6, 0, 64}, {"xreg4", WordReg8, 0, 64},
	{"xxreg0", WordReg0, 0, 128}, {"xxreg1", WordReg4, 0, 128},
	{"reg11", WordZones, 48, 16}, {"reg12", WordZones, 32, 16}, {"reg13", WordZones, 0, 32},
	{"ct_state", WordCT, 32, 32}, {"ct_mark", WordCT, 0, 32}, {"ct_label", WordLabel, 0, 128},
	{"ct_tp_src", WordCTL4, 48, 16}, {"ct_tp_dst", WordCTL4, 32, 16}, {"ct_proto", WordCTL4, 0, 8},
	{"ct_nw_src", WordCTIP4, 32, 32}, {"ct_nw_dst", WordCTIP4, 0, 32}, {"ct_ip6_src", WordCTIP6Src, 0, 128}, {"ct_ip6_dst", WordCTIP6Dst, 0, 128},
	{"tun.src", WordTunSrc, 0, 128}, {"tun.dst", WordTunDst, 0, 128},
}
