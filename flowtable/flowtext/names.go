package flowtext

import (
	"strconv"

	"millrace/flowtable"
)

// Names says what numbers are called. A function that is nil, or returns "", has
// no name.
type Names struct {
	Port     func(number uint32) string
	Datapath func(id uint64) string
	Flood    func(id uint32) string
	Drop     func(code uint32) string // why, of ActDrop
	Set      func(id uint32) string   // as matches write it: "$web", "{10.0.0.1, 10.0.0.2}"
	Meter    func(id uint32) string
	Group    func(id uint32) string             // of select groups
	Buckets  func(id uint32) []flowtable.Bucket // of select groups that have no name
}

// floodPort is the bit that makes the number of a port stand for a flood list.
const floodPort = 1 << 31

// port writes a port: its name as a string, or its number. All ports are "_flood".
func (n *Names) port(number uint64) string {
	if number&floodPort != 0 {
		return `"_flood"`
	}
	if n != nil && n.Port != nil {
		if name := n.Port(uint32(number)); name != "" {
			return strconv.Quote(name)
		}
	}
	return strconv.FormatUint(number, 10)
}

// datapath writes a datapath.
func (n *Names) datapath(id uint64) string {
	if n != nil && n.Datapath != nil {
		if name := n.Datapath(id); name != "" {
			return strconv.Quote(name)
		}
	}
	return "0x" + strconv.FormatUint(id, 16)
}

// drop writes a drop for a reason.
func (n *Names) drop(code uint32) string {
	switch {
	case code == 0:
		return "drop;"
	case n != nil && n.Drop != nil && n.Drop(code) != "":
		return "drop(" + strconv.Quote(n.Drop(code)) + ");"
	}
	return "drop(" + strconv.FormatUint(uint64(code), 10) + ");"
}

// set writes a set; the sign is of those that have only a number.
func (n *Names) set(sign string, id uint32) string {
	if n != nil && n.Set != nil {
		if text := n.Set(id); text != "" {
			return text
		}
	}
	return sign + strconv.FormatUint(uint64(id), 10)
}

// meter writes a meter as an action.
func (n *Names) meter(id uint32) string {
	if n != nil && n.Meter != nil {
		if name := n.Meter(id); name != "" {
			return "meter(" + strconv.Quote(name) + ")"
		}
	}
	return "meter(" + strconv.FormatUint(uint64(id), 10) + ")"
}

func (n *Names) flood(id uint32) string {
	if n != nil && n.Flood != nil {
		if name := n.Flood(id); name != "" {
			return strconv.Quote(name)
		}
	}
	return strconv.FormatUint(uint64(id), 10)
}

// A form is how values of a field are written.
type form uint8

const (
	formNumber form = iota // decimal, hexadecimal from 65536 on
	formHex
	formMAC
	formIP4
	formIP6
	formPort
	formDatapath
)

// A kind is what packets are about which words are: as far as a match says.
type kind struct {
	ethType, proto uint16 // 0: not known
}

// Ethernet types and IP protocols that change what words mean.
const (
	typeIP4  = 0x800
	typeIP6  = 0x86dd
	typeARP  = 0x806
	typeRARP = 0x8035

	protoICMP  = 1
	protoTCP   = 6
	protoUDP   = 17
	protoICMP6 = 58
	protoSCTP  = 132
)

// kindOf returns what kind of packets a match is for.
func kindOf(match []flowtable.Masked) (k kind) {
	for _, m := range match {
		switch {
		case m.Word == flowtable.WordIn && m.Mask&0xffff == 0xffff:
			k.ethType = uint16(m.Value)
		case m.Word == flowtable.WordSrc && m.Mask>>8&0xff == 0xff:
			k.proto = uint16(m.Value >> 8 & 0xff)
		}
	}
	if !k.is(typeIP4, typeIP6) {
		k.proto = 0
	}
	return k
}

// is reports whether packets are of one of these Ethernet types.
func (k kind) is(types ...uint16) bool {
	for _, t := range types {
		if k.ethType == t {
			return true
		}
	}
	return false
}

// l4 is the symbol of what IP carries, or "tp".
func (k kind) l4() string {
	switch k.proto {
	case protoTCP:
		return "tcp"
	case protoUDP:
		return "udp"
	case protoSCTP:
		return "sctp"
	}
	return "tp"
}

// icmp returns the symbol of ICMP, or "".
func (k kind) icmp() string {
	switch {
	case k.proto == protoICMP && k.is(typeIP4):
		return "icmp4"
	case k.proto == protoICMP6 && k.is(typeIP6):
		return "icmp6"
	}
	return ""
}

// A place is a field by the name that it has for some kind of packets.
type place struct {
	name string
	flowtable.Field
	form form
}

func at(name string, word, shift, width uint8, f form) place {
	return place{name, flowtable.Field{Word: word, Shift: shift, Width: width}, f}
}

// places returns the fields for packets of a kind, in the order in which they are
// written. They do not overlap, but for wide registers at the end, which are for
// what does not fit the others.
func (k kind) places() []place {
	out := []place{
		at("datapath", flowtable.WordDatapath, 0, 64, formDatapath),
		at("in_port", flowtable.WordIn, 32, 32, formPort), at("inport", flowtable.WordPorts, 32, 32, formPort), at("outport", flowtable.WordPorts, 0, 32, formPort),
		at("flags", flowtable.WordFlags, 32, 32, formHex), at("pkt.mark", flowtable.WordFlags, 0, 32, formHex),
		at("vlan.tci", flowtable.WordIn, 16, 16, formHex), at("eth.type", flowtable.WordIn, 0, 16, formHex),
		at("eth.src", flowtable.WordSrc, 16, 48, formMAC), at("eth.dst", flowtable.WordDst, 16, 48, formMAC),
	}
	out = append(out, k.network()...)
	out = append(out,
		at("ip.proto", flowtable.WordSrc, 8, 8, formNumber), at("ip.ttl", flowtable.WordSrc, 0, 8, formNumber),
		at("ip.dscp", flowtable.WordL4, 26, 6, formNumber), at("ip.ecn", flowtable.WordL4, 24, 2, formNumber), at("ip.frag", flowtable.WordL4, 16, 2, formNumber))
	out = append(out, k.transport()...)
	out = append(out,
		at("tun.id", flowtable.WordTunnel, 40, 24, formNumber), at("tun.flags", flowtable.WordTunnel, 32, 8, formHex), at("tun.data", flowtable.WordTunnel, 0, 32, formHex),
		at("ct_state", flowtable.WordCT, 32, 32, formHex), at("ct_mark", flowtable.WordCT, 0, 32, formHex), at("ct_label", flowtable.WordLabel, 0, 128, formHex),
		at("ct_tp_src", flowtable.WordCTL4, 48, 16, formNumber), at("ct_tp_dst", flowtable.WordCTL4, 32, 16, formNumber), at("ct_proto", flowtable.WordCTL4, 0, 8, formNumber),
		at("ct_nw_src", flowtable.WordCTIP4, 32, 32, formIP4), at("ct_nw_dst", flowtable.WordCTIP4, 0, 32, formIP4),
		at("ct_ip6_src", flowtable.WordCTIP6Src, 0, 128, formIP6), at("ct_ip6_dst", flowtable.WordCTIP6Dst, 0, 128, formIP6))
	for i, word := range []uint8{flowtable.WordReg0, flowtable.WordReg2, flowtable.WordReg4, flowtable.WordReg6, flowtable.WordReg8} {
		out = append(out, at("reg"+strconv.Itoa(2*i), word, 32, 32, formNumber), at("reg"+strconv.Itoa(2*i+1), word, 0, 32, formNumber))
	}
	out = append(out, at("reg11", flowtable.WordZones, 48, 16, formNumber), at("reg12", flowtable.WordZones, 32, 16, formNumber), at("reg13", flowtable.WordZones, 0, 32, formNumber))
	for i, word := range []uint8{flowtable.WordReg0, flowtable.WordReg2, flowtable.WordReg4, flowtable.WordReg6, flowtable.WordReg8} {
		out = append(out, at("xreg"+strconv.Itoa(i), word, 0, 64, formHex))
	}
	return append(out, at("xxreg0", flowtable.WordReg0, 0, 128, formHex), at("xxreg1", flowtable.WordReg4, 0, 128, formHex))
}

// network returns the fields of the network layer.
func (k kind) network() []place {
	var out []place
	switch {
	case k.is(typeARP, typeRARP):
		p := map[uint16]string{typeARP: "arp", typeRARP: "rarp"}[k.ethType]
		return []place{
			at(p+".op", flowtable.WordL4, 48, 16, formNumber), at(p+".spa", flowtable.WordIP4, 32, 32, formIP4), at(p+".tpa", flowtable.WordIP4, 0, 32, formIP4),
			at(p+".sha", flowtable.WordSHA, 0, 48, formMAC), at(p+".tha", flowtable.WordTHA, 0, 48, formMAC),
		}
	case k.is(typeIP6):
		out = append(out, at("ip6.label", flowtable.WordIP4, 0, 20, formHex))
	default:
		out = append(out, at("ip4.src", flowtable.WordIP4, 32, 32, formIP4), at("ip4.dst", flowtable.WordIP4, 0, 32, formIP4))
	}
	return append(out,
		at("ip6.src", flowtable.WordIP6Src, 0, 128, formIP6), at("ip6.dst", flowtable.WordIP6Dst, 0, 128, formIP6))
}

// transport returns the fields of what IP carries.
func (k kind) transport() []place {
	out := []place{at("tcp.flags", flowtable.WordDst, 0, 12, formHex)}
	if k.is(typeARP, typeRARP) {
		return append(out, at("tp.dst", flowtable.WordL4, 32, 16, formNumber))
	}
	if p := k.icmp(); p != "" {
		out = append(out, at(p+".type", flowtable.WordL4, 48, 8, formNumber), at(p+".code", flowtable.WordL4, 32, 8, formNumber))
	} else {
		out = append(out, at(k.l4()+".src", flowtable.WordL4, 48, 16, formNumber), at(k.l4()+".dst", flowtable.WordL4, 32, 16, formNumber))
	}
	return append(out,
		at("nd.target", flowtable.WordND, 0, 128, formIP6), at("nd.sll", flowtable.WordSHA, 0, 48, formMAC), at("nd.tll", flowtable.WordTHA, 0, 48, formMAC))
}
