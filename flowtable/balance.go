package flowtable

import "errors"

// A Client is who a load balancer may have given a backend: what ActAffinity and ActStick are
// about. IPv4 addresses are in the low 32 bits of the second half. Port and Proto are 0 for
// a VIP that has none.
type Client struct {
	Bridge      uint32 // number of its FDB
	Six         bool
	Proto       uint8
	IP, VIP     [2]uint64
	Port        uint16
	Backend     [2]uint64
	BackendPort uint16
	Timeout     uint32 // seconds
}

// A Recalled is what is known of a Client.
type Recalled struct {
	Known bool
	Guard Guard  // holds as long as the answer does; cell 0: none is needed
	Ref   uint64 // of what is remembered, for OpCT; 0: none
}

// endpointProto is the lowest bit of the protocol in an ActEndpoint's Arg.
const endpointProto = 16

// checkStick checks an ActStick and what is nested in it.
func checkStick(a *Action) error {
	if len(a.Nested) != 2 || a.Value == 0 || a.Value > 0xffff || a.ValueLow != 0 {
		return errors.New("affinity: it takes a VIP, a backend, and a time of 1 to 65535 s")
	}
	for i := range a.Nested {
		if n := &a.Nested[i]; n.Code != ActEndpoint || len(n.Nested) > 0 || n.Table&^NATSix != 0 || n.Table != a.Nested[0].Table || n.Arg>>24 != 0 {
			return errors.New("affinity: VIP and backend are addresses of one family, with a port")
		}
	}
	return nil
}

// balance does the actions of load balancers, and replies.
func (w *Walker) balance(s *step) {
	switch s.code {
	case ActReply:
		w.reply(s)
	case ActAffinity:
		w.affinity(s)
	case ActStick:
		w.stick(s)
	case ActHairpin:
		w.write(s.dst, 0, w.hairpin())
	case ActHairpinReply:
		w.write(s.dst, 0, w.hairpinReply(uint16(s.arg>>16)))
	}
}

// setClient makes the packet's source a client, and reports whether it is IP.
func (w *Walker) setClient(bridge uint32) bool {
	w.consult(WordIn, 0xffff)
	c := &w.client
	*c = Client{Bridge: bridge}
	switch w.ctx[WordIn] & 0xffff {
	case typeIPv4:
		w.consult(WordIP4, 0xffffffff<<32)
		c.IP[1] = w.ctx[WordIP4] >> 32
	case typeIPv6:
		w.consult(WordIP6Src, ^uint64(0))
		w.consult(WordIP6SrcLow, ^uint64(0))
		c.Six, c.IP = true, [2]uint64{w.ctx[WordIP6Src], w.ctx[WordIP6SrcLow]}
	default:
		return false
	}
	return true
}

// affinity is ActAffinity. A VIP with a port is asked for first.
func (w *Walker) affinity(s *step) {
	known := false
	if w.setClient(s.arg) && w.side.Recall != nil {
		w.setVIP()
		c := &w.client
		known = c.Proto != 0 && w.recall()
		if !known {
			c.Proto, c.Port = 0, 0
			known = w.recall()
		}
	}
	if !known {
		w.write(s.dst, 0, 0)
		return
	}
	w.write(s.dst, 0, 1)
	c := &w.client
	if c.Six {
		w.write(Field{Word: WordReg4, Width: 128}, c.Backend[0], c.Backend[1])
	} else {
		w.write(Field{Word: WordReg4, Shift: 32, Width: 32}, 0, c.Backend[1])
	}
	w.write(Field{Word: WordReg2, Shift: 32, Width: 16}, 0, uint64(c.BackendPort))
}

// setVIP makes the packet's destination the client's VIP.
func (w *Walker) setVIP() {
	c := &w.client
	if c.Six {
		w.consult(WordIP6Dst, ^uint64(0))
		w.consult(WordIP6DstLow, ^uint64(0))
		c.VIP = [2]uint64{w.ctx[WordIP6Dst], w.ctx[WordIP6DstLow]}
	} else {
		w.consult(WordIP4, 0xffffffff)
		c.VIP[1] = w.ctx[WordIP4] & 0xffffffff
	}
	w.consult(WordSrc, 0xff00)
	w.consult(WordL4, 0xffff<<32|2<<16)
	proto := uint8(w.ctx[WordSrc] >> 8)
	if (proto == protoTCP || proto == protoUDP || proto == protoSCTP) && w.ctx[WordL4]&(2<<16) == 0 {
		c.Proto, c.Port = proto, uint16(w.ctx[WordL4]>>32)
	}
}

// recall asks for the client's backend.
func (w *Walker) recall() bool { return w.recalled(w.side.Recall(&w.client)) }

// recalled notes what an answer depends on.
func (w *Walker) recalled(r Recalled) bool {
	if r.Guard.Cell != 0 {
		w.out.Guards = append(w.out.Guards, r.Guard)
	}
	if r.Ref != 0 {
		w.emit(Op{Code: OpCT, Arg: CountClient, Value: r.Ref})
	}
	return r.Known
}

// stick is ActStick.
func (w *Walker) stick(s *step) {
	if !w.setClient(s.arg) || w.side.Stick == nil {
		return
	}
	c := &w.client
	c.Timeout = uint32(s.value)
	var vip, backend step
	decodeStep(&backend, s.nested[decodeStep(&vip, s.nested):])
	if c.Six != (vip.table&NATSix != 0) {
		return
	}
	c.VIP, c.Port, c.Proto = [2]uint64{vip.value, vip.valueLow}, uint16(vip.arg), uint8(vip.arg>>endpointProto)
	c.Backend, c.BackendPort = [2]uint64{backend.value, backend.valueLow}, uint16(backend.arg)
	w.recalled(w.side.Stick(c))
}

// Bits of ct_state in WordCT, and of the mark or label that load balancers set.
const (
	stateReply  = 1 << (3 + 32)
	stateTrk    = 1 << (5 + 32)
	stateDNAT   = 1 << (7 + 32)
	lbNatted    = 1 << 1
	stateRplTrk = stateReply | stateTrk
)

// hairpin is 1 if the packet goes from an address to the same, its connection was sent
// there by a load balancer, and it goes in the direction of its first packet.
func (w *Walker) hairpin() uint64 {
	c := &w.ctx
	if c[WordCT]&(stateTrk|stateDNAT|stateReply) != stateTrk|stateDNAT || (c[WordCT]|c[WordLabelLow])&lbNatted == 0 {
		return 0
	}
	return w.ownSource()
}

// ownSource is 1 if source and destination are the same address.
func (w *Walker) ownSource() uint64 {
	w.consult(WordIn, 0xffff)
	c, same := &w.ctx, false
	switch c[WordIn] & 0xffff {
	case typeIPv4:
		w.consult(WordIP4, ^uint64(0))
		same = c[WordIP4]>>32 == c[WordIP4]&0xffffffff
	case typeIPv6:
		for i := uint8(WordIP6Src); i <= WordIP6DstLow; i++ {
			w.consult(i, ^uint64(0))
		}
		same = c[WordIP6Src] == c[WordIP6Dst] && c[WordIP6SrcLow] == c[WordIP6DstLow]
	}
	if same {
		return 1
	}
	return 0
}

// hairpinReply is 1 if the packet is in the reply direction of a connection of a zone whose
// first packet went from an address to the same.
func (w *Walker) hairpinReply(zone uint16) uint64 {
	ask, got := &w.ask, &w.got
	*ask = Connect{Zone: zone, Flags: CTLook}
	w.question(ask, got)
	if uint64(got.State)<<32&stateRplTrk != stateRplTrk {
		return 0
	}
	o := &got.Original
	four, six := o[WordCTIP4-WordCTL4], o[WordCTIP6Src-WordCTL4:]
	if four>>32 == four&0xffffffff && six[0] == six[2] && six[1] == six[3] {
		return 1
	}
	return 0
}
