package logical

// function parses to = verb(...), from the verb on; to stands at offset start.
func (p *parser) function(start int, to Ref) Action {
	verbStart, v := p.tok.start, Verb(p.tok.text)
	width, need := resultWidth(v)
	if width != 0 {
		return p.result(start, to, v, width, need)
	}
	one := func() { p.checkField(start, to, 1, true) }
	switch v {
	case "select":
		return p.selectMember(start, to)
	case "lookup_arp", "lookup_nd", "lookup_arp_ip", "lookup_nd_ip":
		one()
		return p.lookupNeighbour(to, v)
	case "lookup_fdb":
		one()
		a := &LookupFDB{To: to}
		p.next()
		p.fields(arg{&a.Port, 0}, arg{&a.MAC, 48})
		return a
	case "get_fdb", "get_remote_fdb":
		a := &GetFDB{Verb: v, To: to}
		p.portTarget(start, to)
		p.next()
		p.fields(arg{&a.MAC, 48})
		return a
	case "put_dhcp_opts", "put_dhcpv6_opts", "put_nd_ra_opts":
		one()
		return p.putOptions(to, v)
	case "dhcp_relay_req_chk", "dhcp_relay_resp_chk":
		one()
		return p.dhcpRelay(to, v)
	case "check_pkt_larger":
		one()
		p.next()
		p.force(tokLParen)
		a := &CheckPacketLarger{To: to, Bytes: uint16(p.integer(65535, "a length in bytes"))}
		p.force(tokRParen)
		return a
	case "chk_evpn_arp":
		one()
		return p.checkEVPN(to, v)
	}
	if p.err == nil {
		p.fail(verbStart, "expected a function, found %q", string(v))
	}
	return nil
}

// resultWidth returns the width of what verb v, without arguments, finds, and
// its prerequisite; 0 if it is no such verb.
func resultWidth(v Verb) (width int, need string) {
	switch v {
	case "dns_lookup":
		return 1, "udp"
	case "chk_lb_hairpin", "chk_lb_hairpin_reply", "check_in_port_sec", "check_out_port_sec", "chk_ecmp_nh_mac", "chk_ecmp_nh", "chk_lb_aff":
		return 1, ""
	case "ct_proto", "ct_state_save":
		return 8, ""
	case "ct_tp_dst":
		return 16, ""
	case "ct_nw_dst":
		return 32, ""
	case "ct_ip6_dst":
		return 128, ""
	}
	return 0, ""
}

// result parses verb().
func (p *parser) result(start int, to Ref, v Verb, width int, need string) Action {
	p.next()
	p.force(tokLParen)
	p.force(tokRParen)
	p.checkField(start, to, width, true)
	p.need(need)
	return &Result{Verb: v, To: to}
}

// portTarget fails unless to can hold a port's key.
func (p *parser) portTarget(start int, to Ref) {
	width := 32
	if to.Symbol.isString() {
		width = 0
	}
	p.checkField(start, to, width, true)
}

// lookupNeighbour parses the arguments of the neighbour lookups.
func (p *parser) lookupNeighbour(to Ref, v Verb) Action {
	a := &LookupNeighbour{Verb: v, To: to}
	p.next()
	switch v {
	case "lookup_arp":
		p.fields(arg{&a.Port, 0}, arg{&a.IP, 32}, arg{&a.MAC, 48})
	case "lookup_nd":
		p.fields(arg{&a.Port, 0}, arg{&a.IP, 128}, arg{&a.MAC, 48})
	case "lookup_arp_ip":
		p.fields(arg{&a.Port, 0}, arg{&a.IP, 32})
	case "lookup_nd_ip":
		p.fields(arg{&a.Port, 0}, arg{&a.IP, 128})
	}
	return a
}

// checkEVPN parses the argument of chk_evpn_arp, an IP address.
func (p *parser) checkEVPN(to Ref, v Verb) Action {
	p.next()
	p.force(tokLParen)
	start := p.tok.start
	a := &Result{Verb: v, To: to, Arg: p.actionRef()}
	if p.err == nil && a.Arg.Bits != 32 && a.Arg.Bits != 128 {
		p.fail(start, "expected a field of 32 or 128 bits, %s has %d", printRef(a.Arg), a.Arg.Bits)
	}
	p.force(tokRParen)
	return a
}

// dhcpRelay parses the two addresses of the relay's checks.
func (p *parser) dhcpRelay(to Ref, v Verb) Action {
	p.next()
	p.force(tokLParen)
	start := p.tok.start
	a := &DHCPRelay{Verb: v, To: to, Relay: p.address()}
	p.match(tokComma)
	a.Server = p.address()
	if p.err == nil && (!a.Relay.Is4() || !a.Server.Is4()) {
		p.fail(start, "expected IPv4 addresses")
	}
	p.force(tokRParen)
	return a
}

// selectMember parses the members of select, with or without values=.
func (p *parser) selectMember(start int, to Ref) Action {
	a := &Select{To: to}
	p.checkWritable(start, to)
	if p.err == nil && to.Bits < 16 {
		p.fail(start, "expected a field of at least 16 bits, %s has %d", printRef(to), to.Bits)
	}
	p.next()
	p.force(tokLParen)
	hashed := p.matchName("values")
	if hashed {
		p.force(tokAssign)
		p.force(tokLParen)
	}
	for p.err == nil && !p.match(tokRParen) {
		a.Members = append(a.Members, p.member())
		p.match(tokComma)
	}
	if p.err == nil && len(a.Members) < 2 {
		p.fail(p.prev-1, "expected at least two members")
	}
	if hashed {
		p.force(tokSemicolon)
		if !p.matchName("hash_fields") {
			p.want("hash_fields")
		}
		p.force(tokAssign)
		a.HashFields = p.str()
		p.force(tokRParen)
	}
	return a
}

// member parses id or id=weight.
func (p *parser) member() Member {
	m := Member{ID: uint16(p.integer(65535, "a member's number")), Weight: defaultWeight}
	if p.match(tokAssign) {
		start := p.tok.start
		m.Weight = uint16(p.integer(65535, "a weight"))
		if p.err == nil && m.Weight == 0 {
			p.fail(start, "expected a weight above 0")
		}
	}
	return m
}
