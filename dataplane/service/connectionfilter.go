package service

import (
	"net/netip"
	"slices"
	"strings"

	"millrace/dataplane/api"
	"millrace/dataplane/conntrack"
)

// filter checks which connections a client means.
func (s *Server) filter(m *api.ConnectionFilter) (f conntrack.Filter, err error) {
	if m == nil {
		return f, nil
	}
	if m.GetZone() != nil {
		if f.Zones, err = s.zonesOf("filter.zone", m.GetZone()); err != nil {
			return f, err
		}
	}
	var c checker
	if m.Protocol != nil {
		f.Protos = c.span("filter.protocol", "protocol", m.GetProtocol(), m.GetProtocol(), 255)
	}
	end := func(net, ports, addr string, p *api.PortRange) conntrack.End {
		return conntrack.End{Net: c.net("filter."+net, addr), Ports: c.ports("filter."+ports, p)}
	}
	f.Original = conntrack.Ends{Src: end("src", "sport", m.GetSrc(), m.GetSport()), Dst: end("dst", "dport", m.GetDst(), m.GetDport())}
	f.Reply = conntrack.Ends{
		Src: end("reply_src", "reply_sport", m.GetReplySrc(), m.GetReplySport()),
		Dst: end("reply_dst", "reply_dport", m.GetReplyDst(), m.GetReplyDport()),
	}
	f.Any = end("addr", "port", m.GetAddr(), m.GetPort())
	f.States = c.states("filter.state", m.GetState())
	if f.Mark, f.MarkMask = m.GetMark(), m.GetMarkMask(); f.Mark&^f.MarkMask != 0 {
		c.fail("filter.mark", "%#x has bits that its mask %#x has not", f.Mark, f.MarkMask)
	}
	return f, c.err
}

// span checks two numbers, of things up to most, of which the second is not below the
// first.
func (c *checker) span(field, thing string, first, last, most uint32) conntrack.Span {
	switch {
	case max(first, last) > most:
		c.fail(field, "%d is no %s: they are 0..%d", max(first, last), thing, most)
	case last < first:
		c.fail(field, "%d to %d is no range", first, last)
	}
	return conntrack.Span{Set: true, Min: uint16(first), Max: uint16(last)}
}

// ports checks a range of ports.
func (c *checker) ports(field string, p *api.PortRange) conntrack.Span {
	if p == nil {
		return conntrack.Span{}
	}
	last := p.GetLast()
	if last == 0 {
		last = p.GetFirst()
	}
	return c.span(field, "port", p.GetFirst(), last, 1<<16-1)
}

// net reads an address or a prefix. An IPv4 address in IPv6's clothes is an IPv6
// address, as it is in packets.
func (c *checker) net(field, s string) conntrack.Net {
	if s == "" {
		return conntrack.Net{}
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		var a netip.Addr
		if a, err = netip.ParseAddr(s); err == nil && a.Zone() == "" {
			p = netip.PrefixFrom(a, a.BitLen())
		}
	}
	if !p.IsValid() {
		c.fail(field, "%.60q is neither an address nor a prefix like 10.0.0.0/8", s)
		return conntrack.Net{}
	}
	return conntrack.NetOf(p)
}

// states checks names of states. Case does not matter.
func (c *checker) states(field string, list []string) (out []string) {
	known := conntrack.StateNames()
	for _, s := range list {
		name := strings.ToUpper(s)
		if !slices.Contains(known, name) {
			c.fail(field, "%.40q is no state: they are %s", s, strings.Join(known, ", "))
		}
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}
