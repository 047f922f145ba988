package conntrack

import (
	"net/netip"
	"slices"
)

// A Filter chooses connections. Its zero value chooses all; what is set must
// hold together.
type Filter struct {
	Zones           Span
	Protos          Span
	Original, Reply Ends // what each direction looks like
	Any             End  // what one end of one direction looks like
	States          []string
	Mark, MarkMask  uint32 // Mark has no bits outside MarkMask
}

// A Span is numbers in a row, or, if it is not set, any.
type Span struct {
	Set      bool
	Min, Max uint16
}

// Has reports whether n is one of them.
func (s Span) Has(n uint16) bool { return !s.Set || s.Min <= n && n <= s.Max }

// Ends are the two ends of a direction.
type Ends struct{ Src, Dst End }

// An End is the addresses and ports that an end may have. Only TCP, UDP and SCTP
// have ports: others are not chosen by them.
type End struct {
	Net   Net
	Ports Span
}

// A Net is addresses of one family that agree with IP in the bits of Mask, or, if it
// is not set, any.
type Net struct {
	Set, Six bool
	IP, Mask Addr
}

// NetOf returns the addresses of a prefix.
func NetOf(p netip.Prefix) Net {
	n := Net{Set: true, Six: p.Addr().Is6(), IP: AddrOf(p.Masked().Addr())}
	bits := p.Bits() // of 128; IPv4 has the last 32
	if !n.Six {
		bits += 96
	}
	n.Mask = Addr{^(^uint64(0) >> min(bits, 64)), ^(^uint64(0) >> max(bits-64, 0))}
	return n
}

// has reports whether an address of a family is one of them.
func (n *Net) has(a Addr, six bool) bool {
	return !n.Set || n.Six == six && (a[0]^n.IP[0])&n.Mask[0]|(a[1]^n.IP[1])&n.Mask[1] == 0
}

// has reports whether an end of a connection is one of these.
func (e *End) has(a Addr, port uint16, t *Tuple) bool {
	return e.Net.has(a, t.Six) && (!e.Ports.Set || t.HasPorts() && e.Ports.Has(port))
}

// has reports whether a direction is one of these.
func (e *Ends) has(t *Tuple) bool {
	return e.Src.has(t.Src, t.SrcPort, t) && e.Dst.has(t.Dst, t.DstPort, t)
}

// HasPorts reports whether the tuple's protocol has ports.
func (t *Tuple) HasPorts() bool {
	return t.Proto == ProtoTCP || t.Proto == ProtoUDP || t.Proto == ProtoSCTP
}

// isAny reports whether one of a tuple's ends is e.
func (e *End) isAny(t *Tuple) bool {
	return e.has(t.Src, t.SrcPort, t) || e.has(t.Dst, t.DstPort, t)
}

// Has reports whether a connection is chosen.
func (f *Filter) Has(c *Connection) bool {
	return f.Zones.Has(c.Zone) && f.Protos.Has(uint16(c.Original.Proto)) &&
		f.Original.has(&c.Original) && f.Reply.has(&c.Answer) &&
		(f.Any.isAny(&c.Original) || f.Any.isAny(&c.Answer)) &&
		c.Mark&f.MarkMask == f.Mark && (len(f.States) == 0 || slices.Contains(f.States, c.State))
}

// mayHave reports false if the original direction's key alone says that a
// connection is not chosen: the rest of the record is not looked at then.
func (f *Filter) mayHave(k *key) bool {
	return f.Zones.Has(k.zone()) && f.Protos.Has(uint16(k.proto()))
}

// IsZero reports whether all connections are chosen, for nothing is set.
func (f *Filter) IsZero() bool {
	return !f.Zones.Set && !f.Protos.Set && f.Original == Ends{} && f.Reply == Ends{} && f.Any == End{} && len(f.States) == 0 && f.MarkMask == 0
}

// onlyZones reports whether the filter asks for zones, and for nothing else.
func (f *Filter) onlyZones() bool {
	rest := *f
	rest.Zones = Span{}
	return f.Zones.Set && rest.IsZero()
}

// StateNames are all states that a Connection may have, each once.
func StateNames() []string {
	names := append([]string{"UNREPLIED", "REPLIED"}, tcpStateNames[1:]...)
	for _, s := range sctpStateNames[1:] {
		if !slices.Contains(names, s) {
			names = append(names, s)
		}
	}
	return names
}
