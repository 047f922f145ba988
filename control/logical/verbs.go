package logical

import "net/netip"

// verb parses an action that begins with its name.
func (p *parser) verb() Action {
	name, at, before := p.tok.text, p.tok, p.prev
	p.next()
	v := Verb(name)
	switch name {
	case "next":
		return p.nextTable()
	case "output", "ct_clear", "igmp", "ct_snat_to_vip", "mac_cache_use", "handle_dhcpv6_reply", "flood_remote":
		return &Simple{v}
	case "ip.ttl":
		p.force(tokDecrement)
		p.need("ip")
		return &Simple{"ip.ttl--"}
	case "handle_bfd_msg":
		p.force(tokLParen)
		p.force(tokRParen)
		return &Simple{v}
	case "push", "pop":
		return p.stack(v)
	}
	if a, ok := p.ctVerb(v); ok {
		return a
	}
	if a, ok := p.blockVerb(v); ok {
		return a
	}
	if a, ok := p.tableVerb(v); ok {
		return a
	}
	if a, ok := p.controllerVerb(v); ok {
		return a
	}
	if p.err == nil {
		p.tok, p.prev = at, before
		p.want("an action")
	}
	return nil
}

// ctVerb parses the verbs of connection tracking.
func (p *parser) ctVerb(v Verb) (Action, bool) {
	switch v {
	case "ct_next", "ct_commit_nat", "ct_commit_to_zone":
		p.need("ip")
		return p.zone(v), true
	case "ct_dnat", "ct_snat", "ct_dnat_in_czone", "ct_snat_in_czone":
		p.need("ip")
		return p.nat(v), true
	case "ct_lb", "ct_lb_mark", "ct_lb_mark_local":
		p.need("ip")
		return p.loadBalance(v), true
	case "ct_commit":
		if p.tok.kind != tokLBrace {
			p.need("ip")
			return &Block{Verb: v}, true
		}
		return p.block(v, "ip", writeCTCommit), true
	}
	return nil, false
}

// blockVerb parses the verbs that have actions inside.
func (p *parser) blockVerb(v Verb) (Action, bool) {
	icmp := p.scope | writeICMP
	switch v {
	case "clone":
		return p.block(v, "", writeDefault), true
	case "reject":
		return p.block(v, "", p.scope), true
	case "arp", "nd_ns":
		return p.block(v, "ip", p.scope), true
	case "icmp4", "icmp4_error":
		return p.block(v, "ip4", icmp), true
	case "icmp6", "icmp6_error":
		return p.block(v, "ip6", icmp), true
	case "tcp_reset":
		return p.block(v, "tcp", p.scope), true
	case "sctp_abort":
		return p.block(v, "sctp", p.scope), true
	case "nd_na", "nd_na_router":
		return p.block(v, "nd_ns", p.scope), true
	}
	return nil, false
}

// tableVerb parses the verbs that read or learn neighbours and MAC addresses.
func (p *parser) tableVerb(v Verb) (Action, bool) {
	ip := 32
	switch v {
	case "get_nd", "put_nd":
		ip = 128
	}
	switch v {
	case "get_arp", "get_nd":
		a := &GetNeighbour{Verb: v}
		p.fields(arg{&a.Port, 0}, arg{&a.IP, ip})
		return a, true
	case "put_arp", "put_nd":
		a := &PutNeighbour{Verb: v}
		p.fields(arg{&a.Port, 0}, arg{&a.IP, ip}, arg{&a.MAC, 48})
		return a, true
	case "put_fdb":
		a := &PutFDB{}
		p.fields(arg{&a.Port, 0}, arg{&a.MAC, 48})
		return a, true
	case "handle_svc_check":
		a := &HandleSvcCheck{}
		p.fields(arg{&a.Port, 0})
		return a, true
	}
	return nil, false
}

// arg is an argument to be parsed: a field of width bits, 0 for strings.
type arg struct {
	to    *Ref
	width int
}

// fields parses ( args ).
func (p *parser) fields(args ...arg) {
	p.force(tokLParen)
	for i, a := range args {
		if i > 0 {
			p.force(tokComma)
		}
		*a.to = p.field(a.width, false)
	}
	p.force(tokRParen)
}

// nextTable parses what follows next.
func (p *parser) nextTable() Action {
	n := &Next{Table: NextTable}
	if !p.match(tokLParen) {
		return n
	}
	if p.tok.kind == tokInt {
		n.Table = p.integer(maxTable, "a table number")
		p.force(tokRParen)
		return n
	}
	for {
		switch {
		case p.matchName("pipeline"):
			p.force(tokAssign)
			switch {
			case p.matchName("ingress"):
				n.Pipeline = PipelineIngress
			case p.matchName("egress"):
				n.Pipeline = PipelineEgress
			default:
				p.want("ingress or egress")
			}
		case p.matchName("table"):
			p.force(tokAssign)
			n.Table = p.integer(maxTable, "a table number")
		default:
			p.want("pipeline or table")
		}
		if !p.match(tokComma) {
			p.force(tokRParen)
			return n
		}
	}
}

// stack parses the argument of push and pop.
func (p *parser) stack(v Verb) Action {
	p.force(tokLParen)
	start := p.tok.start
	a := &Stack{Verb: v, Ref: p.actionRef()}
	if v == "pop" {
		p.checkWritable(start, a.Ref)
	}
	p.force(tokRParen)
	return a
}

// zone parses the argument of the verbs that have a zone.
func (p *parser) zone(v Verb) Action {
	a := &Zone{Verb: v}
	if v != "ct_commit_to_zone" && p.tok.kind != tokLParen {
		return a
	}
	p.force(tokLParen)
	switch {
	case p.matchName("dnat"):
		a.Zone = ZoneDNAT
	case p.matchName("snat"):
		a.Zone = ZoneSNAT
	default:
		p.want("dnat or snat")
	}
	p.force(tokRParen)
	return a
}

// nat parses the arguments of NAT: none, or an address and perhaps ports.
func (p *parser) nat(v Verb) Action {
	a := &NAT{Verb: v}
	if !p.match(tokLParen) {
		return a
	}
	a.Addr = p.address()
	if p.match(tokComma) {
		start := p.tok.start
		a.PortLow = p.port()
		if p.match(tokHyphen) {
			a.PortHigh = p.port()
			if p.err == nil && a.PortHigh <= a.PortLow {
				p.fail(start, "expected the lower port first")
			}
		}
		if p.err == nil && a.PortLow == 0 {
			p.fail(start, "expected a port above 0")
		}
	}
	p.force(tokRParen)
	return a
}

// port parses a port number.
func (p *parser) port() uint16 { return uint16(p.integer(65535, "a port number")) }

// address parses an IP address without a mask.
func (p *parser) address() netip.Addr {
	var a netip.Addr
	switch {
	case p.tok.kind != tokInt || p.tok.masked:
	case p.tok.format == FormatIPv4:
		a = p.tok.value.v4()
	case p.tok.format == FormatIPv6:
		a = p.tok.value.v6()
	}
	if !a.IsValid() {
		p.want("an IP address")
		return a
	}
	p.next()
	return a
}

// loadBalance parses the arguments of the load balancer's verbs.
func (p *parser) loadBalance(v Verb) Action {
	a := &LoadBalance{Verb: v}
	if !p.match(tokLParen) || p.match(tokRParen) {
		return a
	}
	if !p.matchName("backends") {
		p.want("backends")
	}
	p.force(tokAssign)
	for {
		a.Backends = append(a.Backends, p.backend(v))
		p.match(tokComma)
		if p.err != nil || p.match(tokRParen) {
			return a
		}
		if p.match(tokSemicolon) {
			break
		}
	}
	if p.matchName("hash_fields") {
		p.force(tokAssign)
		a.HashFields = p.str()
		if p.match(tokRParen) {
			return a
		}
		p.force(tokSemicolon)
	}
	switch {
	case p.matchName("skip_snat"):
		a.SkipSNAT = true
	case p.matchName("force_snat"):
		a.ForceSNAT = true
	default:
		p.want("hash_fields, skip_snat or force_snat")
	}
	p.force(tokRParen)
	return a
}

// backend parses one backend: address, address:port or [address]:port, of
// ct_lb_mark_local after "port":.
func (p *parser) backend(v Verb) Backend {
	var b Backend
	if v == "ct_lb_mark_local" {
		b.LogicalPort = p.str()
		p.force(tokColon)
	}
	start, bracket := p.tok.start, p.match(tokLSquare)
	b.Addr = p.address()
	if bracket {
		if p.err == nil && b.Addr.Is4() {
			p.fail(start, "expected an IPv6 address in brackets")
		}
		p.force(tokRSquare)
	}
	if p.tok.kind == tokColon && b.Addr.Is6() && !bracket {
		p.fail(start, "expected brackets around an IPv6 address with a port")
	}
	if p.match(tokColon) {
		b.Port = p.port()
	}
	return b
}

// str parses a string.
func (p *parser) str() string {
	s := p.tok.text
	p.force(tokString)
	return s
}
