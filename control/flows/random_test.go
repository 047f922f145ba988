package flows

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"millrace/control/logical"
	"millrace/flowtable"
)

// A writer writes random rows and packets, from few values, so that they meet.
type writer struct {
	*rand.Rand
	s *logical.Symbols
}

func newWriter(seed uint64) *writer {
	return &writer{rand.New(rand.NewPCG(seed, 3)), logical.NewSymbols()}
}

func (w *writer) pick(list ...string) string { return list[w.IntN(len(list))] }

// matchNames are symbols that matches are made of.
func matchNames() []string {
	return strings.Fields(`inport outport reg0 reg1 reg5 xreg0 xreg4 xxreg0 xxreg1 flags flags.loopback pkt.mark ct_mark ct.trk
		eth.src eth.dst eth.type eth.bcast eth.mcast vlan.tci vlan.vid vlan.pcp vlan.present ip4 ip6 ip ip.proto ip.ttl ip.dscp ip.frag ip.is_frag
		ip4.src ip4.dst ip4.mcast ip6.src ip6.dst ip6.label icmp4 icmp4.type icmp6.type icmp arp arp.op arp.spa arp.tha rarp rarp.tpa
		nd nd_ns nd.target nd.sll tcp udp sctp tcp.src tcp.dst udp.dst sctp.src tcp.flags`)
}

// number writes a value of some bits, or a masked one.
func (w *writer) number(bits int) string {
	v := w.value(bits)
	s := fmt.Sprintf("0x%x", v.Lo)
	if v.Hi != 0 {
		s = fmt.Sprintf("0x%x%016x", v.Hi, v.Lo)
	}
	return s
}

// value is one of few values of some bits.
func (w *writer) value(bits int) logical.Value {
	v := logical.U64(uint64(w.IntN(4)))
	switch w.IntN(4) {
	case 0:
		v = v.Shl(max(bits-3, 0))
	case 1:
		v = logical.Ones(128).AndNot(v)
	}
	return v.And(logical.Ones(bits))
}

// constants writes one constant or several, also masked ones and sets.
func (w *writer) constants(bits int) string {
	if bits == 0 {
		return w.pick(`"p1"`, `"p2"`, `{"p1", "p3"}`, "@pg", `{"p4", @pg}`, `"none"`)
	}
	one := func() string {
		if w.IntN(4) == 0 {
			return w.number(bits) + "/" + w.number(bits)
		}
		return w.number(bits)
	}
	switch w.IntN(8) {
	case 0:
		list := []string{one(), one(), one(), one(), one(), one()}
		return "{" + strings.Join(list[:2+w.IntN(5)], ", ") + "}"
	case 1:
		return w.pick("$"+setName(bits), "{$"+setName(bits)+", "+one()+"}")
	}
	return one()
}

// setName is the set that goes with fields of some bits.
func setName(bits int) string { return fmt.Sprint("s", bits) }

// expr writes an expression.
func (w *writer) expr(depth int) string {
	if depth == 0 || w.IntN(3) == 0 {
		return w.leaf()
	}
	terms := make([]string, 2+w.IntN(2))
	for i := range terms {
		terms[i] = w.pick("", "", "", "!") + "(" + w.expr(depth-1) + ")"
	}
	return strings.Join(terms, w.pick(" && ", " || "))
}

// leaf writes a comparison; the language may refuse it.
func (w *writer) leaf() string {
	name := w.pick(matchNames()...)
	sym := w.s.Lookup(name)
	switch {
	case sym.Predicate != "" || sym.Width == 1:
		return w.pick("", "!") + name
	case sym.Width == 0:
		return name + w.pick(" == ", " == ", " != ") + w.constants(0)
	}
	bits := sym.Width
	if sym.Level == logical.Ordinal && w.IntN(3) == 0 {
		low := w.IntN(bits)
		high := low + w.IntN(bits-low)
		name, bits = fmt.Sprintf("%s[%d..%d]", name, low, high), high-low+1
	}
	if sym.Level == logical.Ordinal && w.IntN(3) == 0 {
		return name + w.pick(" < ", " <= ", " > ", " >= ") + w.number(bits)
	}
	return name + w.pick(" == ", " == ", " == ", " != ") + w.constants(bits)
}

// A packet is one as the language sees it.
type packet = logical.Packet

// metadata are the fields that a packet does not bring along.
func metadata() []logical.Field {
	return []logical.Field{
		logical.FieldXXReg0, logical.FieldXXReg1, logical.FieldXReg4, logical.FieldFlags, logical.FieldPktMark,
		logical.FieldCTMark, logical.FieldCTState, logical.FieldOutport,
	}
}

// packet draws a packet without metadata.
func (w *writer) packet() packet {
	var p packet
	set := func(fields ...logical.Field) {
		for _, f := range fields {
			p[f] = w.value(f.Width())
		}
	}
	set(logical.FieldEthSrc, logical.FieldEthDst)
	if w.IntN(2) == 0 {
		set(logical.FieldVLANTCI)
		p[logical.FieldVLANTCI].Lo |= flowtable.TagPresent
	}
	switch w.IntN(6) {
	case 0:
		p[logical.FieldEthType] = logical.U64(w.pickNumber(0x806, 0x8035))
		set(logical.FieldARPOp, logical.FieldARPSPA, logical.FieldARPTPA, logical.FieldARPSHA, logical.FieldARPTHA)
	case 1:
		p[logical.FieldEthType] = logical.U64(uint64(w.IntN(4)))
	case 2, 3:
		p[logical.FieldEthType] = logical.U64(0x800)
		set(logical.FieldIP4Src, logical.FieldIP4Dst, logical.FieldIPFrag)
		w.transport(&p, set, 1, logical.FieldICMP4Type, logical.FieldICMP4Code)
	default:
		p[logical.FieldEthType] = logical.U64(0x86dd)
		set(logical.FieldIP6Src, logical.FieldIP6Dst, logical.FieldIP6Label)
		w.transport(&p, set, 58, logical.FieldICMP6Type, logical.FieldICMP6Code)
	}
	return p
}

func (w *writer) pickNumber(list ...uint64) uint64 { return list[w.IntN(len(list))] }

// transport draws what IP carries.
func (w *writer) transport(p *packet, set func(...logical.Field), icmp uint64, icmpType, icmpCode logical.Field) {
	set(logical.FieldIPTTL, logical.FieldIPDSCP, logical.FieldIPECN)
	proto := w.pickNumber(6, 17, 132, icmp, 2)
	p[logical.FieldIPProto] = logical.U64(proto)
	switch proto {
	case 6:
		set(logical.FieldTCPSrc, logical.FieldTCPDst, logical.FieldTCPFlags)
	case 17:
		set(logical.FieldUDPSrc, logical.FieldUDPDst)
	case 132:
		set(logical.FieldSCTPSrc, logical.FieldSCTPDst)
	case icmp:
		set(icmpType, icmpCode)
		if icmp == 58 && w.IntN(2) == 0 {
			p[icmpType], p[icmpCode], p[logical.FieldIPTTL] = logical.U64(w.pickNumber(135, 136)), logical.Value{}, logical.U64(255)
			set(logical.FieldNDTarget, map[uint64]logical.Field{135: logical.FieldNDSLL, 136: logical.FieldNDTLL}[p[icmpType].Lo])
		}
	}
}

// context is a packet as a flow table has it.
func context(at *[logical.NumFields]flowtable.Field, p *packet) flowtable.Context {
	var c flowtable.Context
	for i := range p {
		v, f := p[i], at[i]
		switch {
		case v.IsZero():
		case f.Width == 128:
			c[f.Word] |= v.Hi
			c[f.Word+1] |= v.Lo
		default:
			c[f.Word] |= v.Lo << f.Shift
		}
	}
	return c
}

// A labWorld is the names of a lab as the interpreter asks for them.
type labWorld struct {
	sets map[string]map[logical.Value]bool
}

func (labWorld) Port(name string) (uint32, bool) {
	if name == "none" {
		return 0, true
	}
	n, ok := labBridges()["br0"].Ports[name]
	return n, ok
}

func (w labWorld) Resident(name string) bool {
	_, ok := labBridges()["br0"].Ports[name]
	return ok
}

func (w labWorld) InAddressSet(name string, v logical.Value) bool { return w.sets[name][v] }

func (w labWorld) InPortGroup(_ string, key uint32) bool { return key == 1 || key == 2 }
