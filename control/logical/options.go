package logical

// optionDef describes an option. Its type says what values it takes.
type optionDef struct {
	name string
	code int
	typ  string
}

// dhcp4Options returns OVN's DHCPv4 options (OVN lib/ovn-l7.h; RFC 2132).
// Codes 0, 253 and 254 are OVN's own.
func dhcp4Options() []optionDef {
	return []optionDef{
		{"offerip", 0, "ipv4"}, {"netmask", 1, "ipv4"}, {"router", 3, "ipv4"}, {"dns_server", 6, "ipv4"},
		{"log_server", 7, "ipv4"}, {"lpr_server", 9, "ipv4"}, {"hostname", 12, "str"}, {"domain_name", 15, "str"},
		{"swap_server", 16, "ipv4"}, {"ip_forward_enable", 19, "bool"}, {"policy_filter", 21, "ipv4"},
		{"default_ttl", 23, "uint8"}, {"mtu", 26, "uint16"}, {"broadcast_address", 28, "ipv4"},
		{"router_discovery", 31, "bool"}, {"router_solicitation", 32, "ipv4"}, {"arp_cache_timeout", 35, "uint32"},
		{"ethernet_encap", 36, "bool"}, {"tcp_ttl", 37, "uint8"}, {"tcp_keepalive_interval", 38, "uint32"},
		{"nis_server", 41, "ipv4"}, {"ntp_server", 42, "ipv4"}, {"netbios_name_server", 44, "ipv4"},
		{"netbios_node_type", 46, "uint8"}, {"lease_time", 51, "uint32"}, {"server_id", 54, "ipv4"}, {"T1", 58, "uint32"},
		{"T2", 59, "uint32"}, {"tftp_server", 66, "host_id"}, {"bootfile_name", 67, "str"},
		{"domain_search_list", 119, "domains"}, {"classless_static_route", 121, "static_routes"},
		{"tftp_server_address", 150, "ipv4"}, {"path_prefix", 210, "str"}, {"ms_classless_static_route", 249, "static_routes"},
		{"wpad", 252, "str"}, {"next_server", 253, "ipv4"}, {"bootfile_name_alt", 254, "str"},
	}
}

// dhcp6Options returns OVN's DHCPv6 options (RFC 8415, RFC 5970).
func dhcp6Options() []optionDef {
	return []optionDef{
		{"server_id", 2, "mac"}, {"ia_addr", 5, "ipv6"}, {"dns_server", 23, "ipv6"}, {"domain_search", 24, "str"},
		{"fqdn", 39, "domain"}, {"bootfile_name", 59, "str"}, {"bootfile_name_alt", 254, "str"},
	}
}

// raOptions returns the options of router advertisements (RFC 4861 4.6, RFC
// 8106, RFC 4191). The first two are flags of the header; their codes are OVN's.
func raOptions() []optionDef {
	return []optionDef{
		{"addr_mode", 0, "str"}, {"router_preference", 255, "str"}, {"slla", 1, "mac"}, {"prefix", 3, "ipv6"},
		{"mtu", 5, "uint32"}, {"route_info", 24, "str"}, {"rdnss", 25, "ipv6"}, {"dnssl", 31, "str"},
	}
}

// eventOptions returns the options of the event empty_lb_backends.
func eventOptions() []optionDef {
	return []optionDef{{"vip", 0, "str"}, {"protocol", 1, "str"}, {"load_balancer", 2, "str"}}
}

// optionTable returns the options of verb v.
func optionTable(v Verb) []optionDef {
	switch v {
	case "put_dhcp_opts":
		return dhcp4Options()
	case "put_dhcpv6_opts":
		return dhcp6Options()
	case "put_nd_ra_opts":
		return raOptions()
	}
	return eventOptions()
}

// options parses name = value pairs up to the closing parenthesis.
func (p *parser) options(v Verb) []Option {
	var out []Option
	table := optionTable(v)
	for p.err == nil && !p.match(tokRParen) {
		out = append(out, p.option(table))
		p.match(tokComma)
	}
	return out
}

// option parses one name = value.
func (p *parser) option(table []optionDef) Option {
	for _, def := range table {
		if p.tok.kind != tokID || p.tok.text != def.name {
			continue
		}
		p.next()
		p.force(tokAssign)
		o := p.constants()
		p.checkOption(def, o)
		return Option{Name: def.name, Code: def.code, Values: o.values, Braces: o.braces}
	}
	p.want("the name of an option")
	return Option{}
}

// checkOption fails unless the values have the option's type.
func (p *parser) checkOption(def optionDef, o operands) {
	if p.err != nil {
		return
	}
	for i := range o.values {
		if k := o.values[i].Kind; k == ConstAddressSet || k == ConstPortGroup {
			p.fail(o.start, "expected constants, not a set, for %s", def.name)
			return
		}
	}
	str := def.typ == "str" || def.typ == "domains" || def.typ == "domain"
	switch {
	case def.typ == "host_id":
	case str && !o.values[0].isString():
		p.fail(o.start, "expected a string for %s", def.name)
	case !str && o.values[0].isString():
		p.fail(o.start, "expected a number for %s", def.name)
	}
}

// putOptions parses the options of DHCP or of router advertisements.
func (p *parser) putOptions(to Ref, v Verb) Action {
	p.next()
	p.force(tokLParen)
	start := p.tok.start
	a := &PutOptions{Verb: v, To: to, Options: p.options(v)}
	if p.err != nil {
		return nil
	}
	if v == "put_dhcp_opts" && a.option("offerip") == nil {
		p.fail(start, "expected offerip among the options")
	}
	if v == "put_nd_ra_opts" {
		p.checkRA(start, a)
		p.need("ip6")
	}
	return a
}

// option returns the option called name, or nil.
func (a *PutOptions) option(name string) *Option {
	for i := range a.Options {
		if a.Options[i].Name == name {
			return &a.Options[i]
		}
	}
	return nil
}

// checkRA fails unless a makes a router advertisement.
func (p *parser) checkRA(start int, a *PutOptions) {
	for i := range a.Options {
		if o := &a.Options[i]; len(o.Values) != 1 || !o.validRA() {
			p.fail(start, "expected a valid value for option %s", o.Name)
			return
		}
	}
	mode := a.option("addr_mode")
	switch {
	case a.option("slla") == nil:
		p.fail(start, "expected slla among the options")
	case a.option("prefix") == nil && (mode == nil || mode.Values[0].Text != "dhcpv6_stateful"):
		p.fail(start, "expected prefix among the options unless addr_mode is dhcpv6_stateful")
	}
}

// validRA reports whether o's value is one that router advertisements take.
func (o *Option) validRA() bool {
	v := &o.Values[0]
	switch o.Name {
	case "addr_mode":
		return v.Text == "slaac" || v.Text == "dhcpv6_stateful" || v.Text == "dhcpv6_stateless"
	case "router_preference":
		return v.Text == "MEDIUM" || v.Text == "HIGH" || v.Text == "LOW"
	case "slla":
		return v.Format == FormatEthernet
	case "prefix":
		return v.Format == FormatIPv6 && v.Kind == ConstMasked
	case "mtu":
		return v.Format == FormatDecimal
	case "rdnss":
		return v.Format == FormatIPv6
	}
	return true
}
