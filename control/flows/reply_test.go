package flows

import (
	"millrace/control/logical"
	"millrace/flowtable"
)

// reply does what the verbs say that make a packet: nothing about what must not be answered.
func (m *machine) reply(a *logical.Block, table int) {
	p := &m.p
	six := p[logical.FieldEthType].Lo == 0x86dd
	proto := p[logical.FieldIPProto].Lo
	verb := a.Verb
	if verb == "reject" {
		switch {
		case proto == 6:
			verb = "tcp_reset"
		case proto == 132:
			verb = "sctp_abort"
		case six:
			verb = "icmp6"
		default:
			verb = "icmp4"
		}
	}
	if m.made || !m.answerable(verb, six, proto) {
		return
	}
	copied := *m
	copied.made = true
	q := &copied.p
	if a.Verb == "reject" {
		for _, f := range [][2]logical.Field{{logical.FieldEthSrc, logical.FieldEthDst}, {logical.FieldIP4Src, logical.FieldIP4Dst}, {logical.FieldIP6Src, logical.FieldIP6Dst}} {
			q[f[0]], q[f[1]] = q[f[1]], q[f[0]]
		}
	}
	becomes(q, verb, proto)
	copied.list(a.List, table)
	m.steps, m.out, m.wild = copied.steps, copied.out, m.wild || copied.wild
}

// becomes makes a packet the reply to what it was, but for addresses.
func becomes(q *packet, verb logical.Verb, proto uint64) {
	ends := [][2]logical.Field{{logical.FieldTCPSrc, logical.FieldTCPDst}, {logical.FieldSCTPSrc, logical.FieldSCTPDst}, {logical.FieldUDPSrc, logical.FieldUDPDst}}
	for _, f := range ends {
		q[f[0]], q[f[1]] = q[f[1]], q[f[0]]
	}
	flags := q[logical.FieldTCPFlags].Lo
	for _, f := range []logical.Field{
		logical.FieldTCPFlags, logical.FieldIPECN, logical.FieldIPFrag, logical.FieldIP6Label, logical.FieldPktMark, logical.FieldCTState, logical.FieldCTMark,
		logical.FieldCTLabel, logical.FieldNDTarget, logical.FieldNDSLL, logical.FieldNDTLL, logical.FieldICMP4Type, logical.FieldICMP4Code, logical.FieldICMP6Type, logical.FieldICMP6Code,
	} {
		q[f] = logical.Value{}
	}
	q[logical.FieldIPTTL] = logical.U64(63)
	switch verb {
	case "tcp_reset":
		q[logical.FieldTCPFlags] = logical.U64(0x14)
		if flags&0x10 != 0 {
			q[logical.FieldTCPFlags] = logical.U64(4)
		}
		return
	case "sctp_abort":
		return
	}
	for _, f := range ends {
		q[f[0]], q[f[1]] = logical.Value{}, logical.Value{}
	}
	q[logical.FieldIPTTL] = logical.U64(255)
	udp := proto == 17 && (verb == "icmp4" || verb == "icmp6")
	if verb == "icmp4" || verb == "icmp4_error" {
		q[logical.FieldIPProto], q[logical.FieldICMP4Type], q[logical.FieldICMP4Code] = logical.U64(1), logical.U64(3), logical.U64(1)
		if udp {
			q[logical.FieldICMP4Code] = logical.U64(3)
		}
		return
	}
	q[logical.FieldIPProto], q[logical.FieldICMP6Type], q[logical.FieldICMP6Code] = logical.U64(58), logical.U64(1), logical.U64(1)
	if udp {
		q[logical.FieldICMP6Code] = logical.U64(4)
	}
}

// answerable says which packets may be answered.
func (m *machine) answerable(verb logical.Verb, six bool, proto uint64) bool {
	p := &m.p
	transport := verb == "tcp_reset" || verb == "sctp_abort"
	turned := logical.Value{}
	src, dst := p[logical.FieldIP4Src].Lo>>24, p[logical.FieldIP4Dst].Lo>>24
	single := src != 0 && src != 127 && src < 224 && dst < 224
	if six {
		single = !p[logical.FieldIP6Src].IsZero() && p[logical.FieldIP6Src].Hi>>56 != 0xff && p[logical.FieldIP6Dst].Hi>>56 != 0xff
	}
	if m.reject {
		turned = p[logical.FieldEthSrc]
	}
	frag := p[logical.FieldIPFrag].Lo
	switch {
	case !single, frag&2 != 0, frag != 0 && transport, p[logical.FieldEthDst].Bit(40), m.came.Bit(40), turned.Bit(40):
		return false
	case verb == "tcp_reset":
		return p[logical.FieldTCPFlags].Lo&4 == 0
	case proto == 1:
		kind := p[logical.FieldICMP4Type].Lo
		return kind != 3 && kind != 4 && kind != 5 && kind != 11 && kind != 12
	case proto == 58:
		kind := p[logical.FieldICMP6Type].Lo
		return kind >= 128 && kind != 137
	}
	return true
}

// answer does an OpReply to a key.
func answer(op *flowtable.Op, k flowtable.Key) flowtable.Key {
	six := k[flowtable.WordIn]&0xffff == 0x86dd
	if op.Mask == 1 {
		dst, src := k[flowtable.WordDst], k[flowtable.WordSrc]
		k[flowtable.WordDst], k[flowtable.WordSrc] = src&^0xffff|dst&0xffff, dst&^0xffff|src&0xffff
		if six {
			for i := range 2 {
				k[flowtable.WordIP6Src+i], k[flowtable.WordIP6Dst+i] = k[flowtable.WordIP6Dst+i], k[flowtable.WordIP6Src+i]
			}
		} else {
			k[flowtable.WordIP4] = k[flowtable.WordIP4]<<32 | k[flowtable.WordIP4]>>32
		}
	}
	if six {
		k[flowtable.WordIP4] = 0
	}
	for w := flowtable.WordSHA; w <= flowtable.WordNDLow; w++ {
		k[w] = 0
	}
	proto, dscp, ports := k[flowtable.WordSrc]>>8&0xff, k[flowtable.WordL4]&(0xfc<<24), k[flowtable.WordL4]>>32
	flags := k[flowtable.WordDst] & 0xfff
	k[flowtable.WordDst] &^= 0xffff
	k[flowtable.WordSrc] &^= 0xffff
	switch op.Word {
	case flowtable.ReplyTCP:
		k[flowtable.WordDst] |= 0x14
		if flags&0x10 != 0 {
			k[flowtable.WordDst] ^= 0x10
		}
		fallthrough
	case flowtable.ReplySCTP:
		k[flowtable.WordSrc] |= proto<<8 | 63
		k[flowtable.WordL4] = dscp | (ports<<16&0xffff0000|ports>>16)<<32
		return k
	}
	plain := op.Word == flowtable.ReplyICMP4 || op.Word == flowtable.ReplyICMP6
	next, kind, code := uint64(1), uint64(3), uint64(1)
	if six {
		next, kind = 58, 1
	}
	if plain && proto == 17 {
		if code = 3; six {
			code = 4
		}
	}
	k[flowtable.WordSrc] |= next<<8 | 255
	k[flowtable.WordL4] = dscp | kind<<48 | code<<32
	return k
}

// replyText writes a verb that makes a packet, with what any packet has inside.
func (w *writer) replyText(table int) string {
	verb := w.pick("reject", "reject", "reject", "icmp4", "icmp4_error", "icmp6", "icmp6_error", "tcp_reset", "sctp_abort")
	list := ""
	for range w.IntN(4) {
		list += w.pick(`outport = "p1"; `, "output; ", "eth.src <-> eth.dst; ", "reg0 = 5; ", "pkt.mark = 7; ", "ip.ttl--; ", "outport <-> inport; ", "ip.dscp = 9; ", `set_meter(100); `)
	}
	list += w.pick("output;", `outport = "p2"; output;`, "drop;", "next;")
	if table >= 3 {
		list = "outport = inport; output;"
	}
	if list == "drop;" || list[len(list)-5:] == "drop;" {
		list = "output;"
	}
	return verb + " { " + list + " };"
}
